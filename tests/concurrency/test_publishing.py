"""Publishing while the log grows: each published state is a whole log, whichever partial tiles the sequencer drops meanwhile."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from keyvault.results import values_of
from shredder.log.checkpoint import open_checkpoint
from shredder.log.directory import LogDirectory
from shredder.log.merkle import leaf_hash
from shredder.log.proving import log_key
from shredder.log.publish import publish
from shredder.log.tiles import Edge
from tests.homes import TestHome, embedded_home

BATCHES = 12
BATCH = 60


def test_publishing_beside_the_sequencer(tmp_path: Path) -> None:
    home, target = embedded_home(tmp_path), tmp_path / "www"
    with home.opened() as opened, ThreadPoolExecutor(1) as writer:
        grow(home, 0)
        key, source = log_key(opened), LogDirectory(opened.log_directory)
        growing = writer.submit(grow, home, *range(1, BATCHES))
        sizes: list[int] = []
        while not growing.done() or not sizes:
            sizes.append(publish(source, target, key).size)
            published = LogDirectory(target)
            found = open_checkpoint(published.checkpoint() or b"", key)
            edge = Edge()
            edge.grow([leaf_hash(entry) for entry in published.entries(0, found.size)])
            assert (edge.size, edge.root) == (found.size, found.root)
            assert found.size == sizes[-1]
        growing.result()
        assert sizes == sorted(sizes)
        assert len(set(sizes)) > 1
        assert publish(source, target, key).size >= BATCHES * BATCH


def grow(home: TestHome, *batches: int) -> None:
    """Create scopes, and have each batch logged before the next."""
    with home.vault() as vault, home.opened() as opened:
        for batch in batches:
            values_of(vault.ensure_scopes([f"consumer/acct-{batch}/{number}" for number in range(BATCH)]))
            opened.log.settle()
