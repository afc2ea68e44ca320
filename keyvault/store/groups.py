"""Groups: scopes that one destruction has fenced, and whose state its row tells, for all of them at once.

So a fence writes the row of each scope, and an acknowledgement one row. A group stays one until its backup horizon, or until only some of it can
be acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.scopes import ScopeKind
from keyvault.states import KeyState
from keyvault.store.dialects import conditions, pair_conditions
from keyvault.store.scopes import GROUPED, destroyed_values
from keyvault.store.tables import destructions, scopes


def acknowledge(connection: Connection, proven: Mapping[bytes, int], *, at: datetime, horizon: datetime) -> set[bytes]:
    """Mark the groups of destructions as destroyed of which so many scopes are proven gone: all. Return the ids of those that were not yet."""
    done: set[bytes] = set()
    for condition in pair_conditions(connection, destructions.c.id, destructions.c.scopes, proven.items()):
        statement = (
            sa.update(destructions)
            .where(condition, destructions.c.destroyed_at.is_(None))
            .values(destroyed_at=at, horizon=horizon)
            .returning(destructions.c.id)
        )
        done.update(connection.execute(statement).scalars().all())
    return done


def part(connection: Connection, destroy_ids: Iterable[bytes]) -> None:
    """Dissolve the groups of these destructions that are still pending: each of their scopes has a state of its own again."""
    for condition in conditions(connection, destructions.c.id, destroy_ids):
        pending = sa.update(destructions).where(
            condition, destructions.c.scopes.is_not(None), destructions.c.destroyed_at.is_(None)
        )
        parted = connection.execute(pending.values(scopes=None).returning(destructions.c.id)).scalars().all()
        for of_parted in conditions(connection, scopes.c.destroy_id, parted):
            connection.execute(sa.update(scopes).where(of_parted, GROUPED).values(grouped=None))


def settle(connection: Connection, *, people: Iterable[ScopeKind], now: datetime, limit: int) -> int:
    """Dissolve destroyed groups whose backup horizon has passed, at most `limit`, each row as that of a scope alone; return how many."""
    kinds = list(people)
    query = sa.select(destructions).where(destructions.c.scopes.is_not(None), destructions.c.horizon <= now)
    found = connection.execute(query.order_by(destructions.c.horizon).limit(limit)).all()
    for cause in found:
        statement = sa.update(scopes).where(
            scopes.c.destroy_id == cause.id, GROUPED, scopes.c.state == str(KeyState.DEACTIVATED)
        )
        connection.execute(
            statement.values({**destroyed_values(kinds, cause.destroyed_at, cause.horizon), "grouped": None})
        )
        connection.execute(sa.update(destructions).where(destructions.c.id == cause.id).values(scopes=None))
    return len(found)
