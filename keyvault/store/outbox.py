"""The outbox: events, byte for byte, in the transaction that they describe."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.events import SCHEMA_VERSION, Event
from keyvault.store.scopes import chunks
from keyvault.store.tables import outbox


def append(connection: Connection, events: Sequence[Event]) -> None:
    """Add events; the log takes them up in its own order."""
    for chunk in chunks(events):
        connection.execute(
            sa.insert(outbox),
            [
                {"event_id": event.id, "schema_version": SCHEMA_VERSION, "type": str(event.type), "body": event.body}
                for event in chunk
            ],
        )


def bodies(connection: Connection, *, after: int = 0, limit: int = 1000) -> list[tuple[int, bytes]]:
    """Return up to `limit` rows behind row id `after`: (row id, exact bytes)."""
    query = sa.select(outbox.c.id, outbox.c.body).where(outbox.c.id > after).order_by(outbox.c.id).limit(limit)
    return [(row.id, row.body) for row in connection.execute(query)]
