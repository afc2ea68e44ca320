"""Tiles and entry bundles of C2SP tlog-tiles: paths, bytes, and what a tree that grows adds. Pure.

A tile at level L holds up to 256 hashes of complete subtrees of 256^L leaves; a bundle holds up to 256 entries.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from keyvault.errors import VerificationError
from shredder.log.merkle import EMPTY_ROOT, HASH_BYTES, root_of

WIDTH = 256
WIDTH_BITS = 8
MAX_ENTRY_BYTES = 65_535
MAX_LEVEL = 7
"""Levels of tiles that 2^63 leaves may need."""

_PATH = re.compile(r"tile/(entries|[0-9]|[1-5][0-9]|6[0-3])/((?:x[0-9]{3}/){0,6}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


class Tile(NamedTuple):
    """Where a tile (or, with level None, an entry bundle) is: its level, its number there, and how many of 256 places are filled."""

    level: int | None
    number: int
    width: int = WIDTH

    @property
    def path(self) -> str:
        """Return the path under the log's directory."""
        folder = "entries" if self.level is None else str(self.level)
        partial = "" if self.width == WIDTH else f".p/{self.width}"
        return f"tile/{folder}/{_digits(self.number)}{partial}"


def parse_path(path: str) -> Tile | None:
    """Return what a path names, or None where it names no tile in the one way it may be written."""
    match = _PATH.fullmatch(path)
    if match is None:
        return None
    number = int(match[2].replace("x", "").replace("/", ""))
    tile = Tile(None if match[1] == "entries" else int(match[1]), number, int(match[3] or WIDTH))
    return tile if tile.width <= WIDTH and tile.path == path else None


def _digits(number: int) -> str:
    digits = str(number)
    groups = [digits[max(0, end - 3) : end] for end in range(len(digits), 0, -3)][::-1]
    return "/".join(f"x{group:0>3}" for group in groups[:-1]) + ("/" if groups[1:] else "") + f"{groups[-1]:0>3}"


def tiles_of(size: int) -> Iterator[Tile]:
    """Give every tile and bundle of a tree, in the widths that it has at this size."""
    yield from new_tiles(0, size)


def new_tiles(old: int, new: int) -> Iterator[Tile]:
    """Give the tiles and bundles that a tree of `new` leaves has and one of `old` has not: bundles first, then level by level."""
    for level in (None, *range(MAX_LEVEL + 1)):
        bits = WIDTH_BITS * (level or 0)
        before, after = old >> bits, new >> bits
        if before == after:
            continue
        for number in range(before // WIDTH, -(-after // WIDTH)):
            yield Tile(level, number, min(WIDTH, after - number * WIDTH))


class Edge:
    """The right edge of a tree: at each level the hashes of its partial tile. It gives the root, and grows."""

    def __init__(self, size: int = 0, rows: Sequence[Sequence[bytes]] = ()) -> None:
        """`rows` by level: as many hashes as the partial tile of that level has at `size`. `VerificationError` otherwise."""
        self.size = size
        self.rows = [list(row) for row in rows]
        for level in range(max(len(self.rows), MAX_LEVEL + 1)):
            there = len(self.rows[level]) if level < len(self.rows) else 0
            if there != (size >> (WIDTH_BITS * level)) % WIDTH:
                raise VerificationError(
                    f"a tree of size {size} does not have {there} hashes in its last tile at level {level}"
                )

    @property
    def root(self) -> bytes:
        """Return the tree's root, 32 bytes."""
        found: list[bytes] = []
        for row in self.rows:
            if row or found:
                found = [root_of([*row, *found])]
        return found[0] if found else EMPTY_ROOT

    def grow(self, leaves: Sequence[bytes]) -> dict[Tile, bytes]:
        """Add hashes of leaves, and return the bytes of all tiles (not bundles) that are new, as `new_tiles` names them."""
        return self._grow(0, leaves)

    def grow_tiles(self, hashes: Sequence[bytes]) -> dict[Tile, bytes]:
        """As `grow`, by the hashes of full tiles of leaves; those tiles are not returned. `ValueError` when the last tile is not full."""
        if self.size % WIDTH:
            raise ValueError(f"a tree of size {self.size} does not grow by full tiles")
        return self._grow(1, hashes)

    def _grow(self, level: int, added: Sequence[bytes]) -> dict[Tile, bytes]:
        """Add hashes at a level, under which everything is full."""
        made: dict[Tile, bytes] = {}
        size, more = self.size, len(added) << (WIDTH_BITS * level)
        while added:
            while level >= len(self.rows):
                self.rows.append([])
            row = [*self.rows[level], *added]
            first = (size >> (WIDTH_BITS * level)) // WIDTH
            full, rest = divmod(len(row), WIDTH)
            above = []
            for number in range(full):
                hashes = row[number * WIDTH : (number + 1) * WIDTH]
                made[Tile(level, first + number)] = b"".join(hashes)
                above.append(root_of(hashes))
            self.rows[level] = row[full * WIDTH :]
            if rest:
                made[Tile(level, first + full, rest)] = b"".join(self.rows[level])
            added, level = above, level + 1
        self.size += more
        return made


def split_tile(data: bytes) -> list[bytes]:
    """Cut a tile's bytes into its hashes. `VerificationError` when they are no whole number of hashes."""
    if len(data) % HASH_BYTES:
        raise VerificationError(f"a tile of {len(data)} bytes is no row of {HASH_BYTES}-byte hashes")
    return [data[start : start + HASH_BYTES] for start in range(0, len(data), HASH_BYTES)]


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Return a bundle's bytes: before each entry its length, 2 bytes, big-endian. `ValueError` for an entry of over 65,535 bytes."""
    if max(map(len, entries), default=0) > MAX_ENTRY_BYTES:
        raise ValueError(f"an entry has at most {MAX_ENTRY_BYTES} bytes")
    return b"".join([part for entry in entries for part in (struct.pack(">H", len(entry)), entry)])


def decode_bundle(data: bytes) -> list[bytes]:
    """Return a bundle's entries. `VerificationError` when it ends within one."""
    entries = []
    position, end = 0, len(data)
    try:
        while position < end:
            start = position + 2
            position = start + (data[start - 2] << 8) + data[start - 1]
            entries.append(data[start:position])
    except IndexError:
        position = end + 1
    if position > end:
        raise VerificationError("an entry bundle ends within an entry")
    return entries


def narrowed(data: bytes, held: Tile, wanted: Tile) -> bytes:
    """Return the bytes of `wanted` out of those of `held`, which is the same or a wider tile or bundle.

    `VerificationError` when `data` does not hold as many hashes, or entries, as `held` says.
    """
    end = cut = 0
    for place in range(held.width):
        end += HASH_BYTES if held.level is not None else 2 + int.from_bytes(data[end : end + 2], "big")
        cut = end if place < wanted.width else cut
    if end != len(data):
        raise VerificationError(f"{held.path} does not hold {held.width} of what it should")
    return data[:cut]
