"""Data keys that a client keeps for the lease that the service gave with them, and not a moment longer (G3).

A lease begins before the call that brought the key was sent, and nothing here renews it: only another answer of the service does, which
is asked for ahead of the end, at a moment that differs from key to key. What is dropped is wiped, and what has expired is dropped, also
in a process that idles.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from keyvault.client.options import KEEP_BYTES
from keyvault.clock import Clock
from keyvault.expiry import ExpiryTimer
from keyvault.formats import wipe
from keyvault.values import KeyRequest, UnwrapRequest
from keyvault.wrapped import parse_wrapped

RENEWED_AFTER = (2 / 3, 5 / 6)
"""Which part of its lease a key is used as it is: between these, drawn for each key."""
DOUBT_SECONDS = 2.0
"""Over how long the renewals of keys that are in doubt are spread."""
TICKS = 16
"""Leases end on sixteenths of a second, so that the keys of one moment are wiped together."""
OVERHEAD_BYTES = 1_000
"""What a key takes beside its bytes: OpenSSL's context, and Python's objects."""

Marks: TypeAlias = tuple[tuple[bytes, bytes], ...]
"""The scopes (16-byte ids) that a key is under, each with the record's tag (8 bytes) or none."""
Asked: TypeAlias = UnwrapRequest | KeyRequest


@dataclass(frozen=True, slots=True)
class Lease:
    """For how many seconds the keys of an answer may be kept, from the moment before it was asked for."""

    anchor: float
    seconds: float


class Secret(Protocol):
    """A key that can be wiped."""

    def wipe(self) -> None:
        """Overwrite it."""


class RawKey:
    """A data key as callers ask for it. Copy it under the table's lock: a key that is being wiped must not be taken for one."""

    __slots__ = ("plaintext",)

    def __init__(self, plaintext: bytearray) -> None:
        """Own the bytes."""
        self.plaintext = plaintext

    def __repr__(self) -> str:
        return "RawKey()"

    def wipe(self) -> None:
        """Overwrite the key."""
        wipe(self.plaintext)


class KeptKey:
    """A key, what was asked for it, until when it may be used, and when to look at it again: at its renewal, then at its end."""

    __slots__ = ("asked", "end", "expires", "key", "look_at", "marks", "name", "size")

    def __init__(self, name: Hashable, asked: Asked, key: Secret, wrapped: bytes) -> None:
        """`asked` is what brings the key again; `wrapped` is the key, wrapped."""
        self.name = name
        self.asked = asked
        self.key: Any = key  # what it is, is said by the name
        self.marks: Marks = tuple((ref.scope_id, ref.record_tag) for ref in parse_wrapped(wrapped).header.scopes)
        self.size = OVERHEAD_BYTES + 2 * (len(wrapped) + len(asked.associated_data))
        self.end = 0
        self.expires = -math.inf
        self.look_at = -math.inf

    def __repr__(self) -> str:
        return f"KeptKey(expires={self.expires})"


class KeptKeys:
    """A bounded table. Thread-safe; how it is used after a fork is the owner's care (`forget`)."""

    def __init__(self, clock: Clock, *, limit: int, max_bytes: int = KEEP_BYTES) -> None:
        """Keep at most `limit` keys, and `max_bytes` of memory for them."""
        self._clock = clock
        self._limit = limit
        self._max_bytes = max_bytes
        self._keys: dict[Hashable, KeptKey] = {}
        self._ends: dict[int, set[KeptKey]] = {}
        self._by_scope: dict[bytes, set[KeptKey]] = {}
        self._due: dict[KeptKey, None] = {}
        self._renewing = False
        self._bytes = 0
        self._closed = False
        self._lock = threading.Lock()
        self._timer = ExpiryTimer(self._sweep)
        self.get = self._keys.get
        self.drops = 0
        """How often keys were dropped because of what was told: an answer from before is not kept."""
        self.wake: Callable[[], None] = lambda: None
        """Called when renewals are due and nobody is at them."""

    def __len__(self) -> int:
        return len(self._keys)

    # --- using -----------------------------------------------------------------------------------------------------

    def find(self, name: Hashable, now: float) -> KeptKey | None:
        """Return a key that may be used at `now`."""
        kept = self._keys.get(name)
        if kept is None or (kept.look_at <= now and not self.looked_at(kept, now)):
            return None
        return kept

    def looked_at(self, kept: KeptKey, now: float) -> bool:
        """Tell whether a key may be used although its `look_at` has come; it is renewed while it may."""
        if kept.expires <= now:
            return False
        self.renew_soon(kept)
        return True

    def renew_soon(self, kept: KeptKey) -> None:
        """Have a key renewed, once, however many use it."""
        with self._lock:
            if self._keys.get(kept.name) is not kept or kept.look_at == kept.expires:
                return
            kept.look_at = kept.expires
            self._due[kept] = None
            asleep, self._renewing = not self._renewing, True
        if asleep:
            self.wake()

    def copies(self, names: Sequence[Hashable]) -> list[bytearray | None]:
        """Return copies of raw keys, each None where it is not there or may not be used."""
        now = self._clock.monotonic()
        found = [self.find(name, now) for name in names]
        with self._lock:
            now = self._clock.monotonic()
            return [
                kept.key.plaintext[:]
                if kept is not None
                and kept.expires > now
                and isinstance(kept.key, RawKey)
                and self._keys.get(kept.name) is kept
                else None
                for kept in found
            ]

    # --- keeping ---------------------------------------------------------------------------------------------------

    def keep(self, name: Hashable, asked: Asked, key: Secret, wrapped: bytes, lease: Lease, *, drops: int) -> None:
        """Keep a key for its lease, or wipe it: where the lease has ended, or something was dropped since `drops`, before it was asked for."""
        kept = KeptKey(name, asked, key, wrapped)
        with self._lock:
            now = self._clock.monotonic()
            if self._closed or not self._limit or drops != self.drops or not self._set_lease(kept, lease, now):
                key.wipe()
                return
            if (old := self._keys.get(name)) is not None:
                self._remove(old)
            self._keys[name] = kept
            self._bytes += kept.size
            for scope, _ in kept.marks:
                self._by_scope.setdefault(scope, set()).add(kept)
            while len(self._keys) > self._limit or self._bytes > self._max_bytes:
                self._remove(next(iter(self._keys.values())))
        self._timer.arm(kept.expires - now)

    def prolong(self, kept: KeptKey, lease: Lease, *, drops: int) -> None:
        """Use a key on, for the lease of another answer of the service to the same question; `drops` as in `keep`."""
        with self._lock:
            now = self._clock.monotonic()
            if self._keys.get(kept.name) is not kept:
                return
            if drops != self.drops:
                kept.look_at = now  # ask once more
                return
            before = kept.end
            if not self._set_lease(kept, lease, now):
                self._remove(kept)
                return
            if kept.end != before:
                self._ends[before].discard(kept)
        self._timer.arm(kept.expires - now)

    def put_off(self, kept: KeptKey, seconds: float) -> None:
        """Try a renewal again later, that could not be asked for now; the lease goes on to its end, and no further."""
        with self._lock:
            kept.look_at = min(kept.expires, self._clock.monotonic() + random.uniform(seconds, 2 * seconds))

    # --- dropping --------------------------------------------------------------------------------------------------

    def drop(self, kept: Iterable[KeptKey]) -> None:
        """Wipe keys."""
        with self._lock:
            for one in kept:
                if self._keys.get(one.name) is one:
                    self._remove(one)

    def drop_marked(self, scopes: Iterable[bytes], records: Collection[tuple[bytes, bytes]] = ()) -> None:
        """Wipe all keys under these scopes, or under these records (scope's id and record's tag)."""
        with self._lock:
            self.drops += 1
            dropped = {kept for scope in scopes for kept in self._by_scope.get(scope, ())}
            for record in records:
                dropped |= {kept for kept in self._by_scope.get(record[0], ()) if record in kept.marks}
            for kept in dropped:
                self._remove(kept)

    def drop_all(self) -> None:
        """Wipe everything."""
        with self._lock:
            self.drops += 1
            for kept in list(self._keys.values()):
                self._remove(kept)

    def doubt_all(self) -> None:
        """Have every key renewed at its next use, spread over a while: something that concerns it may have been missed."""
        with self._lock:
            now = self._clock.monotonic()
            for kept in self._keys.values():
                kept.look_at = min(kept.look_at, now + random.uniform(0, DOUBT_SECONDS))

    def close(self) -> None:
        """Wipe everything, and keep nothing any more."""
        self._timer.close()
        with self._lock:
            self._closed = True
        self.drop_all()

    def forget(self) -> None:
        """Wipe everything in a forked child, where nobody else is and locks may be held for ever; the table is of no use afterwards."""
        self._closed = True
        for kept in self._keys.values():
            kept.key.wipe()

    # --- renewing --------------------------------------------------------------------------------------------------

    def take_due(self, limit: int) -> list[KeptKey]:
        """Return some keys to renew. With none, whoever asks is done, and `wake` is called for the next."""
        with self._lock:
            taken = [kept for kept, _ in zip(self._due, range(limit), strict=False)]
            for kept in taken:
                del self._due[kept]
            self._renewing = bool(taken)
        return taken

    # --- within ----------------------------------------------------------------------------------------------------

    def _set_lease(self, kept: KeptKey, lease: Lease, now: float) -> bool:
        if not 0 < lease.seconds < math.inf:
            return False
        end = math.floor((lease.anchor + lease.seconds) * TICKS)
        if end / TICKS <= now:
            return False
        kept.end, kept.expires = end, end / TICKS
        kept.look_at = min(kept.expires, lease.anchor + lease.seconds * random.uniform(*RENEWED_AFTER))
        self._ends.setdefault(end, set()).add(kept)
        return True

    def _remove(self, kept: KeptKey) -> None:
        del self._keys[kept.name]
        self._due.pop(kept, None)
        self._bytes -= kept.size
        self._ends[kept.end].discard(kept)
        for scope, _ in kept.marks:
            under = self._by_scope.get(scope)
            if under is not None:
                under.discard(kept)
                if not under:
                    del self._by_scope[scope]
        kept.key.wipe()

    def _sweep(self) -> float | None:
        """Wipe what has expired; return when the next does."""
        with self._lock:
            now = self._clock.monotonic()
            for end in [end for end, kept in self._ends.items() if end / TICKS <= now or not kept]:
                for kept in list(self._ends[end]):
                    self._remove(kept)
                del self._ends[end]
            return min(self._ends) / TICKS - now if self._ends else None
