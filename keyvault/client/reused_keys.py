"""Data keys for sealing that a client goes on with, within `Reuse`: so many messages, so many bytes, and never beyond their lease."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence

from keyvault.envelope import EnvelopeKey
from keyvault.values import Reuse, SealRequest

RENEWED_AT = 8
"""A key is replaced ahead of its end when an eighth of its messages, or of its bytes, is left."""


class ReusedKey:
    """A data key, and what may still be sealed under it. Thread-safe."""

    __slots__ = ("_bytes", "_key", "_lock", "_low_bytes", "_low_messages", "_messages")

    def __init__(self, key: EnvelopeKey, reuse: Reuse, *, messages: int, size: int) -> None:
        """`key` has sealed `messages` of `size` bytes in all."""
        self._key = key
        self._messages = reuse.messages - messages
        self._bytes = reuse.bytes - size
        self._low_messages = reuse.messages // RENEWED_AT
        self._low_bytes = reuse.bytes // RENEWED_AT
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "ReusedKey()"

    @property
    def runs_low(self) -> bool:
        """Whether it is time to ask for the next key."""
        return self._messages <= self._low_messages or self._bytes <= self._low_bytes

    @property
    def is_used_up(self) -> bool:
        """Whether nothing more may be sealed."""
        return self._messages < 1 or self._bytes < 1

    def spend(self, size: int) -> bool:
        """Take a message of `size` bytes off what is left; False where it may not be sealed under this key."""
        with self._lock:
            if self._messages < 1 or size > self._bytes:
                return False
            self._messages -= 1
            self._bytes -= size
            return True

    def seal(self, plaintext: bytes) -> bytes:
        """Seal what was spent. Raises as `EnvelopeKey.seal`."""
        return self._key.seal(plaintext)

    def wipe(self) -> None:
        """Drop the key."""
        self._key.wipe()


def groups(requests: Sequence[tuple[Hashable, SealRequest]], reuse: Reuse | None) -> list[list[int]]:
    """Return indices of messages that may share a fresh data key: of one name, within the limits. Without `reuse`, each alone.

    A message that alone exceeds the limits gets a key of its own.
    """
    if reuse is None:
        return [[index] for index in range(len(requests))]
    made: list[list[int]] = []
    open_groups: dict[Hashable, tuple[list[int], int]] = {}
    for index, (name, request) in enumerate(requests):
        group, size = open_groups.get(name, ([], 0))
        size += len(request.plaintext)
        if not group or len(group) >= reuse.messages or size > reuse.bytes:
            group, size = [], len(request.plaintext)
            made.append(group)
        group.append(index)
        open_groups[name] = group, size
    return made
