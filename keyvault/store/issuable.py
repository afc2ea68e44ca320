"""What issuing reads of scopes, and nothing more: every key that is issued rests on it, so it costs what it must.

On PostgreSQL the driver's own rows are used, and one array is passed instead of thousands of parameters.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.scopes import ScopeKind
from keyvault.states import KeyState
from keyvault.store.dialects import chunks
from keyvault.store.tables import rings, scopes

_KINDS = {str(kind): kind for kind in ScopeKind}
_STATES = {str(state): state for state in KeyState}
_COLUMNS = ("id", "generation", "custody", "key_ref", "ring_id", "slot", "due_at", "kind", "state")
_SELECT = (
    f"SELECT lookup, {', '.join(f'scopes.{name}' for name in _COLUMNS)}, coalesce(rings.epoch, 0) "  # noqa: S608 - names of ours
    "FROM scopes LEFT JOIN rings ON rings.id = scopes.ring_id WHERE"
)
_LIVE, _DESTROYED = "scopes.state <> 'destroyed'", "scopes.state = 'destroyed'"


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
    """Return, for each look-up HMAC that is known, its newest generation; see `keyvault.store.scopes.newest_by_lookup`."""
    wanted = set(lookups)
    found = {row[0]: _value(row) for row in _rows(connection, "lookup", wanted, _LIVE)}
    destroyed = _rows(connection, "lookup", wanted - found.keys(), _DESTROYED)
    return found | {row[0]: _value(row) for row in destroyed}


def by_id(connection: Connection, ids: Iterable[bytes]) -> dict[bytes, IssuableScope]:
    """Return the scopes of these ids."""
    return {row[1]: _value(row) for row in _rows(connection, "id", ids)}


def _rows(connection: Connection, column: str, values: Iterable[bytes], among: str = "true") -> list[Any]:
    """Return rows, older generations first."""
    wanted = list(set(values))
    found: list[Any] = []
    if not wanted:
        return found
    if connection.dialect.name == "postgresql":
        sql = f"{_SELECT} scopes.{column} = ANY(%s) AND {among} ORDER BY scopes.generation"
        return list(connection.exec_driver_sql(sql, (wanted,)).fetchall())
    epoch = sa.func.coalesce(rings.c.epoch, 0)
    for chunk in chunks(wanted):
        query = (
            sa.select(scopes.c.lookup, *(scopes.c[name] for name in _COLUMNS), epoch)
            .select_from(scopes.outerjoin(rings, rings.c.id == scopes.c.ring_id))
            .where(scopes.c[column].in_(chunk), sa.text(among))
            .order_by(scopes.c.generation)
        )
        found += connection.execute(query).fetchall()
    return found


def _value(row: Any) -> IssuableScope:
    _, scope_id, generation, custody, key_ref, ring_id, slot, due_at, kind, state, epoch = row
    return IssuableScope(
        scope_id, generation, custody, key_ref, ring_id, slot, due_at, _KINDS[kind], _STATES[state], epoch
    )
