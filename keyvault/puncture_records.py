"""Erasing single records of a scope: the 63-level tree of its records, and the entries that hold what is left of it.

A record sits at the leaf that its *tag* numbers. While none is erased, the tree is nothing but its root's seed, inside the ring's
state. With the first erased record its frontier moves into an *entry* of its own, which custody seals under a key of that entry
alone; the ring's state keeps the `EntryRef`. A frontier that outgrows an entry is cut into chunks by tag, each an entry; an index,
itself an entry, keeps their `EntryRef`s:

    ring state ─ EntryRef ─→ frontier                        some eighty erased records, and
    ring state ─ EntryRef ─→ index ─ EntryRef ─→ chunk       one index for more than 300,000

Keys are always held one level up. To erase records: puncture the chunks they lie in, seal each under a fresh key and name, then the
index, then the ring's state; chunks without a newly erased record stay as they are. Destroying the old state makes every
replaced entry unreadable, wherever copies of it are (Reardon, Ritzdorf, Basin and Capkun, CCS 2013). This module does no I/O and
seals nothing; the format's page is docs/formats/punctured-state.md.
"""

from __future__ import annotations

import hmac
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from keyvault.errors import InvalidFormatError, InvalidInputError
from keyvault.formats import Bytes, labelled, wipe
from keyvault.puncture import MAX_HEIGHT, SEED_BYTES, Frontier, count_nodes, new_frontier, usable

RECORD_TAG_BYTES = 8
SCOPE_ID_BYTES = 16
KEY_BYTES = 32
NAME_BYTES = 8
MAX_ENTRY_BYTES = 380_000
"""The longest encoding: sealed and in base64 it stays below the 512 kB that the transit engine's store takes well."""
CHUNK_BYTES = 128 * 1024
"""Where a frontier is cut: one more erased record rewrites a chunk and the index, and both stay small."""

FRONTIER_MAGIC = b"KVF\x01"
INDEX_MAGIC = b"KVI\x01"

_TAG_BITS = (1 << MAX_HEIGHT) - 1
_TAGS_END = 1 << MAX_HEIGHT
_RECORD_LABEL = b"keyvault/ring/record/1"
_FRONTIER = struct.Struct(">4sBQI")
_INDEX = struct.Struct(">4sH")
_CHUNK = struct.Struct(">BQ8s32s")
_MAX_CHUNKS = (MAX_ENTRY_BYTES - _INDEX.size) // _CHUNK.size
_MIN_LIMIT = _FRONTIER.size + RECORD_TAG_BYTES + MAX_HEIGHT * SEED_BYTES


def record_tag(index_key: Bytes, scope_id: bytes, record_id: bytes) -> bytes:
    """Return a record's tag: HMAC-SHA256(index key, scope id ‖ record id), its first 8 bytes with the top bit cleared.

    Two records of one scope share a tag, and then a key, with a chance of 2^-63 a pair: less than one in ten million for a million
    records. Raises `InvalidInputError` unless `scope_id` has 16 bytes.
    """
    check_scope_id(scope_id)
    digest = hmac.digest(index_key, scope_id + record_id, "sha256")
    number = int.from_bytes(digest[:RECORD_TAG_BYTES], "big")
    return (number & _TAG_BITS).to_bytes(RECORD_TAG_BYTES, "big")


def record_share(records: Frontier, scope_id: bytes, tag: bytes) -> bytearray:
    """Return the share (32 bytes) that the record at `tag` (8 bytes) gives to a wrapping key. The caller wipes it.

    `records` is the scope's frontier, or the chunk with that tag. Raises `PuncturedError` for an erased record, `InvalidInputError`
    for what is no tag, or of another chunk, and `KeyVaultError` when `records` was wiped.
    """
    check_scope_id(scope_id)
    leaf = records.derive(leaf_of(tag))
    try:
        return bytearray(hmac.digest(leaf, labelled(_RECORD_LABEL, scope_id, tag), "sha256"))
    finally:
        wipe(leaf)


def record_shares(records: Frontier, scope_id: bytes, tags: Iterable[bytes]) -> dict[bytes, bytearray]:
    """Return what `record_share` gives for each of these tags, by tag, each inner node expanded once; erased records are left out.

    The caller wipes them. Raises as `record_share` otherwise.
    """
    check_scope_id(scope_id)
    leaves = {tag: leaf_of(tag) for tag in tags}
    seeds = records.derive_many(leaves.values())
    try:
        return {
            tag: bytearray(hmac.digest(seeds[leaf], labelled(_RECORD_LABEL, scope_id, tag), "sha256"))
            for tag, leaf in leaves.items()
            if leaf in seeds
        }
    finally:
        for seed in seeds.values():
            wipe(seed)


def new_records(seed: Bytes) -> Frontier:
    """Return the frontier of all records, none erased, from the seed of their root (32 bytes): `ScopeNode.records`."""
    return new_frontier(MAX_HEIGHT, seed)


def puncture_records(records: Frontier, tags: Iterable[bytes]) -> Frontier:
    """Return a new frontier, or chunk, without the records at these tags; those erased before do no harm.

    The caller wipes the old one. Raises `InvalidInputError` for what is no tag, or of another chunk.
    """
    return records.puncture(leaf_of(tag) for tag in tags)


def leaf_of(tag: bytes) -> int:
    """Return the number of a tag's leaf; raise `InvalidInputError` unless it has 8 bytes and begins with a zero bit."""
    leaf = int.from_bytes(tag, "big")
    if len(tag) != RECORD_TAG_BYTES or leaf > _TAG_BITS:
        raise InvalidInputError("a record tag has 8 bytes, the first bit zero")
    return leaf


def check_scope_id(scope_id: bytes) -> None:
    """Raise `InvalidInputError` unless a scope's id has 16 bytes."""
    if len(scope_id) != SCOPE_ID_BYTES:
        raise InvalidInputError(f"a scope id has {SCOPE_ID_BYTES} bytes, this one has {len(scope_id)}")


# --- entries -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class EntryRef:
    """Where an entry is and what opens it: the ring's epoch for which it was written, 8 bytes of name, and its key (32 bytes).

    One key seals one entry, once. Raises `InvalidFormatError` outside these bounds.
    """

    epoch: int
    name: bytes
    key: bytearray = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.epoch < 2**64 or len(self.name) != NAME_BYTES or len(self.key) != KEY_BYTES:
            raise InvalidFormatError("a reference to an entry has an epoch of 8 bytes, 8 bytes of name and a key of 32")

    def copy(self) -> EntryRef:
        """Return the same with a key buffer of its own; raise `KeyVaultError` when this one was wiped."""
        return EntryRef(epoch=self.epoch, name=self.name, key=bytearray(usable(self.key)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Chunk:
    """The part of a scope's record tree with 2^`height` tags from `first`, and the entry that holds its frontier."""

    first: int
    height: int
    ref: EntryRef


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordIndex:
    """Chunks, from left to right, that make up a whole record tree; at least two. Immutable but for `wipe`.

    Raises `InvalidFormatError` when they leave a gap, overlap or are out of order.
    """

    chunks: tuple[Chunk, ...]
    _firsts: tuple[int, ...] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        starts = tuple(accumulate((1 << chunk.height for chunk in self.chunks), initial=0))
        firsts = tuple(chunk.first for chunk in self.chunks)
        aligned = all(chunk.first % (1 << chunk.height) == 0 for chunk in self.chunks)
        if len(self.chunks) <= 1 or (*firsts, _TAGS_END) != starts or not aligned:
            raise InvalidFormatError("an index's chunks must make up the whole tree, from left to right")
        object.__setattr__(self, "_firsts", firsts)

    def find(self, tag: bytes) -> Chunk:
        """Return the chunk with this tag; raise `InvalidInputError` for what is no tag."""
        return self.chunks[bisect_right(self._firsts, leaf_of(tag)) - 1]

    def replace(self, new: Mapping[int, Sequence[Chunk]]) -> RecordIndex:
        """Return a new index, with buffers of its own, where the chunk that begins at each key gave way to one or more.

        Raises `InvalidInputError` when no chunk begins there, `InvalidFormatError` when the new ones do not fit in its place.
        """
        if not new.keys() <= set(self._firsts):
            raise InvalidInputError("an index can replace only chunks that it has")
        chunks = (chunk for old in self.chunks for chunk in new.get(old.first, (old,)))
        return RecordIndex(
            chunks=tuple(Chunk(first=chunk.first, height=chunk.height, ref=chunk.ref.copy()) for chunk in chunks)
        )

    def wipe(self) -> None:
        """Overwrite the keys with zeros."""
        for chunk in self.chunks:
            wipe(chunk.ref.key)


def encoded_size(records: Frontier) -> int:
    """Return the length of `encode_frontier(records)` in bytes."""
    return _FRONTIER.size + len(records.punctured) * RECORD_TAG_BYTES + len(records.seeds)


def partition(records: Frontier, *, limit: int = CHUNK_BYTES) -> list[Frontier]:
    """Cut a frontier into chunks, from left to right, whose encodings have at most `limit` bytes; one when it fits whole.

    A chunk too large is halved by the next bit of the tag. Each chunk owns its buffer; the caller wipes `records`. Raises
    `InvalidInputError` for a limit below 2,041 or above `MAX_ENTRY_BYTES`, and `KeyVaultError` after `wipe`.
    """
    if not _MIN_LIMIT <= limit <= MAX_ENTRY_BYTES:
        raise InvalidInputError(f"chunks have a limit of {_MIN_LIMIT} to {MAX_ENTRY_BYTES} bytes")
    if encoded_size(records) <= limit:
        return [records.puncture(())]
    halves = _halves(records)
    chunks = [chunk for half in halves for chunk in partition(half, limit=limit)]
    for half in halves:
        half.wipe()
    return chunks


def _halves(records: Frontier) -> tuple[Frontier, Frontier]:
    """Cut a frontier with punctures in two: none of its nodes lies on both sides."""
    height = records.height - 1
    middle = records.first + (1 << height)
    cut = bisect_left(records.punctured, middle)
    left = records.punctured[:cut]
    seeds = count_nodes(records.first, height, left) * SEED_BYTES
    halves = (
        Frontier(height=height, first=records.first, punctured=left, seeds=records.seeds[:seeds]),
        Frontier(height=height, first=middle, punctured=records.punctured[cut:], seeds=records.seeds[seeds:]),
    )
    records.check_usable()
    return halves


# --- bytes to values and back --------------------------------------------------------------------------------


def encode_frontier(records: Frontier) -> bytearray:
    """Return an entry's bytes before sealing, which the caller wipes.

    Raises `InvalidInputError` above `MAX_ENTRY_BYTES` (see `partition`), and `KeyVaultError` after `wipe`.
    """
    if encoded_size(records) > MAX_ENTRY_BYTES:
        raise InvalidInputError("this frontier is too large for one entry; partition it")
    start = _FRONTIER.pack(FRONTIER_MAGIC, records.height, records.first, len(records.punctured))
    tags = b"".join(leaf.to_bytes(RECORD_TAG_BYTES, "big") for leaf in records.punctured)
    encoded = bytearray().join((start, tags, records.seeds))
    records.check_usable()  # last, because another thread may wipe meanwhile
    return encoded


def encode_index(index: RecordIndex) -> bytearray:
    """Return an entry's bytes before sealing, which the caller wipes; 49 for each chunk, and 6.

    Raises `InvalidInputError` for more than 7,754 chunks, and `KeyVaultError` after `wipe`.
    """
    if len(index.chunks) > _MAX_CHUNKS:
        raise InvalidInputError("too many records of this scope are erased to keep count of; destroy the whole scope")
    rows = (_CHUNK.pack(chunk.height, chunk.ref.epoch, chunk.ref.name, usable(chunk.ref.key)) for chunk in index.chunks)
    return bytearray().join((_INDEX.pack(INDEX_MAGIC, len(index.chunks)), *rows))


def parse_root(data: Bytes) -> Frontier | RecordIndex:
    """Read the entry that a ring's state refers to: the frontier of all of a scope's records, or the index of its chunks.

    Raises `InvalidFormatError` for anything else.
    """
    if data[:4] == INDEX_MAGIC:
        return parse_index(data)
    return _in_place(parse_frontier(data), 0, MAX_HEIGHT)


def parse_chunk(data: Bytes, chunk: Chunk) -> Frontier:
    """Read the entry that an index refers to; raise `InvalidFormatError` unless it holds just that chunk."""
    return _in_place(parse_frontier(data), chunk.first, chunk.height)


def parse_frontier(data: Bytes) -> Frontier:
    """Read a frontier or chunk and nothing after it; raise `InvalidFormatError` for anything else."""
    _require(data[:4] == FRONTIER_MAGIC, "not a frontier of records that this version reads")
    _require(_FRONTIER.size <= len(data) <= MAX_ENTRY_BYTES, "a frontier of records is cut short, or too long")
    _, height, first, count = _FRONTIER.unpack_from(data)
    end = _FRONTIER.size + count * RECORD_TAG_BYTES
    _require(end <= len(data), "a frontier of records is cut short")
    punctured = struct.unpack_from(f">{count}Q", data, _FRONTIER.size)
    return Frontier(height=height, first=first, punctured=punctured, seeds=bytearray(memoryview(data)[end:]))


def parse_index(data: Bytes) -> RecordIndex:
    """Read an index and nothing after it; raise `InvalidFormatError` for anything else."""
    _require(data[:4] == INDEX_MAGIC, "not an index of records that this version reads")
    _require(_INDEX.size <= len(data) <= MAX_ENTRY_BYTES, "an index of records is cut short, or too long")
    _, count = _INDEX.unpack_from(data)
    _require(len(data) == _INDEX.size + count * _CHUNK.size, "an index of records has another length than it says")
    chunks, first = [], 0
    for height, epoch, name, key in _CHUNK.iter_unpack(memoryview(data)[_INDEX.size :]):
        ref = EntryRef(epoch=epoch, name=name, key=bytearray(key))
        chunks.append(Chunk(first=first, height=height, ref=ref))
        first += 1 << height
    return RecordIndex(chunks=tuple(chunks))


def _in_place(records: Frontier, first: int, height: int) -> Frontier:
    _require(
        (records.first, records.height) == (first, height), "an entry holds another part of the tree than expected"
    )
    return records


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise InvalidFormatError(rule)
