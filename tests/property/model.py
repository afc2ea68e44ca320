"""What the guarantees promise, as a plain model: scopes with states, and what was sealed under them. No keys, no store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from keyvault.errors import (
    KeyVaultError,
    ScopeDestroyedError,
    ScopeFencedError,
    ScopeSuspendedError,
    UnknownScopeError,
)
from keyvault.states import KeyState

REFUSALS: dict[KeyState, type[KeyVaultError]] = {
    KeyState.SUSPENDED: ScopeSuspendedError,
    KeyState.DEACTIVATED: ScopeFencedError,
    KeyState.DESTROYED: ScopeDestroyedError,
}
AFTER_A_FENCE = {KeyState.DEACTIVATED, KeyState.DESTROYED}


@dataclass(kw_only=True, eq=False)
class ModelScope:
    """One generation of a name."""

    id: bytes
    generation: int
    state: KeyState = KeyState.ACTIVE


class Item(NamedTuple):
    """Something sealed or wrapped: its bytes, what is in it, and the scopes it needs, in order."""

    data: bytes
    content: bytes
    scopes: tuple[ModelScope, ...]
    envelope: bool


@dataclass(kw_only=True)
class Model:
    """All names with their generations, oldest first, and all items."""

    names: dict[str, list[ModelScope]]
    items: list[Item] = field(default_factory=list)
    paused: bool = False

    def newest(self, name: str) -> ModelScope | None:
        """Return the name's newest generation."""
        return self.names[name][-1] if self.names[name] else None

    def scopes(self) -> list[ModelScope]:
        """Return every generation of every name."""
        return [scope for generations in self.names.values() for scope in generations]

    def refusal(self, names: Sequence[str]) -> type[KeyVaultError] | None:
        """Return why no new key is issued under these names, or None when one must be (G2, G6)."""
        scopes = [self.newest(name) for name in names]
        return refusal(scopes)

    def live(self, name: str) -> bool:
        """Return whether the name's newest generation can still be fenced."""
        scope = self.newest(name)
        return scope is not None and scope.state not in AFTER_A_FENCE


def refusal(scopes: Sequence[ModelScope | None]) -> type[KeyVaultError] | None:
    """Return what the first of the scopes that is not active is refused with; one that is unknown comes before all others."""
    if None in scopes:
        return UnknownScopeError
    for scope in scopes:
        if scope is not None and scope.state in REFUSALS:
            return REFUSALS[scope.state]
    return None
