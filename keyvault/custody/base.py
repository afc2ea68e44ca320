"""Custody: how scopes map to named keys of the transit engine.

Batch methods return one entry an input, in input order, each the value or its own `KeyVaultError`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy.engine import Connection

from keyvault.errors import KeyVaultError
from keyvault.scopes import Scope
from keyvault.store.issuable import IssuableScope
from keyvault.store.scopes import ScopeRow
from keyvault.wrapped import CustodyCode


class Target(NamedTuple):
    """A key that a custody holds: a whole scope's, or that of the record at a tag (8 bytes) in it. To destroy it takes the whole row."""

    row: ScopeRow | IssuableScope
    record_tag: bytes = b""

    @property
    def key(self) -> tuple[bytes, bytes]:
        """The scope's id (16 bytes) and the record's tag: what it is found under, and hashed by faster than by its row."""
        return self.row.id, self.record_tag


class Placement(NamedTuple):
    """Where a scope's key sits: a key of its own (`key_ref`), or a slot of a ring."""

    key_ref: str | None = None
    ring_id: bytes | None = None
    slot: int | None = None


class Identity(NamedTuple):
    """What is sealed under the scope's own key, bound to the scope's id (16 bytes)."""

    placement: Placement
    scope_id: bytes
    data: bytes


class Share(NamedTuple):
    """A scope's contribution to a wrapping key: 32 secret bytes, and the token from which they can be had again."""

    secret: bytearray
    token: bytes

    def __repr__(self) -> str:
        return "Share()"


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """How it is known that a key is gone.

    `key` is what the engine says of it, `retained_ciphertext` what became of something it had encrypted, `neighbour` whether a
    live key that shared its secret state still works, or "none" where there is no such key. `former` is the same of the key that a
    scope had before it was moved to another custody.
    """

    key: str
    retained_ciphertext: str
    neighbour: str = "none"
    former: Proof | None = None


class Custody(ABC):
    """Makes, uses and destroys the keys of scopes. Thread-safe."""

    code: CustodyCode
    """The custody byte in a wrapped key's header."""
    name: str
    holds_records: bool
    """Whether single records have keys of their own."""

    @abstractmethod
    def prepare(self, scopes: Sequence[Scope]) -> list[Placement | KeyVaultError]:
        """Make what must exist before these scopes can be written; whatever is not bound later is cleaned up, or never used."""

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
    def fresh_shares(self, targets: Sequence[Target]) -> list[Share | KeyVaultError]:
        """Give each target's share for a new wrapping key."""

    @abstractmethod
    def recover_shares(self, items: Sequence[tuple[Target, bytes]]) -> list[bytearray | KeyVaultError]:
        """Give the shares again from their tokens."""

    @abstractmethod
    def destroy(self, targets: Sequence[Target]) -> list[Proof | KeyVaultError]:
        """Destroy fenced keys, and establish that each is gone and what it encrypted stays shut. Idempotent.

        An error in a proof's place means that the destruction is pending: `NotProvenError` when the key may still be there, or
        another run is at it.
        """

    @abstractmethod
    def unused(self, limit: int) -> list[str]:
        """Return references of keys that no scope was ever bound to, and that none can be bound to any more."""

    @abstractmethod
    def erase_unused(self, references: Sequence[str]) -> None:
        """Delete unused keys and prove them gone; `NotProvenError` otherwise. Idempotent."""

    @abstractmethod
    def forget_unused(self, connection: Connection, references: Sequence[str]) -> None:
        """Remove what remembers unused keys that are gone."""

    @abstractmethod
    def close(self) -> None:
        """Wipe the secrets that are kept in memory."""

    def forget(self, rings: Collection[bytes] | None) -> None:  # noqa: B027 - most custodies keep nothing
        """Wipe what is kept in memory of these rings (by id), or of all: nothing, where nothing is kept."""
