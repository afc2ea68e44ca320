from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault.errors import InvalidFormatError, InvalidInputError, PuncturedError
from keyvault.puncture import Frontier, count_nodes, expand, new_frontier
from keyvault.puncture_records import new_records
from tests import puncture_oracle as oracle

SEED = bytes(range(1, 33))
TAGS = 1 << 63
tags = st.integers(0, TAGS - 1) | st.integers(0, 40) | st.integers(TAGS - 40, TAGS - 1)


@given(st.data(), st.integers(0, 7), st.integers(0, 3))
def test_every_leaf_of_a_small_tree_is_the_oracles_or_gone(data: st.DataObject, height: int, place: int) -> None:
    first = place << height
    leaves = range(first, first + (1 << height))
    punctured = data.draw(st.sets(st.sampled_from(leaves)))
    tree = Frontier(height=height, first=first, seeds=bytearray(SEED)).puncture(punctured)
    assert tree.seeds == oracle.seeds(SEED, height, punctured, first)
    assert tree.punctured == tuple(sorted(punctured))
    for leaf in leaves:
        if leaf in punctured:
            with pytest.raises(PuncturedError, match=f"leaf {leaf} was punctured"):
                tree.derive(leaf)
        else:
            assert tree.derive(leaf) == oracle.leaf(SEED, height, leaf - first)


@given(st.sets(tags, max_size=30), st.lists(tags, max_size=10))
def test_the_tallest_tree_agrees_with_the_oracle(punctured: set[int], others: list[int]) -> None:
    tree = new_records(SEED).puncture(punctured)
    assert tree.seeds == oracle.seeds(SEED, 63, punctured)
    neighbours = {leaf + step for leaf in punctured for step in (-1, 1) if 0 <= leaf + step < TAGS}
    for leaf in (neighbours | set(others)) - punctured:
        assert tree.derive(leaf) == oracle.leaf(SEED, 63, leaf)
    for leaf in punctured:
        with pytest.raises(PuncturedError):
            tree.derive(leaf)


@given(st.lists(tags, max_size=20), st.randoms(use_true_random=False), st.integers(1, 5))
def test_the_order_and_grouping_of_punctures_make_no_difference(leaves: list[int], random: Random, step: int) -> None:
    at_once = new_records(SEED).puncture(leaves)
    random.shuffle(leaves)
    in_turn = new_records(SEED)
    for start in range(0, len(leaves), step):
        in_turn = in_turn.puncture(leaves[start : start + step])
    assert in_turn == at_once == at_once.puncture(leaves)


@given(st.sets(tags, min_size=1, max_size=30))
def test_no_seed_on_the_path_to_a_punctured_leaf_is_kept(punctured: set[int]) -> None:
    kept = bytes(new_records(SEED).puncture(punctured).seeds)
    seeds = {kept[start : start + 32] for start in range(0, len(kept), 32)}
    for leaf in punctured:
        assert not seeds & {oracle.leaf(SEED, levels, leaf >> 63 - levels) for levels in range(64)}


def test_children_are_the_halves_of_a_labelled_hash() -> None:
    assert expand(SEED) == (oracle.child(SEED, 0), oracle.child(SEED, 1))


def test_puncturing_leaves_the_old_frontier_and_its_buffer_alone() -> None:
    old = new_frontier(4, SEED)
    same, new = old.puncture([]), old.puncture([3])
    old.wipe()
    assert same.derive(3) == oracle.leaf(SEED, 4, 3)
    assert new.derive(2) == oracle.leaf(SEED, 4, 2)


@pytest.mark.parametrize("leaf", [-1, 15, 24, TAGS])
def test_leaves_of_other_trees_are_refused(leaf: int) -> None:
    tree = Frontier(height=3, first=16, seeds=bytearray(SEED))
    with pytest.raises(InvalidInputError, match="16 to 23"):
        tree.derive(leaf)
    with pytest.raises(InvalidInputError, match="16 to 23"):
        tree.puncture([17, leaf])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 64}, "0 to 63 levels"),
        ({"height": -1}, "0 to 63 levels"),
        ({"height": 3, "first": 4}, "multiple of its size"),
        ({"height": 3, "first": -8}, "multiple of its size"),
        ({"height": 3, "first": TAGS}, "multiple of its size"),
        ({"height": 3, "punctured": (8,)}, "ascend"),
        ({"height": 3, "punctured": (-1,)}, "ascend"),
        ({"height": 3, "punctured": (3, 3)}, "ascend"),
        ({"height": 3, "punctured": (3, 2)}, "ascend"),
        ({"height": 3, "punctured": (3,)}, "3 nodes of 32 bytes, not 32 bytes"),
        ({"height": 3, "seeds": bytearray(31)}, "1 nodes of 32 bytes, not 31 bytes"),
    ],
)
def test_frontiers_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidFormatError, match=message):
        Frontier(**{"seeds": bytearray(SEED), **fields})


@given(st.integers(0, 7), st.data())
def test_nodes_are_counted_without_seeds(height: int, data: st.DataObject) -> None:
    punctured = data.draw(st.sets(st.integers(0, 2**height - 1)))
    assert count_nodes(0, height, sorted(punctured)) == len(oracle.frontier(SEED, height, punctured))
