"""What a sweep's clock is held against, by table."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest

from keyvault.errors import ClockAheadError
from shredder.trusted_time import judge

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
BOUND = timedelta(days=2)
TICK = timedelta(microseconds=1)
YEAR = timedelta(days=365)


@pytest.mark.parametrize(
    ("of_database", "before", "trusted"),
    [
        (None, None, NOW),
        (None, NOW - BOUND, NOW),
        (None, NOW + YEAR, NOW),
        (NOW, NOW, NOW),
        (NOW - TICK, None, NOW - TICK),
        (NOW - BOUND, None, NOW - BOUND),
        (NOW + YEAR, NOW - YEAR, NOW),
        (NOW - YEAR, NOW - BOUND, NOW - YEAR),
    ],
)
def test_the_earlier_clock_counts(of_database: datetime | None, before: datetime | None, trusted: datetime) -> None:
    assert judge(NOW, of_database, before, bound=BOUND, confirmed=None) == trusted


@pytest.mark.parametrize(
    ("of_database", "before"),
    [
        (None, NOW - BOUND - TICK),
        (NOW - BOUND - TICK, None),
        (NOW - BOUND - TICK, NOW - YEAR),
        (NOW - YEAR, NOW - BOUND - TICK),
    ],
)
def test_a_clock_ahead_of_every_reference_needs_todays_date(
    of_database: datetime | None, before: datetime | None
) -> None:
    for confirmed in (None, date(2026, 11, 23), date(2026, 11, 25), date(2025, 11, 24)):
        with pytest.raises(ClockAheadError, match="nothing was destroyed"):
            judge(NOW, of_database, before, bound=BOUND, confirmed=confirmed)
    trusted = judge(NOW, of_database, before, bound=BOUND, confirmed=date(2026, 11, 24))
    assert trusted == (of_database or NOW)
