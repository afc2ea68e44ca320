"""How long an answer may rest on what the primary database said.

A lease is anchored before the read it rests on, and counts on a clock that runs through suspend. It also rests on a heartbeat
committed within its term: an old primary that was cut off from its standby still answers reads, but commits nothing.
"""

from __future__ import annotations

import math
import threading

from keyvault.clock import Clock
from keyvault.errors import Unavailable
from keyvault.store.database import Database


class AnswerLease:
    """Until when an answer may be kept, in seconds of the clock that only runs forward: the first end among all that it rests on."""

    __slots__ = ("expires",)

    def __init__(self) -> None:
        """Rest on nothing yet."""
        self.expires = math.inf

    def rest_on(self, expires: float) -> None:
        """Let the answer end no later than what it was made from."""
        self.expires = min(self.expires, expires)


class LeaseAnchor:
    """Gives out anchors, and refuses answers that took longer than a lease."""

    def __init__(self, database: Database, clock: Clock, *, node: str, ttl: float) -> None:
        """`ttl` in seconds; `node` names this machine in the heartbeats."""
        self._database = database
        self._clock = clock
        self._node = node
        self._ttl = ttl
        self._beat_at = float("-inf")
        self._lock = threading.Lock()

    def take(self) -> float:
        """Return an anchor for a read that follows, with a heartbeat no older than half a lease behind it."""
        with self._lock:
            started = self._clock.monotonic()
            if started - self._beat_at > self._ttl / 2:
                self._database.confirm(self._node)
                self._beat_at = started
        return self._clock.monotonic()

    def check(self, anchor: float) -> None:
        """Raise `Unavailable` when the read at `anchor` is too old to answer by: the caller asks again."""
        if self._clock.monotonic() - anchor > self._ttl:
            raise Unavailable("the answer took longer than a lease, so the keys' state may have changed: ask again")

    def end(self, anchor: float) -> float:
        """Return when a lease with this anchor ends."""
        return anchor + self._ttl
