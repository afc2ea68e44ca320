"""Queries on destructions and on the openings kept for certificates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.store.dialects import conflict_insert
from keyvault.store.scopes import chunks
from keyvault.store.tables import certificate_openings, destructions


@dataclass(frozen=True, kw_only=True, slots=True)
class Destruction:
    """One group destruction. `id` 16 bytes; `ticket` and `requested_by` are 32-byte pseudonyms."""

    id: bytes
    reason: str
    ticket: bytes
    requested_by: bytes
    fence_event: str
    created_at: datetime


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
        )
    )


def by_id(connection: Connection, ids: Sequence[bytes]) -> Mapping[bytes, Destruction]:
    """Return the destructions of these ids."""
    found: dict[bytes, Destruction] = {}
    for chunk in chunks(ids):
        for row in connection.execute(sa.select(destructions).where(destructions.c.id.in_(chunk))):
            found[row.id] = Destruction(
                id=row.id,
                reason=row.reason,
                ticket=row.ticket,
                requested_by=row.requested_by,
                fence_event=row.fence_event,
                created_at=row.created_at,
            )
    return found


def keep_openings(connection: Connection, sealed: Mapping[bytes, bytes], *, until: datetime) -> None:
    """Keep, by scope id, the sealed opening of each commitment for its certificate."""
    for chunk in chunks(sorted(sealed)):
        values = [{"scope_id": scope, "sealed": sealed[scope], "expires_at": until} for scope in chunk]
        connection.execute(conflict_insert(connection, certificate_openings).values(values).on_conflict_do_nothing())


def drop_openings(connection: Connection, *, now: datetime) -> None:
    """Remove the openings whose backup horizon has passed."""
    connection.execute(sa.delete(certificate_openings).where(certificate_openings.c.expires_at <= now))
