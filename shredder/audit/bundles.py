"""What a bundle of entries comes to by itself: its hashes, its file's, and what its entries say. It reads two files, and writes none.

Any process can look at any bundle. What bundles come to together is for `tree` and `fold`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from keyvault.errors import VerificationError
from shredder.audit.creations import Creations
from shredder.audit.entries import destructions
from shredder.audit.finding import Finding
from shredder.audit.reading import Read, read_bundle
from shredder.log.merkle import HASH_BYTES, leaf_hashes, root_of
from shredder.log.tiles import WIDTH, WIDTH_BITS, Tile, decode_bundle, split_tile


class Destroyed(NamedTuple):
    """An entry that says that keys were destroyed: its index in the log, leaf hash (32 bytes) and bytes."""

    number: int
    leaf: bytes
    entry: bytes


@dataclass(kw_only=True, slots=True)
class Bundle:
    """What was found of the bundle of a number, and of the tile over its entries' hashes.

    `hashes`: the one of the tile where that is full, else of each entry, 32 bytes each; None where neither file can be read. `read`: what the
    entries say; None where they cannot be read. `digests`: SHA-256 (hexadecimal) of the files that were read, by path.
    """

    number: int
    hashes: Sequence[bytes] | None = None
    read: Sequence[Read] | None = None
    destroyed: Sequence[Destroyed] = ()
    digests: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    @property
    def first(self) -> int:
        """Return the index of its first entry."""
        return self.number * WIDTH

    def find(self, code: str, where: str, message: str) -> None:
        """Note what is wrong."""
        self.findings.append(Finding(code=code, where=where, message=message))


def tile_at(level: int | None, number: int, size: int) -> Tile:
    """Return a tile or bundle in the width that it has in a tree of this size."""
    return Tile(level, number, min(WIDTH, (size >> (WIDTH_BITS * (level or 0))) - number * WIDTH))


def look_at_each(path: Path, size: int, numbers: Iterable[int]) -> list[Bundle]:
    """Look at several bundles, as `look_at` does: so that there are fewer messages between two processes."""
    return [look_at(path, size, number) for number in numbers]


def look_at(path: Path, size: int, number: int) -> Bundle:
    """Look at a bundle of the log of `size` entries in a directory."""
    found = Bundle(number=number)
    tile, bundle = tile_at(0, number, size), tile_at(None, number, size)
    stored = _stored(found, tile, read_tile(found, path, size, tile))
    data = read_tile(found, path, size, bundle)
    entries = None if data is None else _entries(found, bundle, data)
    if data is None or entries is None:
        leaves = None if stored is None else split_tile(stored)
    else:
        leaves = leaf_hashes(entries)
        if stored is not None and b"".join(leaves) != stored:
            _compare(found, leaves, split_tile(stored))
        found.read = read_bundle(found.first, entries)
        if not all(isinstance(item, Creations) for item in found.read):  # which have no such mark, and need no search
            found.destroyed = [
                Destroyed(index, leaves[index - found.first], entry)
                for index, entry in destructions(found.first, data, entries)
            ]
    if leaves is not None:
        found.hashes = [root_of(leaves)] if tile.width == WIDTH else leaves
    return found


def read_tile(found: Bundle, path: Path, size: int, tile: Tile) -> bytes | None:
    """Read a tile or bundle of the log of `size` entries in a directory, and note its digest; None, and a finding, where it cannot be read."""
    name = tile.path
    try:
        data = (path / name).read_bytes()
    except OSError as error:
        found.find("file-missing", name, f"it belongs to a log of {size} entries: {error.strerror}")
        return None
    found.digests[name] = sha256(data).hexdigest()
    return data


def _stored(found: Bundle, tile: Tile, data: bytes | None) -> bytes | None:
    """Return a tile's bytes; None where it does not have as many as it must."""
    if data is not None and len(data) != tile.width * HASH_BYTES:
        found.find("tile-malformed", tile.path, f"it has {len(data)} bytes, and must have {tile.width * HASH_BYTES}")
        return None
    return data


def _entries(found: Bundle, bundle: Tile, data: bytes) -> list[bytes] | None:
    """Return a bundle's entries; None where it does not have as many as it must."""
    try:
        entries = decode_bundle(data)
    except VerificationError as error:
        found.find("bundle-malformed", bundle.path, str(error))
        return None
    if len(entries) != bundle.width:
        found.find("bundle-malformed", bundle.path, f"it has {len(entries)} entries, and must have {bundle.width}")
        return None
    return entries


def _compare(found: Bundle, leaves: Sequence[bytes], stored: Sequence[bytes]) -> None:
    for index, (leaf, hashed) in enumerate(zip(leaves, stored, strict=True), start=found.first):
        if leaf != hashed:
            found.find(
                "leaf-mismatch", f"entry {index}", "its hash is not the one in its tile: one of them was altered"
            )
