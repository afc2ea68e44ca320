"""The Merkle tree against RFC 6962's own recursive definition: every size, index and pair, and every altered proof."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyvault.errors import VerificationError
from shredder.log.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root_of,
    tree_root,
    verify_consistency,
    verify_inclusion,
)
from tests.log_oracle import Tree

MOST, ALL_PAIRS = 600, 130
TREE = Tree([b"entry %d" % number for number in range(MOST)])
EDGES = (1, 2, 3, 4, 5, 7, 8, 9, 21, 64, 65, 255, 256, 257, 511, 512, 513, 600)


def node(level: int, index: int) -> bytes:
    return TREE.mth(index << level, (index + 1) << level)


def leaf(index: int) -> bytes:
    return TREE.mth(index, index + 1)


def root(size: int) -> bytes:
    return TREE.mth(0, size)


def bits_of(proof: list[bytes]) -> Iterator[list[bytes]]:
    """Give every proof that differs from this one in one bit."""
    for place, value in enumerate(proof):
        for bit in range(256):
            altered = (int.from_bytes(value, "big") ^ 1 << bit).to_bytes(32, "big")
            yield [*proof[:place], altered, *proof[place + 1 :]]


# --- roots -----------------------------------------------------------------------------------------------------------


def test_hashes_are_prefixed() -> None:
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    assert leaf_hash(b"entry 0") == leaf(0)
    assert node_hash(leaf(0), leaf(1)) == root(2)


def test_every_root() -> None:
    assert root_of([]) == EMPTY_ROOT == tree_root(0, node)
    for size in range(MOST + 1):
        assert tree_root(size, node) == root(size)
        assert root_of(leaf(index) for index in range(size)) == root(size)


def test_subtrees_of_one_size_have_the_root_of_their_leaves() -> None:
    assert root_of([TREE.mth(0, 256), TREE.mth(256, 512), TREE.mth(512, 600)]) == root(600)


# --- inclusion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", EDGES)
def test_inclusion_of_every_leaf(size: int) -> None:
    for index in range(size):
        proof = inclusion_proof(index, size, node)
        assert proof == TREE.path(index, 0, size)
        verify_inclusion(leaf(index), index, size, proof, root(size))


def test_inclusion_in_every_size() -> None:
    for size in range(1, MOST + 1):
        for index in {0, size // 3, size // 2, size - 1}:
            proof = inclusion_proof(index, size, node)
            assert proof == TREE.path(index, 0, size)
            verify_inclusion(leaf(index), index, size, proof, root(size))


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0), (7, 3)])
def test_leaves_that_are_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match=rf"^there is no leaf {index} in a tree of {size}$"):
        inclusion_proof(index, size, node)
    with pytest.raises(VerificationError, match=rf"^there is no leaf {index} in a tree of {size}$"):
        verify_inclusion(leaf(0), index, size, [], root(size))


@pytest.mark.parametrize(("index", "size"), [(0, 2), (0, 3), (2, 3), (4, 7), (6, 7), (256, 257), (100, 600)])
def test_every_altered_inclusion_proof_is_refused(index: int, size: int) -> None:
    proof = TREE.path(index, 0, size)
    wrong = rf"^the inclusion proof of leaf {index} does not lead to the root of size {size}$"
    for altered in bits_of(proof):
        with pytest.raises(VerificationError, match=wrong):
            verify_inclusion(leaf(index), index, size, altered, root(size))
    with pytest.raises(VerificationError, match=wrong):
        verify_inclusion(leaf(index + 1), index, size, proof, root(size))
    with pytest.raises(VerificationError, match=wrong):
        verify_inclusion(leaf(index), index, size, proof, root(size - 1))
    with pytest.raises(VerificationError, match=rf"^the inclusion proof of leaf {index} is too short$"):
        verify_inclusion(leaf(index), index, size, proof[:-1], root(size))
    with pytest.raises(VerificationError, match=rf"^the inclusion proof of leaf {index} is too long$"):
        verify_inclusion(leaf(index), index, size, [*proof, leaf(0)], root(size))


def test_a_proof_holds_for_its_own_index_and_size_alone() -> None:
    for size in range(1, 40):
        for index in range(size):
            proof = TREE.path(index, 0, size)
            for other in set(range(size)) - {index}:
                with pytest.raises(VerificationError):
                    verify_inclusion(leaf(index), other, size, proof, root(size))


# --- consistency -----------------------------------------------------------------------------------------------------


def test_consistency_of_every_pair() -> None:
    for new in range(1, ALL_PAIRS + 1):
        for old in range(1, new + 1):
            proof = consistency_proof(old, new, node)
            assert proof == TREE.proof(old, new)
            verify_consistency(old, root(old), new, root(new), proof)


@pytest.mark.parametrize("new", [255, 256, 257, 511, 512, 513, 600])
def test_consistency_with_every_older_size(new: int) -> None:
    for old in range(1, new + 1):
        proof = consistency_proof(old, new, node)
        assert proof == TREE.proof(old, new)
        verify_consistency(old, root(old), new, root(new), proof)


@pytest.mark.parametrize(("old", "new"), [(0, 5), (-1, 5), (6, 5), (0, 0)])
def test_sizes_that_cannot_be_consistent(old: int, new: int) -> None:
    with pytest.raises(ValueError, match=rf"^there is no consistency proof from {old} to {new}$"):
        consistency_proof(old, new, node)
    with pytest.raises(VerificationError, match=rf"^there is no consistency proof from size {old} to {new}$"):
        verify_consistency(old, root(0), new, root(5), [])


@pytest.mark.parametrize(("old", "new"), [(1, 2), (3, 4), (4, 7), (6, 8), (7, 8), (8, 13), (256, 257), (300, 600)])
def test_every_altered_consistency_proof_is_refused(old: int, new: int) -> None:
    proof = TREE.proof(old, new)
    wrong = rf"^the tree of size {new} does not continue that of size {old}: the log was forked or altered$"
    for altered in bits_of(proof):
        with pytest.raises(VerificationError, match=wrong):
            verify_consistency(old, root(old), new, root(new), altered)
    for first, second in [(root(old), root(new - 1)), (root(old - 1), root(new)), (root(new), root(old))]:
        with pytest.raises(VerificationError):
            verify_consistency(old, first, new, second, proof)
    with pytest.raises(VerificationError, match=r"^the consistency proof is (too short|empty)$"):
        verify_consistency(old, root(old), new, root(new), proof[:-1])
    with pytest.raises(VerificationError, match=r"^the consistency proof is too long$"):
        verify_consistency(old, root(old), new, root(new), [*proof, leaf(0)])


def test_an_empty_consistency_proof_is_refused() -> None:
    with pytest.raises(VerificationError, match=r"^the consistency proof is empty$"):
        verify_consistency(3, root(3), 5, root(5), [])


def test_one_size_has_one_root_and_needs_no_proof() -> None:
    verify_consistency(5, root(5), 5, root(5), [])
    for other, proof in [(root(4), []), (root(5), [leaf(0)])]:
        with pytest.raises(VerificationError, match=r"^two roots of size 5 differ, or come with a proof"):
            verify_consistency(5, root(5), 5, other, proof)


def test_a_fork_is_found() -> None:
    fork = Tree([*TREE.entries[:99], b"another", *TREE.entries[100:]])
    with pytest.raises(VerificationError, match=r"the log was forked or altered$"):
        verify_consistency(100, root(100), 600, fork.mth(0, 600), fork.proof(100, 600))
