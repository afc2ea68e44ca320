"""The tree of a log, worked out from its entries and compared with every tile and bundle. It reads files, and writes none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from keyvault.errors import VerificationError
from shredder.audit.finding import Finding
from shredder.log.merkle import HASH_BYTES, leaf_hash
from shredder.log.tiles import WIDTH, WIDTH_BITS, Edge, Tile, decode_bundle, split_tile

Look = Callable[[int, Sequence[bytes]], None]


def _not_looked_at(_first: int, _entries: Sequence[bytes]) -> None:
    """Take no notice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TreeReport:
    """What the entries come to. `size` is less than asked for where they end early.

    `root`: 32 bytes; `digests`: SHA-256 (hexadecimal) of the files that were read, by path.
    """

    size: int
    root: bytes
    digests: Mapping[str, str]
    findings: Sequence[Finding]


def tile_at(level: int | None, number: int, size: int) -> Tile:
    """Return a tile or bundle in the width that it has in a tree of this size."""
    return Tile(level, number, min(WIDTH, (size >> (WIDTH_BITS * (level or 0))) - number * WIDTH))


def is_of(tile: Tile, size: int) -> bool:
    """Tell whether a tree of this size has this tile, in this width."""
    bits = WIDTH_BITS * (tile.level or 0)
    return tile.number * WIDTH < size >> bits and tile == tile_at(tile.level, tile.number, size)


def check_tree(path: Path, size: int, look: Look = _not_looked_at) -> TreeReport:
    """Read every bundle and tile of a tree of `size` leaves in a directory, and say what does not fit together.

    `look` is called with each bundle that can be read: the index of its first entry, and its entries.
    """
    check = _Check(path, size, look)
    for number in range(-(-size // WIDTH)):
        if not check.add(number):
            break
    return TreeReport(size=check.edge.size, root=check.edge.root, digests=check.digests, findings=check.findings)


class _Check:
    def __init__(self, path: Path, size: int, look: Look) -> None:
        self.path = path
        self.size = size
        self.look = look
        self.edge = Edge()
        self.digests: dict[str, str] = {}
        self.findings: list[Finding] = []

    def add(self, number: int) -> bool:
        """Take up the next bundle, and compare each tile that it completes; False where neither it nor its tile can be read."""
        stored = self._tile(tile_at(0, number, self.size))
        leaves = self._leaves(tile_at(None, number, self.size))
        if leaves is None:
            leaves = stored
        elif stored is not None:
            self._compare_leaves(number, leaves, stored)
        if leaves is None:
            self._find("tree-incomplete", f"entry {number * WIDTH}", "from here on, nothing could be verified")
            return False
        for tile, expected in self.edge.grow(leaves).items():
            if tile.level and is_of(tile, self.size) and self._read(tile) not in (None, expected):
                self._find("tile-mismatch", tile.path, "it is not what the entries under it come to")
        return True

    def _compare_leaves(self, number: int, leaves: Sequence[bytes], stored: Sequence[bytes]) -> None:
        for index, (leaf, hashed) in enumerate(zip(leaves, stored, strict=True), start=number * WIDTH):
            if leaf != hashed:
                self._find(
                    "leaf-mismatch", f"entry {index}", "its hash is not the one in its tile: one of them was altered"
                )

    def _leaves(self, bundle: Tile) -> list[bytes] | None:
        """Return the hashes of a bundle's entries, or None where it does not have as many as it must."""
        data = self._read(bundle)
        if data is None:
            return None
        try:
            entries = decode_bundle(data)
        except VerificationError as error:
            self._find("bundle-malformed", bundle.path, str(error))
            return None
        if len(entries) != bundle.width:
            self._find("bundle-malformed", bundle.path, f"it has {len(entries)} entries, and must have {bundle.width}")
            return None
        self.look(bundle.number * WIDTH, entries)
        return [leaf_hash(entry) for entry in entries]

    def _tile(self, tile: Tile) -> list[bytes] | None:
        data = self._read(tile)
        if data is None:
            return None
        if len(data) != tile.width * HASH_BYTES:
            self._find(
                "tile-malformed", tile.path, f"it has {len(data)} bytes, and must have {tile.width * HASH_BYTES}"
            )
            return None
        return split_tile(data)

    def _read(self, tile: Tile) -> bytes | None:
        try:
            data = (self.path / tile.path).read_bytes()
        except OSError as error:
            self._find("file-missing", tile.path, f"it belongs to a log of {self.size} entries: {error.strerror}")
            return None
        self.digests[tile.path] = sha256(data).hexdigest()
        return data

    def _find(self, code: str, where: str, message: str) -> None:
        self.findings.append(Finding(code=code, where=where, message=message))
