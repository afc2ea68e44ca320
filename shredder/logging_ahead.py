"""The log, kept going beside a run of destructions."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Self

from keyvault.home import Home
from keyvault.results import caught


class LoggingAhead:
    """Takes events into the log beside a run that is not over yet, so that little is left to wait for at its end."""

    def __init__(self, home: Home) -> None:
        """Log nothing yet."""
        self._home = home
        self._pool = ThreadPoolExecutor(1)
        self._running: Future[object] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def begin(self) -> None:
        """Log what is there, unless that is under way. What cannot be logged now is tried again, and told, by who waits for it."""
        if self._running is None or self._running.done():
            self._running = self._pool.submit(caught, self._home.log.settle)
