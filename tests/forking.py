"""Forking from a test that has used threads.

A thread that Python has joined may still be on its way out of the process, and let go of what OpenSSL kept for it under OpenSSL's own
lock. A child that is forked in that moment finds the lock taken by nobody, and waits for ever.
"""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

TASKS = Path("/proc/self/task")
PATIENCE_SECONDS = 10.0


def fork() -> int:
    """Fork, as `os.fork`, once threads that have ended are gone."""
    let_threads_end()
    return os.fork()


def let_threads_end() -> None:
    """Wait until the system knows of no more threads than Python does."""
    patience = time.monotonic() + PATIENCE_SECONDS
    while (left := sum(1 for _ in TASKS.iterdir()) - threading.active_count()) > 0:
        assert time.monotonic() < patience, f"{left} threads that ended stay in the process"
        time.sleep(0.001)
