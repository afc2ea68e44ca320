"""What a process that holds keys can ask of Linux: no core dump, no reader of the same account, nothing on a swap disk.

Three things, each of which is done or said to be left out: a caller that logs `Hardening.text` cannot mistake one for the other. None of
them keeps an administrator of the machine out.
"""

from __future__ import annotations

import ctypes
import os
import resource
from dataclasses import dataclass
from pathlib import Path

PR_SET_DUMPABLE = 4
MCL_CURRENT, MCL_FUTURE, MCL_ONFAULT = 1, 2, 4
CAP_IPC_LOCK = 14
"""Linux's numbers: prctl(2), mlockall(2), capabilities(7)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Hardening:
    """What holds for this process. Each is None where it was done, and else says why it was not."""

    core_dumps: str | None
    other_readers: str | None
    swap: str | None

    @property
    def text(self) -> str:
        """One line for a log."""
        return "; ".join(
            f"{done}" if why is None else f"NOT {done} ({why})"
            for done, why in (
                ("core dumps off", self.core_dumps),
                ("memory closed to other processes of this account", self.other_readers),
                ("memory locked, so not swapped", self.swap),
            )
        )


def harden_process() -> Hardening:
    """Close this process's memory as far as the system permits, and say how far that is. Call it in each process, also after a fork.

    Core dumps: `RLIMIT_CORE` 0, which children inherit. Other readers: `PR_SET_DUMPABLE` 0, so that no debugger and no `/proc/PID/mem` of
    the same account reads it; root still does, and `perf` and debuggers of the same account stop working. Swap: `mlockall` for all that
    is and comes, page by page as it is used; only where the limit on locked memory (`RLIMIT_MEMLOCK`) is none, because under a limit later
    allocations fail.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    return Hardening(core_dumps=_no_core_dumps(), other_readers=_not_dumpable(libc), swap=_locked(libc))


def _no_core_dumps() -> str | None:
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ValueError, OSError) as error:
        return str(error)
    return None


def _not_dumpable(libc: ctypes.CDLL) -> str | None:
    return None if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 else os.strerror(ctypes.get_errno())


def _locked(libc: ctypes.CDLL) -> str | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if limit != resource.RLIM_INFINITY and not _may_lock_without_limit():
        return f"RLIMIT_MEMLOCK is {limit} bytes: LimitMEMLOCK=infinity in the unit, or a machine without swap"
    if libc.mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT) != 0:
        return os.strerror(ctypes.get_errno())
    return None


def _may_lock_without_limit() -> bool:
    """Tell whether the process has the capability that no limit counts for."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> CAP_IPC_LOCK & 1)
    return False
