"""The Merkle tree of RFC 6962, section 2.1, over SHA-256: roots, proofs, and their verification. Pure.

A *node* (level, index) is the root of a complete subtree: that of the leaves from `index << level` to before `(index + 1) << level`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256

from keyvault.errors import VerificationError

HASH_BYTES = 32
EMPTY_ROOT = sha256(b"").digest()

_LEAF = sha256(b"\0")

Node = Callable[[int, int], bytes]
"""Gives the hash of a node by level and index."""


def leaf_hash(entry: bytes) -> bytes:
    """Return the 32-byte hash of a leaf: `SHA-256(00 ‖ entry)`."""
    return sha256(b"\0" + entry).digest()


def leaf_hashes(entries: Iterable[bytes]) -> list[bytes]:
    """Return `leaf_hash` of each of many entries. A copy of a hash that was begun costs less than looking up the algorithm for each."""
    begun = _LEAF.copy
    hashes = []
    for entry in entries:
        hashed = begun()
        hashed.update(entry)
        hashes.append(hashed.digest())
    return hashes


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the 32-byte hash of a node: `SHA-256(01 ‖ left ‖ right)`."""
    return sha256(b"\1" + left + right).digest()


def root_of(hashes: Iterable[bytes]) -> bytes:
    """Return the root over hashes of subtrees that are all of one size; the last one may be of a smaller."""
    row = list(hashes)
    if not row:
        return EMPTY_ROOT
    while len(row) > 1:
        odd = row[-1:] if len(row) % 2 else []
        row = [sha256(b"\1" + left + right).digest() for left, right in zip(row[::2], row[1::2], strict=False)] + odd
    return row[0]


def tree_root(size: int, node: Node) -> bytes:
    """Return the root of the first `size` leaves."""
    return _range_root(0, size, node) if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, node: Node) -> list[bytes]:
    """Return PATH(index, D[size]) of RFC 6962, section 2.1.1: the leaf's sibling first. `ValueError` out of range."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    path: list[bytes] = []
    low, high = 0, size
    while high - low > 1:
        middle = low + _split(high - low)
        if index < middle:
            path.append(_range_root(middle, high, node))
            high = middle
        else:
            path.append(_range_root(low, middle, node))
            low = middle
    return path[::-1]


def consistency_proof(old: int, new: int, node: Node) -> list[bytes]:
    """Return PROOF(old, D[new]) of RFC 6962, section 2.1.2. `ValueError` unless 0 < old <= new: from 0 there is nothing to prove."""
    if not 0 < old <= new:
        raise ValueError(f"there is no consistency proof from {old} to {new}")
    path: list[bytes] = []
    low, high, whole = 0, new, True
    while old != high:
        middle = low + _split(high - low)
        if old <= middle:
            path.append(_range_root(middle, high, node))
            high = middle
        else:
            path.append(_range_root(low, middle, node))
            low, whole = middle, False
    if not whole:
        path.append(_range_root(low, high, node))
    return path[::-1]


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Raise `VerificationError` unless the leaf's hash is at `index` of the tree (RFC 9162, section 2.1.3.2)."""
    if not 0 <= index < size:
        raise VerificationError(f"there is no leaf {index} in a tree of {size}")
    first, last, found = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise VerificationError(f"the inclusion proof of leaf {index} is too long")
        if first & 1 or first == last:
            found = node_hash(sibling, found)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            found = node_hash(found, sibling)
        first, last = first >> 1, last >> 1
    if last != 0:
        raise VerificationError(f"the inclusion proof of leaf {index} is too short")
    if found != root:
        raise VerificationError(f"the inclusion proof of leaf {index} does not lead to the root of size {size}")


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Raise `VerificationError` unless the old tree is a prefix of the new one (RFC 9162, section 2.1.4.2)."""
    if not 0 < old <= new:
        raise VerificationError(f"there is no consistency proof from size {old} to {new}")
    if old == new:
        if proof or old_root != new_root:
            raise VerificationError(f"two roots of size {old} differ, or come with a proof: the log was forked")
        return
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        raise VerificationError("the consistency proof is empty")
    if _consistent_roots(old, new, path) != (old_root, new_root):
        raise VerificationError(
            f"the tree of size {new} does not continue that of size {old}: the log was forked or altered"
        )


def _consistent_roots(old: int, new: int, path: Sequence[bytes]) -> tuple[bytes, bytes]:
    """Return the two roots that a consistency proof leads to."""
    first, last = old - 1, new - 1
    while first & 1:
        first, last = first >> 1, last >> 1
    old_found = new_found = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise VerificationError("the consistency proof is too long")
        if first & 1 or first == last:
            old_found, new_found = node_hash(sibling, old_found), node_hash(sibling, new_found)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            new_found = node_hash(new_found, sibling)
        first, last = first >> 1, last >> 1
    if last != 0:
        raise VerificationError("the consistency proof is too short")
    return old_found, new_found


def _range_root(low: int, high: int, node: Node) -> bytes:
    """Return the root of the leaves from `low` to before `high`; `low` is a multiple of the largest power of two that fits."""
    size = high - low
    if size & (size - 1) == 0:
        level = size.bit_length() - 1
        return node(level, low >> level)
    middle = low + _split(size)
    return node_hash(_range_root(low, middle, node), _range_root(middle, high, node))


def _split(size: int) -> int:
    """Return the largest power of two smaller than `size`."""
    return 1 << ((size - 1).bit_length() - 1)
