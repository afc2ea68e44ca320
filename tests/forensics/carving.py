"""Entries of Vault's storage in the bytes of its files, whether anything still points to them or not.

Three shapes are known, and each is looked for everywhere: leaf pages of bbolt (`vault.db`; a freed page keeps its bytes until it
is used again), put operations in raft's log (`raft.db`), and the entries of a snapshot. Checked with Vault 1.21.
"""

from __future__ import annotations

import gzip
import io
import re
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

from tests.forensics.entries import Entry

# bbolt: https://github.com/etcd-io/bbolt/blob/main/internal/common/page.go; all integers in the machine's order.
PAGE_HEADER = struct.Struct("<QHHI")  # id, flags, count, overflow
LEAF_ELEMENT = struct.Struct("<IIII")  # flags, position from this element, key size, value size
META = struct.Struct("<III")  # magic, version, page size
META_MAGIC = 0xED0CDAED
LEAF_FLAG = 0x02
MAX_PATH_BYTES = 1024

# Field tags of the two protobuf messages that hold a path and then a value: raft's log operation and a snapshot's entry.
VALUE_TAG_OF = {0x1A: 0x22, 0x0A: 0x12}
_PATH = re.compile(rb"[\x0a\x1a](?:[\x01-\x7f]|[\x80-\xff][\x01-\x07])(?=[a-z])")
_PRINTABLE = re.compile(rb"[ -~]+")


def entries_in_folder(folder: Path) -> list[Entry]:
    """Return every entry in every file under `folder`, each with its file's name; values are still encrypted."""
    return [
        entry
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        for entry in entries_in_bytes(file.read_bytes(), file.relative_to(folder).as_posix())
    ]


def entries_in_snapshot(snapshot: Path) -> list[Entry]:
    """Return every entry in a raft snapshot, a compressed tar file; values are still encrypted."""
    return list(entries_in_bytes(snapshot_bytes(snapshot), "snapshot"))


def snapshot_bytes(snapshot: Path) -> bytes:
    """Return what a raft snapshot holds, uncompressed."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(snapshot.read_bytes()))) as archive:
        members = [archive.extractfile(member) for member in archive]
        return b"".join(member.read() for member in members if member is not None)


def entries_in_bytes(blob: bytes, source: str) -> Iterator[Entry]:
    """Yield whatever looks like an entry; the barrier's authentication tells which ones are."""
    for path, value in {*_leaf_elements(blob), *_messages(blob)}:
        yield Entry(path=path.decode("ascii"), value=value, source=source)


def _leaf_elements(blob: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield keys and values of all leaf pages of a bbolt file, free ones included."""
    if len(blob) < PAGE_HEADER.size + META.size:
        return
    magic, _, page_size = META.unpack_from(blob, PAGE_HEADER.size)
    if magic != META_MAGIC:
        return
    for start in range(0, len(blob), page_size):
        _, flags, count, _ = PAGE_HEADER.unpack_from(blob, start)
        if flags == LEAF_FLAG:
            yield from _elements_of(blob, start + PAGE_HEADER.size, count)


def _elements_of(blob: bytes, first: int, count: int) -> Iterator[tuple[bytes, bytes]]:
    for index in range(count):
        offset = first + index * LEAF_ELEMENT.size
        if offset + LEAF_ELEMENT.size > len(blob):
            return
        _, position, key_size, value_size = LEAF_ELEMENT.unpack_from(blob, offset)
        start = offset + position
        path = blob[start : start + min(key_size, MAX_PATH_BYTES)]
        if _PRINTABLE.fullmatch(path):
            yield path, blob[start + key_size : start + key_size + value_size]


def _messages(blob: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield path and value of all messages that hold the two in this order."""
    for match in _PATH.finditer(blob):
        size, start = _varint(blob, match.start() + 1)
        path, value_tag = blob[start : start + size], blob[start + size : start + size + 1]
        if _PRINTABLE.fullmatch(path) and value_tag == bytes([VALUE_TAG_OF[blob[match.start()]]]):
            value_size, value = _varint(blob, start + size + 1)
            yield path, blob[value : value + value_size]


def _varint(blob: bytes, at: int) -> tuple[int, int]:
    """Return a protobuf integer of at most five bytes, and where it ends."""
    number = 0
    for index, byte in enumerate(blob[at : at + 5]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, at + index + 1
    return 0, at
