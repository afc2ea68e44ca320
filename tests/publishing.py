"""Entries to publish, and what a stranger checks of a published log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from shredder.log.checkpoint import open_checkpoint
from shredder.log.directory import LogDirectory
from shredder.log.merkle import leaf_hash
from shredder.log.tiles import Edge
from tests.logs import LOG_KEY


def entries_of(count: int) -> list[bytes]:
    """Give entries that differ, in content and length."""
    return [b'{"n":%d}' % number * (1 + number % 3) for number in range(count)]


def assert_whole(path: Path, entries: Sequence[bytes]) -> None:
    """Read a log as a stranger does: its checkpoint is signed, and every tile of it is there and leads to its root."""
    log = LogDirectory(path)
    note = log.checkpoint()
    assert note is not None
    found = open_checkpoint(note, LOG_KEY)
    assert list(log.entries(0, found.size)) == list(entries)
    edge = Edge()
    made = edge.grow([leaf_hash(entry) for entry in entries])
    assert (edge.size, edge.root) == (found.size, found.root)
    assert all(log.read(tile) == data for tile, data in made.items())
