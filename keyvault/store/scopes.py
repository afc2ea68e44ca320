"""Queries on scopes. Rows leave as frozen values; the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.scopes import ScopeKind
from keyvault.states import KeyState
from keyvault.store.dialects import conflict_insert
from keyvault.store.tables import rings, scopes

T = TypeVar("T")

CHUNK = 500
"""Rows a statement: well under the 65,535 parameters that PostgreSQL's protocol allows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScopeRow:
    """One generation of a scope. `id` 16 bytes; `lookup`, `commitment`, `salt`, `account` 32 bytes each.

    `ring_epoch` is the furthest epoch that its ring's state was known to have when the row was read.
    """

    id: bytes
    generation: int
    custody: int
    key_ref: str | None = None
    ring_id: bytes | None = None
    slot: int | None = None
    kind: ScopeKind
    period: str | None = None
    due_at: datetime | None = None
    account: bytes | None = None
    lookup: bytes | None
    commitment: bytes
    salt: bytes | None = None
    sealed_name: str | None
    state: KeyState
    created_at: datetime
    fenced_at: datetime | None = None
    destroyed_at: datetime | None = None
    lease_bound: datetime | None = None
    horizon: datetime | None = None
    destroy_id: bytes | None = None
    ring_epoch: int = 0


def newest_by_lookup(connection: Connection, lookups: Iterable[bytes]) -> dict[bytes, ScopeRow]:
    """Return, for each look-up HMAC that is known, its newest generation."""
    found: dict[bytes, ScopeRow] = {}
    for chunk in chunks(sorted(set(lookups))):
        query = _select().where(scopes.c.lookup.in_(chunk)).order_by(scopes.c.generation)
        for row in connection.execute(query):
            found[row.lookup] = _value(row)
    return found


def by_id(connection: Connection, ids: Iterable[bytes], *, lock: bool = False) -> dict[bytes, ScopeRow]:
    """Return the rows of these ids; `lock` holds them until the transaction ends."""
    found: dict[bytes, ScopeRow] = {}
    for chunk in chunks(sorted(set(ids))):
        query = _select().where(scopes.c.id.in_(chunk)).order_by(scopes.c.id)
        for row in connection.execute(query.with_for_update(of=scopes) if lock else query):
            found[row.id] = _value(row)
    return found


def insert_new(connection: Connection, rows: Sequence[ScopeRow]) -> set[bytes]:
    """Insert the rows whose name has no such generation and no live one; return the ids that went in.

    The rest lost against another creator. Rows go in by order of look-up, so that two creators cannot deadlock.
    """
    if not rows:
        return set()
    ordered = [_columns(row) for row in sorted(rows, key=lambda row: row.lookup or b"")]
    statement = conflict_insert(connection, scopes).on_conflict_do_nothing().returning(scopes.c.id)
    return set(connection.execute(statement, ordered).scalars())


def change_state(
    connection: Connection, ids: Iterable[bytes], *, before: Sequence[KeyState], after: KeyState, **columns: Any
) -> set[bytes]:
    """Move the rows that are in one of `before` to `after`, set `columns` on them, and return their ids."""
    changed: set[bytes] = set()
    for chunk in chunks(sorted(set(ids))):
        statement = (
            sa.update(scopes)
            .where(scopes.c.id.in_(chunk), scopes.c.state.in_([str(state) for state in before]))
            .values(state=str(after), **columns)
            .returning(scopes.c.id)
        )
        changed.update(connection.execute(statement).scalars())
    return changed


def stamp_fence(connection: Connection, destroy_id: bytes, *, fenced_at: datetime, lease_bound: datetime) -> None:
    """Write when the fence was committed, and when the last cached key expires, unless it is stamped already."""
    connection.execute(
        sa.update(scopes)
        .where(scopes.c.destroy_id == destroy_id, scopes.c.fenced_at.is_(None))
        .values(fenced_at=fenced_at, lease_bound=lease_bound)
    )


def awaiting_destruction(connection: Connection, *, limit: int | None = None) -> list[bytes]:
    """Return the ids of fenced scopes, oldest destruction first."""
    query = sa.select(scopes.c.id).where(scopes.c.state == str(KeyState.DEACTIVATED))
    return list(connection.execute(query.order_by(scopes.c.destroy_id, scopes.c.id).limit(limit)).scalars())


def ring_ids(connection: Connection, ids: Iterable[bytes]) -> dict[bytes, bytes]:
    """Return the ring of each of these scopes that is in one."""
    found: dict[bytes, bytes] = {}
    for chunk in chunks(sorted(set(ids))):
        query = sa.select(scopes.c.id, scopes.c.ring_id).where(scopes.c.id.in_(chunk), scopes.c.ring_id.is_not(None))
        found |= {row.id: row.ring_id for row in connection.execute(query)}
    return found


def forget_lookups(connection: Connection, *, kinds: Iterable[ScopeKind], now: datetime) -> None:
    """Remove the look-up HMACs of destroyed scopes of these kinds whose backup horizon has passed."""
    connection.execute(
        sa.update(scopes)
        .where(
            scopes.c.state == str(KeyState.DESTROYED),
            scopes.c.lookup.is_not(None),
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
    query = _select().where(scopes.c.id > after)
    if kind is not None:
        query = query.where(scopes.c.kind == str(kind))
    if state is not None:
        query = query.where(scopes.c.state == str(state))
    return [_value(row) for row in connection.execute(query.order_by(scopes.c.id).limit(limit))]


def key_refs(connection: Connection, references: Iterable[str]) -> set[str]:
    """Return which of these key references a scope's row holds."""
    held: set[str] = set()
    for chunk in chunks(sorted(set(references))):
        held.update(connection.execute(sa.select(scopes.c.key_ref).where(scopes.c.key_ref.in_(chunk))).scalars())
    return held


def all_key_refs(connection: Connection) -> set[str]:
    """Return every key reference that a row holds, destroyed ones included."""
    return set(connection.execute(sa.select(scopes.c.key_ref).where(scopes.c.key_ref.is_not(None))).scalars())


def chunks(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces of at most `CHUNK`."""
    for start in range(0, len(items), CHUNK):
        yield items[start : start + CHUNK]


COLUMNS = tuple(field.name for field in fields(ScopeRow) if field.name != "ring_epoch")


def _select() -> sa.Select[Any]:
    epoch = sa.func.coalesce(rings.c.epoch, 0).label("ring_epoch")
    return sa.select(scopes, epoch).select_from(scopes.outerjoin(rings, scopes.c.ring_id == rings.c.id))


def _columns(row: ScopeRow) -> dict[str, Any]:
    return {name: getattr(row, name) for name in COLUMNS} | {"kind": str(row.kind), "state": str(row.state)}


def _value(row: sa.Row[Any]) -> ScopeRow:
    columns = dict(row._mapping)  # noqa: SLF001 - the documented way to a row's mapping
    return ScopeRow(**{**columns, "kind": ScopeKind(columns["kind"]), "state": KeyState(columns["state"])})
