"""A second, independent implementation of the log's formats, written from RFC 6962 and C2SP and for tests only.

Recursive as the RFC defines it, over a list of entries; no code of shredder. It checks no limits; it says what a log writes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cached_property, lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def power_below(size: int) -> int:
    """k of RFC 6962: the largest power of two smaller than `size`."""
    power = 1
    while power * 2 < size:
        power *= 2
    return power


class Tree:
    """D[n] of RFC 6962, section 2.1."""

    def __init__(self, entries: Sequence[bytes]) -> None:
        self.entries = entries
        self.mth = lru_cache(maxsize=None)(self._mth)

    def _mth(self, low: int, high: int) -> bytes:
        """MTH(D[low:high])."""
        if high == low:
            return sha256()
        if high - low == 1:
            return sha256(b"\x00", self.entries[low])
        middle = low + power_below(high - low)
        return sha256(b"\x01", self.mth(low, middle), self.mth(middle, high))

    def path(self, m: int, low: int, high: int) -> list[bytes]:
        """PATH(m, D[low:high])."""
        if high - low == 1:
            return []
        k = power_below(high - low)
        if m < k:
            return [*self.path(m, low, low + k), self.mth(low + k, high)]
        return [*self.path(m - k, low + k, high), self.mth(low, low + k)]

    def proof(self, m: int, n: int) -> list[bytes]:
        """PROOF(m, D[n])."""
        return self._subproof(m, 0, n, known=True)

    def _subproof(self, m: int, low: int, high: int, *, known: bool) -> list[bytes]:
        n = high - low
        if m == n:
            return [] if known else [self.mth(low, high)]
        k = power_below(n)
        if m <= k:
            return [*self._subproof(m, low, low + k, known=known), self.mth(low + k, high)]
        return [*self._subproof(m - k, low + k, high, known=False), self.mth(low, low + k)]

    def tiles(self, size: int) -> dict[str, bytes]:
        """All tiles and bundles of the first `size` entries, by path (C2SP tlog-tiles)."""
        files = {}
        for number in range((size + 255) // 256):
            width = min(256, size - 256 * number)
            entries = self.entries[256 * number : 256 * number + width]
            files[path_of("entries", number, width)] = bundle(entries)
        level, span = 0, 1
        while size // span:
            for number in range((size // span + 255) // 256):
                width = min(256, size // span - 256 * number)
                places = [(256 * number + place) * span for place in range(width)]
                files[path_of(level, number, width)] = b"".join(self.mth(place, place + span) for place in places)
            level, span = level + 1, span * 256
        return files


def path_of(level: int | str, number: int, width: int = 256) -> str:
    name = f"{number % 1000:03}"
    while number >= 1000:
        number //= 1000
        name = f"x{number % 1000:03}/{name}"
    return f"tile/{level}/{name}" + (f".p/{width}" if width < 256 else "")


def bundle(entries: Sequence[bytes]) -> bytes:
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


class Signer:
    """A key that signs notes, or cosigns checkpoints."""

    def __init__(self, name: str, seed: bytes, kind: int = 1) -> None:
        self.name, self.kind, self._key = name, kind, Ed25519PrivateKey.from_private_bytes(seed)

    @cached_property
    def public(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    @property
    def key_id(self) -> bytes:
        return sha256(self.name.encode(), b"\n", bytes([self.kind]), self.public)[:4]

    @property
    def vkey(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{b64(bytes([self.kind]) + self.public)}"

    def line(self, text: str, time: int | None = None) -> str:
        """Return the signature line over a text; of a cosignature, at a time."""
        if time is None:
            return self.line_of(self._key.sign(text.encode()))
        return self.line_of(time.to_bytes(8, "big") + self._key.sign(f"cosignature/v1\ntime {time}\n{text}".encode()))

    def line_of(self, signature: bytes) -> str:
        return f"— {self.name} {b64(self.key_id + signature)}\n"


def checkpoint_text(origin: str, size: int, root: bytes) -> str:
    return f"{origin}\n{size}\n{b64(root)}\n"


def proof_file(index: int, hashes: Sequence[bytes], checkpoint: str, extra: bytes | None = None) -> str:
    middle = f"extra {b64(extra)}\n" if extra is not None else ""
    return (
        f"c2sp.org/tlog-proof@v1\n{middle}index {index}\n" + "".join(f"{b64(h)}\n" for h in hashes) + f"\n{checkpoint}"
    )
