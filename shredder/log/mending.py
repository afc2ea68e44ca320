"""Mending the log's directory: what was lost or damaged is written again from the events that the database keeps.

The database has every event with its index, and the newest checkpoint with its signature. Whether its events are those of the log is known
before anything is written: they must lead to the root that was signed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from keyvault.errors import LogError
from shredder.log.checkpoint import open_checkpoint
from shredder.log.directory import CHECKPOINT, LogDirectory
from shredder.log.merkle import leaf_hash
from shredder.log.note import VerifierKey
from shredder.log.tiles import WIDTH, WIDTH_BITS, Edge, Tile, encode_bundle

LEAVES_AT_ONCE = 16 * WIDTH

Entries = Callable[[int, int], Sequence[bytes]]
"""Gives the entries from one index to before another."""


def mend(directory: LogDirectory, key: VerifierKey, note: bytes, entries: Entries) -> int:
    """Write what is missing, or not as it should be, of the log whose newest checkpoint is `note`; return the number of files.

    `VerificationError` where the log's key has not signed the note; `LogError` where the entries are not those of the log, and nothing is
    written, or the disk refuses.
    """
    checkpoint = open_checkpoint(note, key)
    found = _grown(checkpoint.size, entries, lambda _files: None)
    if (found.size, found.root) != (checkpoint.size, checkpoint.root):
        raise LogError(
            f"the database's events up to {checkpoint.size} do not lead to the root that was signed: events were altered, or are missing. "
            "Nothing was written; restore the database or the log's directory from a backup"
        )
    written = 0

    def write(files: Mapping[str, bytes]) -> None:
        nonlocal written
        wrong = {path: data for path, data in files.items() if _there(directory, path) != data}
        directory.write(wrong)
        written += len(wrong)

    _grown(checkpoint.size, entries, write)
    write({CHECKPOINT: note})
    return written


def _grown(size: int, entries: Entries, each: Callable[[Mapping[str, bytes]], None]) -> Edge:
    """Grow the tree of so many entries, handing over its files as they become what they are at this size."""
    edge = Edge()
    for first in range(0, size, LEAVES_AT_ONCE):
        some = entries(first, min(size, first + LEAVES_AT_ONCE))
        tiles = edge.grow([leaf_hash(entry) for entry in some])
        files = {tile.path: data for tile, data in tiles.items() if tile.width == WIDTH}
        for start in range(0, len(some), WIDTH):
            bundle = some[start : start + WIDTH]
            files[Tile(None, (first + start) // WIDTH, len(bundle)).path] = encode_bundle(bundle)
        each(files)
    partial = {
        Tile(level, (size >> (WIDTH_BITS * level)) // WIDTH, len(row)).path: b"".join(row)
        for level, row in enumerate(edge.rows)
        if row
    }
    each(partial)
    return edge


def _there(directory: LogDirectory, path: str) -> bytes | None:
    try:
        return (directory.path / path).read_bytes()
    except FileNotFoundError:
        return None
