from __future__ import annotations

from itertools import product

import pytest

from keyvault.errors import InvalidTransitionError, ScopeDestroyedError, ScopeFencedError, ScopeSuspendedError
from keyvault.states import TRANSITIONS, Action, KeyState, apply, check_issuable

LEGAL = {
    ("active", "suspend"): "suspended",
    ("active", "fence"): "deactivated",
    ("suspended", "resume"): "active",
    ("suspended", "fence"): "deactivated",
    ("deactivated", "acknowledge"): "destroyed",
}
PAIRS = list(product(KeyState, Action))


def test_the_table_is_the_one_of_the_design() -> None:
    assert {(state.value, action.value): after.value for (state, action), after in TRANSITIONS.items()} == LEGAL


@pytest.mark.parametrize(("state", "action"), [pair for pair in PAIRS if (pair[0].value, pair[1].value) in LEGAL])
def test_legal(state: KeyState, action: Action) -> None:
    assert apply(state, action) is KeyState(LEGAL[state.value, action.value])


@pytest.mark.parametrize(("state", "action"), [pair for pair in PAIRS if (pair[0].value, pair[1].value) not in LEGAL])
def test_illegal(state: KeyState, action: Action) -> None:
    with pytest.raises(
        InvalidTransitionError, match=f"^a key that is {state.value} has no transition '{action.value}'$"
    ):
        apply(state, action)


def test_nothing_leaves_destroyed_and_nothing_returns_from_deactivated() -> None:
    def reachable(state: KeyState) -> set[KeyState]:
        after = {to for (start, _), to in TRANSITIONS.items() if start is state}
        return after.union(*map(reachable, after - {KeyState.ACTIVE, KeyState.SUSPENDED}))

    assert reachable(KeyState.DESTROYED) == set()
    assert reachable(KeyState.DEACTIVATED) == {KeyState.DESTROYED}


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (KeyState.SUSPENDED, ScopeSuspendedError),
        (KeyState.DEACTIVATED, ScopeFencedError),
        (KeyState.DESTROYED, ScopeDestroyedError),
    ],
)
def test_only_active_keys_are_issued(state: KeyState, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^the scope is "):
        check_issuable(state)
    with pytest.raises(error, match=r"^scope 000102030405060708090a0b0c0d0e0f is "):
        check_issuable(state, bytes(range(16)))


def test_active_keys_are_issued() -> None:
    check_issuable(KeyState.ACTIVE)
    check_issuable(KeyState.ACTIVE, bytes(16))
