"""How often somebody may do something, in this worker. Pure but for the clock it is given; thread-safe.

A token bucket, kept as one number a key: when the bucket will be full again (the generic cell rate algorithm, ITU-T I.371). A key whose
bucket is full needs no number, so that what is kept is bounded by who was busy lately.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

MAX_KEYS = 10_000


class Rates(Generic[K]):
    """Buckets by key."""

    def __init__(self, now: Callable[[], float], *, burst: float, limit: int = MAX_KEYS) -> None:
        """`now` in seconds, never going back; `burst`: how many seconds' worth may be taken at once; `limit`: keys that are kept."""
        self._now = now
        self._burst = burst
        self._limit = limit
        self._full_at: dict[K, float] = {}
        self._lock = threading.Lock()

    def wait(self, key: K, rate: float) -> float:
        """Return for how many seconds nothing can be taken, 0 for now; take nothing."""
        return max(0.0, self._full_at.get(key, 0.0) + 1 / rate - self._now() - self._burst)

    def take(self, key: K, rate: float) -> float:
        """Take one, of `rate` a second, and return 0; or return for how many seconds there is none, and take nothing."""
        with self._lock:
            now = self._now()
            full_at = max(self._full_at.get(key, now), now) + 1 / rate
            if (left := full_at - now - self._burst) > 0:
                return left
            if key not in self._full_at and len(self._full_at) >= self._limit:
                self._make_room(now)
            self._full_at[key] = full_at
            return 0.0

    def _make_room(self, now: float) -> None:
        """Drop buckets that are full again; of ever more keys at once, those that came first."""
        kept = {key: full_at for key, full_at in self._full_at.items() if full_at > now}
        for key in list(kept)[: max(0, len(kept) - self._limit // 2)]:
            del kept[key]
        self._full_at = kept
