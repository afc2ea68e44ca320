"""Wiping what has expired although nobody asks: a process that idles must not keep keys longer than one that works."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class ExpiryTimer:
    """Calls `sweep` when the first thing expires, and again for as long as anything is left. Thread-safe."""

    def __init__(self, sweep: Callable[[], float | None]) -> None:
        """`sweep` wipes what has expired, and returns after how many seconds the next thing expires, or None when nothing is left."""
        self._sweep = sweep
        self._timer: threading.Timer | None = None
        self._looks_at = 0.0
        self._closed = False
        self._lock = threading.Lock()

    def arm(self, seconds: float) -> None:
        """Look after `seconds`, unless a look is due by then already."""
        looks_at = time.monotonic() + max(seconds, 0.0)
        with self._lock:
            if self._closed or (self._timer is not None and self._looks_at <= looks_at):
                return
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(max(seconds, 0.0), self._run)
            self._timer.daemon = True  # it must not keep a process from ending, whose memory goes with it
            self._looks_at = looks_at
            self._timer.start()

    def close(self) -> None:
        """Look no more."""
        with self._lock:
            self._closed = True
            if self._timer is not None:
                self._timer.cancel()

    def _run(self) -> None:
        with self._lock:
            if self._timer is threading.current_thread():
                self._timer = None
        left = self._sweep()
        if left is not None:
            self.arm(left)
