"""Creating scopes: concurrent creators of one name get the same scope, and a crash leaves no key behind unnoticed.

Order: the custody makes the keys and announces them first; one transaction then writes the rows, their `scope.created` events,
and takes the announcements. Whoever loses that transaction's race hands its keys over for deletion and uses the winner's row.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from sqlalchemy.engine import Connection

from keyvault.clock import Clock
from keyvault.custody.base import Custody, Identity, Placement
from keyvault.errors import (
    KeyVaultError,
    RenewalRefusedError,
    ScopeDestroyedError,
    ScopeFencedError,
    Unavailable,
)
from keyvault.events import Event, EventType, Value, b64, instant, make_event
from keyvault.identity import commit, encode_identity
from keyvault.results import caught, value_of
from keyvault.scopes import Scope, check_creatable
from keyvault.states import KeyState
from keyvault.store import outbox
from keyvault.store import scopes as scope_store
from keyvault.store.database import Database
from keyvault.store.scopes import ScopeRow
from keyvault.system_keys import SystemKeys

ATTEMPTS = 5
SALT_BYTES = 32
ID_BYTES = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class _Draft:
    row: ScopeRow
    placement: Placement
    event: Event


class ScopeCreator:
    """Finds scopes by name and creates the missing ones."""

    def __init__(self, database: Database, custody: Custody, keys: SystemKeys, clock: Clock) -> None:
        """Create under `custody`; scopes that exist keep theirs."""
        self._database = database
        self._custody = custody
        self._keys = keys
        self._clock = clock

    def ensure(self, scopes: Sequence[Scope], *, renew: bool) -> dict[Scope, ScopeRow | KeyVaultError]:
        """Return each scope's live row, made now where there was none."""
        results: dict[Scope, ScopeRow | KeyVaultError] = {}
        for _ in range(ATTEMPTS):
            results |= self._create(self._missing([s for s in scopes if s not in results], results, renew=renew))
            if all(scope in results for scope in scopes):
                return results
        busy = Unavailable("other creators keep getting in the way of this scope: try again")
        return {scope: results.get(scope, busy) for scope in scopes}

    def _missing(
        self, scopes: Sequence[Scope], results: dict[Scope, ScopeRow | KeyVaultError], *, renew: bool
    ) -> dict[Scope, int]:
        """Sort the scopes into `results` and, by the generation they need, those to create."""
        lookups = {scope: self._keys.lookup(scope.canonical) for scope in dict.fromkeys(scopes)}
        rows = self._database.read(lambda connection: scope_store.newest_by_lookup(connection, lookups.values()))
        missing: dict[Scope, int] = {}
        for scope, lookup in lookups.items():
            try:
                row = rows.get(lookup)
                if row is not None and _usable(row, scope, renew=renew):
                    results[scope] = row
                    continue
                check_creatable(scope, self._clock.now())
                missing[scope] = 1 if row is None else row.generation + 1
            except KeyVaultError as error:
                results[scope] = error
        return missing

    def _create(self, missing: Mapping[Scope, int]) -> dict[Scope, ScopeRow | KeyVaultError]:
        """Try to create; a scope that is in neither values nor errors lost a race and is looked up again."""
        results: dict[Scope, ScopeRow | KeyVaultError] = {}
        scopes = list(missing)
        for start in range(0, len(scopes), scope_store.CHUNK):
            group = scopes[start : start + scope_store.CHUNK]
            drafts: dict[Scope, _Draft] = {}
            for scope, draft in zip(group, self._draft(group, missing), strict=True):
                if isinstance(draft, KeyVaultError):
                    results[scope] = draft
                else:
                    drafts[scope] = draft
            won = self._database.write(partial(self._insert, drafts=drafts))
            results |= {scope: drafts[scope].row for scope in won}
        return results

    def _draft(self, scopes: Sequence[Scope], generations: Mapping[Scope, int]) -> list[_Draft | KeyVaultError]:
        placements = self._custody.prepare(scopes)
        ids = [secrets.token_bytes(ID_BYTES) for _ in scopes]
        salts = [secrets.token_bytes(SALT_BYTES) for _ in scopes]
        identities = [
            Identity(
                placement=placement,
                scope_id=scope_id,
                data=encode_identity(salt, self._keys.lookup(scope.canonical), scope.canonical),
            )
            for scope, placement, scope_id, salt in zip(scopes, placements, ids, salts, strict=True)
            if isinstance(placement, Placement)
        ]
        sealed = iter(self._custody.seal_identities(identities))

        def draft(scope: Scope, placement: Placement | KeyVaultError, scope_id: bytes, salt: bytes) -> _Draft:
            place = value_of(placement)
            row = self._row(scope, generations[scope], place, identity=(scope_id, salt), sealed=value_of(next(sealed)))
            return _Draft(row=row, placement=place, event=self._event(row))

        return [caught(draft, *item) for item in zip(scopes, placements, ids, salts, strict=True)]

    def _insert(self, connection: Connection, drafts: Mapping[Scope, _Draft]) -> set[Scope]:
        bound = self._custody.bind(connection, [draft.placement for draft in drafts.values()])
        ready = {scope: draft for scope, draft in drafts.items() if draft.placement in bound}
        inserted = scope_store.insert_new(connection, [draft.row for draft in ready.values()])
        won = {scope for scope, draft in ready.items() if draft.row.id in inserted}
        outbox.append(connection, [ready[scope].event for scope in ready if scope in won])
        self._custody.discard(connection, [draft.placement for scope, draft in ready.items() if scope not in won])
        return won

    def _row(
        self, scope: Scope, generation: int, placement: Placement, *, identity: tuple[bytes, bytes], sealed: str
    ) -> ScopeRow:
        scope_id, salt = identity
        return ScopeRow(
            id=scope_id,
            generation=generation,
            custody=self._custody.code,
            key_ref=placement.key_ref,
            ring_id=placement.ring_id,
            slot=placement.slot,
            kind=scope.kind,
            period=scope.period,
            due_at=scope.due_at,
            account=None if scope.account is None else self._keys.pseudonym_of("account", scope.account),
            lookup=self._keys.lookup(scope.canonical),
            commitment=commit(salt, scope.canonical),
            salt=None if scope.rules.names_person else salt,
            sealed_name=sealed,
            state=KeyState.ACTIVE,
            created_at=self._clock.now(),
        )

    def _event(self, row: ScopeRow) -> Event:
        """Build `scope.created`, with what rebuilds the row sealed: placement under the journal key, the rest under its own."""
        payload: dict[str, Value] = {
            "scope": b64(row.commitment),
            "scope_id": b64(row.id),
            "generation": row.generation,
            "kind": str(row.kind),
            "period": row.period,
            "due_at": _instant(row.due_at),
            "custody": self._custody.name,
            "account": b64(row.account) if row.account else None,
            "placement": sealed_placement(self._keys, row),
            "sealed": row.sealed_name,
        }
        return make_event(EventType.SCOPE_CREATED, payload, at=row.created_at)


def sealed_placement(keys: SystemKeys, row: ScopeRow) -> str:
    """Return where a row's key sits, and its salt, as events carry them: sealed under the journal key."""
    placement = {
        "key_ref": row.key_ref,
        "ring": row.ring_id.hex() if row.ring_id else None,
        "slot": row.slot,
        "salt": row.salt.hex() if row.salt else None,
    }
    return b64(keys.seal_journal(json.dumps(placement).encode(), row.id))


def _instant(moment: datetime | None) -> str | None:
    return None if moment is None else instant(moment)


def _usable(row: ScopeRow, scope: Scope, *, renew: bool) -> bool:
    """Return whether the row serves; False when a new generation may be made. Raises when neither."""
    if row.state is KeyState.DEACTIVATED:
        raise ScopeFencedError(f"scope {row.id.hex()} is being destroyed; it never comes back")
    if row.state is not KeyState.DESTROYED:
        return True
    if not renew:
        raise ScopeDestroyedError(
            f"scope {row.id.hex()} is destroyed: its name gets a new generation only by an explicit renewal"
        )
    if not scope.rules.renewable:
        raise RenewalRefusedError(f"the policy allows no new generation of a {scope.kind.value} scope")
    return False
