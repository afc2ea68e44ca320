"""The key states of NIST SP 800-57 Part 1, section 7, as far as a scope's key has them, and the moves between them.

Pure: whoever stores a state applies an action here first, and writes what comes back. No move leaves `DESTROYED`, and none
goes back from `DEACTIVATED`: a committed destruction is final.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum, StrEnum
from types import MappingProxyType

from keyvault.errors import InvalidTransitionError, ScopeDestroyedError, ScopeFencedError, ScopeSuspendedError


class KeyState(StrEnum):
    """The state of a scope's key. `DEACTIVATED` is fenced: its destruction is committed and pending."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    DEACTIVATED = "deactivated"
    DESTROYED = "destroyed"


class SuspendedBy(IntEnum):
    """Why a scope is suspended, and so who resumes it: what a user deleted comes back by request, what facts suspended by facts."""

    USER = 1
    FACTS = 2
    WAITING = 3

    @property
    def code(self) -> str:
        """Return it as events spell it."""
        return self.name.lower()


class Action(StrEnum):
    """What can be done to a key. `FENCE` commits its destruction, `ACKNOWLEDGE` says that it was proven gone."""

    SUSPEND = "suspend"
    RESUME = "resume"
    FENCE = "fence"
    ACKNOWLEDGE = "acknowledge"


TRANSITIONS: Mapping[tuple[KeyState, Action], KeyState] = MappingProxyType(
    {
        (KeyState.ACTIVE, Action.SUSPEND): KeyState.SUSPENDED,
        (KeyState.ACTIVE, Action.FENCE): KeyState.DEACTIVATED,
        (KeyState.SUSPENDED, Action.RESUME): KeyState.ACTIVE,
        (KeyState.SUSPENDED, Action.FENCE): KeyState.DEACTIVATED,
        (KeyState.DEACTIVATED, Action.ACKNOWLEDGE): KeyState.DESTROYED,
    }
)


def apply(state: KeyState, action: Action) -> KeyState:
    """Return the state after `action`; raise `InvalidTransitionError` when `TRANSITIONS` has no such move."""
    try:
        return TRANSITIONS[state, action]
    except KeyError as missing:
        raise InvalidTransitionError(f"a key that is {state.value} has no transition {action.value!r}") from missing


def check_issuable(state: KeyState, scope_id: bytes | None = None) -> None:
    """Return None for an active key and raise otherwise; a message names the scope by `scope_id` in hexadecimal.

    Raises `ScopeSuspendedError`, `ScopeFencedError` or `ScopeDestroyedError`.
    """
    if state is KeyState.ACTIVE:
        return
    scope = "the scope" if scope_id is None else f"scope {scope_id.hex()}"
    if state is KeyState.SUSPENDED:
        raise ScopeSuspendedError(f"{scope} is suspended; resume it to use its key again")
    if state is KeyState.DEACTIVATED:
        raise ScopeFencedError(f"{scope} is being destroyed; it never comes back")
    raise ScopeDestroyedError(f"{scope} is destroyed, and its key with it; permanent")
