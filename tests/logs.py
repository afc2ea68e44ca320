"""Logs made of entries, without a database or an engine; and what the log of a home must be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyvault.home import Home
from keyvault.log_head import read_head
from keyvault.store.tables import outbox
from shredder.log.checkpoint import Checkpoint, open_checkpoint
from shredder.log.directory import CHECKPOINT, LogDirectory
from shredder.log.merkle import leaf_hash
from shredder.log.note import ED25519, VerifierKey, sign_note
from shredder.log.tiles import WIDTH, Edge, encode_bundle, new_tiles

ORIGIN = "keyvault-shredder/00000000-0000-4000-8000-000000000000"
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
LOG_KEY = VerifierKey(name=ORIGIN, type=ED25519, public=SIGNER.public_key().public_bytes_raw())


def signed(checkpoint: Checkpoint, signer: Ed25519PrivateKey = SIGNER) -> bytes:
    """Sign a checkpoint with the key of tests."""
    key = VerifierKey(name=checkpoint.origin, type=ED25519, public=signer.public_key().public_bytes_raw())
    return sign_note(checkpoint.text, key, signer.sign)


def write_log(path: Path, entries: Sequence[bytes]) -> Checkpoint:
    """Write a whole log of entries, with its signed checkpoint, as it stands at their number."""
    edge = Edge()
    tiles = edge.grow([leaf_hash(entry) for entry in entries])
    bundles = {
        tile: encode_bundle(entries[tile.number * WIDTH : tile.number * WIDTH + tile.width])
        for tile in new_tiles(0, len(entries))
        if tile.level is None
    }
    checkpoint = Checkpoint(origin=ORIGIN, size=edge.size, root=edge.root)
    files = {tile.path: data for tile, data in {**bundles, **tiles}.items()}
    LogDirectory(path).write({**files, CHECKPOINT: signed(checkpoint)})
    return checkpoint


def log_key(home: Home) -> VerifierKey:
    """Return the key that verifies a home's log."""
    context = home.log.context
    return VerifierKey(name=context.origin, type=ED25519, public=context.public_key)


def check_log(home: Home) -> Checkpoint:
    """Check that a home's log is whole: the newest checkpoint is of exactly the events of the outbox, each once; return it."""
    directory = LogDirectory(home.log_directory)
    checkpoint = open_checkpoint(directory.checkpoint() or b"", log_key(home))
    rows = home.database.read(
        lambda c: c.execute(sa.select(outbox.c.leaf_index, outbox.c.body).order_by(outbox.c.leaf_index)).all()
    )
    assert [row.leaf_index for row in rows] == list(range(checkpoint.size))
    entries = list(directory.entries(0, checkpoint.size))
    assert entries == [row.body for row in rows]
    whole = Edge()
    for tile, data in whole.grow([leaf_hash(entry) for entry in entries]).items():
        assert directory.read(tile) == data, tile
    assert whole.root == checkpoint.root
    head = read_head(home.engine, home.log.context.incarnation)
    assert (head.size, head.root) == (checkpoint.size, checkpoint.root)
    return checkpoint
