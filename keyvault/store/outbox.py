"""The outbox: events, byte for byte, in the transaction that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.events import SCHEMA_VERSION, Event
from keyvault.store.dialects import insert_rows
from keyvault.store.tables import outbox


def append(connection: Connection, events: Sequence[Event]) -> None:
    """Add events; the log takes them up in its own order."""
    columns: dict[str, Sequence[Any]] = {
        "event_id": [event.id for event in events],
        "schema_version": [SCHEMA_VERSION] * len(events),
        "type": [str(event.type) for event in events],
        "body": [event.body for event in events],
    }
    insert_rows(connection, outbox, columns, conflicts=False)


def bodies(connection: Connection, *, after: int = 0, limit: int = 1000) -> list[tuple[int, bytes]]:
    """Return up to `limit` rows behind row id `after`: (row id, exact bytes)."""
    query = sa.select(outbox.c.id, outbox.c.body).where(outbox.c.id > after).order_by(outbox.c.id).limit(limit)
    return [(row.id, row.body) for row in connection.execute(query)]


def first_body(connection: Connection) -> bytes | None:
    """Return the bytes of the oldest event, or None."""
    body: bytes | None = connection.execute(sa.select(outbox.c.body).order_by(outbox.c.id).limit(1)).scalar()
    return body
