"""Dedicated custody: one transit key per scope, under a random name that is never derived and never used again.

A share is a transit data key; its ciphertext is the share token. The key itself never leaves the engine.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.engine import Connection

from keyvault.clock import Clock
from keyvault.custody.base import Custody, Identity, Placement, Proof, Share, Target
from keyvault.custody.missing import explain_missing
from keyvault.custody.ring_sealing import key_name
from keyvault.errors import (
    CiphertextRefusedError,
    InvalidInputError,
    KeyMissingError,
    KeyVaultError,
    NotProvenError,
    PermissionDeniedError,
    RecordsNotSupportedError,
    Unavailable,
)
from keyvault.results import values_of
from keyvault.scopes import Scope
from keyvault.store import intents
from keyvault.store.database import Database
from keyvault.store.issuable import IssuableScope
from keyvault.store.rings import all_ring_ids
from keyvault.store.scopes import ScopeRow, all_key_refs, key_refs
from keyvault.system_keys import SYSTEM_KEY
from keyvault.transit.base import Ciphertext, Plaintext, TransitEngine
from keyvault.wrapped import CustodyCode

ABANDONED_AFTER = timedelta(hours=1)
"""A creator that has not finished by then never will: it would find its intent gone."""
ATTEMPTS = 3
PAUSE_SECONDS = 0.05
"""Between attempts: another run may have been between re-creating an interrupted deletion's key and deleting it."""


class DedicatedCustody(Custody):
    """One named key a scope."""

    code = CustodyCode.DEDICATED
    name = "dedicated"
    holds_records = False

    def __init__(self, database: Database, engine: TransitEngine, clock: Clock) -> None:
        """Use this store for intents and this engine for keys."""
        self._database = database
        self._engine = engine
        self._clock = clock

    def prepare(self, scopes: Sequence[Scope]) -> list[Placement | KeyVaultError]:
        """Announce random names, commit, and only then make the keys."""
        names = [f"k-{secrets.token_hex(16)}" for _ in scopes]
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
        return explain_missing(
            self._database, [Target(row) for row in rows], self._engine.decrypt([_sealed_identity(row) for row in rows])
        )

    def fresh_shares(self, targets: Sequence[Target]) -> list[Share | KeyVaultError]:
        """Ask the engine for a data key under each scope's key."""
        rows = [_whole(target) for target in targets]
        keys = self._engine.generate_data_keys([_key_of(row) for row in rows])
        return [
            key if isinstance(key, KeyVaultError) else Share(secret=key.plaintext, token=key.text.encode())
            for key in explain_missing(self._database, targets, keys)
        ]

    def recover_shares(self, items: Sequence[tuple[Target, bytes]]) -> list[bytearray | KeyVaultError]:
        """Let the engine decrypt the tokens."""
        rows = [_whole(target) for target, _ in items]
        wanted = [
            Ciphertext(name=_key_of(row), text=token.decode("ascii", "replace"))
            for row, (_, token) in zip(rows, items, strict=True)
        ]
        return explain_missing(self._database, [target for target, _ in items], self._engine.decrypt(wanted))

    def destroy(self, targets: Sequence[Target]) -> list[Proof | KeyVaultError]:
        """Allow deletion and delete; then require that the key reads as absent and the sealed name, kept for this, stays shut."""
        proofs: dict[int, Proof | KeyVaultError] = {}
        for attempt in range(ATTEMPTS):
            left = [index for index in range(len(targets)) if _worth_another(proofs.get(index))]
            if not left:
                break
            if attempt:
                time.sleep(PAUSE_SECONDS * attempt)
            rows = [_full_row(targets[index]) for index in left]
            proofs |= zip(left, self._delete_and_prove(rows), strict=True)
        return [proofs[index] for index in range(len(targets))]

    def _delete_and_prove(self, rows: Sequence[ScopeRow]) -> list[Proof | KeyVaultError]:
        # Always before the proof: an engine calls the key of an interrupted deletion absent while its archive is there.
        deleted = self._engine.delete_keys([_key_of(row) for row in rows])
        found = self._engine.read_keys([_key_of(row) for row in rows])
        opened = self._engine.decrypt([_sealed_identity(row) for row in rows])
        judged = (_judge(row.id.hex(), info, plain) for row, info, plain in zip(rows, found, opened, strict=True))
        # A deletion that failed may have left the archive, and no proof can see that.
        return [proof if error is None else error for error, proof in zip(deleted, judged, strict=True)]

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

    def close(self) -> None:
        """Nothing is kept in memory."""

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
        if listed <= self._database.read(_all_keys):
            self._database.write(lambda connection: intents.abandon_older_than(connection, before))


def _all_keys(connection: Connection) -> set[str]:
    rings = {key_name(ring_id) for ring_id in all_ring_ids(connection)}
    return intents.all_references(connection) | all_key_refs(connection) | rings


def _worth_another(outcome: Proof | KeyVaultError | None) -> bool:
    """Try again where another run may have stood in the way; not where the engine is down or the role may not."""
    return not isinstance(outcome, Proof | Unavailable | PermissionDeniedError)


def _full_row(target: Target) -> ScopeRow:
    row = _whole(target)
    if not isinstance(row, ScopeRow):
        raise InvalidInputError("a scope is destroyed by its whole row: the sealed name in it is part of the proof")
    return row


def _whole(target: Target) -> ScopeRow | IssuableScope:
    if target.record_tag:
        raise RecordsNotSupportedError("dedicated custody has no keys for single records")
    return target.row


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


def _key_of(row: ScopeRow | IssuableScope) -> str:
    if row.key_ref is None:
        raise KeyMissingError(f"scope {row.id.hex()}: its row names no key although its custody is dedicated")
    return row.key_ref


def _sealed_identity(row: ScopeRow) -> Ciphertext:
    if row.sealed_name is None:
        raise KeyMissingError(f"scope {row.id.hex()}: its row holds no sealed name")
    return Ciphertext(name=_key_of(row), text=row.sealed_name, associated_data=row.id)
