"""Queries on reported facts. Rows leave as frozen values; the caller owns the transaction, and holds the subjects' rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.store.dialects import conditions, insert_rows, pair_conditions
from keyvault.store.tables import facts


@dataclass(frozen=True, kw_only=True, slots=True)
class FactRow:
    """One fact. `subject`: a pseudonym, 32 bytes; times aware, in UTC. What `type` and `detail` can be: `shredder.facts`."""

    subject: bytes
    type: str
    detail: str
    at: datetime
    reported_at: datetime
    not_before: datetime


COLUMNS = tuple(field.name for field in fields(FactRow))


def of_subjects(connection: Connection, ids: Iterable[bytes]) -> dict[bytes, list[FactRow]]:
    """Return everything that is known about these subjects; one without facts is left out."""
    found: dict[bytes, list[FactRow]] = {}
    for condition in conditions(connection, facts.c.subject, ids):
        for row in connection.execute(sa.select(facts).where(condition)):
            found.setdefault(row.subject, []).append(FactRow(**row._mapping))  # noqa: SLF001 - the documented way
    return found


def insert(connection: Connection, rows: Sequence[FactRow]) -> None:
    """Write facts; one that is there already keeps when it was first reported."""
    if rows:
        ordered = sorted(rows, key=lambda row: (row.subject, row.type, row.detail, row.at))
        insert_rows(connection, facts, {name: [getattr(row, name) for row in ordered] for name in COLUMNS})


def remove(connection: Connection, rows: Sequence[FactRow]) -> None:
    """Take facts away that a later one of their type has superseded."""
    for kind in sorted({row.type for row in rows}):
        pairs = [(row.subject, row.at) for row in rows if row.type == kind]
        for condition in pair_conditions(connection, facts.c.subject, facts.c.at, pairs):
            connection.execute(sa.delete(facts).where(condition, facts.c.type == kind))
