"""Queries on scopes. Rows leave as frozen values; the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.scopes import ScopeKind
from keyvault.states import KeyState, SuspendedBy
from keyvault.store.dialects import conditions, insert_rows, joined_conditions
from keyvault.store.tables import destructions, rings, scopes


class ScopeRow(NamedTuple):
    """One generation of a scope. `id` 16 bytes; `lookup`, `commitment`, `salt`, `account` 32 bytes each.

    `fenced_at` and `lease_bound` are its destruction's. `ring_epoch` is the furthest epoch that its ring's state was known to have when the row was read.
    """

    id: bytes
    generation: int
    custody: int
    kind: ScopeKind
    lookup: bytes | None
    commitment: bytes
    sealed_name: str | None
    state: KeyState
    created_at: datetime
    suspended_by: SuspendedBy | None = None
    key_ref: str | None = None
    ring_id: bytes | None = None
    slot: int | None = None
    period: str | None = None
    due_at: datetime | None = None
    account: bytes | None = None
    salt: bytes | None = None
    fenced_at: datetime | None = None
    destroyed_at: datetime | None = None
    lease_bound: datetime | None = None
    horizon: datetime | None = None
    destroy_id: bytes | None = None
    ring_epoch: int = 0


def newest_by_lookup(connection: Connection, lookups: Iterable[bytes]) -> dict[bytes, ScopeRow]:
    """Return, for each look-up HMAC that is known, its newest generation.

    That is the one that is not destroyed, if there is one. Each kind has an index of its own, so there is a query for each.
    """
    wanted = set(lookups)
    found: dict[bytes, ScopeRow] = {}
    for condition in joined_conditions(connection, scopes.c.lookup, wanted):
        for row in connection.execute(_SELECT.where(condition, LIVE)).fetchall():
            found[row[LOOKUP_AT]] = _value(row)
    for condition in conditions(connection, scopes.c.lookup, wanted - found.keys()):
        query = _SELECT.where(condition, DESTROYED).order_by(scopes.c.generation)
        for row in connection.execute(query).fetchall():
            found[row[LOOKUP_AT]] = _value(row)
    return found


def by_id(connection: Connection, ids: Iterable[bytes], *, lock: bool = False) -> dict[bytes, ScopeRow]:
    """Return the rows of these ids; `lock` holds them until the transaction ends."""
    found: dict[bytes, ScopeRow] = {}
    for condition in conditions(connection, scopes.c.id, ids):
        query = _SELECT.where(condition).order_by(scopes.c.id)
        for row in connection.execute(query.with_for_update(of=scopes) if lock else query):
            found[row.id] = _value(row)
    return found


def of_account(connection: Connection, account: bytes, kinds: Iterable[ScopeKind]) -> list[ScopeRow]:
    """Return every scope of these kinds that an account has or had, by its pseudonym (32 bytes), in order of id."""
    wanted = scopes.c.kind.in_(sorted(str(kind) for kind in kinds))
    query = _SELECT.where(scopes.c.account == account, wanted).order_by(scopes.c.id)
    return [_value(row) for row in connection.execute(query)]


def insert_new(connection: Connection, rows: Sequence[ScopeRow]) -> set[bytes]:
    """Insert the rows whose name has no such generation and no live one; return the ids that went in.

    The rest lost against another creator. Rows go in by order of look-up, so that two creators cannot deadlock.
    """
    if not rows:
        return set()
    ordered = sorted(rows, key=lambda row: row.lookup or b"")
    values = dict(zip(ScopeRow._fields, zip(*ordered, strict=True), strict=True))
    columns = {name: values[name] for name in COLUMNS}
    new = set(insert_rows(connection, scopes, columns, returning=scopes.c.id))
    return new - _take_back_used(connection, [row for row in rows if row.id in new])


def _take_back_used(connection: Connection, rows: Sequence[ScopeRow]) -> set[bytes]:
    """Take back what was just inserted where its generation is one that was destroyed, and return which.

    Uniqueness keeps live rows apart, and destroyed ones, but not one from the other. A row that was live when these went in would
    have kept them out, and none can come to be beside them: so a rival is destroyed, committed, and seen by these statements, of which
    the first alone is enough for nearly all.
    """
    destroyed: set[bytes] = set()
    for condition in conditions(connection, scopes.c.lookup, [row.lookup for row in rows]):
        destroyed.update(connection.execute(sa.select(scopes.c.lookup).where(condition, DESTROYED)).scalars())
    ids = [row.id for row in rows if row.lookup in destroyed]
    taken: set[bytes] = set()
    used = scopes.alias("used")
    for condition in conditions(connection, scopes.c.id, ids):
        statement = sa.delete(scopes).where(
            condition,
            sa.exists().where(
                used.c.lookup == scopes.c.lookup,
                used.c.state == sa.literal_column(f"'{KeyState.DESTROYED}'"),
                used.c.generation >= scopes.c.generation,
                used.c.id != scopes.c.id,
            ),
        )
        taken.update(connection.execute(statement.returning(scopes.c.id)).scalars())
    return taken


def fence(
    connection: Connection, ids: Iterable[bytes], destroy_id: bytes
) -> dict[bytes, tuple[int, bytes | None, int | None]]:
    """Fence the live ones of these rows for a destruction; return custody, ring and slot of each, by id.

    Where a key sits may have changed since a row was read, and does not after this.
    """
    fenced: dict[bytes, tuple[int, bytes | None, int | None]] = {}
    for condition in conditions(connection, scopes.c.id, ids):
        statement = (
            sa.update(scopes)
            .where(condition, scopes.c.state.in_([str(KeyState.ACTIVE), str(KeyState.SUSPENDED)]))
            .values(state=str(KeyState.DEACTIVATED), suspended_by=None, destroy_id=destroy_id)
            .returning(scopes.c.id, scopes.c.custody, scopes.c.ring_id, scopes.c.slot)
        )
        fenced |= {scope_id: tuple(place) for scope_id, *place in connection.execute(statement)}
    return fenced


def change_state(
    connection: Connection,
    ids: Iterable[bytes],
    *,
    before: Sequence[KeyState],
    after: KeyState,
    suspended_by: SuspendedBy | None = None,
    **columns: Any,
) -> set[bytes]:
    """Move the rows that are in one of `before` to `after`, set `columns` on them, and return their ids.

    `suspended_by` goes with `SUSPENDED`, and with no other state.
    """
    changed: set[bytes] = set()
    for condition in conditions(connection, scopes.c.id, ids):
        statement = (
            sa.update(scopes)
            .where(condition, scopes.c.state.in_([str(state) for state in before]))
            .values(state=str(after), suspended_by=suspended_by, **columns)
            .returning(scopes.c.id)
        )
        changed.update(connection.execute(statement).scalars())
    return changed


def awaiting_destruction(connection: Connection, *, limit: int | None = None) -> list[bytes]:
    """Return the ids of fenced scopes, oldest destruction first."""
    query = sa.select(scopes.c.id).where(PENDING)
    return list(connection.execute(query.order_by(scopes.c.destroy_id, scopes.c.id).limit(limit)).scalars())


def acknowledge(
    connection: Connection,
    ids: Iterable[bytes],
    *,
    destroy_ids: Iterable[bytes],
    people: Iterable[ScopeKind],
    at: datetime,
    horizon: datetime,
) -> set[bytes]:
    """Mark scopes that these destructions have fenced as destroyed; return which.

    Their sealed names go, and of these kinds their salts. The destructions are named for the index of what is pending: without them,
    each batch of a large run would pass by all that is pending in the run.
    """
    forgotten = scopes.c.kind.in_(sorted(str(kind) for kind in people))
    done: set[bytes] = set()
    of_these = list(conditions(connection, scopes.c.destroy_id, destroy_ids))
    for condition in conditions(connection, scopes.c.id, ids):
        for of_some in of_these:
            statement = (
                sa.update(scopes)
                .where(condition, of_some, PENDING)
                .values(
                    state=str(KeyState.DESTROYED),
                    sealed_name=None,
                    salt=sa.case((forgotten, None), else_=scopes.c.salt),
                    destroyed_at=at,
                    horizon=horizon,
                )
                .returning(scopes.c.id)
            )
            done.update(connection.execute(statement).scalars())
    return done


def ring_ids(connection: Connection, ids: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return the ring of each of these scopes that is in one."""
    found: dict[bytes, bytes] = {}
    for condition in conditions(connection, scopes.c.id, ids):
        query = sa.select(scopes.c.id, scopes.c.ring_id).where(condition, scopes.c.ring_id.is_not(None))
        found |= {row.id: row.ring_id for row in connection.execute(query)}
    return found


def forget_lookups(connection: Connection, *, kinds: Iterable[ScopeKind], now: datetime) -> None:
    """Remove the look-up HMACs of destroyed scopes of these kinds whose backup horizon has passed."""
    connection.execute(
        sa.update(scopes)
        .where(
            DESTROYED,
            scopes.c.lookup.is_not(None),
            scopes.c.salt.is_(
                None
            ),  # as it is of all that name a person, and of no others, which keep their look-ups for good
            scopes.c.horizon <= now,
            scopes.c.kind.in_([str(kind) for kind in kinds]),
        )
        .values(lookup=None)
    )


def count_by_state(connection: Connection) -> Mapping[KeyState, int]:
    """Return how many scopes are in each state."""
    query = sa.select(scopes.c.state, sa.func.count()).group_by(scopes.c.state)
    counted = dict.fromkeys(KeyState, 0)
    counted.update({KeyState(state): count for state, count in connection.execute(query)})
    return counted


def page(
    connection: Connection, *, after: bytes, limit: int, kind: ScopeKind | None = None, state: KeyState | None = None
) -> list[ScopeRow]:
    """Return rows by id, those behind `after`, at most `limit`."""
    query = _SELECT.where(scopes.c.id > after)
    if kind is not None:
        query = query.where(scopes.c.kind == str(kind))
    if state is not None:
        query = query.where(scopes.c.state == str(state))
    return [_value(row) for row in connection.execute(query.order_by(scopes.c.id).limit(limit))]


def key_refs(connection: Connection, references: Iterable[str]) -> set[str]:
    """Return which of these key references a scope's row holds."""
    held: set[str] = set()
    for condition in conditions(connection, scopes.c.key_ref, references):
        held.update(connection.execute(sa.select(scopes.c.key_ref).where(condition)).scalars())
    return held


def all_key_refs(connection: Connection) -> set[str]:
    """Return every key reference that a row holds, destroyed ones included."""
    return set(connection.execute(sa.select(scopes.c.key_ref).where(scopes.c.key_ref.is_not(None))).scalars())


NOT_COLUMNS = frozenset({"ring_epoch", "fenced_at", "lease_bound"})
COLUMNS = tuple(name for name in ScopeRow._fields if name not in NOT_COLUMNS)
LIVE: sa.ColumnElement[bool] = sa.literal_column("scopes.state <> 'destroyed'")
PENDING: sa.ColumnElement[bool] = sa.literal_column("scopes.state = 'deactivated'")
DESTROYED: sa.ColumnElement[bool] = sa.literal_column("scopes.state = 'destroyed'")
KINDS = {str(kind): kind for kind in ScopeKind}
STATES = {str(state): state for state in KeyState}
KIND_AT, LOOKUP_AT, STATE_AT, BY_AT = map(ScopeRow._fields.index, ("kind", "lookup", "state", "suspended_by"))


def _selected() -> sa.Select[Any]:
    joined: dict[str, sa.ColumnElement[Any]] = {
        "ring_epoch": sa.func.coalesce(rings.c.epoch, 0).label("ring_epoch"),
        "fenced_at": destructions.c.fenced_at,
        "lease_bound": destructions.c.lease_bound,
    }
    return sa.select(*(joined[name] if name in joined else scopes.c[name] for name in ScopeRow._fields)).select_from(
        scopes.outerjoin(rings, scopes.c.ring_id == rings.c.id).outerjoin(
            destructions, scopes.c.destroy_id == destructions.c.id
        )
    )


# Built once: for a single scope that takes longer than to run it.
_SELECT = _selected()


def _value(row: sa.Row[Any]) -> ScopeRow:
    values = list(row)
    values[KIND_AT] = KINDS[values[KIND_AT]]
    values[STATE_AT] = STATES[values[STATE_AT]]
    if values[BY_AT] is not None:
        values[BY_AT] = SuspendedBy(values[BY_AT])
    return ScopeRow._make(values)
