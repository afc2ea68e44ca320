"""Suspending and resuming scopes and single records: a reversible mark in the store, with its event; no key is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy.engine import Connection

from keyvault.admission import check_record
from keyvault.clock import Clock
from keyvault.errors import KeyVaultError, UnknownScopeError
from keyvault.events import EventType, b64, make_event
from keyvault.results import caught
from keyvault.states import Action, KeyState, apply, check_issuable
from keyvault.store import fenced_records, outbox
from keyvault.store import scopes as scope_store
from keyvault.store.database import Database
from keyvault.store.fenced_records import RecordKey, RecordRow
from keyvault.store.scopes import ScopeRow

RESULTS: Mapping[Action, tuple[KeyState, EventType]] = {
    Action.SUSPEND: (KeyState.SUSPENDED, EventType.SCOPE_SUSPENDED),
    Action.RESUME: (KeyState.ACTIVE, EventType.SCOPE_RESUMED),
}


RECORD_EVENTS: Mapping[Action, EventType] = {
    Action.SUSPEND: EventType.RECORD_SUSPENDED,
    Action.RESUME: EventType.RECORD_RESUMED,
}
_MOVABLE = frozenset({KeyState.ACTIVE, KeyState.SUSPENDED})


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


def move_records(
    database: Database, clock: Clock, scope_id: bytes, tags: Sequence[bytes], action: Action
) -> list[KeyState | KeyVaultError]:
    """Apply SUSPEND or RESUME to records of a scope, in one transaction; return each one's state.

    A record that is there already stays, without an event. Raises what forbids it for the whole scope; errors a record:
    `ScopeFencedError`, `ScopeDestroyedError`.
    """

    def work(connection: Connection) -> list[KeyState | KeyVaultError]:
        row = scope_store.by_id(connection, [scope_id], lock=True)[scope_id]
        if row.state is not KeyState.SUSPENDED:
            check_issuable(row.state, row.id)
        marks = fenced_records.by_key(connection, [(scope_id, tag) for tag in tags], lock=True)
        movable = [tag for tag in tags if (scope_id, tag) not in marks or marks[scope_id, tag].state in _MOVABLE]
        moved = sorted(tag for _, tag in _mark_records(connection, [(scope_id, tag) for tag in movable], action))
        if moved:
            payload = {"scope": b64(row.commitment), "scope_id": b64(row.id), "records": [b64(tag) for tag in moved]}
            outbox.append(connection, [make_event(RECORD_EVENTS[action], payload, at=clock.now())])
        return [RESULTS[action][0] if tag in movable else _ended(marks[scope_id, tag]) for tag in tags]

    return database.write(work)


def _mark_records(connection: Connection, keys: Sequence[RecordKey], action: Action) -> set[RecordKey]:
    if action is Action.RESUME:
        return fenced_records.remove(connection, keys, state=KeyState.SUSPENDED)
    return fenced_records.put(connection, keys, before=[], after=KeyState.SUSPENDED)


def _ended(mark: RecordRow) -> KeyState | KeyVaultError:
    error = caught(check_record, mark)
    return mark.state if error is None else error


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
    rows[lookup] = row._replace(state=after)
    return rows[lookup]
