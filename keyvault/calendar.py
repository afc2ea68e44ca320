"""The calendar of the retention policy, in UTC: when a period has had its months. Pure, and never early.

`keyvault.scopes.add_months` adds months to an instant; what is here begins at the end of a month or year, as the policy does. Months are
added to the first of a month, which every month has, so nothing is lost at month ends and in leap years. Taking months off an instant
would not be exact (31 March minus one month is no day), so nothing here does.
"""

from __future__ import annotations

from datetime import UTC, datetime

from keyvault.errors import InvalidInputError
from keyvault.scopes import RETENTION_MONTHS, add_months

_LAST_MONTH = datetime(9999, 12, 1, tzinfo=UTC)


def period_due_at(period: str, months: int) -> datetime:
    """Return the first instant at which a month (`2026-11`) or year (`2026`) has had `months` (0 or more) after its last instant.

    What was recorded in the period's last microsecond has all of them. `LAST_INSTANT` when that is after the year 9999.
    """
    year, _, month = period.partition("-")
    start = datetime(int(year), int(month or 1), 1, tzinfo=UTC)
    return add_months(start, (1 if month else 12) + months)


def due_cutoff(now: datetime, months: int) -> datetime:
    """Return the latest `due_at` of an account-month that is due at `now` (in UTC) where the policy keeps `months` (1 to 25).

    `due_at` in the store always counts 25 months. A month is due under a shorter policy when `months` have passed since its end; that is
    so for all whose stored `due_at` is not after this cutoff, and for no other. Only what is stored as after the year 9999 is left out. `InvalidInputError` for other months.
    """
    if not 1 <= months <= RETENTION_MONTHS:
        raise InvalidInputError(f"communications are kept for 1 to {RETENTION_MONTHS} months")
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return min(add_months(first, RETENTION_MONTHS - months), _LAST_MONTH)
