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

from keyvault.errors import LogError, VerificationError
from shredder.log.merkle import Node, root_of
from shredder.log.tiles import MAX_LEVEL, WIDTH, WIDTH_BITS, Edge, Tile, decode_bundle, narrowed, parse_path, split_tile

CHECKPOINT = "checkpoint"
TILES_IN_MEMORY = 1_024


class LogDirectory:
    """Reads and writes one log. Reading finds a narrower tile within a wider one: partial ones are of some sizes only, and go when theirs is full."""

    def __init__(self, path: Path) -> None:
        """`path` is the directory, which `write` makes."""
        self.path = path

    # --- reading ---------------------------------------------------------------------------------------------------

    def checkpoint(self) -> bytes | None:
        """Return the signed note of the newest checkpoint, or None where there is none. `LogError` when it cannot be read."""
        return self._file(CHECKPOINT)

    def read(self, tile: Tile) -> bytes:
        """Return the bytes of a tile or bundle. `LogError` when it is missing, or does not have the length that it should."""
        held, data = self._find(tile)
        try:
            return narrowed(data, held, tile)
        except VerificationError as error:
            raise self._damaged(held) from error

    def bundle(self, tile: Tile) -> list[bytes]:
        """Return the entries of a bundle, as many as its width says. `LogError` when they are not there."""
        held, data = self._find(tile)
        try:
            entries = decode_bundle(data)
        except VerificationError as error:
            raise self._damaged(held) from error
        if len(entries) != held.width:
            raise self._damaged(held)
        return entries[: tile.width]

    def entries(self, first: int, end: int) -> Iterator[bytes]:
        """Give the entries from `first` to before `end`, of a log that has them. `LogError` when a bundle is missing or cut short."""
        for number in range(first // WIDTH, -(-end // WIDTH)):
            start = number * WIDTH
            yield from self.bundle(Tile(None, number, min(WIDTH, end - start)))[max(0, first - start) :]

    def edge(self, size: int) -> Edge:
        """Return the right edge of the tree of a size. It raises as `read`."""
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

    def _find(self, tile: Tile) -> tuple[Tile, bytes]:
        """Return the bytes of a tile or bundle as they are, or of a wider one that begins with it."""
        for held in self._places(tile):
            data = self._file(held.path)
            if data is not None:
                return held, data
        raise LogError(f"{tile.path} is missing in {self.path}: restore the log's directory")

    def _places(self, tile: Tile) -> Iterator[Tile]:
        """Give where a tile may be. The full one comes last: it is there before the partial ones go."""
        yield tile
        full = tile._replace(width=WIDTH)
        if tile != full:
            names = [f"{full.path}.p/{file.name}" for file in (self.path / f"{full.path}.p").glob("*")]
            partial = [wide for wide in map(parse_path, names) if wide is not None and wide.width > tile.width]
            yield from sorted(partial, key=lambda wide: wide.width)
            yield full

    def _file(self, name: str) -> bytes | None:
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise LogError(
                f"{name} in {self.path} cannot be read ({error.strerror}): mend that, or restore it"
            ) from error

    def _damaged(self, tile: Tile) -> LogError:
        return LogError(f"{tile.path} in {self.path} is not as long as its name says: restore the log's directory")

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
        """Remove the partial tiles, or bundles, that a full one has taken the place of. What cannot be removed does no harm there."""
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


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
