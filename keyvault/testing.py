"""Fakes for tests of programs that use this one: a clock that stands still, and faults in the engine and the database."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partialmethod
from typing import Any, TypeVar

from sqlalchemy.engine import Connection

from keyvault.clock import Clock
from keyvault.store.database import Database
from keyvault.transit.base import TransitEngine

T = TypeVar("T")
Hook = Callable[[str], None]
"""Called with what is about to happen (`before NAME`) or has just happened (`after NAME`); may raise, wait or kill."""


class ManualClock(Clock):
    """Stands still until it is told otherwise; both of its times move together."""

    def __init__(self, now: datetime) -> None:
        """Start at `now`, aware."""
        self._now = now
        self._elapsed = 0.0

    def now(self) -> datetime:
        """Return the time it stands at."""
        return self._now

    def monotonic(self) -> float:
        """Return the seconds it was advanced by."""
        return self._elapsed

    def advance(self, delta: timedelta) -> None:
        """Move on, as an ordinary clock would."""
        self._now += delta
        self._elapsed += delta.total_seconds()

    def jump(self, now: datetime) -> None:
        """Set the calendar time alone, as a wrong time server would."""
        self._now = now


class FaultyDatabase(Database):
    """A database whose `hook` runs before and after every commit."""

    def __init__(self, url: str, hook: Hook) -> None:
        """Open like `Database`."""
        super().__init__(url)
        self._hook = hook

    def write(self, work: Callable[[Connection], T]) -> T:
        """Commit between `before commit` and `after commit`."""

        def hooked(connection: Connection) -> T:
            result = work(connection)
            self._hook("before commit")
            return result

        result = super().write(hooked)
        self._hook("after commit")
        return result


def faulty_engine(engine: TransitEngine, hook: Hook) -> TransitEngine:
    """Return an engine that passes every call on to `engine`, with `hook` before and after it."""

    def call(_self: object, name: str, *args: Any, **kwargs: Any) -> Any:
        hook(f"before {name}")
        result = getattr(engine, name)(*args, **kwargs)
        hook(f"after {name}")
        return result

    methods = {name: partialmethod(call, name) for name in TransitEngine.__abstractmethods__}
    kind = type("FaultyEngine", (TransitEngine,), {**methods, "kind": engine.kind})
    made: TransitEngine = kind()
    return made
