"""Suspending and resuming scopes and single records: a reversible mark in the store, with its event; no key is touched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy.engine import Connection

from keyvault.admission import check_record
from keyvault.clock import Clock
from keyvault.errors import AccountInactiveError, KeyVaultError, UnknownScopeError
from keyvault.events import EventType, b64, make_event
from keyvault.results import caught
from keyvault.scopes import SUBJECTS
from keyvault.states import Action, KeyState, SuspendedBy, apply, check_issuable
from keyvault.store import fenced_records, outbox, subjects
from keyvault.store import scopes as scope_store
from keyvault.store.database import Database
from keyvault.store.fenced_records import RecordKey, RecordRow
from keyvault.store.scopes import ScopeRow
from keyvault.subjects import AccountStatus, SubjectKind

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

    A scope that is there already stays, without an event; a scope is resumed only while its account is active, and not where facts
    suspended it. Errors: `UnknownScopeError`, `AccountInactiveError`, `ScopeFencedError`, `ScopeDestroyedError`.
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

    A record that is there already stays, without an event. Raises what forbids it for the whole scope, `AccountInactiveError` among it;
    errors a record: `ScopeFencedError`, `ScopeDestroyedError`.
    """

    def work(connection: Connection) -> list[KeyState | KeyVaultError]:
        row = scope_store.by_id(connection, [scope_id], lock=True)[scope_id]
        if row.state is not KeyState.SUSPENDED:
            check_issuable(row.state, row.id)
        if action is Action.RESUME:
            _check_resumable(connection, row)
        marks = fenced_records.by_key(connection, [(scope_id, tag) for tag in tags], lock=True)
        movable = [tag for tag in tags if (scope_id, tag) not in marks or marks[scope_id, tag].state in _MOVABLE]
        _move_marks(connection, clock, row, movable, action)
        return [RESULTS[action][0] if tag in movable else _ended(marks[scope_id, tag]) for tag in tags]

    return database.write(work)


def resume_items(connection: Connection, clock: Clock, items: Sequence[RecordKey]) -> None:
    """Bring back what users deleted, in the caller's transaction: scopes, and records of account-months by their tags.

    What is not suspended, or not by a user, stays as it is. Raises `AccountInactiveError`, and then nothing is brought back.
    """
    rows = scope_store.by_id(connection, {scope for scope, _ in items}, lock=True)
    whole = [rows[scope] for scope, tag in items if not tag]
    for row in whole:
        if row.state is KeyState.SUSPENDED and row.suspended_by is SuspendedBy.USER:
            _check_resumable(connection, row)
            _change(connection, clock, row, Action.RESUME)
    for scope in dict.fromkeys(scope for scope, tag in items if tag):
        _check_resumable(connection, rows[scope])
        tags = [tag for of, tag in items if of == scope and tag]
        _move_marks(connection, clock, rows[scope], tags, Action.RESUME)


def _check_resumable(connection: Connection, row: ScopeRow) -> None:
    """Raise `AccountInactiveError` unless a user's deletion is all that keeps a scope from use."""
    if row.state is KeyState.SUSPENDED and row.suspended_by is not SuspendedBy.USER:
        raise AccountInactiveError(
            f"scope {row.id.hex()} was suspended because of what was reported about its {SUBJECTS[row.kind]}: "
            "it comes back when that is taken back, and not by hand"
        )
    if SUBJECTS[row.kind] != SubjectKind.ACCOUNT or row.account is None:
        return
    account = subjects.by_id(connection, [row.account]).get(row.account)
    if account is not None and account.status != AccountStatus.ACTIVE:
        raise AccountInactiveError(
            f"the account of scope {row.id.hex()} is {account.status}: what was deleted comes back only while it is active; "
            "`keyvault facts import` reports a reactivation"
        )


def _move_marks(connection: Connection, clock: Clock, row: ScopeRow, tags: Sequence[bytes], action: Action) -> None:
    moved = sorted(tag for _, tag in _mark_records(connection, [(row.id, tag) for tag in tags], action))
    if moved:
        payload = {"scope": b64(row.commitment), "scope_id": b64(row.id), "records": [b64(tag) for tag in moved]}
        outbox.append(connection, [make_event(RECORD_EVENTS[action], payload, at=clock.now())])


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
    target, _ = RESULTS[action]
    if row.state is target:
        return row
    if row.state not in {KeyState.ACTIVE, KeyState.SUSPENDED}:
        check_issuable(row.state, row.id)
    if action is Action.RESUME:
        _check_resumable(connection, row)
    rows[lookup] = _change(connection, clock, row, action)
    return rows[lookup]


def _change(connection: Connection, clock: Clock, row: ScopeRow, action: Action) -> ScopeRow:
    after, why = apply(row.state, action), SuspendedBy.USER if action is Action.SUSPEND else None
    scope_store.change_state(connection, [row.id], before=[row.state], after=after, suspended_by=why)
    payload = {"scope": b64(row.commitment), "scope_id": b64(row.id), **({} if why is None else {"cause": why.code})}
    outbox.append(connection, [make_event(RESULTS[action][1], payload, at=clock.now())])
    return row._replace(state=after, suspended_by=why)
