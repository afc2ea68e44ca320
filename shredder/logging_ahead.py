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

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Wait for what is under way. What cannot be logged is tried again, and told, by who waits for it; a fault of the program is raised."""
        self._pool.shutdown()
        if kind is None and self._running is not None:
            self._running.result()

    def begin(self) -> None:
        """Log what is there, unless that is under way. Raises what `__exit__` does, of the time before."""
        if self._running is not None:
            if not self._running.done():
                return
            self._running.result()
        self._running = self._pool.submit(caught, self._home.log.settle)
