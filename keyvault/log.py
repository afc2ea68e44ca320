"""The log of a home, as the layers below it see it: something to wait for.

What writes the log sits above this package and is found by its entry point, `keyvault.log`, when it is first needed.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from keyvault.clock import Clock
from keyvault.errors import ConfigurationError
from keyvault.store.database import Database
from keyvault.transit.base import TransitEngine

ENTRY_POINT = "keyvault.log"


class LogGate(Protocol):
    """What waits until events are in the log."""

    def settle(self) -> None:
        """Return once every event that was committed before this call is in the log, under a signed checkpoint.

        Raises `LogError`, `RestoreDetected`, or `Unavailable` when it takes too long: what waits for it must not go on.
        """


class LogWriter(ABC):
    """What the entry point makes of a `LogContext`."""

    @abstractmethod
    def settle(self) -> None:
        """As `LogGate.settle`."""

    @abstractmethod
    def close(self) -> None:
        """Release what it opened."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LogContext:
    """What a log is written with. `public_key`: the log key's, 32 bytes.

    `open_engine` gives an engine that may sign and move the head, to be closed by who asked for it; None where this machine has no
    credentials for that, and another's sequencer has to do it.
    """

    directory: Path
    origin: str
    public_key: bytes
    incarnation: int
    database: Database
    clock: Clock
    open_engine: Callable[[], TransitEngine | None]


class HomeLog:
    """The log of an opened home. Thread-safe."""

    def __init__(self, context: LogContext) -> None:
        """Load nothing yet."""
        self.context = context
        self._writer: LogWriter | None = None
        self._lock = threading.Lock()

    def settle(self) -> None:
        """As `LogGate.settle`; `ConfigurationError` where no sequencer is installed."""
        with self._lock:
            if self._writer is None:
                self._writer = _load()(self.context)
        self._writer.settle()

    def close(self) -> None:
        """Release what the sequencer opened."""
        with self._lock:
            if self._writer is not None:
                self._writer.close()
                self._writer = None


def _load() -> Callable[[LogContext], LogWriter]:
    found = list(entry_points(group=ENTRY_POINT))
    if len(found) != 1:
        raise ConfigurationError(
            f"{len(found)} sequencers of the log are installed, and there must be one: install keyvault-shredder again"
        )
    make: Callable[[LogContext], LogWriter] = found[0].load()
    return make
