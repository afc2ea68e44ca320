"""Run the suite in parts, several at once: `python -m tests.parts [PYTEST ARGUMENTS]`.

A part is a folder of tests, and runs in a pytest of its own. The parts may share the two servers, because every test
uses databases and mounts of its own there; tests that stop a server start one themselves. The output of a part is shown
whole when the part has ended, so that two never mix. Ctrl-C and SIGTERM interrupt every part and wait for its clean-up.

Arguments that begin with `tests/` run in one pytest, in the foreground. Exit code of
parts: 0 when all passed, 1 when one failed or nothing ran, 128 + N when interrupted by signal N.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import pytest

from tests.interop import programs as interop
from tests.servers.process import ServerError, prefix, say
from tests.service import toxiproxy

TESTS = Path(__file__).parent
# The longest first, so that no long part starts when the others are about to end; folders not named here follow.
LONGEST_FIRST = ("service", "contract", "integration", "faults", "property", "cli", "audit", "concurrency")
_NOTHING_COLLECTED = 5  # https://docs.pytest.org/en/stable/reference/exit-codes.html


class _InterruptedBy(BaseException):
    """SIGINT or SIGTERM: a BaseException, so that nothing between takes it for a failure."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.signum = signum


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A running pytest over one folder."""

    folder: Path
    process: subprocess.Popen[bytes]
    output: Path
    started: float

    def show(self) -> None:
        """Write what the part said, under its name; a part that collected nothing for `-k` says nothing."""
        if self.process.returncode == _NOTHING_COLLECTED:
            return
        say(f"\n==== tests/{self.folder.name}: {time.monotonic() - self.started:.0f} s ====")
        sys.stdout.write(self.output.read_text(errors="replace"))
        sys.stdout.flush()


def parts() -> list[Path]:
    """Return what holds test files in `tests`, the longest first: found, not listed, so that none is forgotten."""
    found = sorted({TESTS / path.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py")})
    rank = {name: place for place, name in enumerate(LONGEST_FIRST)}
    return sorted(found, key=lambda folder: rank.get(folder.name, len(rank)))


def at_once() -> int:
    """Return how many parts run side by side: as many as there are cores that this process may use, and two at least, as a part often waits."""
    return max(2, len(os.sched_getaffinity(0)))


def main(arguments: Sequence[str]) -> int:
    """Run all parts, or what the arguments name."""
    if any(argument.startswith("tests/") for argument in arguments):
        return int(pytest.main(list(arguments)))
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    running: list[_Part] = []
    try:
        _build_programs()
        with tempfile.TemporaryDirectory(prefix="keyvault-parts-") as outputs:
            statuses = _run_all(running, parts(), Path(outputs), arguments)
    except _InterruptedBy as interrupted:
        return 128 + interrupted.signum
    return _verdict(statuses)


def _build_programs() -> None:
    """Build what tests would build when they first need it: beside a build, the servers of others answer too late."""
    for build in (interop.programs, toxiproxy.program):
        try:
            build()
        except ServerError as error:
            say(f"error: {error}\nThe tests that need it will fail.")


def _verdict(statuses: dict[str, int]) -> int:
    failed = sorted(name for name, status in statuses.items() if status not in (0, _NOTHING_COLLECTED))
    if failed:
        say(
            f"\nerror: failed in {', '.join(f'tests/{name}' for name in failed)}; what failed stands under each name above"
        )
    elif 0 not in statuses.values():
        say("\nerror: no test was selected")
    else:
        say(f"\nall of {len(statuses)} parts passed")
        return 0
    return 1


def _interrupt(signum: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # a second Ctrl-C must not leave parts behind
    raise _InterruptedBy(signum)


def _run_all(running: list[_Part], waiting: list[Path], outputs: Path, arguments: Sequence[str]) -> dict[str, int]:
    """Run the parts and return the exit status of each; whatever ends this early ends every part that runs."""
    statuses: dict[str, int] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once():
                running.append(_start(waiting.pop(0), outputs, arguments))
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
            for part in _ended(running):
                statuses[part.folder.name] = part.process.returncode
                part.show()
    finally:
        _end(running)
    return statuses


def _ended(running: list[_Part]) -> Iterator[_Part]:
    for part in list(running):
        if part.process.poll() is not None:
            running.remove(part)
            yield part


def _start(folder: Path, outputs: Path, arguments: Sequence[str]) -> _Part:
    """Start a part in a session of its own: a terminal's Ctrl-C would reach it, and the one that `_end` sends as well."""
    say(f"tests/{folder.name} ...")
    output = outputs / f"{folder.name}.txt"
    # Each part would overwrite the others' cache of failed tests.
    command = [*prefix(death_signal="TERM"), sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*command, *_for_part(folder, arguments), str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return _Part(folder=folder, process=process, output=output, started=time.monotonic())


def _for_part(folder: Path, arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the part's name for `{part}`: `--junitxml=build/junit/{part}.xml`."""
    return [argument.replace("{part}", folder.name) for argument in arguments]


def _end(running: Sequence[_Part]) -> None:
    for part in running:
        if part.process.poll() is None:
            os.killpg(
                part.process.pid, signal.SIGINT
            )  # the commands that its tests started as well, as a terminal does
    for part in running:
        part.process.wait()
        part.show()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
