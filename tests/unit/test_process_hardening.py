from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

from keyvault import process_hardening
from keyvault.process_hardening import Hardening

PROGRAM = """
import ctypes, json, resource
from pathlib import Path
from keyvault import harden_process
done = harden_process()
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps([resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3), done.text, int(status["VmLck"].split()[0])]))
"""


def hardened() -> tuple[list[int], int, str, int]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    answer: tuple[list[int], int, str, int] = tuple(json.loads(done.stdout))
    return answer


def test_a_hardened_process_dumps_no_core_and_is_not_dumpable_and_says_what_it_locked() -> None:
    cores, dumpable, text, locked = hardened()
    assert cores == [0, 0]
    assert dumpable == 0
    assert text.startswith("core dumps off; memory closed to other processes of this account; ")
    assert ("; memory locked, so not swapped" in text) == (locked > 0)


def test_what_is_not_done_is_said_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_hardening, "_may_lock_without_limit", lambda: False)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (8192, 8192))

    class Refusing:
        def prctl(self, *_: int) -> int:
            return -1

    assert process_hardening._locked(Refusing()) == (  # type: ignore[arg-type]
        "RLIMIT_MEMLOCK is 8192 bytes: LimitMEMLOCK=infinity in the unit, or a machine without swap"
    )
    assert process_hardening._not_dumpable(Refusing()) is not None  # type: ignore[arg-type]
    text = Hardening(core_dumps="a", other_readers=None, swap="c").text
    assert text == (
        "NOT core dumps off (a); memory closed to other processes of this account; NOT memory locked, so not swapped (c)"
    )
