"""Tiles and bundles: their paths, their bytes, and the tree that grows by them."""

from __future__ import annotations

import re

import pytest

from keyvault.errors import VerificationError
from shredder.log.merkle import EMPTY_ROOT
from shredder.log.tiles import (
    MAX_ENTRY_BYTES,
    MAX_LEVEL,
    Edge,
    Tile,
    decode_bundle,
    encode_bundle,
    narrowed,
    new_tiles,
    parse_path,
    split_tile,
    tiles_of,
)
from tests.log_oracle import Tree, path_of

MOST = 66_000
TREE = Tree([b"entry %d" % number for number in range(MOST)])
LEAVES = [TREE.mth(index, index + 1) for index in range(MOST)]
SIZES = [*range(601), 65_535, 65_536, 65_537, 65_792, 66_000]


# --- paths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1, 999, 1_000, 1_001, 999_999, 1_000_000, 1_234_067, 2**55 - 1, 10**21 - 1])
@pytest.mark.parametrize("level", [None, 0, 7, 10, 59, 60, 63])
@pytest.mark.parametrize("width", [1, 9, 10, 99, 100, 255, 256])
def test_a_path_is_read_as_it_is_written(level: int | None, number: int, width: int) -> None:
    tile = Tile(level, number, width)
    assert tile.path == path_of("entries" if level is None else level, number, width)
    assert parse_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "checkpoint",
        "tile",
        "tile/",
        "tile/0",
        "tile/0/",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/000\n",
        "tile/64/000",
        "tile/00/000",
        "tile/01/000",
        "tile/-1/000",
        "tile/data/000",
        "tile/8/0/000",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x001",
        "tile/0/001/000",
        "tile/0/x000/000",
        "tile/0/x01/000",
        "tile/0/X001/000",
        "tile/0/\u0660\u0660\u0660",
        "tile/0/000.p",
        "tile/0/000.p/",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/257",
        "tile/0/000.p/999",
        "tile/0/000.p/1000",
        "tile/0/x001.p/1",
        "tile/0/x001.p/067",
        "tile/entries/" + "x001/" * 7 + "000",
        "tile/entries/" + "x001/" * 2_000 + "000",
    ],
)
def test_other_paths_name_no_tile(path: str) -> None:
    assert parse_path(path) is None


# --- the tree that grows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_a_tree_at_once(size: int) -> None:
    edge = Edge()
    made = edge.grow(LEAVES[:size])
    files = {path: data for path, data in TREE.tiles(size).items() if "entries" not in path}
    assert {tile.path: data for tile, data in made.items()} == files
    assert (edge.size, edge.root) == (size, TREE.mth(0, size))
    assert [tile.path for tile in tiles_of(size)] == list(TREE.tiles(size))


@pytest.mark.parametrize("step", [1, 2, 3, 100, 255, 256, 257, 300])
def test_a_tree_in_steps(step: int) -> None:
    edge, files = Edge(), dict[str, bytes]()
    for old in range(0, 600, step):
        made = edge.grow(LEAVES[old : old + step])
        new = min(old + step, edge.size)
        assert list(made) == [tile for tile in new_tiles(old, new) if tile.level is not None]
        assert edge.root == TREE.mth(0, new)
        files |= {tile.path: data for tile, data in made.items()}
    whole = TREE.tiles(edge.size)
    assert {path: whole[path] for path in whole if "entries" not in path}.items() <= files.items()


@pytest.mark.parametrize("old", [0, 1, 255, 256, 300, 65_535, 65_536, 65_537])
def test_what_is_new(old: int) -> None:
    """What differs between two sizes, file by file, is what `new_tiles` names."""
    before = TREE.tiles(old)
    for new in {old, old + 1, old + 255, old + 256, old + 257, 66_000}:
        named = {tile.path for tile in new_tiles(old, new)}
        assert named == {path for path in TREE.tiles(new) if path not in before}


def test_nothing_grows_by_nothing() -> None:
    edge = Edge(1, [[LEAVES[0]]])
    assert edge.grow([]) == {}
    assert (edge.size, edge.root) == (1, LEAVES[0])
    assert Edge().root == EMPTY_ROOT
    assert list(tiles_of(0)) == []


def test_an_edge_goes_on_from_its_rows() -> None:
    for size in (1, 255, 256, 257, 65_536, 65_793):
        rows = [list(row) for row in edge_rows(size)]
        edge = Edge(size, rows)
        edge.grow(LEAVES[size : size + 200])
        assert edge.root == TREE.mth(0, size + 200)
        assert [list(row) for row in edge_rows(size)] == rows


def edge_rows(size: int) -> list[list[bytes]]:
    rows = []
    for level in range(3):
        span = 256**level
        complete = size // span
        rows.append([TREE.mth(n * span, (n + 1) * span) for n in range(complete - complete % 256, complete)])
    return rows


@pytest.mark.parametrize(
    ("size", "rows", "level"),
    [(1, [], 0), (0, [[bytes(32)]], 0), (256, [[]], 1), (256, [[], [bytes(32)] * 2], 1), (257, [[], [bytes(32)]], 0)],
)
def test_rows_of_another_size_are_refused(size: int, rows: list[list[bytes]], level: int) -> None:
    there = len(rows[level]) if level < len(rows) else 0
    message = f"a tree of size {size} does not have {there} hashes in its last tile at level {level}"
    with pytest.raises(VerificationError, match=rf"^{message}$"):
        Edge(size, rows)


def test_the_largest_tree_has_eight_levels() -> None:
    sizes = [(2**63 - 1 >> 8 * level) % 256 for level in range(MAX_LEVEL + 1)]
    assert sizes == [255] * 7 + [127]
    rows = [[LEAVES[0]] * count for count in sizes]
    assert Edge(2**63 - 1, rows).size == 2**63 - 1
    for level in range(MAX_LEVEL + 1):
        with pytest.raises(
            VerificationError, match=f"does not have {sizes[level] - 1} hashes in its last tile at level {level}"
        ):
            Edge(2**63 - 1, [*rows[:level], rows[level][1:], *rows[level + 1 :]])
    with pytest.raises(VerificationError, match=r"does not have 1 hashes in its last tile at level 8"):
        Edge(2**63 - 1, [*rows, [LEAVES[0]]])


def test_every_level_is_named_and_asked_for() -> None:
    names = ["entries", *map(str, range(7))]
    full = [
        path_of(name, number, 256)
        for name, number in zip(names, [2**48 - 1] + [2 ** (48 - 8 * level) - 1 for level in range(7)], strict=True)
    ]
    assert [tile.path for tile in new_tiles(2**56 - 1, 2**56)] == [*full, "tile/7/000.p/1"]
    with pytest.raises(VerificationError, match=r"does not have 0 hashes in its last tile at level 7"):
        Edge(2**56, [])


# --- bytes -----------------------------------------------------------------------------------------------------------


def test_a_tile_is_its_hashes() -> None:
    assert split_tile(b"".join(LEAVES[:256])) == LEAVES[:256]
    assert split_tile(b"") == []
    with pytest.raises(VerificationError, match=r"^a tile of 33 bytes is no row of 32-byte hashes$"):
        split_tile(bytes(33))


@pytest.mark.parametrize("entries", [[], [b""], [b"", b"a", b""], [b"x" * MAX_ENTRY_BYTES, b"y" * 256]])
def test_a_bundle_is_its_entries(entries: list[bytes]) -> None:
    data = encode_bundle(entries)
    assert data == b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)
    assert decode_bundle(data) == entries


def test_an_entry_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^an entry has at most 65535 bytes$"):
        encode_bundle([b"x" * (MAX_ENTRY_BYTES + 1)])


def test_a_bundle_cut_short_is_refused() -> None:
    data = encode_bundle([b"one", b"", b"three"])
    ends = {0: 0, 5: 1, 7: 2, 14: 3}
    for cut in range(len(data) + 1):
        if cut in ends:
            assert len(decode_bundle(data[:cut])) == ends[cut]
        else:
            with pytest.raises(VerificationError, match=r"^an entry bundle ends within an entry$"):
                decode_bundle(data[:cut])


def test_a_narrower_tile_is_the_beginning_of_a_wider() -> None:
    entries = [b"e" * (number % 7) for number in range(256)]
    row, whole = b"".join(LEAVES[:256]), encode_bundle(entries)
    for width in range(1, 257):
        assert narrowed(row, Tile(0, 3), Tile(0, 3, width)) == row[: 32 * width]
        assert narrowed(whole, Tile(None, 3), Tile(None, 3, width)) == encode_bundle(entries[:width])


@pytest.mark.parametrize("level", [None, 0])
def test_a_tile_of_another_length_is_refused(level: int | None) -> None:
    data = encode_bundle([b"one", b"two"]) if level is None else bytes(64)
    for held, wrong in [(1, data), (3, data), (2, data[:-1]), (2, data + b"\0"), (2, data[:6]), (2, b"")]:
        tile = Tile(level, 0, held)
        with pytest.raises(VerificationError, match=re.escape(f"{tile.path} does not hold {held} of what it should")):
            narrowed(wrong, tile, tile)
