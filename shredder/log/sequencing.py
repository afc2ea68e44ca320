"""Waiting for the log: whoever needs an event in it sequences, together with all that wait in this process (group commit).

One process at a time does, under a lease; the others wait for it, and take over when it does not get on. Safety never rests on the lease.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from functools import partial

from sqlalchemy.engine import Connection

from keyvault.errors import Unavailable
from keyvault.log import LogContext, LogWriter
from keyvault.store import leases
from keyvault.store import log as log_store
from keyvault.transit.base import TransitEngine
from shredder.log.sequencer import Sequencer

LEASE = timedelta(seconds=5)
"""How long a sequencer that does not get on keeps others from it; a batch takes a fraction of that."""
PATIENCE = 30.0
"""Seconds without progress after which waiting ends with an error."""
POLL = 0.01


class Sequencing(LogWriter):
    """The log of a home, written by whoever waits for it. Thread-safe."""

    def __init__(self, context: LogContext) -> None:
        """Open nothing yet."""
        self._context = context
        self._engine: TransitEngine | None = None
        self._sequencer: Sequencer | None = None
        self._turn = threading.Lock()

    def settle(self) -> None:
        """As `keyvault.log.LogGate.settle`."""
        row = self._context.database.read(log_store.last_unlogged)
        if row is None:
            return
        size, since = -1, time.monotonic()
        while True:
            with self._turn:
                now_at = self._context.database.read(partial(_progress, row=row))
                if now_at is None:
                    return
                worked = self._take_turn()
            if now_at > size:
                size, since = now_at, time.monotonic()
            elif time.monotonic() - since > PATIENCE:
                raise Unavailable(_stuck(self._sequencer is not None), retry_after=POLL)
            if not worked:
                time.sleep(POLL)

    def close(self) -> None:
        """Release the sequencer's engine."""
        with self._turn:
            if self._engine is not None:
                self._engine.close()
            self._engine = self._sequencer = None

    def _take_turn(self) -> bool:
        """Sequence a batch, unless another process is at it or this one may not; return whether it did."""
        if self._sequencer is None:
            self._engine = self._context.open_engine()
            if self._engine is None:
                return False
            self._sequencer = Sequencer(self._context, self._engine)
        database = self._context.database

        def take(connection: Connection) -> int | None:
            now = database.clock()
            return leases.acquire(connection, log_store.LEASE, now=now, until=now + LEASE)

        token = database.write(take)
        if token is None:
            return False
        try:
            self._sequencer.advance()
        finally:
            database.write(lambda connection: leases.release(connection, log_store.LEASE, token, now=database.clock()))
        return True


def _progress(connection: Connection, row: int) -> int | None:
    """Return the log's size, or None when it covers the row."""
    return None if log_store.covers(connection, row) else log_store.recorded(connection).size


def _stuck(own: bool) -> str:
    if own:
        return "the log does not get on, and what was done is not in it yet: another sequencer holds it up; try again"
    return (
        "what was done is not in the log yet, and no sequencer takes it there: this home has no credentials of the role sequencer, "
        "so run one where they are"
    )
