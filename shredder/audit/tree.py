"""The tree of a log, worked out from its bundles, and compared with the tiles above them. It reads files, and writes none."""

from __future__ import annotations

from pathlib import Path

from shredder.audit.bundles import Bundle, read_tile, tile_at
from shredder.audit.finding import Finding
from shredder.log.tiles import WIDTH, WIDTH_BITS, Edge, Tile


def is_of(tile: Tile, size: int) -> bool:
    """Tell whether a tree of this size has this tile, in this width."""
    bits = WIDTH_BITS * (tile.level or 0)
    return tile.number * WIDTH < size >> bits and tile == tile_at(tile.level, tile.number, size)


class Tree:
    """The tree of `size` leaves in a directory, as far as bundles were added. `digests`: SHA-256 (hexadecimal) of the files that were read, by path."""

    def __init__(self, path: Path, size: int) -> None:
        """`size`: of how many entries it is to be."""
        self._path = path
        self._size = size
        self._edge = Edge()
        self.digests: dict[str, str] = {}
        self.findings: list[Finding] = []

    @property
    def size(self) -> int:
        """Return of how many entries it is; less than asked for where they end early."""
        return self._edge.size

    @property
    def root(self) -> bytes:
        """Return what they come to, 32 bytes."""
        return self._edge.root

    def add(self, bundle: Bundle) -> bool:
        """Add the next bundle, and compare each tile that it completes; False where neither it nor its tile can be read."""
        if bundle.hashes is None:
            bundle.find("tree-incomplete", f"entry {bundle.first}", "from here on, nothing could be verified")
        else:
            grow = self._edge.grow_tiles if bundle.first + WIDTH <= self._size else self._edge.grow
            for tile, expected in grow(bundle.hashes).items():
                if tile.level and is_of(tile, self._size):
                    self._compare(bundle, tile, expected)
        self.digests.update(bundle.digests)
        self.findings += bundle.findings
        return bundle.hashes is not None

    def _compare(self, bundle: Bundle, tile: Tile, expected: bytes) -> None:
        if read_tile(bundle, self._path, self._size, tile) not in (None, expected):
            bundle.find("tile-mismatch", tile.path, "it is not what the entries under it come to")
