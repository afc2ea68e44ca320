"""The log's directory: `checkpoint`, tiles and entry bundles, as C2SP tlog-tiles lays them out, written so that they survive a crash.

A file is whole or not there, and on disk when the call that wrote it returns.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

from keyvault.errors import LogError
from shredder.log.merkle import HASH_BYTES, Node, root_of
from shredder.log.tiles import MAX_LEVEL, WIDTH, WIDTH_BITS, Edge, Tile, decode_bundle, split_tile

CHECKPOINT = "checkpoint"
TILES_IN_MEMORY = 1_024


class LogDirectory:
    """Reads and writes one log. Reading finds a narrower tile within a wider one: partial ones go when theirs is full."""

    def __init__(self, path: Path) -> None:
        """`path` is the directory, which `write` makes."""
        self.path = path

    # --- reading ---------------------------------------------------------------------------------------------------

    def checkpoint(self) -> bytes | None:
        """Return the signed note of the newest checkpoint, or None where there is none."""
        try:
            return (self.path / CHECKPOINT).read_bytes()
        except FileNotFoundError:
            return None

    def read(self, tile: Tile) -> bytes:
        """Return the bytes of a tile or bundle. `LogError` when it is missing or too short."""
        for wide in (tile, tile._replace(width=WIDTH)):
            try:
                data = (self.path / wide.path).read_bytes()
            except FileNotFoundError:
                continue
            return data if wide == tile else _narrowed(data, tile)
        raise LogError(f"{tile.path} is missing in {self.path}: restore the log's directory")

    def entries(self, first: int, end: int) -> Iterator[bytes]:
        """Give the entries from `first` to before `end`, of a log that has them. `LogError` when a bundle is missing or cut short."""
        for number in range(first // WIDTH, -(-end // WIDTH)):
            start = number * WIDTH
            bundle = decode_bundle(self.read(Tile(None, number, min(WIDTH, end - start))))
            yield from bundle[max(0, first - start) :]

    def edge(self, size: int) -> Edge:
        """Return the right edge of the tree of a size. `LogError` when a tile is missing."""
        rows = []
        for level in range(MAX_LEVEL + 1):
            number, width = divmod(size >> (WIDTH_BITS * level), WIDTH)
            rows.append(split_tile(self.read(Tile(level, number, width))) if width else [])
        return Edge(size, rows)

    def node(self, size: int) -> Node:
        """Return what gives the nodes of the tree of a size, keeping the tiles it reads. It raises as `read`."""

        @lru_cache(maxsize=TILES_IN_MEMORY)
        def hashes(level: int, number: int) -> list[bytes]:
            width = min(WIDTH, (size >> (WIDTH_BITS * level)) - number * WIDTH)
            return split_tile(self.read(Tile(level, number, width)))

        def node(level: int, index: int) -> bytes:
            tile_level, within = divmod(level, WIDTH_BITS)
            number, start = divmod(index << within, WIDTH)
            return root_of(hashes(tile_level, number)[start : start + (1 << within)])

        return node

    # --- writing ---------------------------------------------------------------------------------------------------

    def write(self, files: Mapping[str, bytes]) -> None:
        """Write files by path, durably. `LogError` when the disk does not take them."""
        try:
            folders = {self._put(self.path / name, data) for name, data in files.items()}
            for folder in sorted(folders, reverse=True):
                _sync(folder)
        except OSError as error:
            raise LogError(
                f"the log's directory {self.path} cannot be written ({error.strerror}): nothing was signed; make room, and run it again"
            ) from error

    def drop_partial(self, full: Tile) -> None:
        """Remove the partial tiles, or bundles, that a full one has taken the place of."""
        shutil.rmtree(self.path / f"{full.path}.p", ignore_errors=True)

    def _put(self, path: Path, data: bytes) -> Path:
        """Write one file whole, and return its folder, which is still to be synced."""
        self._make_folder(path.parent)
        draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        return path.parent

    def _make_folder(self, folder: Path) -> None:
        if folder.is_dir():
            return
        if folder != self.path:
            self._make_folder(folder.parent)
        folder.mkdir(parents=folder == self.path, exist_ok=True)
        _sync(folder.parent)


def _narrowed(data: bytes, tile: Tile) -> bytes:
    """Return what a partial tile or bundle holds, of the bytes of its full one."""
    if tile.level is not None:
        return data[: tile.width * HASH_BYTES]
    end = 0
    for _ in range(tile.width):
        end += 2 + int.from_bytes(data[end : end + 2], "big")
    return data[:end]


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
