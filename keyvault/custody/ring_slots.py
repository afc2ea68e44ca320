"""Giving out the slots of rings, so that no two scopes ever get the same one.

Slots are reserved in chunks, by check-and-set on the ring's slots entry in the engine: the number of a chunk *is* the version that the
entry gets. A chunk belongs to the process that reserved it, which gives its slots out from memory; what is left of it when the
process ends is never used. So no database decides who gets a slot, and none that is restored can give one out twice.

A ring is written down in the database first, then made in the engine, which can be repeated, and opened last. Account-months have
rings of their month; everything else fills one ring after the other.
"""

from __future__ import annotations

import secrets
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial

from sqlalchemy.engine import Connection

from keyvault.clock import Clock
from keyvault.custody.base import Placement
from keyvault.custody.ring_events import close, tell
from keyvault.custody.ring_sealing import RING_ID_BYTES, slots_path
from keyvault.custody.ring_state import RingStates
from keyvault.errors import CheckAndSetError, RestoreDetected, Unavailable
from keyvault.scopes import Scope, ScopeKind
from keyvault.store import rings
from keyvault.store.database import Database
from keyvault.store.rings import RingRow
from keyvault.transit.base import TransitEngine

CHUNK_SLOTS = 256
TAKES_SCOPES_FOR = timedelta(days=30)
"""Whoever steals a ring's state can read what is created in it later; so not much is."""
ATTEMPTS = 50

Month = str | None


@dataclass(kw_only=True, slots=True)
class _Chunk:
    ring_id: bytes
    next: int
    end: int
    closes_at: datetime


class SlotAllocator:
    """Gives out slots, opening rings as they are needed. Thread-safe."""

    def __init__(
        self,
        database: Database,
        engine: TransitEngine,
        clock: Clock,
        states: RingStates,
        *,
        incarnation: int,
        capacity: int,
    ) -> None:
        """`capacity` is that of rings that are opened from now on, 1 to 8,192."""
        self._database = database
        self._engine = engine
        self._clock = clock
        self._states = states
        self._incarnation = incarnation
        self._capacity = capacity
        self._chunks: dict[Month, _Chunk] = {}
        self._reserved: dict[bytes, int] = {}
        """By ring: the number of the chunk that was reserved last, as far as this process knows."""
        self._taking: dict[Month, list[RingRow]] = {}
        """The rings that take scopes, as one call of `take` has read them; what gives out a slot is the engine."""
        self._lock = threading.Lock()

    def take(self, scopes: Sequence[Scope]) -> list[Placement]:
        """Return a slot for each scope. Raises `RestoreDetected`, `Unavailable`, and what the engine raises."""
        months = [_month(scope) for scope in scopes]
        with self._lock:
            self._taking.clear()
            slots = {month: iter(self._take(month, count)) for month, count in Counter(months).items()}
        return [next(slots[month]) for month in months]

    def forget(self, ring_ids: set[bytes]) -> None:
        """Give out no more slots of rings that were closed."""
        if not ring_ids:
            return  # without waiting for the lock, which is held while slots are reserved
        with self._lock:
            for month in [month for month, chunk in self._chunks.items() if chunk.ring_id in ring_ids]:
                del self._chunks[month]

    def leave(self, ring_ids: set[bytes]) -> None:
        """Give out no more slots of rings whose unused slots are gone. `RestoreDetected` where the database has one still take scopes."""
        known = self._database.read(lambda connection: rings.by_id(connection, ring_ids))
        for ring in known.values():
            if ring.closed_at is None:
                raise RestoreDetected(
                    f"ring {ring.id.hex()}: its unused slots are destroyed, and the database has it take scopes: the database is an older "
                    "copy. No scope is created until what it lost is replayed"
                )
        self.forget(ring_ids)

    def _take(self, month: Month, count: int) -> list[Placement]:
        taken: list[Placement] = []
        while len(taken) < count:
            chunk = self._chunks.get(month)
            if chunk is None or chunk.next == chunk.end or chunk.closes_at <= self._clock.now():
                chunk = self._chunks[month] = self._reserve(month)
            end = min(chunk.end, chunk.next + count - len(taken))
            taken += (Placement(ring_id=chunk.ring_id, slot=slot) for slot in range(chunk.next, end))
            chunk.next = end
        return taken

    def _reserve(self, month: Month) -> _Chunk:
        """Reserve a chunk of the ring that takes scopes of this month."""
        for _ in range(ATTEMPTS):
            taking = self._rings(month)
            now = self._clock.now()
            for ring in taking:
                if ring.opened_at is not None and ring.opened_at + TAKES_SCOPES_FOR <= now:
                    self._database.write(partial(close, ring_id=ring.id, at=now))
                    self._taking.clear()
                elif ring.chunks * CHUNK_SLOTS < ring.capacity and (chunk := self._reserve_in(ring)) is not None:
                    if ring.id == taking[-1].id and chunk.end + ring.capacity // 4 >= ring.capacity:
                        self._make(self._announce(month))  # a spare, before anybody has to wait for one
                    return chunk
            self._announce(month)
        raise Unavailable("others fill the rings faster than a slot can be reserved: try again")

    def _rings(self, month: Month) -> list[RingRow]:
        """Return the rings that take scopes of a month, read again only once this process has changed some."""
        if month not in self._taking:
            self._taking[month] = self._database.read(
                lambda connection: rings.taking(connection, incarnation=self._incarnation, month=month)
            )
        return self._taking[month]

    def _announce(self, month: Month) -> bytes:
        self._taking.clear()
        ring_id = secrets.token_bytes(RING_ID_BYTES)

        def work(connection: Connection) -> None:
            rings.announce(connection, ring_id, incarnation=self._incarnation, capacity=self._capacity, month=month)
            tell(connection, ring_id, at=self._clock.now())

        self._database.write(work)
        return ring_id

    def _make(self, ring_id: bytes) -> None:
        self._states.create(ring_id, self._capacity)

    def _reserve_in(self, ring: RingRow) -> _Chunk | None:
        """Reserve the ring's next chunk; None when it has no more."""
        opened_at = ring.opened_at
        if opened_at is None:
            self._states.create(ring.id, ring.capacity)
            now = self._clock.now()
            opened_at = self._database.write(partial(_open, ring_id=ring.id, at=now))
            self._taking.clear()
        if ring.epoch and (epoch := self._states.epoch(ring.id)) < ring.epoch:
            raise RestoreDetected(
                f"ring {ring.id.hex()} is at epoch {epoch} in the engine, and the database has seen epoch {ring.epoch}: the engine is an "
                "older copy. No scope is created until what was destroyed since is destroyed again"
            )
        path = slots_path(ring.id, self._incarnation)
        own = self._reserved.get(ring.id, 0)
        least = max(own, ring.chunks)
        known = own if own == least else None  # mostly nobody else has reserved since, which check-and-set tells
        for _ in range(ATTEMPTS):
            version, known = self._version(path) if known is None else known, None
            if version < least:
                raise RestoreDetected(
                    f"ring {ring.id.hex()}: the engine has given out {version} chunks of slots, and {least} are known to be given out: the "
                    "engine is an older copy. No scope is created until what it lost is replayed"
                )
            if version * CHUNK_SLOTS >= ring.capacity:
                return None
            try:
                number = self._engine.put_state(path, f"{CHUNK_SLOTS}", expected_version=version)
            except CheckAndSetError:
                continue
            self._reserved[ring.id] = number
            return _Chunk(
                ring_id=ring.id,
                next=(number - 1) * CHUNK_SLOTS,
                end=min(number * CHUNK_SLOTS, ring.capacity),
                closes_at=opened_at + TAKES_SCOPES_FOR,
            )
        raise Unavailable("others reserve slots faster: try again")

    def _version(self, path: str) -> int:
        entry = self._engine.get_state(path)
        return entry.version if entry else 0


def _open(connection: Connection, ring_id: bytes, at: datetime) -> datetime:
    opened_at = rings.open_(connection, ring_id, at=at)
    if opened_at == at:
        tell(connection, ring_id, at=at)
    return opened_at


def chunk_number(slot: int) -> int:
    """Return the number, from 1, of the chunk that a slot lies in."""
    return slot // CHUNK_SLOTS + 1


def _month(scope: Scope) -> Month:
    return scope.period if scope.kind is ScopeKind.COMMUNICATIONS else None
