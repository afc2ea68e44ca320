"""Queries on destructions and on the openings kept for certificates."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.store.dialects import Moment, conditions, insert_rows
from keyvault.store.tables import certificate_openings, destructions


@dataclass(frozen=True, kw_only=True, slots=True)
class Destruction:
    """One group destruction. `id` 16 bytes; `ticket` and `requested_by` are 32-byte pseudonyms.

    `fenced_at`: when its fence was committed; `lease_bound`: when the last cached key of what it destroys expires. `scopes`: how many it
    fenced, as long as they are a group (`keyvault.store.groups`); `destroyed_at` and `horizon` are the group's.
    """

    id: bytes
    reason: str
    ticket: bytes
    requested_by: bytes
    fence_event: str
    created_at: datetime
    fenced_at: datetime | None = None
    lease_bound: datetime | None = None
    scopes: int | None = None
    destroyed_at: datetime | None = None
    horizon: datetime | None = None


def insert(connection: Connection, row: Destruction) -> None:
    """Add a destruction."""
    connection.execute(
        sa.insert(destructions).values(
            id=row.id,
            reason=row.reason,
            ticket=row.ticket,
            requested_by=row.requested_by,
            fence_event=row.fence_event,
            created_at=row.created_at,
            scopes=row.scopes,
        )
    )


def count(connection: Connection, destroy_id: bytes, scopes: int) -> None:
    """Write how many scopes are in a destruction's group, in the transaction that fences them."""
    connection.execute(sa.update(destructions).where(destructions.c.id == destroy_id).values(scopes=scopes))


def remove(connection: Connection, destroy_id: bytes) -> None:
    """Remove a destruction that nothing was fenced for."""
    connection.execute(sa.delete(destructions).where(destructions.c.id == destroy_id))


def by_id(connection: Connection, ids: Iterable[bytes]) -> Mapping[bytes, Destruction]:
    """Return the destructions of these ids."""
    found: dict[bytes, Destruction] = {}
    for condition in conditions(connection, destructions.c.id, ids):
        for row in connection.execute(sa.select(destructions).where(condition)):
            found[row.id] = _value(row)
    return found


def stamp_fence(
    connection: Connection, ids: Collection[bytes], *, fenced_at: Moment, lease_bound: Moment
) -> Mapping[bytes, Destruction]:
    """Write when the fences were committed, and when the last cached keys expire, where they are not stamped already.

    Returns these destructions, stamped.
    """
    stamped: dict[bytes, Destruction] = {}
    for condition in conditions(connection, destructions.c.id, ids):
        statement = (
            sa.update(destructions)
            .where(condition, destructions.c.fenced_at.is_(None))
            .values(fenced_at=fenced_at, lease_bound=lease_bound)
            .returning(destructions)
        )
        stamped |= {row.id: _value(row) for row in connection.execute(statement)}
    return {**by_id(connection, set(ids) - stamped.keys()), **stamped}


def keep_openings(connection: Connection, sealed: Mapping[bytes, bytes], *, until: datetime) -> None:
    """Keep, by scope id, the sealed opening of each commitment for its certificate."""
    columns: dict[str, Sequence[Any]] = {
        "scope_id": list(sealed),
        "sealed": list(sealed.values()),
        "expires_at": [until] * len(sealed),
    }
    insert_rows(connection, certificate_openings, columns)


def drop_openings(connection: Connection, *, now: datetime) -> None:
    """Remove the openings whose backup horizon has passed."""
    connection.execute(sa.delete(certificate_openings).where(certificate_openings.c.expires_at <= now))


def _value(row: sa.Row[Any]) -> Destruction:
    return Destruction(**{name: getattr(row, name) for name in Destruction.__slots__})
