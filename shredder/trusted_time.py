"""The time that a sweep may rely on: never ahead of the database's clock, and never far ahead of the last time that was trusted.

What a wrong clock makes due cannot be taken back. A clock that is behind only makes less due, and is no error.
"""

from __future__ import annotations

import json
from datetime import date, datetime, timedelta

from sqlalchemy.engine import Connection

from keyvault.errors import ClockAheadError
from keyvault.home import Home
from keyvault.store import outbox, system
from shredder.policy import Limits


def trusted_now(home: Home, limits: Limits, confirmed: date | None = None) -> datetime:
    """Return the instant for which a sweep may ask what is due.

    `confirmed`: today's date (UTC), typed by somebody who has looked at another clock. Raises `ClockAheadError`.
    """
    own = home.clock.now()
    of_database, before = home.database.read(lambda connection: _references(home, connection))
    return judge(own, of_database, before, bound=timedelta(days=limits.clock_jump_days), confirmed=confirmed)


def judge(
    own: datetime, of_database: datetime | None, before: datetime | None, *, bound: timedelta, confirmed: date | None
) -> datetime:
    """Return the earlier of the two clocks; raise `ClockAheadError` when `own` is ahead of every reference by more than `bound`.

    `of_database` is None where the database has no clock of its own, `before` before the first sweep of an empty home.
    """
    references = [moment for moment in (of_database, before) if moment is not None]
    if references and own - max(references) > bound and confirmed != own.date():
        raise ClockAheadError(
            f"the clock says {own.isoformat()}, more than {bound.days} days after the last trusted time, {max(references).isoformat()}, "
            "and nothing was destroyed: correct the clock; or, if it is right, run `keyvault sweep --trust-clock` with today's date"
        )
    return own if of_database is None else min(own, of_database)


def _references(home: Home, connection: Connection) -> tuple[datetime | None, datetime | None]:
    before = system.trusted_at(connection) or _first_event_at(connection)
    return home.database.own_now(connection, home.clock), before


def _first_event_at(connection: Connection) -> datetime | None:
    """Return the oldest event's time, for the first sweep. A newer one's proves nothing: the clock that is in doubt has stamped it."""
    body = outbox.first_body(connection)
    return None if body is None else datetime.fromisoformat(json.loads(body)["at"])
