"""Dedicated custody: one transit key per scope, under a random name that is never derived and never used again.

A share is a transit data key; its ciphertext is the share token. The key itself never leaves the engine.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import TypeVar

from sqlalchemy.engine import Connection

from keyvault.clock import Clock
from keyvault.custody.base import Custody, Identity, Placement, Proof, Share
from keyvault.errors import (
    CiphertextRefusedError,
    KeyMissingError,
    KeyVaultError,
    NotProvenError,
    ScopeDestroyedError,
    ScopeFencedError,
)
from keyvault.results import caught, values_of
from keyvault.states import check_issuable
from keyvault.store import intents
from keyvault.store.database import Database
from keyvault.store.scopes import ScopeRow, all_key_refs, by_id, key_refs
from keyvault.system_keys import SYSTEM_KEY
from keyvault.transit.base import Ciphertext, Plaintext, TransitEngine
from keyvault.wrapped import CustodyCode

T = TypeVar("T")

ABANDONED_AFTER = timedelta(hours=1)
"""A creator that has not finished by then never will: it would find its intent gone."""


class DedicatedCustody(Custody):
    """One named key a scope."""

    code = CustodyCode.DEDICATED
    name = "dedicated"

    def __init__(self, database: Database, engine: TransitEngine, clock: Clock) -> None:
        """Use this store for intents and this engine for keys."""
        self._database = database
        self._engine = engine
        self._clock = clock

    def prepare(self, count: int) -> list[Placement | KeyVaultError]:
        """Announce random names, commit, and only then make the keys."""
        names = [f"k-{secrets.token_hex(16)}" for _ in range(count)]
        now = self._clock.now()
        self._database.write(lambda connection: intents.announce(connection, names, at=now))
        made = self._engine.create_keys(names)
        return [
            result if isinstance(result, KeyVaultError) else Placement(key_ref=name)
            for name, result in zip(names, made, strict=True)
        ]

    def bind(self, connection: Connection, placements: Sequence[Placement]) -> set[Placement]:
        """Take the open intents: whoever removes one may bind its key."""
        taken = intents.take(connection, [_reference(placement) for placement in placements])
        return {placement for placement in placements if placement.key_ref in taken}

    def discard(self, connection: Connection, placements: Sequence[Placement]) -> None:
        """Leave abandoned intents behind for `collect`."""
        names = [_reference(placement) for placement in placements]
        intents.announce(connection, names, at=self._clock.now())
        intents.abandon(connection, names)

    def seal_identities(self, identities: Sequence[Identity]) -> list[str | KeyVaultError]:
        """Encrypt with the scope's transit key; associated data is the scope's id."""
        return self._engine.encrypt(
            [
                Plaintext(name=_reference(item.placement), data=item.data, associated_data=item.scope_id)
                for item in identities
            ]
        )

    def open_identities(self, rows: Sequence[ScopeRow]) -> list[bytearray | KeyVaultError]:
        """Decrypt with the scope's transit key."""
        return self._explained(rows, self._engine.decrypt([_sealed_identity(row) for row in rows]))

    def fresh_shares(self, rows: Sequence[ScopeRow]) -> list[Share | KeyVaultError]:
        """Ask the engine for a data key under each scope's key."""
        keys = self._engine.generate_data_keys([_key_of(row) for row in rows])
        return [
            key if isinstance(key, KeyVaultError) else Share(secret=key.plaintext, token=key.text.encode())
            for key in self._explained(rows, keys)
        ]

    def recover_shares(self, items: Sequence[tuple[ScopeRow, bytes]]) -> list[bytearray | KeyVaultError]:
        """Let the engine decrypt the tokens."""
        wanted = [Ciphertext(name=_key_of(row), text=token.decode("ascii", "replace")) for row, token in items]
        return self._explained([row for row, _ in items], self._engine.decrypt(wanted))

    def erase(self, rows: Sequence[ScopeRow]) -> list[KeyVaultError | None]:
        """Allow deletion and delete."""
        return self._engine.delete_keys([_key_of(row) for row in rows])

    def prove(self, rows: Sequence[ScopeRow]) -> list[Proof | KeyVaultError]:
        """Require that the key reads as absent and that the sealed name, kept for this, no longer opens."""
        found = self._engine.read_keys([_key_of(row) for row in rows])
        opened = self._engine.decrypt([_sealed_identity(row) for row in rows])
        return [_judge(row.id.hex(), info, plain) for row, info, plain in zip(rows, found, opened, strict=True)]

    def unused(self, limit: int) -> list[str]:
        """Return keys of abandoned intents. A key that a row holds is never among them, whatever the intent says."""
        self._abandon_aged()

        def work(connection: Connection) -> list[str]:
            names = intents.abandoned(connection, limit=limit)
            held = key_refs(connection, names)
            intents.forget(connection, sorted(held))
            return [name for name in names if name not in held]

        return self._database.write(work)

    def erase_unused(self, references: Sequence[str]) -> None:
        """Delete, and require that the keys read as absent."""
        values_of(self._engine.delete_keys(references))
        left = [info for info in values_of(self._engine.read_keys(references)) if info is not None]
        if left:
            raise NotProvenError(f"{len(left)} unused keys could not be proven gone; the next run tries again")

    def forget_unused(self, connection: Connection, references: Sequence[str]) -> None:
        """Remove the intents."""
        intents.forget(connection, references)

    def _abandon_aged(self) -> None:
        """Mark what creators that died left behind, unless this database may be an older copy.

        In a restored copy an old intent can be of a key that a scope holds by now. Such a copy lacks other keys, too, that the
        engine lists; then nothing is marked, and `keyvault doctor` tells of both.
        """
        before = self._clock.now() - ABANDONED_AFTER
        if not self._database.read(lambda connection: intents.has_open_older_than(connection, before)):
            return
        # The engine first: whatever it lists then was announced before, and is found in the database now.
        listed = set(self._engine.list_keys()) - {SYSTEM_KEY}
        if listed <= self._database.read(
            lambda connection: intents.all_references(connection) | all_key_refs(connection)
        ):
            self._database.write(lambda connection: intents.abandon_older_than(connection, before))

    def _explained(self, rows: Sequence[ScopeRow], results: Sequence[T | KeyVaultError]) -> list[T | KeyVaultError]:
        """Say of a missing key which scope it belongs to: an alarm, unless the scope was destroyed while this went on."""
        ids = [row.id for row, result in zip(rows, results, strict=True) if isinstance(result, KeyMissingError)]
        if not ids:
            return list(results)
        now = self._database.read(lambda connection: by_id(connection, ids))
        return [
            _missing(now.get(row.id, row)) if isinstance(result, KeyMissingError) else result
            for row, result in zip(rows, results, strict=True)
        ]


def _missing(row: ScopeRow) -> KeyVaultError:
    if isinstance(ended := caught(check_issuable, row.state, row.id), ScopeFencedError | ScopeDestroyedError):
        return ended
    return KeyMissingError(
        f"scope {row.id.hex()}: its key is missing from the engine although the database calls it {row.state}: either it was "
        "destroyed and this database is an older copy, or the engine is not this store's. Nothing can be read; run `keyvault doctor`"
    )


def _judge(scope: str, info: object, plain: object) -> Proof | KeyVaultError:
    if isinstance(info, KeyVaultError):
        return info
    if info is not None:
        return NotProvenError(f"scope {scope}: the engine still lists its key")
    if isinstance(plain, KeyMissingError | CiphertextRefusedError):
        return Proof(key="absent", retained_ciphertext="refused")
    if isinstance(plain, KeyVaultError):
        return plain
    return NotProvenError(f"scope {scope}: a ciphertext that its key made still opens")


def _reference(placement: Placement) -> str:
    if placement.key_ref is None:
        raise KeyMissingError("a placement without a key of its own is not dedicated custody's")
    return placement.key_ref


def _key_of(row: ScopeRow) -> str:
    if row.key_ref is None:
        raise KeyMissingError(f"scope {row.id.hex()}: its row names no key although its custody is dedicated")
    return row.key_ref


def _sealed_identity(row: ScopeRow) -> Ciphertext:
    if row.sealed_name is None:
        raise KeyMissingError(f"scope {row.id.hex()}: its row holds no sealed name")
    return Ciphertext(name=_key_of(row), text=row.sealed_name, associated_data=row.id)
