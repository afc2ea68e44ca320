"""A naive puncturable PRF and its bytes, written from docs/formats/punctured-state.md and for tests only.

It keeps the root and a set of punctured leaves, and computes everything anew from them: every leaf by its path, every frontier by
walking down the whole tree. No code of keyvault; it checks no limits.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

RECORD_LEVELS = 63


def u(size: int, value: int) -> bytes:
    return value.to_bytes(size, "big")


def child(seed: bytes, side: int) -> bytes:
    output = hashlib.sha512(b"keyvault/ggm/1" + seed).digest()
    return output[32:] if side else output[:32]


def leaf(seed: bytes, levels: int, number: int) -> bytes:
    for digit in f"{number:b}".zfill(levels) if levels else "":
        seed = child(seed, int(digit))
    return seed


def frontier(seed: bytes, levels: int, punctured: set[int], first: int = 0) -> list[tuple[int, int, bytes]]:
    """Return first leaf, levels and seed of each largest subtree without a punctured leaf."""
    if not punctured:
        return [(first, levels, seed)]
    if levels == 0:
        return []
    middle = first + 2 ** (levels - 1)
    left, right = {n for n in punctured if n < middle}, {n for n in punctured if n >= middle}
    return frontier(child(seed, 0), levels - 1, left, first) + frontier(child(seed, 1), levels - 1, right, middle)


def seeds(seed: bytes, levels: int, punctured: set[int], first: int = 0) -> bytes:
    return b"".join(node for _, _, node in frontier(seed, levels, punctured, first))


def key(seed: bytes, label: bytes, *parts: bytes) -> bytes:
    return hmac.new(seed, label + b"".join(u(8, len(part)) + part for part in parts), hashlib.sha256).digest()


# --- a ring and its scopes ---------------------------------------------------------------------------------------


def slot_levels(capacity: int) -> int:
    levels = 0
    while 2**levels < capacity:
        levels += 1
    return levels


def scope_seed(root: bytes, capacity: int, slot: int) -> bytes:
    return child(leaf(root, slot_levels(capacity), slot), 0)


def records_seed(root: bytes, capacity: int, slot: int) -> bytes:
    return child(leaf(root, slot_levels(capacity), slot), 1)


def scope_share(root: bytes, capacity: int, slot: int, scope_id: bytes) -> bytes:
    return key(scope_seed(root, capacity, slot), b"keyvault/ring/scope/1", scope_id)


def identity_key(root: bytes, capacity: int, slot: int, scope_id: bytes) -> bytes:
    return key(scope_seed(root, capacity, slot), b"keyvault/ring/identity/1", scope_id)


def record_share(records: bytes, scope_id: bytes, tag: bytes) -> bytes:
    seed = leaf(records, RECORD_LEVELS, int.from_bytes(tag, "big"))
    return key(seed, b"keyvault/ring/record/1", scope_id, tag)


def record_tag(index_key: bytes, scope_id: bytes, record_id: bytes) -> bytes:
    digest = hmac.new(index_key, scope_id + record_id, hashlib.sha256).digest()
    return bytes([digest[0] & 0x7F]) + digest[1:8]


# --- bytes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ref:
    """Where an entry is, and its key."""

    epoch: int
    name: bytes
    key: bytes

    @property
    def encoded(self) -> bytes:
        return u(8, self.epoch) + self.name + self.key


def state(root: bytes, capacity: int, punctured: set[int], entries: dict[int, Ref]) -> bytes:
    output = b"KVR\x01" + u(2, capacity) + u(2, len(punctured)) + u(2, len(entries))
    for slot in sorted(punctured):
        output += u(2, slot)
    for slot, ref in sorted(entries.items()):
        output += u(2, slot) + scope_seed(root, capacity, slot) + ref.encoded
    return output + seeds(root, slot_levels(capacity), punctured | set(entries))


def records(root: bytes, punctured: set[int], first: int = 0, levels: int = RECORD_LEVELS) -> bytes:
    """Encode a scope's frontier, or the chunk of it with 2^levels leaves from `first`; `root` is that of the whole tree."""
    top = leaf(root, RECORD_LEVELS - levels, first >> levels)
    output = b"KVF\x01" + u(1, levels) + u(8, first) + u(4, len(punctured))
    return output + b"".join(u(8, tag) for tag in sorted(punctured)) + seeds(top, levels, punctured, first)


def index(chunks: list[tuple[int, Ref]]) -> bytes:
    return b"KVI\x01" + u(2, len(chunks)) + b"".join(u(1, levels) + ref.encoded for levels, ref in chunks)
