"""Logs made of entries, without a database or an engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

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
