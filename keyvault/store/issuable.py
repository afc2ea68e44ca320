"""What issuing reads of scopes, and nothing more: every key that is issued rests on it, so it costs what it must.

On PostgreSQL the driver's own rows are used, and one array is passed instead of thousands of parameters. The array is joined, not compared
with: the index of look-ups is a hash index, whose rows PostgreSQL compares again, and under a plan for any array that is each row with each element.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.scopes import ScopeKind
from keyvault.states import KeyState
from keyvault.store.dialects import conditions
from keyvault.store.scopes import ENDED, KINDS, LIVE, STATES, actual_state
from keyvault.store.tables import rings, scopes

_COLUMNS = ("id", "generation", "custody", "key_ref", "ring_id", "slot", "due_at", "kind")
# As `keyvault.store.scopes.actual_state`: a destruction tells the state of a group.
_STATE = (
    "CASE WHEN s.grouped IS NOT NULL AND s.state = 'deactivated' AND "
    "(SELECT d.destroyed_at FROM destructions d WHERE d.id = s.destroy_id) IS NOT NULL THEN 'destroyed' ELSE s.state END"
)
_SQL = (
    f"SELECT s.lookup, {', '.join(f's.{name}' for name in _COLUMNS)}, {_STATE}, coalesce(r.epoch, 0) "  # noqa: S608 - names of ours
    "FROM unnest(%s::bytea[]) AS wanted(value) JOIN scopes s ON s.{column} = wanted.value LEFT JOIN rings r ON r.id = s.ring_id"
)
_BY_ID = _SQL.format(column="id")
# Each has an index of its own.
_LIVE = _SQL.format(column="lookup") + " WHERE s.state IN ('active', 'suspended')"
_ENDED = _SQL.format(column="lookup") + " WHERE s.state NOT IN ('active', 'suspended') ORDER BY s.generation"

_new_tuple = tuple.__new__


class IssuableScope(NamedTuple):
    """A scope as `keyvault.store.scopes.ScopeRow` has it, without what no key depends on."""

    id: bytes
    generation: int
    custody: int
    key_ref: str | None
    ring_id: bytes | None
    slot: int | None
    due_at: datetime | None
    kind: ScopeKind
    state: KeyState
    ring_epoch: int


def newest_by_lookup(connection: Connection, lookups: Iterable[bytes]) -> dict[bytes, IssuableScope]:
    """Return, for each look-up HMAC that is known, its newest generation: the live one, if there is one."""
    wanted = set(lookups)
    found = {row[0]: _value(row) for row in _rows(connection, _LIVE, scopes.c.lookup, wanted, LIVE)}
    if left := wanted - found.keys():
        found |= {row[0]: _value(row) for row in _rows(connection, _ENDED, scopes.c.lookup, left, ENDED)}
    return found


def by_id(connection: Connection, ids: Iterable[bytes]) -> dict[bytes, IssuableScope]:
    """Return the scopes of these ids."""
    return {row[1]: _value(row) for row in _rows(connection, _BY_ID, scopes.c.id, set(ids), sa.true())}


def _rows(
    connection: Connection, sql: str, column: sa.Column[bytes], wanted: set[bytes], where: sa.ColumnElement[bool]
) -> list[Any]:
    """Return rows, older generations first; `where` is what `sql` says of the rows beside their `column`."""
    if connection.dialect.name == "postgresql":
        with connection.exec_driver_sql(sql, (list(wanted),)) as result:
            return list(result.cursor.fetchall())  # its own rows take longer than all else here
    epoch = sa.func.coalesce(rings.c.epoch, 0)
    found: list[Any] = []
    for condition in conditions(connection, column, wanted):
        query = (
            sa.select(scopes.c.lookup, *(scopes.c[name] for name in _COLUMNS), actual_state, epoch)
            .select_from(scopes.outerjoin(rings, rings.c.id == scopes.c.ring_id))
            .where(condition, where)
            .order_by(scopes.c.generation)
        )
        found += connection.execute(query).fetchall()
    return found


def _value(row: Any) -> IssuableScope:
    _, scope_id, generation, custody, key_ref, ring_id, slot, due_at, kind, state, epoch = row
    # IssuableScope's own constructor takes twice as long.
    return _new_tuple(
        IssuableScope,
        (scope_id, generation, custody, key_ref, ring_id, slot, due_at, KINDS[kind], STATES[state], epoch),
    )
