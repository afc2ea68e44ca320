"""SIGKILL at every step of publishing: a reader always sees a checkpoint whose every tile is there and verifies; the next run goes on."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest

from shredder.log.checkpoint import read_unverified
from shredder.log.directory import CHECKPOINT, LogDirectory
from shredder.log.publish import publish
from shredder.log.tiles import tiles_of
from tests.forking import fork
from tests.logs import LOG_KEY, write_log
from tests.publishing import assert_whole, entries_of

STEPS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "fcntl.flock"}
"""What Python tells of before it does it: between two of them nothing is changed but the content of a draft."""
MOST_STEPS = 400


@pytest.mark.parametrize(("before", "after"), [(0, 3), (0, 300), (250, 256), (250, 520), (300, 300)])
def test_a_publisher_killed_at_a_step(tmp_path: Path, before: int, after: int) -> None:
    for step in range(1, MOST_STEPS):
        log, target = LogDirectory(tmp_path / f"log-{step}"), tmp_path / f"www-{step}"
        if before:
            write_log(log.path, entries_of(before))
            publish(log, target, LOG_KEY)
        write_log(log.path, entries_of(after))
        finished = survives(target, lambda log=log, target=target: publish(log, target, LOG_KEY), step)  # type: ignore[misc]
        seen = size_seen(target)
        assert seen in ({after} if finished else {before, after})
        if seen:
            assert_whole(target, entries_of(seen))
        assert publish(log, target, LOG_KEY).size == after
        assert_whole(target, entries_of(after))
        assert {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()} == {
            CHECKPOINT,
            *(tile.path for tile in tiles_of(after)),
        }
        if finished:
            break
    assert 3 < step < MOST_STEPS - 1


def size_seen(target: Path) -> int:
    path = target / CHECKPOINT
    return read_unverified(path.read_bytes()).size if path.exists() else 0


def survives(target: Path, action: Callable[[], object], fatal: int) -> bool:
    """Run `action`, dying before its step `fatal` under `target`; return whether it came to its end before that step."""
    child = fork()
    if child == 0:
        _run(target, action, fatal)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0, "the action failed by itself; its traceback is above"
    return True


def _run(target: Path, action: Callable[[], object], fatal: int) -> None:
    left = fatal

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in STEPS and (event == "fcntl.flock" or str(arguments[0]).startswith(str(target))):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        sys.addaudithook(hook)
        action()
        code = 0
    except BaseException:  # noqa: BLE001 - whatever it was must not run on into pytest
        traceback.print_exc()
    finally:
        os._exit(code)
