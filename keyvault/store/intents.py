"""Intents: keys that were announced before they were made, so that nothing a crash or a lost race leaves is forgotten.

An intent is `open` until the transaction that creates its scope removes it. A creator may bind a key only by removing its
open intent, and the shredder may delete one only after turning it `abandoned`: the row's lock decides between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.store.dialects import chunks
from keyvault.store.tables import intents

OPEN = "open"
ABANDONED = "abandoned"


def announce(connection: Connection, key_refs: Sequence[str], *, at: datetime) -> None:
    """Write open intents."""
    for chunk in chunks(key_refs):
        connection.execute(
            sa.insert(intents), [{"key_ref": key_ref, "state": OPEN, "created_at": at} for key_ref in chunk]
        )


def take(connection: Connection, key_refs: Sequence[str]) -> set[str]:
    """Remove open intents and return which there were: the caller may bind these keys, and no others."""
    taken: set[str] = set()
    for chunk in chunks(sorted(key_refs)):
        statement = sa.delete(intents).where(intents.c.key_ref.in_(chunk), intents.c.state == OPEN)
        taken.update(connection.execute(statement.returning(intents.c.key_ref)).scalars())
    return taken


def abandon(connection: Connection, key_refs: Sequence[str]) -> None:
    """Mark keys that lost the race for their name, or failed half-way: the shredder deletes them."""
    for chunk in chunks(sorted(key_refs)):
        connection.execute(sa.update(intents).where(intents.c.key_ref.in_(chunk)).values(state=ABANDONED))


def has_open_older_than(connection: Connection, moment: datetime) -> bool:
    """Return whether `abandon_older_than` would find any."""
    query = sa.select(intents.c.key_ref).where(intents.c.state == OPEN, intents.c.created_at < moment)
    return connection.execute(query.limit(1)).first() is not None


def all_references(connection: Connection) -> set[str]:
    """Return the key references of all intents."""
    return set(connection.execute(sa.select(intents.c.key_ref)).scalars())


def abandon_older_than(connection: Connection, moment: datetime) -> None:
    """Mark what creators that died left behind."""
    connection.execute(
        sa.update(intents).where(intents.c.state == OPEN, intents.c.created_at < moment).values(state=ABANDONED)
    )


def abandoned(connection: Connection, *, limit: int) -> list[str]:
    """Return key references that wait for deletion."""
    query = sa.select(intents.c.key_ref).where(intents.c.state == ABANDONED).order_by(intents.c.key_ref)
    return list(connection.execute(query.limit(limit)).scalars())


def forget(connection: Connection, key_refs: Sequence[str]) -> None:
    """Remove intents whose keys are proven gone."""
    for chunk in chunks(sorted(key_refs)):
        connection.execute(sa.delete(intents).where(intents.c.key_ref.in_(chunk)))


def count(connection: Connection) -> int:
    """Return how many intents there are."""
    return connection.execute(sa.select(sa.func.count()).select_from(intents)).scalar_one()
