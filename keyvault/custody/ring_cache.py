"""Opened ring states in memory, for as long as a lease: bounded in number and time, and zeroed when dropped.

Whether a key may be issued is never decided here: issuing reads that from the database each time, or from a lease of its own. What
is bounded here is how long a process holds what could derive a key that was destroyed meanwhile.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from keyvault.clock import Clock
from keyvault.custody.ring_reading import RingReader
from keyvault.custody.ring_sealing import LoadedRing
from keyvault.errors import RestoreDetected
from keyvault.expiry import ExpiryTimer
from keyvault.puncture import Frontier
from keyvault.puncture_records import leaf_of

MAX_RINGS = 512
MAX_FRONTIERS = 32
"""Frontiers of erased records that are kept a ring; each has at most 380,000 bytes."""


@dataclass(kw_only=True, slots=True)
class CachedRing:
    """A ring's opened state, and frontiers of its scopes' records. Use it only inside `RingCache.borrow`."""

    loaded: LoadedRing
    expires: float
    users: int = 0
    dropped: bool = False
    _frontiers: OrderedDict[tuple[int, int], Frontier] = field(default_factory=OrderedDict)

    def frontier(self, slot: int, tag: bytes) -> Frontier | None:
        """Return the kept frontier with this tag of the scope in `slot`, or None."""
        leaf = leaf_of(tag)
        for (owner, _), kept in list(self._frontiers.items()):
            if owner == slot and kept.first <= leaf < kept.end:
                return kept
        return None

    def keep(self, slot: int, frontier: Frontier) -> None:
        """Keep a frontier, which is wiped with the state."""
        self._frontiers[slot, frontier.first] = frontier
        while len(self._frontiers) > MAX_FRONTIERS:
            self._frontiers.popitem(last=False)  # another thread may be reading it, so it is left to the collector

    def wipe(self) -> None:
        """Overwrite all secrets with zeros."""
        self.loaded.state.wipe()
        self.wipe_frontiers()

    def wipe_frontiers(self) -> None:
        """Overwrite the frontiers with zeros; the state stays."""
        for frontier in self._frontiers.values():
            frontier.wipe()


class RingCache:
    """States of the rings that were used last. Thread-safe."""

    def __init__(self, reader: RingReader, clock: Clock, *, ttl: float, limit: int = MAX_RINGS) -> None:
        """Keep at most `limit` states, each for `ttl` seconds from before it was read."""
        self._reader = reader
        self._clock = clock
        self._ttl = ttl
        self._limit = limit
        self._rings: OrderedDict[bytes, CachedRing] = OrderedDict()
        self._lock = threading.Lock()
        self._timer = ExpiryTimer(self._sweep)

    @contextmanager
    def borrow(self, ring_id: bytes, epoch: int) -> Iterator[CachedRing]:
        """Give the ring's state, of `epoch` or later; it is not wiped before the context ends.

        Raises as `RingReader.load`, and `RestoreDetected` when the engine knows an earlier epoch only.
        """
        ring = self._find(ring_id, epoch) or self._load(ring_id, epoch)
        try:
            yield ring
        finally:
            with self._lock:
                ring.users -= 1
                if ring.dropped and not ring.users:
                    ring.wipe()

    def take(self, ring_id: bytes) -> LoadedRing | None:
        """Forget a ring's state and hand it over, for the caller to wipe; None where there is none, or it is in use."""
        self._sweep()
        with self._lock:
            ring = self._rings.get(ring_id)
            if ring is None or ring.users:
                return None
            del self._rings[ring_id]
            ring.wipe_frontiers()
            return ring.loaded

    def drop(self, ring_id: bytes) -> None:
        """Forget a ring's state."""
        with self._lock:
            self._drop(ring_id)

    def forget(self, ring_ids: Collection[bytes] | None) -> None:
        """Forget the states of these rings, or all."""
        with self._lock:
            for ring_id in list(self._rings) if ring_ids is None else ring_ids:
                self._drop(ring_id)

    def close(self) -> None:
        """Forget all states."""
        self._timer.close()
        self.forget(None)

    def _find(self, ring_id: bytes, epoch: int) -> CachedRing | None:
        self._sweep()
        with self._lock:
            ring = self._rings.get(ring_id)
            if ring is None:
                return None
            if ring.loaded.epoch < epoch:
                self._drop(ring_id)
                return None
            self._rings.move_to_end(ring_id)
            ring.users += 1
            return ring

    def _load(self, ring_id: bytes, epoch: int) -> CachedRing:
        anchor = self._clock.monotonic()
        loaded = self._reader.load(ring_id)
        if loaded.epoch < epoch:
            loaded.state.wipe()
            raise RestoreDetected(
                f"ring {ring_id.hex()} is at epoch {loaded.epoch} in the engine, and the database has seen epoch {epoch}: the engine is an "
                "older copy. Nothing is served from it until what was destroyed since is destroyed again"
            )
        ring = CachedRing(loaded=loaded, expires=anchor + self._ttl, users=1)
        with self._lock:
            self._drop(ring_id)
            self._rings[ring_id] = ring
            while len(self._rings) > self._limit:
                self._drop(next(iter(self._rings)))
        self._timer.arm(self._ttl)
        return ring

    def _sweep(self) -> float | None:
        """Forget what has expired; return when the next does."""
        now = self._clock.monotonic()
        with self._lock:
            for old in [name for name, ring in self._rings.items() if ring.expires <= now]:
                self._drop(old)
            return min((ring.expires - now for ring in self._rings.values()), default=None)

    def _drop(self, ring_id: bytes) -> None:
        ring = self._rings.pop(ring_id, None)
        if ring is not None:
            ring.dropped = True
            if not ring.users:
                ring.wipe()
