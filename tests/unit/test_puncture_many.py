"""Many leaves or slots at once give what each gives alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault.errors import InvalidInputError, KeyVaultError
from keyvault.puncture import MAX_HEIGHT, Frontier, new_frontier
from keyvault.puncture_records import EntryRef
from keyvault.puncture_state import RingState, new_ring

SEED = bytes(range(32))


@st.composite
def frontiers(draw: st.DrawFn) -> Frontier:
    """Return a frontier of a small tree with some leaves punctured; sometimes an aligned part of a larger tree."""
    height = draw(st.integers(0, 6))
    first = draw(st.integers(0, 3)) << height
    whole = Frontier(height=height, first=first, seeds=bytearray(SEED))
    return whole.puncture(draw(st.sets(st.integers(first, first + (1 << height) - 1))))


@given(frontiers(), st.data())
def test_many_leaves_are_those_that_are_derived_alone(frontier: Frontier, data: st.DataObject) -> None:
    leaves = data.draw(st.sets(st.integers(frontier.first, frontier.end - 1)))
    derived = frontier.derive_many(leaves)
    assert derived.keys() == leaves - set(frontier.punctured)
    assert all(seed == frontier.derive(leaf) for leaf, seed in derived.items())


def test_all_leaves_of_a_tree_whose_every_leaf_but_one_is_left() -> None:
    frontier = new_frontier(5, SEED).puncture([11])
    derived = frontier.derive_many(range(32))
    assert derived == {leaf: frontier.derive(leaf) for leaf in range(32) if leaf != 11}
    assert len({bytes(seed) for seed in derived.values()}) == 31


def test_leaves_far_apart_in_the_highest_tree() -> None:
    frontier = new_frontier(MAX_HEIGHT, SEED).puncture([5])
    leaves = [0, 4, 6, 7, 1 << 40, (1 << MAX_HEIGHT) - 1]
    assert frontier.derive_many(leaves) == {leaf: frontier.derive(leaf) for leaf in leaves}


@pytest.mark.parametrize("leaves", [[-1], [32], [3, 32], [-1, 3], [0, 1, 2, 40]])
def test_a_leaf_outside_the_tree_is_refused(leaves: list[int]) -> None:
    with pytest.raises(InvalidInputError, match=r"^leaf -?\d+ is not one of this tree's: 0 to 31$"):
        new_frontier(5, SEED).derive_many(leaves)


def test_no_leaves_are_no_work() -> None:
    assert new_frontier(5, SEED).derive_many([]) == {}
    assert new_frontier(0, SEED).puncture([0]).derive_many([0]) == {}


def test_nothing_is_derived_from_what_was_wiped() -> None:
    frontier = new_frontier(5, SEED)
    frontier.wipe()
    with pytest.raises(KeyVaultError, match="was wiped"):
        frontier.derive_many([1])


def ring() -> RingState:
    ref = EntryRef(epoch=3, name=b"12345678", key=bytearray(b"k" * 32))
    return new_ring(SEED, capacity=20).puncture_slots([2, 17]).move_records({5: ref, 6: ref})


def test_many_slots_give_the_nodes_that_each_gives_alone() -> None:
    state = ring()
    nodes = state.derive_many(range(20))
    assert nodes.keys() == set(range(20)) - {2, 17}
    for slot, node in nodes.items():
        alone = state.derive(slot)
        assert node.scope_seed == alone.scope_seed
        assert node.records == alone.records
    assert {slot for slot, node in nodes.items() if isinstance(node.records, EntryRef)} == {5, 6}


def test_a_node_shows_no_secret() -> None:
    assert repr(ring().derive(1)) == "ScopeNode()"


def test_the_nodes_own_their_buffers() -> None:
    state = ring()
    for node in state.derive_many([1, 5]).values():
        node.wipe()
    again = state.derive_many([1, 5])
    assert again[5].scope_seed == state.derive(5).scope_seed != bytearray(32)
    assert again[1].scope_seed == state.derive(1).scope_seed != bytearray(32)


@pytest.mark.parametrize("slots", [[20], [-1], [0, 31]])
def test_a_slot_beyond_the_ring_is_refused(slots: list[int]) -> None:
    with pytest.raises(InvalidInputError, match=r"^slot -?\d+ is not one of this ring's 20$"):
        ring().derive_many(slots)
