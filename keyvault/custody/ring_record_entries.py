"""Reading and writing single record entries: what `keyvault.custody.ring_records` is made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar

from keyvault.custody import ring_record_sealing as sealing
from keyvault.custody.ring_record_sealing import RecordKind
from keyvault.custody.ring_sealing import record_entry, record_entry_path
from keyvault.errors import InvalidFormatError, KeyMissingError, NotProvenError
from keyvault.formats import wipe
from keyvault.puncture import Frontier
from keyvault.puncture_records import Chunk, EntryRef, RecordIndex, check_scope_id, parse_chunk, parse_index, parse_root
from keyvault.transit.base import TransitEngine


@dataclass(frozen=True, kw_only=True, slots=True)
class ScopeRecords:
    """One scope's entries in the engine's store. Raises `InvalidInputError` unless the scope's id has 16 bytes."""

    engine: TransitEngine
    ring_id: bytes
    scope_id: bytes

    def __post_init__(self) -> None:
        check_scope_id(self.scope_id)

    def read_root(self, ref: EntryRef) -> Frontier | RecordIndex:
        """Read the entry that a ring's state refers to. The caller wipes what it gets.

        Raises `KeyMissingError` when it is gone, `DecryptionFailedError` and `InvalidFormatError` when it was altered or is another.
        """
        encoded = self._read(ref)
        try:
            root = parse_root(encoded)
        finally:
            wipe(encoded)
        expected = RecordKind.INDEX if isinstance(root, RecordIndex) else RecordKind.FRONTIER
        self._require_kind(ref, expected, root)
        return root

    def read_chunk(self, chunk: Chunk) -> Frontier:
        """Read the entry that an index refers to; else as `read_root`."""
        encoded = self._read(chunk.ref)
        try:
            records = parse_chunk(encoded, chunk)
        finally:
            wipe(encoded)
        self._require_kind(chunk.ref, RecordKind.CHUNK, records)
        return records

    def write(self, kind: RecordKind, epoch: int, encoded: bytearray) -> EntryRef:
        """Write an entry, create-only, under a fresh name and key; read it back, open and compare it. Wipes `encoded`.

        The caller wipes the reference. Raises `NotProvenError` when it reads back as another, and as `read_root`.
        """
        ref = sealing.new_ref(kind, epoch)
        try:
            value = sealing.seal(encoded, ref, ring_id=self.ring_id, scope_id=self.scope_id)
            self.engine.put_state(record_entry_path(self.ring_id, ref), value, expected_version=0)
            self._require_written(ref, encoded)
        except BaseException:
            wipe(ref.key)
            raise
        finally:
            wipe(encoded)
        return ref

    def _require_written(self, ref: EntryRef, encoded: bytearray) -> None:
        read_back = self._read(ref)
        same = read_back == encoded
        wipe(read_back)
        if not same:
            raise NotProvenError(f"ring {self.ring_id.hex()}: new records read back as others; the old ones stand")

    def _read(self, ref: EntryRef) -> bytearray:
        value = _get(self.engine, self.ring_id, ref)
        return sealing.unseal(value, ref, ring_id=self.ring_id, scope_id=self.scope_id)

    def _require_kind(self, ref: EntryRef, kind: RecordKind, secret: _Wipable) -> None:
        """Insist on what collecting relies on: that an entry's name tells whether it refers to others, or is referred to."""
        if sealing.kind_of(ref.name) is not kind:
            secret.wipe()
            raise InvalidFormatError(f"ring {self.ring_id.hex()}: an entry with records is not of the kind it is named")


def chunk_names(engine: TransitEngine, ring_id: bytes, ref: EntryRef) -> list[str]:
    """Return the names of the chunks that a scope's root refers to: none for a frontier, which is not read for that."""
    if sealing.kind_of(ref.name) is not RecordKind.INDEX:
        return []
    value = _get(engine, ring_id, ref)
    encoded = sealing.unseal(value, ref, ring_id=ring_id, scope_id=sealing.claimed_scope_id(value))
    try:
        index = parse_index(encoded)
    finally:
        wipe(encoded)
    with wiping(index):
        return [record_entry(chunk.ref) for chunk in index.chunks]


def _get(engine: TransitEngine, ring_id: bytes, ref: EntryRef) -> str:
    entry = engine.get_state(record_entry_path(ring_id, ref))
    if entry is None:
        raise KeyMissingError(
            f"ring {ring_id.hex()}: an entry with records of epoch {ref.epoch} is missing; load it again"
        )
    return entry.value


class _Wipable(Protocol):
    def wipe(self) -> None: ...


W = TypeVar("W", bound=_Wipable)


@contextmanager
def wiping(secret: W) -> Iterator[W]:
    """Wipe the secret on leaving, whatever happens."""
    try:
        yield secret
    finally:
        secret.wipe()
