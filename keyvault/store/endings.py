"""What ended since a process last looked: scopes and records that were suspended, fenced or destroyed, by whichever process did it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.events import EventType, unb64
from keyvault.store.dialects import conditions
from keyvault.store.fenced_records import RecordKey
from keyvault.store.scopes import DESTROYED, GROUPED, PENDING
from keyvault.store.tables import ENDING, fenced_records, outbox, scopes

DESTRUCTIONS = frozenset({EventType.DESTROY_FENCED, EventType.KEY_DESTROYED, EventType.RECORD_DESTROYED})


@dataclass(frozen=True, kw_only=True, slots=True)
class Endings:
    """What nothing may be kept of: scopes by id (16 bytes), records by their scope's id and their tag (8 bytes), states of rings by id.

    `everything`: it cannot be told what ended, so it may be anything.
    """

    scopes: set[bytes] = field(default_factory=set)
    records: set[RecordKey] = field(default_factory=set)
    rings: set[bytes] = field(default_factory=set)
    everything: bool = False

    def __bool__(self) -> bool:
        return bool(self.everything or self.scopes or self.records)


@dataclass(frozen=True, kw_only=True, slots=True)
class EndingRow:
    """A row of the outbox that tells of an ending."""

    id: int
    type: EventType
    body: bytes


def newest(connection: Connection) -> tuple[int, str] | None:
    """Return the newest row of the outbox: its row id, and its event's."""
    row = connection.execute(
        sa.select(outbox.c.id, outbox.c.event_id).order_by(outbox.c.id.desc()).limit(1)
    ).one_or_none()
    return None if row is None else (row.id, row.event_id)


def event_at(connection: Connection, row_id: int) -> str | None:
    """Return the id of the event in a row of the outbox, or None."""
    found: str | None = connection.execute(sa.select(outbox.c.event_id).where(outbox.c.id == row_id)).scalar()
    return found


def rows_after(connection: Connection, after: int, *, limit: int) -> list[EndingRow]:
    """Return up to `limit` rows that tell of endings, behind row id `after`, in order."""
    query = sa.select(outbox.c.id, outbox.c.type, outbox.c.body).where(outbox.c.id > after, ENDING)
    return [
        EndingRow(id=row.id, type=EventType(row.type), body=bytes(row.body))
        for row in connection.execute(query.order_by(outbox.c.id).limit(limit))
    ]


def resolve(connection: Connection, rows: Iterable[EndingRow]) -> Endings:
    """Return what these rows tell of. Events of destructions name no ids, which are found by the destruction's."""
    found, destroyed = Endings(), set()
    for row in rows:
        event = json.loads(row.body)
        if row.type in DESTRUCTIONS:
            destroyed.add(unb64(event["destroy_id"]))
        elif row.type is EventType.RECORD_SUSPENDED:
            scope = unb64(event["scope_id"])
            found.records.update((scope, unb64(tag)) for tag in event["records"])
        else:
            found.scopes.add(unb64(event["scope_id"]))
    known = _add_destroyed(connection, found, destroyed)
    if destroyed - known:  # rows that are not there: the database is not what it was
        return Endings(everything=True)
    return found


def _add_destroyed(connection: Connection, found: Endings, ids: Collection[bytes]) -> set[bytes]:
    """Add what these destructions destroy; return those of which something was found."""
    known: set[bytes] = set()
    for condition in conditions(connection, scopes.c.destroy_id, ids):
        for of_scope in (GROUPED, PENDING, DESTROYED):  # each has its index
            query = sa.select(scopes.c.id, scopes.c.ring_id, scopes.c.destroy_id)
            for row in connection.execute(query.where(condition, of_scope)):
                found.scopes.add(row.id)
                found.rings.update(() if row.ring_id is None else (row.ring_id,))
                known.add(row.destroy_id)
    ring = sa.select(fenced_records.c.scope_id, fenced_records.c.tag, fenced_records.c.destroy_id, scopes.c.ring_id)
    marked = ring.join_from(fenced_records, scopes, scopes.c.id == fenced_records.c.scope_id)
    for condition in conditions(connection, fenced_records.c.destroy_id, ids):
        for state in ("deactivated", "destroyed"):
            of_state: sa.ColumnElement[bool] = sa.literal_column(f"fenced_records.state = '{state}'")
            for mark in connection.execute(marked.where(condition, of_state)):
                found.records.add((mark.scope_id, mark.tag))
                found.rings.update(() if mark.ring_id is None else (mark.ring_id,))
                known.add(mark.destroy_id)
    return known
