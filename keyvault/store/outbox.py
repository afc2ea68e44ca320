"""The outbox: events, byte for byte, in the transaction that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.events import SCHEMA_VERSION, Event, EventType
from keyvault.store.dialects import insert_rows
from keyvault.store.tables import outbox


def append(connection: Connection, events: Sequence[Event]) -> int | None:
    """Add events, and return the highest of their row ids, or None of none; the log takes them up in its own order."""
    columns: dict[str, Sequence[Any]] = {
        "event_id": [event.id for event in events],
        "schema_version": [SCHEMA_VERSION] * len(events),
        "type": [str(event.type) for event in events],
        "body": [event.body for event in events],
    }
    return max(insert_rows(connection, outbox, columns, conflicts=False, returning=outbox.c.id), default=None)


def bodies(connection: Connection, *, after: int = 0, limit: int = 1000) -> list[tuple[int, bytes]]:
    """Return up to `limit` rows behind row id `after`: (row id, exact bytes)."""
    query = sa.select(outbox.c.id, outbox.c.body).where(outbox.c.id > after).order_by(outbox.c.id).limit(limit)
    return [(row.id, row.body) for row in connection.execute(query)]


def first_body(connection: Connection) -> bytes | None:
    """Return the bytes of the oldest event, or None."""
    body: bytes | None = connection.execute(sa.select(outbox.c.body).order_by(outbox.c.id).limit(1)).scalar()
    return body


def index_of(connection: Connection, event_id: str) -> int | None:
    """Return an event's index in the log; None where there is no such event, or it has none yet."""
    index: int | None = connection.execute(sa.select(outbox.c.leaf_index).where(outbox.c.event_id == event_id)).scalar()
    return index


def indices_naming(connection: Connection, kind: EventType, text: str) -> list[int]:
    """Return the indices of the logged events of a type whose bytes contain a text, in order. It looks at each event of the type."""
    needle = sa.literal(text.encode())
    if connection.dialect.name == "postgresql":
        place: sa.ColumnElement[int] = sa.func.position(needle.op("IN")(outbox.c.body))
    else:
        place = sa.func.instr(outbox.c.body, needle)
    query = sa.select(outbox.c.leaf_index).where(
        outbox.c.type == str(kind), outbox.c.leaf_index.is_not(None), place > 0
    )
    return list(connection.execute(query.order_by(outbox.c.leaf_index)).scalars())
