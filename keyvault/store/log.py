"""What the database remembers of the log: which events have which index, and how far a signed checkpoint covers them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.store import leases
from keyvault.store.dialects import conditions
from keyvault.store.tables import outbox, scopes, system, unlogged_creations

LEASE = "log"
MOST_INDEXED = 100_000
"""More events than are ever indexed and not covered; it has the planner walk the index in its order."""

_ASSIGN = sa.text(
    "WITH picked AS (SELECT id, row_number() OVER (ORDER BY id) AS place, sum(length(body)) OVER (ORDER BY id) AS bytes "
    "FROM (SELECT id, body FROM outbox WHERE leaf_index IS NULL ORDER BY id LIMIT :entries) AS unlogged) "
    "UPDATE outbox SET leaf_index = :following - 1 + picked.place FROM picked "
    "WHERE outbox.id = picked.id AND (picked.bytes <= :bytes OR picked.place = 1)"
)


class Recorded(NamedTuple):
    """The newest checkpoint that the database knows: its size, and its signed note, which is None where nothing was logged yet."""

    size: int
    note: str | None


def recorded(connection: Connection) -> Recorded:
    """Return the newest checkpoint."""
    row = connection.execute(sa.select(system.c.log_size, system.c.checkpoint)).one()
    return Recorded(row.log_size, row.checkpoint)


def assign(connection: Connection, *, entries: int, size: int) -> int:
    """Give the next indices to events without one, oldest row first: at most so many, and so many bytes, but at least one event.

    Returns the first index that is still free. Of two at once the second waits for the first.
    """
    leases.lock(connection, LEASE)
    connection.execute(_ASSIGN, {"entries": entries, "bytes": size, "following": following(connection)})
    return following(connection)


def following(connection: Connection) -> int:
    """Return the first index that no event has."""
    highest: int | None = connection.execute(sa.select(sa.func.max(outbox.c.leaf_index))).scalar()
    return 0 if highest is None else highest + 1


def bodies(connection: Connection, first: int, end: int) -> list[bytes]:
    """Return the exact bytes of the events with indices from `first` to before `end`, in order: fewer where some are missing."""
    query = sa.select(outbox.c.body).where(outbox.c.leaf_index >= first, outbox.c.leaf_index < end)
    return list(connection.execute(query.order_by(outbox.c.leaf_index)).scalars().all())


def record(connection: Connection, size: int, note: str) -> Recorded:
    """Remember a signed checkpoint, unless a newer one is known; return the newest. Creations that it covers are held no more."""
    newer = sa.update(system).where(system.c.log_size < size).values(log_size=size, checkpoint=note)
    if connection.execute(newer).rowcount:
        # Not as a join, which a planner without statistics begins at the log: the few that are held are looked up instead.
        index = sa.select(outbox.c.leaf_index).where(outbox.c.id == unlogged_creations.c.last_event).scalar_subquery()
        connection.execute(sa.delete(unlogged_creations).where(index < size))
    return recorded(connection)


def last_unlogged(connection: Connection) -> int | None:
    """Return the newest row of the outbox that no checkpoint covers, or None."""
    found = [connection.execute(sa.select(sa.func.max(rows.c.id))).scalar() for rows in _uncovered(connection)]
    return max((row for row in found if row is not None), default=None)


def covers(connection: Connection, row: int) -> bool:
    """Return whether a checkpoint covers every event up to this row of the outbox."""
    found = [connection.execute(sa.select(sa.func.min(rows.c.id))).scalar() for rows in _uncovered(connection)]
    return all(first is None or first > row for first in found)


def _uncovered(connection: Connection) -> tuple[sa.FromClause, sa.FromClause]:
    """Return the rows without an index, and those whose index no checkpoint covers: each by an index that has little else in it."""
    size = recorded(connection).size
    indexed = sa.select(outbox.c.id).where(outbox.c.leaf_index.is_not(None), outbox.c.leaf_index >= size)
    return (
        sa.select(outbox.c.id).where(outbox.c.leaf_index.is_(None)).subquery(),
        indexed.order_by(outbox.c.leaf_index).limit(MOST_INDEXED).subquery(),
    )


# --- scopes whose creation is not in the log yet ---------------------------------------------------------------------------


def hold_creations(connection: Connection, instants: Iterable[datetime], last_event: int) -> None:
    """Let no key be issued of scopes created at these instants, new ones or moved ones, until the log covers their events.

    `last_event`: the highest row of the outbox among those of this very transaction. One that another has committed meanwhile may be higher,
    and be covered before these are there for the sequencer to see.
    """
    rows = [{"created_at": at, "last_event": last_event} for at in set(instants)]
    connection.execute(sa.insert(unlogged_creations), rows)


def held(connection: Connection, ids: Collection[bytes]) -> set[bytes]:
    """Return which of these scopes may have no key yet, because their creation is not in the log."""
    instants = list(connection.execute(sa.select(unlogged_creations.c.created_at).distinct()).scalars().all())
    found: set[bytes] = set()
    if instants:
        for condition in conditions(connection, scopes.c.id, ids):
            query = sa.select(scopes.c.id).where(condition, scopes.c.created_at.in_(instants))
            found.update(connection.execute(query).scalars().all())
    return found
