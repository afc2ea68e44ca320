"""Runs an action in a process of its own that dies by SIGKILL at a chosen step."""

from __future__ import annotations

import os
import signal
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import urllib3

from keyvault.home import Home, assemble, open_engine
from keyvault.log import HomeLog, LogContext
from keyvault.settings import load_settings
from keyvault.testing import FaultyDatabase, faulty_engine
from keyvault.transit.base import TransitEngine
from shredder.log.directory import LogDirectory
from tests.forking import fork
from tests.homes import TestHome

FINISHED = 0
PATIENCE_SECONDS = 180
"""After that the process is stuck, and ends by another signal than the one that is expected of it."""


class Countdown:
    """Kills the process at step `fatal`, counting from 1, whichever thread takes it."""

    def __init__(self, fatal: int) -> None:
        self._left = fatal
        self._lock = threading.Lock()
        self.here = threading.local()

    def __call__(self, _step: str) -> None:
        if getattr(self.here, "skips", False):
            return
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class UncountedLog(HomeLog):
    """A log whose sequencing counts no steps: it is killed at each of them by tests of its own."""

    def __init__(self, context: LogContext, countdown: Countdown) -> None:
        super().__init__(context)
        self._countdown = countdown

    def settle(self) -> None:
        self._countdown.here.skips = True
        try:
            super().settle()
        finally:
            self._countdown.here.skips = False


def survives(
    home: TestHome, role: str, action: Callable[[Home], object], fatal: int, *, sequencing: bool = False
) -> bool:
    """Run `action` on the home, dying at step `fatal`; return whether it came to its end before that step.

    Steps are commits to the database, and calls to the engine: HTTP requests where it is a server. With `sequencing` those of the
    sequencer count, too, and so do the files of the log.
    """
    child = fork()
    if child == 0:
        _run(home, role, action, Countdown(fatal), sequencing=sequencing)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == FINISHED, "the action failed by itself; its traceback is above"
    return True


def _run(home: TestHome, role: str, action: Callable[[Home], object], hook: Countdown, *, sequencing: bool) -> None:
    code = 1
    signal.alarm(PATIENCE_SECONDS)
    try:
        settings = load_settings(home.path)
        engine = open_engine(home.path, settings, role=role)
        opened = assemble(settings, FaultyDatabase(settings.store, hook), engine, path=home.path)
        if settings.engine == "vault":
            _hook_requests(hook)
        else:
            opened = assemble(settings, opened.database, faulty_engine(engine, hook), path=home.path)
            sequencer = partial(_faulty_sequencer, home, hook)
            opened = replace(opened, log=HomeLog(replace(opened.log.context, open_engine=sequencer)))
        if sequencing:
            _hook_files(hook)
        else:
            opened = replace(opened, log=UncountedLog(opened.log.context, hook))
        action(opened)
        code = FINISHED
    except BaseException:  # noqa: BLE001 - whatever it was must not run on into pytest
        traceback.print_exc()
    finally:
        os._exit(code)


def _faulty_sequencer(home: TestHome, hook: Countdown) -> TransitEngine:
    return faulty_engine(open_engine(home.path, load_settings(home.path), role="sequencer"), hook)


def _hook_files(hook: Countdown) -> None:
    original = LogDirectory._put

    def put(self: LogDirectory, path: Path, data: bytes) -> Path:
        hook(f"before {path}")
        folder = original(self, path, data)
        hook(f"after {path}")
        return folder

    LogDirectory._put = put  # type: ignore[method-assign]


def _hook_requests(hook: Countdown) -> None:
    original = urllib3.HTTPSConnectionPool.urlopen

    def urlopen(self: object, method: str, url: str, *args: object, **kwargs: object) -> object:
        hook(f"before {method} {url}")
        response = original(self, method, url, *args, **kwargs)  # type: ignore[arg-type]
        hook(f"after {method} {url}")
        return response

    urllib3.HTTPSConnectionPool.urlopen = urlopen  # type: ignore[method-assign,assignment]
