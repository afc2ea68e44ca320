"""Creating scopes: concurrent creators of one name get the same scope, and a crash leaves no key behind unnoticed.

Order: the custody makes the keys and announces them first; one transaction then writes the rows, their `scope.created` events,
and takes the announcements. Whoever loses that transaction's race hands its keys over for deletion and uses the winner's row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from typing import NamedTuple

from sqlalchemy.engine import Connection

from keyvault.batches import uncollected
from keyvault.clock import Clock
from keyvault.concurrency import one_ahead
from keyvault.custody.base import Custody, Identity, Placement
from keyvault.errors import (
    KeyVaultError,
    RenewalRefusedError,
    ScopeDestroyedError,
    ScopeFencedError,
    SubjectEndedError,
    Unavailable,
)
from keyvault.events import Event, EventTemplate, EventType, Value, b64, instant, make_event
from keyvault.formats import random_pieces
from keyvault.identity import commit, encode_identity
from keyvault.scopes import Scope, ScopeKind, check_creatable
from keyvault.states import KeyState, SuspendedBy
from keyvault.store import log as log_store
from keyvault.store import outbox
from keyvault.store import scopes as scope_store
from keyvault.store import subjects as subject_store
from keyvault.store.database import Database
from keyvault.store.dialects import chunks
from keyvault.store.scopes import ScopeRow
from keyvault.subjects import FOLLOW_STANDING
from keyvault.system_keys import SystemKeys

ATTEMPTS = 5
SALT_BYTES = 32
ID_BYTES = 16
GROUP = 2_500
"""Scopes that are prepared, and written in one transaction, together."""


class _Wanted(NamedTuple):
    """A scope to create: its look-up HMAC, and the generation it is to have."""

    scope: Scope
    lookup: bytes
    generation: int


class _Draft(NamedTuple):
    scope: Scope
    row: ScopeRow
    placement: Placement
    event: Event


_Drafts = Mapping[bytes, _Draft]
"""By the id of the new scope."""


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
            self._attempt([scope for scope in dict.fromkeys(scopes) if scope not in results], results, renew=renew)
            if all(scope in results for scope in scopes):
                return results
        busy = Unavailable("other creators keep getting in the way of this scope: try again")
        return {scope: results.get(scope, busy) for scope in scopes}

    def _attempt(self, scopes: Sequence[Scope], results: dict[Scope, ScopeRow | KeyVaultError], *, renew: bool) -> None:
        """Find or create, into `results`; a scope that is not there afterwards lost a race and is to be looked up again.

        While one group is written to the database, the next is made ready.
        """
        groups = (self._missing(some, results, renew=renew) for some in chunks(scopes, GROUP))
        drafted = (self._draft(group, results) for group in groups if group)
        for written in one_ahead(partial(self._write, drafts) for drafts in drafted):
            results |= written

    @uncollected()
    def _missing(
        self, scopes: Sequence[Scope], results: dict[Scope, ScopeRow | KeyVaultError], *, renew: bool
    ) -> list[_Wanted]:
        """Sort the scopes into `results` and those to create."""
        lookups = {scope: self._keys.lookup(scope.canonical) for scope in scopes}
        rows = self._database.read(lambda connection: scope_store.newest_by_lookup(connection, lookups.values()))
        now = self._clock.now()
        missing = []
        for scope, lookup in lookups.items():
            try:
                row = rows.get(lookup)
                if row is not None and _usable(row, scope, renew=renew):
                    results[scope] = row
                    continue
                check_creatable(scope, now)
                missing.append(_Wanted(scope, lookup, 1 if row is None else row.generation + 1))
            except KeyVaultError as error:
                results[scope] = error
        return self._without_ended(missing, results, now)

    def _without_ended(
        self, missing: Sequence[_Wanted], results: dict[Scope, ScopeRow | KeyVaultError], now: datetime
    ) -> list[_Wanted]:
        """Leave out, with an error in `results`, what facts about its subject let nothing new be put under."""
        pseudonym = cache(self._keys.pseudonym_of)
        subjects = {wanted.scope: pseudonym(*wanted.scope.subject) for wanted in missing}
        if not subjects:
            return []
        ended = self._database.read(lambda connection: subject_store.ended(connection, subjects.values(), now=now))
        for scope, subject in subjects.items():
            if subject in ended:
                results[scope] = SubjectEndedError(
                    f"the {scope.subject[0]} of this {scope.kind.value} scope ({subject.hex()}) is closed or due, by facts that were "
                    "reported: nothing new may be put under it; if they are wrong, report what is right"
                )
        return [wanted for wanted in missing if wanted.scope not in results]

    @uncollected()
    def _draft(self, group: Sequence[_Wanted], results: dict[Scope, ScopeRow | KeyVaultError]) -> _Drafts:
        """Have keys made, and make rows and events; what cannot be made goes into `results`."""
        placements = self._custody.prepare([wanted.scope for wanted in group])
        ids, salts = random_pieces(len(group), ID_BYTES), random_pieces(len(group), SALT_BYTES)
        placed = []
        for wanted, placement, scope_id, salt in zip(group, placements, ids, salts, strict=True):
            if isinstance(placement, KeyVaultError):
                results[wanted.scope] = placement
            else:
                placed.append((wanted, placement, scope_id, salt))
        identities = [
            Identity(
                placement=placement,
                scope_id=scope_id,
                data=encode_identity(salt, wanted.lookup, wanted.scope.canonical),
            )
            for wanted, placement, scope_id, salt in placed
        ]
        drafts = {}
        now = self._clock.now()
        subject = cache(self._keys.pseudonym_of)
        template = cache(partial(self._template, at=now))
        for (wanted, placement, scope_id, salt), sealed in zip(
            placed, self._custody.seal_identities(identities), strict=True
        ):
            if isinstance(sealed, KeyVaultError):
                results[wanted.scope] = sealed
                continue
            scope = wanted.scope
            row = ScopeRow(
                id=scope_id,
                generation=wanted.generation,
                custody=self._custody.code,
                key_ref=placement.key_ref,
                ring_id=placement.ring_id,
                slot=placement.slot,
                kind=scope.kind,
                period=scope.period,
                due_at=scope.due_at,
                account=subject(*scope.subject),
                lookup=wanted.lookup,
                commitment=commit(salt, scope.canonical),
                salt=None if scope.rules.names_person else salt,
                sealed_name=sealed,
                state=KeyState.ACTIVE,
                created_at=now,
            )
            drafts[scope_id] = _Draft(scope, row, placement, self._event(row, template))
        return drafts

    def _write(self, drafts: _Drafts) -> dict[Scope, ScopeRow | KeyVaultError]:
        won = self._database.write(partial(self._insert, drafts=drafts))
        return {drafts[row.id].scope: row for row in won}

    def _insert(self, connection: Connection, drafts: _Drafts) -> list[ScopeRow]:
        # Facts may have ended a subject since it was looked up: what is refused here is told why at the next attempt.
        subject_store.hold_unsettled(connection)
        subjects = [draft.row.account for draft in drafts.values() if draft.row.account]
        ended = subject_store.ended(connection, subjects, now=self._clock.now())
        bound = self._custody.bind(connection, [draft.placement for draft in drafts.values()])
        ready = [draft for draft in drafts.values() if draft.placement in bound]
        won = scope_store.insert_new(connection, [draft.row for draft in ready if draft.row.account not in ended])
        last = outbox.append(connection, [draft.event for draft in ready if draft.row.id in won])
        self._custody.discard(connection, [draft.placement for draft in ready if draft.row.id not in won])
        if last is not None:
            log_store.hold_creations(connection, {draft.row.created_at for draft in ready if draft.row.id in won}, last)
        return self._followed(connection, [draft.row for draft in ready if draft.row.id in won])

    def _followed(self, connection: Connection, rows: Sequence[ScopeRow]) -> list[ScopeRow]:
        """Suspend what facts about its subject suspend already, and return all rows as they are now."""
        subjects = {row.account for row in rows if row.account is not None and row.kind in FOLLOW_STANDING}
        withheld = subject_store.withheld(connection, subjects, now=self._clock.now())
        after = [
            row._replace(state=KeyState.SUSPENDED, suspended_by=SuspendedBy.FACTS)
            if row.kind in FOLLOW_STANDING and row.account in withheld
            else row
            for row in rows
        ]
        held = [row for row in after if row.state is KeyState.SUSPENDED]
        if held:
            scope_store.change_state(
                connection,
                [row.id for row in held],
                before=[KeyState.ACTIVE],
                after=KeyState.SUSPENDED,
                suspended_by=SuspendedBy.FACTS,
            )
            payloads = [
                {"scope": b64(row.commitment), "scope_id": b64(row.id), "cause": SuspendedBy.FACTS.code} for row in held
            ]
            at = self._clock.now()
            outbox.append(connection, [make_event(EventType.SCOPE_SUSPENDED, payload, at=at) for payload in payloads])
        return after

    def _event(self, row: ScopeRow, template: Callable[..., EventTemplate]) -> Event:
        """Build `scope.created`, with what rebuilds the row sealed: placement under the journal key, the rest under its own."""
        return template(row.generation, row.kind, row.period, row.due_at).fill(
            {
                "scope": b64(row.commitment),
                "scope_id": b64(row.id),
                "account": b64(row.account) if row.account else None,
                "placement": sealed_placement(self._keys, row),
                "sealed": row.sealed_name,
            }
        )

    def _template(
        self, generation: int, kind: ScopeKind, period: str | None, due_at: datetime | None, *, at: datetime
    ) -> EventTemplate:
        shared: dict[str, Value] = {
            "generation": generation,
            "kind": str(kind),
            "period": period,
            "due_at": None if due_at is None else instant(due_at),
            "custody": self._custody.name,
        }
        return EventTemplate(
            EventType.SCOPE_CREATED, shared, ["scope", "scope_id", "account", "placement", "sealed"], at=at
        )


def sealed_placement(keys: SystemKeys, row: ScopeRow) -> str:
    """Return where a row's key sits, and of a name that is no person's salt and look-up, as events carry them: sealed under the journal key."""
    placement = {
        "key_ref": row.key_ref,
        "ring": row.ring_id.hex() if row.ring_id else None,
        "slot": row.slot,
        "salt": row.salt.hex() if row.salt else None,
    }
    if row.salt and row.lookup:  # a destroyed month is still refused after its row was rebuilt from this
        placement["lookup"] = row.lookup.hex()
    return b64(keys.seal_journal(json.dumps(placement).encode(), row.id))


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
