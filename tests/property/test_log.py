"""The log's core for any log at all: growth in any cuts, proofs between any sizes, notes of any text, directories of any entries."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvault.errors import VerificationError
from shredder.log.checkpoint import Checkpoint, open_checkpoint
from shredder.log.directory import LogDirectory
from shredder.log.merkle import (
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from shredder.log.note import is_name, open_note, parse_verifier_key
from shredder.log.proof import Proof, parse_proof, verify_proof
from shredder.log.tiles import Edge, Tile, decode_bundle, encode_bundle, new_tiles, parse_path
from tests.log_oracle import Signer
from tests.logs import LOG_KEY, signed, write_log

PROFILE = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
FEW = settings(PROFILE, max_examples=20)
"""For what works on many thousand leaves."""
MOST = 70_000
LEAVES = [leaf_hash(b"entry %d" % number) for number in range(MOST)]
SIZES = st.integers(0, MOST) | st.sampled_from([0, 1, 255, 256, 257, 65_535, 65_536, 65_537])
SEEDS = st.binary(min_size=32, max_size=32)
NAMES = st.text(min_size=1).filter(is_name)
ENTRIES = st.lists(st.binary(max_size=40), min_size=1, max_size=20)


def whole_edge(size: int) -> Edge:
    edge = Edge()
    edge.grow(LEAVES[:size])
    return edge


def node(level: int, index: int) -> bytes:
    return root_of(LEAVES[index << level : (index + 1) << level])


@FEW
@given(st.lists(SIZES, max_size=5).map(sorted))
def test_growth_in_any_cuts_is_growth_at_once(sizes: list[int]) -> None:
    edge = Edge()
    for old, new in pairwise([0, *sizes]):
        made = edge.grow(LEAVES[old:new])
        assert list(made) == [tile for tile in new_tiles(old, new) if tile.level is not None]
        assert all(len(data) == 32 * tile.width for tile, data in made.items())
        whole = whole_edge(new)
        assert (edge.size, edge.root) == (new, whole.root)
        assert [row for row in edge.rows if row] == [row for row in whole.rows if row]


@FEW
@given(st.data())
def test_every_proof_holds_and_for_nothing_else(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, MOST))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    root = tree_root(size, node)
    inclusion = inclusion_proof(index, size, node)
    verify_inclusion(LEAVES[index], index, size, inclusion, root)
    verify_consistency(old, tree_root(old, node), size, root, consistency_proof(old, size, node))
    assert len(inclusion) <= (size - 1).bit_length()
    other = data.draw(st.integers(0, MOST - 1).filter(lambda number: number != index))
    with pytest.raises(VerificationError):
        verify_inclusion(LEAVES[other], index, size, inclusion, root)
    with pytest.raises(VerificationError):
        verify_inclusion(LEAVES[index], other, size, inclusion, root)


@PROFILE
@given(st.data())
def test_an_altered_proof_is_refused(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 600))
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size - 1))
    root, old_root = tree_root(size, node), tree_root(old, node)
    checks: list[tuple[list[bytes], Callable[[list[bytes]], None]]] = [
        (inclusion_proof(index, size, node), lambda p: verify_inclusion(LEAVES[index], index, size, p, root)),
        (consistency_proof(old, size, node), lambda p: verify_consistency(old, old_root, size, root, p)),
    ]
    for proof, verify in checks:
        place = data.draw(st.integers(0, len(proof) - 1))
        bit = data.draw(st.integers(0, 255))
        flipped = (int.from_bytes(proof[place], "big") ^ 1 << bit).to_bytes(32, "big")
        dropped = [*proof[:place], *proof[place + 1 :]]
        for altered in ([*proof[:place], flipped, *proof[place + 1 :]], dropped, [*proof, proof[place]]):
            with pytest.raises(VerificationError):
                verify(altered)


@PROFILE
@given(
    level=st.none() | st.integers(0, 63),
    number=st.integers(0, 2**55) | st.integers(0, 2_000),
    width=st.integers(1, 256),
)
def test_every_path_is_read_back(level: int | None, number: int, width: int) -> None:
    tile = Tile(level, number, width)
    assert parse_path(tile.path) == tile


@PROFILE
@given(st.text(alphabet="tile/entris0123456789xp.", max_size=30))
def test_a_string_is_the_path_of_at_most_one_tile(text: str) -> None:
    for path in (text, f"tile/{text}", f"tile/0/{text}"):
        found = parse_path(path)
        assert found is None or found.path == path


@PROFILE
@given(st.lists(st.binary()))
def test_every_bundle_is_read_back(entries: list[bytes]) -> None:
    assert decode_bundle(encode_bundle(entries)) == entries


@PROFILE
@given(SEEDS, NAMES, st.sampled_from([1, 4]))
def test_every_key_is_read_back(seed: bytes, name: str, kind: int) -> None:
    signer = Signer(name, seed, kind)
    key = parse_verifier_key(signer.vkey)
    assert (key.name, key.type, key.public, str(key)) == (name, kind, signer.public, signer.vkey)


PRINTABLE = st.characters(exclude_categories=["Cs"]).filter(lambda character: character >= " " or character == "\n")


@PROFILE
@given(st.text(PRINTABLE), SEEDS, st.data())
def test_a_note_of_any_text_holds_and_no_altered_one(text: str, seed: bytes, data: st.DataObject) -> None:
    signer = Signer("example.com/log", seed)
    key = parse_verifier_key(signer.vkey)
    note = f"{text}\n\n{signer.line(text + chr(10))}".encode()
    assert open_note(note, [key])[0] == f"{text}\n"
    position = data.draw(st.integers(0, 8 * len(note) - 1))
    altered = bytearray(note)
    altered[position // 8] ^= 1 << position % 8
    with pytest.raises(VerificationError):
        open_note(bytes(altered), [key])


@PROFILE
@given(st.integers(1, 2**63 - 1), SEEDS)
def test_every_checkpoint_is_read_back(size: int, root: bytes) -> None:
    checkpoint = Checkpoint(origin=LOG_KEY.name, size=size, root=root)
    assert open_checkpoint(signed(checkpoint), LOG_KEY) == checkpoint


@PROFILE
@given(ENTRIES, st.none() | st.binary(), st.data())
def test_every_proof_file_is_read_back(entries: list[bytes], extra: bytes | None, data: st.DataObject) -> None:
    leaves = [leaf_hash(entry) for entry in entries]
    index = data.draw(st.integers(0, len(entries) - 1))
    checkpoint = Checkpoint(origin=LOG_KEY.name, size=len(entries), root=root_of(leaves))
    hashes = inclusion_proof(index, len(entries), lambda level, at: root_of(leaves[at << level : (at + 1) << level]))
    proof = Proof(index=index, hashes=hashes, checkpoint=signed(checkpoint), extra=extra)
    assert parse_proof(proof.text) == proof
    assert verify_proof(proof, entries[index], LOG_KEY) == checkpoint


@FEW
@given(st.lists(st.binary(max_size=9), max_size=600), st.data())
def test_a_directory_gives_back_what_was_written(entries: list[bytes], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = write_log(Path(folder), entries)
        directory = LogDirectory(Path(folder))
        first = data.draw(st.integers(0, len(entries)))
        end = data.draw(st.integers(first, len(entries)))
        assert list(directory.entries(first, end)) == entries[first:end]
        assert (
            directory.edge(len(entries)).root
            == checkpoint.root
            == tree_root(len(entries), directory.node(len(entries)))
        )
