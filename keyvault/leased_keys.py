"""Wrapping keys that a process keeps for one lease: what it was allowed once is allowed until the lease it rests on ends (G3).

A lease begins before the read of the database that the key was admitted on, and nothing here renews it. Whoever fences a scope adds one
lease, and what clocks may differ by, to the time of the fence; by then no process that keeps keys here has one of that scope.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Hashable, Iterable
from datetime import datetime
from typing import NamedTuple

from keyvault.clock import Clock
from keyvault.expiry import ExpiryTimer
from keyvault.leased_refresh import EARLIEST, is_due
from keyvault.wrapped import WrappingKey

LIMIT = 32_768
"""Keys kept a cache, some 1.5 kB each."""


class LeasedKey(NamedTuple):
    """A wrapping key, until when it may be used (on the clock that only runs forward), and when its first scope is due."""

    key: WrappingKey
    expires: float
    due_at: datetime | None

    def __repr__(self) -> str:
        return f"LeasedKey(expires={self.expires})"


class LeasedKeys:
    """A bounded cache. Thread-safe; what is dropped is wiped, and what has expired is dropped, also in a process that idles."""

    def __init__(self, clock: Clock, *, ttl: float, limit: int = LIMIT) -> None:
        """Keep at most `limit` keys, each for `ttl` seconds from its lease's anchor."""
        self.ttl = ttl
        self._clock = clock
        self._limit = limit
        self._keys: dict[Hashable, LeasedKey] = {}
        self._lock = threading.Lock()
        self._timer = ExpiryTimer(self._sweep)

    def usable(self) -> dict[Hashable, LeasedKey]:
        """Return the keys that may be used at this moment; the caller asks `still_usable` before it gives out what it made."""
        self._sweep()
        return self._keys

    def at_hand(self) -> dict[Hashable, LeasedKey]:
        """Return what is kept, without looking for what has expired: for callers that must not wait. They, too, ask `still_usable`."""
        return self._keys

    def still_usable(self, expires: float) -> bool:
        """Tell whether a lease that ends at `expires` has not ended yet."""
        return self._clock.monotonic() < expires

    def __len__(self) -> int:
        return len(self._keys)

    def nears_its_end(self, expires: float) -> bool:
        """Tell whether a key whose lease ends at `expires` may have to be admitted anew: `to_refresh` knows."""
        return expires - self._clock.monotonic() < self.ttl * EARLIEST

    def to_refresh(self, names: Collection[Hashable]) -> set[Hashable]:
        """Return those of these names whose keys should be admitted anew, because they are in use and their leases near their ends."""
        now = self._clock.monotonic()
        found = ((name, self._keys.get(name)) for name in names)
        return {name for name, kept in found if kept and is_due(name, left=kept.expires - now, ttl=self.ttl)}

    def drop(self, name: Hashable) -> None:
        """Wipe a key before its lease ends."""
        with self._lock:
            leased = self._keys.pop(name, None)
        if leased is not None:
            leased.key.wipe()

    def drop_scopes(self, scopes: Collection[bytes], records: Collection[tuple[bytes, bytes]]) -> None:
        """Wipe the keys of these scopes (ids of 16 bytes), and of these records (with tags of 8 bytes), before their leases end."""
        with self._lock:
            kept = list(self._keys.items())
        for name, leased in kept:
            of = leased.key.header.scopes
            if any(ref.scope_id in scopes or (ref.scope_id, ref.record_tag) in records for ref in of):
                self.drop(name)

    def drop_all(self) -> None:
        """Wipe all keys before their leases end."""
        with self._lock:
            kept = list(self._keys.values())
            self._keys.clear()
        for leased in kept:
            leased.key.wipe()

    def keep(self, name: Hashable, key: WrappingKey, *, anchor: float, due_at: datetime | None = None) -> None:
        """Keep a key that was admitted by a read after `anchor`; the cache wipes it from here on."""
        self.keep_all([(name, key, due_at)], anchor=anchor)

    def keep_all(self, keys: Iterable[tuple[Hashable, WrappingKey, datetime | None]], *, anchor: float) -> None:
        """Keep keys, each with its name and when its first scope is due, as `keep` does."""
        expires = anchor + self.ttl
        new = {name: LeasedKey(key, expires, due_at) for name, key, due_at in keys}
        with self._lock:
            dropped = [old for name in new if (old := self._keys.pop(name, None)) is not None]
            later = []  # of calls that began later and were faster: sweeps rely on the order
            while self._keys and next(reversed(self._keys.values())).expires > expires:
                later.append(self._keys.popitem())
            self._keys.update(new)
            self._keys.update(reversed(later))
            while len(self._keys) > self._limit:
                dropped.append(self._keys.pop(next(iter(self._keys))))
        for leased in dropped:
            leased.key.wipe()
        self._timer.arm(self.ttl)

    def close(self) -> None:
        """Wipe everything."""
        self._timer.close()
        self.drop_all()

    def _sweep(self) -> float | None:
        """Wipe what has expired; return when the next does."""
        now = self._clock.monotonic()
        with self._lock:
            while self._keys:
                name, leased = next(iter(self._keys.items()))
                if leased.expires > now:
                    return leased.expires - now  # they stand in the order in which they expire
                del self._keys[name]
                leased.key.wipe()
        return None
