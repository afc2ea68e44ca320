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
from keyvault.log import HomeLog
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

    def __call__(self, _step: str) -> None:
        with self._lock:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def survives(home: TestHome, role: str, action: Callable[[Home], object], fatal: int) -> bool:
    """Run `action` on the home, dying at step `fatal`; return whether it came to its end before that step.

    Steps are commits to the database, files of the log, and calls to the engine: HTTP requests where it is a server.
    """
    child = fork()
    if child == 0:
        _run(home, role, action, Countdown(fatal))
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == FINISHED, "the action failed by itself; its traceback is above"
    return True


def _run(home: TestHome, role: str, action: Callable[[Home], object], hook: Countdown) -> None:
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
            sequencing = partial(_faulty_sequencer, home, hook)
            opened = replace(opened, log=HomeLog(replace(opened.log.context, open_engine=sequencing)))
        _hook_files(hook)
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
