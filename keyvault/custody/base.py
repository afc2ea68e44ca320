"""Custody: how scopes map to named keys of the transit engine.

Batch methods return one entry an input, in input order, each the value or its own `KeyVaultError`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.engine import Connection

from keyvault.errors import KeyVaultError
from keyvault.store.scopes import ScopeRow
from keyvault.wrapped import CustodyCode


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where a scope's key sits: a key of its own (`key_ref`), or a slot of a ring."""

    key_ref: str | None = None
    ring_id: bytes | None = None
    slot: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """What is sealed under the scope's own key, bound to the scope's id (16 bytes)."""

    placement: Placement
    scope_id: bytes
    data: bytes


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Share:
    """A scope's contribution to a wrapping key: 32 secret bytes, and the token from which they can be had again."""

    secret: bytearray
    token: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """How it is known that a scope's key is gone."""

    key: str
    retained_ciphertext: str


class Custody(ABC):
    """Makes, uses and destroys the keys of scopes. Thread-safe."""

    code: CustodyCode
    """The custody byte in a wrapped key's header."""
    name: str

    @abstractmethod
    def prepare(self, count: int) -> list[Placement | KeyVaultError]:
        """Make what must exist before `count` scopes can be written; whatever is not bound later is cleaned up."""

    @abstractmethod
    def bind(self, connection: Connection, placements: Sequence[Placement]) -> set[Placement]:
        """Claim placements inside the creating transaction; return those that may be bound to a scope."""

    @abstractmethod
    def discard(self, connection: Connection, placements: Sequence[Placement]) -> None:
        """Hand claimed placements, whose scopes were not created after all, over for deletion."""

    @abstractmethod
    def seal_identities(self, identities: Sequence[Identity]) -> list[str | KeyVaultError]:
        """Encrypt under each scope's own key."""

    @abstractmethod
    def open_identities(self, rows: Sequence[ScopeRow]) -> list[bytearray | KeyVaultError]:
        """Decrypt each row's `sealed_name`; `KeyMissingError` when the key is gone."""

    @abstractmethod
    def fresh_shares(self, rows: Sequence[ScopeRow]) -> list[Share | KeyVaultError]:
        """Give each scope's share for a new wrapping key."""

    @abstractmethod
    def recover_shares(self, items: Sequence[tuple[ScopeRow, bytes]]) -> list[bytearray | KeyVaultError]:
        """Give the shares again from their tokens."""

    @abstractmethod
    def erase(self, rows: Sequence[ScopeRow]) -> list[KeyVaultError | None]:
        """Destroy the keys. Idempotent; says nothing about success, `prove` does."""

    @abstractmethod
    def prove(self, rows: Sequence[ScopeRow]) -> list[Proof | KeyVaultError]:
        """Establish that each key is gone and that what it encrypted stays shut; `NotProvenError` otherwise."""

    @abstractmethod
    def unused(self, limit: int) -> list[str]:
        """Return references of keys that no scope was ever bound to, and that none can be bound to any more."""

    @abstractmethod
    def erase_unused(self, references: Sequence[str]) -> None:
        """Delete unused keys and prove them gone; `NotProvenError` otherwise. Idempotent."""

    @abstractmethod
    def forget_unused(self, connection: Connection, references: Sequence[str]) -> None:
        """Remove what remembers unused keys that are gone."""
