"""Suspending and resuming scopes: a reversible mark in the store, with its event; no key is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from sqlalchemy.engine import Connection

from keyvault.clock import Clock
from keyvault.errors import KeyVaultError, UnknownScopeError
from keyvault.events import EventType, b64, make_event
from keyvault.results import caught
from keyvault.states import Action, KeyState, apply, check_issuable
from keyvault.store import outbox
from keyvault.store import scopes as scope_store
from keyvault.store.database import Database
from keyvault.store.scopes import ScopeRow

RESULTS: Mapping[Action, tuple[KeyState, EventType]] = {
    Action.SUSPEND: (KeyState.SUSPENDED, EventType.SCOPE_SUSPENDED),
    Action.RESUME: (KeyState.ACTIVE, EventType.SCOPE_RESUMED),
}


def move_scopes(
    database: Database, clock: Clock, lookups: Sequence[bytes], action: Action
) -> list[ScopeRow | KeyVaultError]:
    """Apply SUSPEND or RESUME to the newest generation of each name, in one transaction.

    A scope that is there already stays, without an event. Errors: `UnknownScopeError`, `ScopeFencedError`, `ScopeDestroyedError`.
    """

    def work(connection: Connection) -> list[ScopeRow | KeyVaultError]:
        newest = scope_store.newest_by_lookup(connection, lookups)
        locked = scope_store.by_id(connection, [row.id for row in newest.values()], lock=True)
        rows = {lookup: locked[row.id] for lookup, row in newest.items()}
        return [caught(_move, connection, clock, rows, lookup, action) for lookup in lookups]

    return database.write(work)


def _move(connection: Connection, clock: Clock, rows: dict[bytes, ScopeRow], lookup: bytes, action: Action) -> ScopeRow:
    row = rows.get(lookup)
    if row is None:
        raise UnknownScopeError("no scope of that name in this store")
    target, event_type = RESULTS[action]
    if row.state is target:
        return row
    if row.state not in {KeyState.ACTIVE, KeyState.SUSPENDED}:
        check_issuable(row.state, row.id)
    after = apply(row.state, action)
    scope_store.change_state(connection, [row.id], before=[row.state], after=after)
    payload = {"scope": b64(row.commitment), "scope_id": b64(row.id)}
    outbox.append(connection, [make_event(event_type, payload, at=clock.now())])
    rows[lookup] = replace(row, state=after)
    return rows[lookup]
