"""Queries on scopes. Rows leave as frozen values; the caller owns the transaction.

Scopes that one destruction fences are *grouped*: their rows say `deactivated`, and whether they are destroyed by now says the destruction's
row, for all of them at once (`keyvault.store.groups`). Whoever wants to know a state asks `actual_state`, or one of these functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.scopes import ScopeKind
from keyvault.states import KeyState, SuspendedBy
from keyvault.store.dialects import ARRAY_CHUNK, chunks, conditions, insert_rows
from keyvault.store.tables import destructions, rings, scopes, unpack_sealed


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

    That is the live one, if there is one. Live and ended ones have an index each, so there is a query for each.
    """
    wanted = set(lookups)
    found = {row.lookup: row for row in _read(connection, scopes.c.lookup, wanted, LIVE)}
    ended = _read(connection, scopes.c.lookup, wanted - found.keys(), ENDED)
    found |= {row.lookup: row for row in sorted(ended, key=GENERATION)}
    return {lookup: row for lookup, row in found.items() if lookup is not None}


def by_id(connection: Connection, ids: Iterable[bytes], *, lock: bool = False) -> dict[bytes, ScopeRow]:
    """Return the rows of these ids, in their order; `lock` holds them until the transaction ends."""
    if not lock:
        rows = _read(connection, scopes.c.id, set(ids), EVERY)
        return {row.id: row for row in sorted(rows, key=itemgetter(0))}
    found: dict[bytes, ScopeRow] = {}
    for condition in conditions(connection, scopes.c.id, ids):
        query = _SELECT.where(condition).order_by(scopes.c.id)
        for row in connection.execute(query.with_for_update(of=scopes)):
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
    """Take back what was just inserted where its generation is one that has ended, and return which.

    Uniqueness keeps live rows apart, and ended ones, but not one from the other. A row that was live when these went in would
    have kept them out, and none can come to be beside them: so a rival is fenced, committed, and seen by these statements, of which
    the first alone is enough for nearly all.
    """
    ended: set[bytes] = set()
    for condition in conditions(connection, scopes.c.lookup, [row.lookup for row in rows]):
        ended.update(connection.execute(sa.select(scopes.c.lookup).where(condition, ENDED)).scalars().all())
    ids = [row.id for row in rows if row.lookup in ended]
    taken: set[bytes] = set()
    used = scopes.alias("used")
    for condition in conditions(connection, scopes.c.id, ids):
        statement = sa.delete(scopes).where(
            condition,
            sa.exists().where(
                used.c.lookup == scopes.c.lookup,
                used.c.state.not_in([str(KeyState.ACTIVE), str(KeyState.SUSPENDED)]),
                used.c.generation >= scopes.c.generation,
                used.c.id != scopes.c.id,
            ),
        )
        taken.update(connection.execute(statement.returning(scopes.c.id)).scalars().all())
    return taken


def fence(
    connection: Connection, ids: Iterable[bytes], destroy_id: bytes, *, grouped: bool = False
) -> dict[bytes, tuple[int, bytes | None, int | None]]:
    """Fence the live ones of these rows for a destruction; return custody, ring and slot of each, by id.

    Where a key sits may have changed since a row was read, and does not after this. `grouped`: the destruction's row counts them.
    """
    fenced: dict[bytes, tuple[int, bytes | None, int | None]] = {}
    for condition in conditions(connection, scopes.c.id, ids):
        statement = (
            sa.update(scopes)
            .where(condition, LIVE)
            .values(state=str(KeyState.DEACTIVATED), suspended_by=None, destroy_id=destroy_id, grouped=grouped or None)
            .returning(scopes.c.id, scopes.c.custody, scopes.c.ring_id, scopes.c.slot)
        )
        fenced |= {scope_id: tuple(place) for scope_id, *place in connection.execute(statement).all()}
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
        changed.update(connection.execute(statement).scalars().all())
    return changed


def awaiting_destruction(connection: Connection, *, limit: int | None = None) -> list[bytes]:
    """Return the ids of fenced scopes, those of one destruction together."""
    order = scopes.c.destroy_id, scopes.c.id
    alone = sa.select(*order).where(PENDING).order_by(*order).limit(limit)
    in_groups = (
        sa.select(*order)
        .join(destructions, destructions.c.id == scopes.c.destroy_id)
        .where(GROUPED, scopes.c.state == str(KeyState.DEACTIVATED))
        .where(destructions.c.scopes.is_not(None), destructions.c.horizon.is_(None))
        .order_by(*order)
        .limit(limit)
    )
    found = [(cause, scope) for query in (alone, in_groups) for cause, scope in connection.execute(query)]
    return [scope for _, scope in sorted(found)[:limit]]


def acknowledge(
    connection: Connection,
    ids: Iterable[bytes],
    *,
    destroy_ids: Iterable[bytes],
    people: Iterable[ScopeKind],
    at: datetime,
    horizon: datetime,
) -> set[bytes]:
    """Mark scopes that these destructions have fenced, and that are in no group, as destroyed; return which.

    Their sealed names go, and of these kinds their salts. The destructions are named for the index of what is pending: without them,
    each batch of a large run would pass by all that is pending in the run.
    """
    done: set[bytes] = set()
    of_these = list(conditions(connection, scopes.c.destroy_id, destroy_ids))
    for condition in conditions(connection, scopes.c.id, ids):
        for of_some in of_these:
            statement = (
                sa.update(scopes)
                .where(condition, of_some, PENDING)
                .values(destroyed_values(people, at, horizon))
                .returning(scopes.c.id)
            )
            done.update(connection.execute(statement).scalars().all())
    return done


def destroyed_values(people: Iterable[ScopeKind], at: datetime, horizon: datetime) -> dict[str, Any]:
    """Return what a row has once its scope is destroyed."""
    forgotten = scopes.c.kind.in_(sorted(str(kind) for kind in people))
    return {
        "state": str(KeyState.DESTROYED),
        "sealed_name": None,
        "salt": sa.case((forgotten, None), else_=scopes.c.salt),
        "destroyed_at": at,
        "horizon": horizon,
    }


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
    states = sa.select(actual_state).subquery()
    query = sa.select(states.c.state, sa.func.count()).group_by(states.c.state)
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
        query = query.where(actual_state == str(state))
    return [_value(row) for row in connection.execute(query.order_by(scopes.c.id).limit(limit))]


def key_refs(connection: Connection, references: Iterable[str]) -> set[str]:
    """Return which of these key references a scope's row holds."""
    held: set[str] = set()
    for condition in conditions(connection, scopes.c.key_ref, references):
        held.update(connection.execute(sa.select(scopes.c.key_ref).where(condition)).scalars().all())
    return held


def all_key_refs(connection: Connection) -> set[str]:
    """Return every key reference that a row holds, destroyed ones included."""
    return set(connection.execute(sa.select(scopes.c.key_ref).where(scopes.c.key_ref.is_not(None))).scalars().all())


NOT_COLUMNS = frozenset({"ring_epoch", "fenced_at", "lease_bound"})
COLUMNS = tuple(name for name in ScopeRow._fields if name not in NOT_COLUMNS)
EVERY: sa.ColumnElement[bool] = sa.literal_column("TRUE")
# Written out, so that a planner sees that the partial indices hold all that is asked for.
LIVE: sa.ColumnElement[bool] = sa.literal_column("scopes.state IN ('active', 'suspended')")
ENDED: sa.ColumnElement[bool] = sa.literal_column("scopes.state NOT IN ('active', 'suspended')")
PENDING: sa.ColumnElement[bool] = sa.literal_column("scopes.state = 'deactivated' AND scopes.grouped IS NULL")
GROUPED: sa.ColumnElement[bool] = sa.literal_column("scopes.grouped IS NOT NULL")
DESTROYED: sa.ColumnElement[bool] = sa.literal_column("scopes.state = 'destroyed'")
KINDS = {str(kind): kind for kind in ScopeKind}
STATES = {str(state): state for state in KeyState}
KIND_AT, STATE_AT, BY_AT, SEALED_AT = map(ScopeRow._fields.index, ("kind", "state", "suspended_by", "sealed_name"))
TIMES_AT = tuple(
    ScopeRow._fields.index(name)
    for name in ("created_at", "due_at", "fenced_at", "destroyed_at", "lease_bound", "horizon")
)
GENERATION = itemgetter(ScopeRow._fields.index("generation"))


def _of_group() -> sa.ColumnElement[Any]:
    """Return when the group that a scope belongs to was acknowledged: null for one in no group, or in one that is pending."""
    cause = destructions.alias("cause")
    at = sa.select(cause.c.destroyed_at).where(cause.c.id == scopes.c.destroy_id).correlate(scopes).scalar_subquery()
    return sa.case((sa.and_(GROUPED, scopes.c.state == sa.literal_column("'deactivated'")), at))


actual_state: sa.ColumnElement[str] = sa.case(
    (_of_group().is_not(None), sa.literal_column("'destroyed'")), else_=scopes.c.state
).label("state")
"""A scope's state, whether it has one of its own or its group's."""


def _selected() -> sa.Select[Any]:
    gone = sa.and_(
        GROUPED, scopes.c.state == sa.literal_column("'deactivated'"), destructions.c.destroyed_at.is_not(None)
    )
    joined: dict[str, sa.ColumnElement[Any]] = {
        "ring_epoch": sa.func.coalesce(rings.c.epoch, 0).label("ring_epoch"),
        "fenced_at": destructions.c.fenced_at,
        "lease_bound": destructions.c.lease_bound,
        "state": sa.case((gone, sa.literal_column("'destroyed'")), else_=scopes.c.state).label("state"),
        "sealed_name": sa.case((gone, None), else_=scopes.c.sealed_name).label("sealed_name"),
        "destroyed_at": sa.case((gone, destructions.c.destroyed_at), else_=scopes.c.destroyed_at).label("destroyed_at"),
        "horizon": sa.case((gone, destructions.c.horizon), else_=scopes.c.horizon).label("horizon"),
    }
    return sa.select(*(joined[name] if name in joined else scopes.c[name] for name in ScopeRow._fields)).select_from(
        scopes.outerjoin(rings, scopes.c.ring_id == rings.c.id).outerjoin(
            destructions, scopes.c.destroy_id == destructions.c.id
        )
    )


# Built once: for a single scope that takes longer than to run it.
_SELECT = _selected()


def _read(
    connection: Connection, column: sa.Column[bytes], wanted: set[bytes], where: sa.ColumnElement[bool]
) -> list[ScopeRow]:
    """Return the rows whose `column` has one of these values, and that are as `where` says.

    On PostgreSQL the driver's own rows are made into ours: for thousands of them that takes half the time.
    """
    found: list[ScopeRow] = []
    if connection.dialect.name != "postgresql":
        for condition in conditions(connection, column, wanted):
            found += map(_value, connection.execute(_SELECT.where(condition, where)).fetchall())
        return found
    sql = _driver_sql(connection.dialect, column.name, str(where))
    for some in chunks(sorted(wanted), ARRAY_CHUNK):
        found += map(_value_of_driver, connection.exec_driver_sql(sql, (some,)).fetchall())
    return found


@lru_cache(maxsize=8)
def _driver_sql(dialect: sa.Dialect, column: str, where: str) -> str:
    selected = _SELECT.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    # As a table: only a hash index finds look-ups, and what it finds is compared again, with each value of an array.
    wanted = "SELECT wanted.value FROM unnest(%s::bytea[]) AS wanted(value)"
    return f"{selected} WHERE scopes.{column} IN ({wanted}) AND {where}"


def _value_of_driver(row: sa.Row[Any]) -> ScopeRow:
    values = list(row)
    for index in TIMES_AT:
        if values[index] is not None:
            values[index] = values[index].astimezone(UTC)
    if values[SEALED_AT] is not None:
        values[SEALED_AT] = unpack_sealed(values[SEALED_AT])
    return _with_enums(values)


def _value(row: sa.Row[Any]) -> ScopeRow:
    return _with_enums(list(row))


def _with_enums(values: list[Any]) -> ScopeRow:
    values[KIND_AT] = KINDS[values[KIND_AT]]
    values[STATE_AT] = STATES[values[STATE_AT]]
    if values[BY_AT] is not None:
        values[BY_AT] = SuspendedBy(values[BY_AT])
    return ScopeRow._make(values)
