"""Queries on notices: what the storage layer has not been told yet."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.store.dialects import insert_rows
from keyvault.store.tables import notices


def add(connection: Connection, bodies: Sequence[bytes]) -> None:
    """Keep lines until they were given."""
    insert_rows(connection, notices, {"body": bodies}, conflicts=False)


def oldest(connection: Connection, *, limit: int) -> list[tuple[int, bytes]]:
    """Return up to `limit` lines, oldest first: (id, exact bytes)."""
    query = sa.select(notices.c.id, notices.c.body).order_by(notices.c.id).limit(limit)
    return [(row.id, row.body) for row in connection.execute(query)]


def remove(connection: Connection, ids: Sequence[int]) -> None:
    """Forget lines that were given."""
    connection.execute(sa.delete(notices).where(notices.c.id.in_(ids)))


def count(connection: Connection) -> int:
    """Return how many lines are kept."""
    return connection.execute(sa.select(sa.func.count()).select_from(notices)).scalar_one()
