"""Queries on the marks of single records: suspended, fenced, destroyed. A record without a mark is active."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.states import KeyState
from keyvault.store.dialects import chunks, conflict_insert, pair_conditions
from keyvault.store.tables import destructions, fenced_records

RecordKey = tuple[bytes, bytes]
"""A scope's id (16 bytes) and a record's tag in it (8 bytes)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordRow:
    """The mark of one record. `fenced_at` is its destruction's."""

    scope_id: bytes
    tag: bytes
    state: KeyState
    fenced_at: datetime | None
    destroyed_at: datetime | None
    destroy_id: bytes | None

    @property
    def key(self) -> RecordKey:
        """What the mark is found under."""
        return self.scope_id, self.tag


def by_key(connection: Connection, keys: Iterable[RecordKey], *, lock: bool = False) -> dict[RecordKey, RecordRow]:
    """Return the marks that these records have; `lock` holds them until the transaction ends."""
    found: dict[RecordKey, RecordRow] = {}
    for condition in _with_keys(connection, keys):
        query = _select().where(condition).order_by(fenced_records.c.scope_id, fenced_records.c.tag)
        for row in connection.execute(query.with_for_update(of=fenced_records) if lock else query):
            mark = _value(row)
            found[mark.key] = mark
    return found


def put(
    connection: Connection,
    keys: Iterable[RecordKey],
    *,
    before: Sequence[KeyState],
    after: KeyState,
    destroy_id: bytes | None = None,
) -> set[RecordKey]:
    """Mark records that have no mark, or one of `before`; return which."""
    changed: set[RecordKey] = set()
    for chunk in chunks(sorted(set(keys))):
        statement = conflict_insert(connection, fenced_records).on_conflict_do_update(
            index_elements=["scope_id", "tag"],
            set_={"state": str(after), "destroy_id": destroy_id},
            where=fenced_records.c.state.in_([str(state) for state in before]),
        )
        values = [
            {"scope_id": scope, "tag": tag, "state": str(after), "destroy_id": destroy_id} for scope, tag in chunk
        ]
        returned = connection.execute(
            statement.values(values).returning(fenced_records.c.scope_id, fenced_records.c.tag)
        )
        changed.update((row.scope_id, row.tag) for row in returned.all())
    return changed


def remove(connection: Connection, keys: Iterable[RecordKey], *, state: KeyState) -> set[RecordKey]:
    """Take away marks that are in `state`; return which."""
    removed: set[RecordKey] = set()
    for condition in _with_keys(connection, keys):
        statement = sa.delete(fenced_records).where(condition, fenced_records.c.state == str(state))
        returned = connection.execute(statement.returning(fenced_records.c.scope_id, fenced_records.c.tag))
        removed.update((row.scope_id, row.tag) for row in returned.all())
    return removed


def acknowledge(connection: Connection, keys: Iterable[RecordKey], *, at: datetime) -> set[RecordKey]:
    """Mark fenced records as destroyed; return which."""
    done: set[RecordKey] = set()
    for condition in _with_keys(connection, keys):
        statement = (
            sa.update(fenced_records)
            .where(condition, fenced_records.c.state == str(KeyState.DEACTIVATED))
            .values(state=str(KeyState.DESTROYED), destroyed_at=at)
        )
        returned = connection.execute(statement.returning(fenced_records.c.scope_id, fenced_records.c.tag))
        done.update((row.scope_id, row.tag) for row in returned.all())
    return done


def awaiting_destruction(connection: Connection) -> list[RecordRow]:
    """Return fenced records, oldest destruction first."""
    query = _select().where(sa.literal_column("fenced_records.state = 'deactivated'"))
    ordered = query.order_by(fenced_records.c.destroy_id, fenced_records.c.scope_id, fenced_records.c.tag)
    return [_value(row) for row in connection.execute(ordered)]


def count_by_state(connection: Connection) -> Mapping[KeyState, int]:
    """Return how many records have each mark."""
    counted = dict.fromkeys(KeyState, 0)
    query = sa.select(fenced_records.c.state, sa.func.count()).group_by(fenced_records.c.state)
    counted.update({KeyState(state): count for state, count in connection.execute(query)})
    return counted


def _with_keys(connection: Connection, keys: Iterable[RecordKey]) -> Iterator[sa.ColumnElement[bool]]:
    return pair_conditions(connection, fenced_records.c.scope_id, fenced_records.c.tag, keys)


def _select() -> sa.Select[Any]:
    return sa.select(fenced_records, destructions.c.fenced_at).select_from(
        fenced_records.outerjoin(destructions, fenced_records.c.destroy_id == destructions.c.id)
    )


def _value(row: sa.Row[tuple[object, ...]]) -> RecordRow:
    columns = dict(row._mapping)  # noqa: SLF001 - the documented way to a row's mapping
    return RecordRow(**{**columns, "state": KeyState(columns["state"])})
