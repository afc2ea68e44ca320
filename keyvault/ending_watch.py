"""Hearing of what other processes end, so that keys go from memory before their leases are over. Nothing rests on it: leases end anyway.

Rows of the outbox are read by increasing id. A row can be committed after one with a higher id, so the last seconds are read again each
time, and what was seen is not told twice. When the newest row that was seen is not there any more, the database is another: then it
cannot be told what ended.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from sqlalchemy.engine import Connection

from keyvault.clock import Clock
from keyvault.errors import KeyVaultError
from keyvault.store import endings
from keyvault.store.database import Database
from keyvault.store.endings import EndingRow, Endings

POLL_SECONDS = 0.25
AGAIN_SECONDS = 10.0
"""How long a transaction may take from its first event to its commit and still be heard of."""
AT_START = 1_000
"""Rows before the newest that are read at the start, for the same reason."""
ROWS = 1_000
"""Endings that are told one by one between two looks; of more, everything is dropped."""


class EndingReader:
    """Where one process stands in the outbox. Not thread-safe."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Stand at the end of the outbox when `read` is called first."""
        self._database = database
        self._clock = clock
        self._newest: tuple[int, str] | None = None
        self._floor = 0
        self._seen: set[int] = set()
        self._marks: deque[tuple[float, int]] = deque()
        self.started = False

    def read(self) -> Endings:
        """Return what ended since the last call: nothing at the first. Raises `Unavailable`; what ended then is told later."""
        rows, newest, lost, found = self._database.read(self._look)
        self._move(newest)
        if lost or len(rows) >= ROWS:
            self._seen = {row.id for row in rows}
            self._floor = self._newest[0] if self._newest else 0
            self._marks.clear()
            return Endings(everything=True)
        self._seen.update(row.id for row in rows)
        self._seen = {row_id for row_id in self._seen if row_id > self._floor}
        if not self.started:
            self.started = True
            self._floor = _start_of(newest)
            return Endings()
        return found

    def _look(self, connection: Connection) -> tuple[list[EndingRow], tuple[int, str] | None, bool, Endings]:
        newest = endings.newest(connection)
        before = self._newest
        lost = before is not None and endings.event_at(connection, before[0]) != before[1]
        after = self._floor if self.started else _start_of(newest)
        limit = ROWS + len(self._seen)
        rows = [row for row in endings.rows_after(connection, after, limit=limit) if row.id not in self._seen]
        unresolved = lost or not self.started or len(rows) >= ROWS
        return rows, newest, lost, Endings() if unresolved else endings.resolve(connection, rows)

    def _move(self, newest: tuple[int, str] | None) -> None:
        """Let what is older than a while be read no more."""
        now = self._clock.monotonic()
        self._newest = newest
        if newest is not None:
            self._marks.append((now, newest[0]))
        while len(self._marks) > 1 and now - self._marks[0][0] > AGAIN_SECONDS:
            _, self._floor = self._marks.popleft()


def _start_of(newest: tuple[int, str] | None) -> int:
    return max(0, (0 if newest is None else newest[0]) - AT_START)


class EndingWatch:
    """Calls `told` from a thread with what ended, while `needed`. Thread-safe."""

    def __init__(self, reader: EndingReader, told: Callable[[Endings], None], needed: Callable[[], bool]) -> None:
        """Watch from `start` on."""
        self._reader = reader
        self._told = told
        self._needed = needed
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to look."""
        self._thread = threading.Thread(target=self._run, name="keyvault-endings", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more, and wait until the last look has ended."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            if self._reader.started and not self._needed():
                continue
            try:
                found = self._reader.read()
            except KeyVaultError:
                continue  # the database is away: leases end by themselves, and what ended is told when it is back
            if found:
                self._told(found)
