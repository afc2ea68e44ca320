"""Calendar arithmetic: by table, and beside a naive calendar that counts day by day."""

from __future__ import annotations

import calendar
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyvault.calendar import due_cutoff, period_due_at
from keyvault.errors import InvalidInputError
from keyvault.scopes import LAST_INSTANT, RETENTION_MONTHS, Scope, ScopeKind, add_months, month_due_at

TICK = timedelta(microseconds=1)
LAST_DUE = 9999 * 12 + 11  # the number of December 9999, the last month whose first can be written


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def instants(first: str, last: str) -> st.SearchStrategy[datetime]:
    return st.datetimes(at(first).replace(tzinfo=None), at(last).replace(tzinfo=None), timezones=st.just(UTC))


# --- the naive calendar: walks from day to day, and knows nothing but how long months are --------------------------------


def days_in(year: int, month: int) -> int:
    return [31, 29 if calendar.isleap(year) else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31][month - 1]


def naive_months_later(start: datetime, months: int) -> datetime | None:
    """Return the same day of the month `months` months on; where there is none, the day after that month's last; None after 9999."""
    day, wanted = start, (start.year * 12 + start.month - 1 + months)
    while day.year * 12 + day.month - 1 < wanted or (day.year * 12 + day.month - 1 == wanted and day.day < start.day):
        if (day.year, day.month, day.day) == (9999, 12, 31):
            return None
        if day.year * 12 + day.month - 1 == wanted and day.day == days_in(day.year, day.month):
            return (day + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        day += timedelta(days=1)
    return day


def number_of(month: str) -> int:
    year, _, name = month.partition("-")
    return int(year) * 12 + int(name) - 1


def month_of(number: int) -> str:
    return f"{number // 12:04}-{number % 12 + 1:02}"


# --- months after an instant: sign-ins ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("signed_in", "due"),
    [
        ("2024-01-31T10:00", "2025-03-01T00:00"),  # there is no 31 February
        ("2023-01-29T10:00", "2024-02-29T10:00"),  # a leap year has a 29th
        ("2024-01-29T10:00", "2025-03-01T00:00"),
        ("2024-02-29T10:00", "2025-03-29T10:00"),
        ("2024-03-31T23:59:59.999999", "2025-05-01T00:00"),
        ("2024-11-30T12:00", "2025-12-30T12:00"),
        ("2024-12-01T00:00", "2026-01-01T00:00"),
        ("1999-01-31T10:00", "2000-03-01T00:00"),  # 2000 has a 29 February, and no 31
        ("2099-01-29T10:00", "2100-03-01T00:00"),  # 2100 has none
        ("0001-01-01T00:00", "0002-02-01T00:00"),
        ("9998-11-30T00:00", "9999-12-30T00:00"),
    ],
)
def test_thirteen_months_since_a_sign_in(signed_in: str, due: str) -> None:
    assert add_months(at(signed_in), 13) == at(due)


def test_what_comes_after_the_last_year_never_comes() -> None:
    assert add_months(at("9998-12-01"), 13) == LAST_INSTANT
    assert add_months(at("9999-12-31"), 1200) == LAST_INSTANT


@given(instants("0001-01-01", "9999-12-31"), st.integers(0, 30))
@example(at("2024-01-31T23:59:59.999999"), 1)
@example(at("9999-12-31"), 0)
def test_months_later_is_what_counting_days_says(start: datetime, months: int) -> None:
    expected = naive_months_later(start, months)
    assert add_months(start, months) == (LAST_INSTANT if expected is None else expected)


# --- months after a period: account-months and business years ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("period", "months", "due"),
    [
        ("2024-05", 25, "2026-07-01"),
        ("2024-01", 25, "2026-03-01"),  # its end is 1 February: no day of January matters
        ("2024-02", 12, "2025-03-01"),
        ("2023-12", 1, "2024-02-01"),
        ("2024-12", 0, "2025-01-01"),
        ("2026", 36, "2030-01-01"),
        ("2026", 84, "2034-01-01"),
        ("2026", 120, "2037-01-01"),
        ("2026", 1, "2027-02-01"),
        ("0001", 1, "0002-02-01"),
        ("0001-01", 25, "0003-03-01"),
        ("9997-10", 25, "9999-12-01"),
    ],
)
def test_when_a_period_has_had_its_months(period: str, months: int, due: str) -> None:
    assert period_due_at(period, months) == at(due)


@pytest.mark.parametrize(("period", "months"), [("9997-11", 25), ("9999-12", 0), ("9999", 0), ("9990", 120)])
def test_a_period_that_would_end_after_the_last_year_never_does(period: str, months: int) -> None:
    assert period_due_at(period, months) == LAST_INSTANT


numbers = st.integers(12, 9999 * 12 + 11)  # January 1 to December 9999


@given(numbers)
def test_account_months_agree_with_their_scopes(number: int) -> None:
    month = month_of(number)
    scope = Scope.of(ScopeKind.COMMUNICATIONS, "acct-1", month)
    assert period_due_at(month, RETENTION_MONTHS) == month_due_at(month) == scope.due_at
    assert period_due_at(month, 0) == scope.period_end
    assert period_due_at(month[:4], 0) == Scope.of(ScopeKind.BUSINESS, "acct-1", month[:4]).period_end


@given(numbers, st.integers(1, RETENTION_MONTHS))
def test_a_record_of_the_months_last_instant_has_all_its_months(number: int, months: int) -> None:
    """What the record itself would have, counted from its own instant, never ends after its month is due, and barely before."""
    due = period_due_at(month_of(number), months)
    if due == LAST_INSTANT:
        return
    last = period_due_at(month_of(number), 0) - TICK
    record = add_months(last, months)
    assert record <= due
    assert due - record < timedelta(
        days=4
    )  # 28 February and a month is 28 March; the month of March has three days more
    if record.day != last.day:  # the day was missing and rolled forward
        assert record == due
    assert due.day == 1
    assert due.year * 12 + due.month - 1 == number + 1 + months


# --- what is due at an instant ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("now", "months", "latest"),
    [
        ("2026-11-24T17:16", 25, "2024-09"),
        ("2026-11-01T00:00", 25, "2024-09"),
        ("2026-10-31T23:59:59.999999", 25, "2024-08"),
        ("2026-11-24", 24, "2024-10"),
        ("2026-11-24", 1, "2026-09"),
        (
            "2026-03-31T12:00",
            1,
            "2026-01",
        ),  # 31 March less a month is no day; January ended on 1 February, a month before 1 March
        ("2026-03-01", 1, "2026-01"),
        ("2026-02-28T23:59:59.999999", 1, "2025-12"),
        ("2024-02-29", 12, "2023-01"),
    ],
)
def test_the_latest_month_that_is_due(now: str, months: int, latest: str) -> None:
    cutoff = due_cutoff(at(now), months)
    assert cutoff == month_due_at(latest)
    assert period_due_at(latest, months) <= at(now) < period_due_at(month_of(number_of(latest) + 1), months)


@given(
    instants("0003-03-01", "9999-12-31T23:59:59.999999"),
    st.integers(1, RETENTION_MONTHS),
    st.integers(-30, 3),
)
@example(at("2026-03-31"), 1, -2)
@example(LAST_INSTANT, 25, -26)
@example(LAST_INSTANT, 1, -2)
@example(at("9998-01-01"), 1, -2)
def test_the_cutoff_takes_what_is_due_and_nothing_else(now: datetime, months: int, distance: int) -> None:
    """Months around now: at or before the cutoff exactly when the naive calendar finds that they have had their months."""
    number = number_of(f"{now.year:04}-{now.month:02}") + distance
    if not 12 <= number <= LAST_DUE:
        return
    stored = month_due_at(month_of(number))
    taken = stored <= due_cutoff(now, months)
    due = number + 1 + months <= now.year * 12 + now.month - 1
    writable = number + 1 + RETENTION_MONTHS <= LAST_DUE
    assert taken == (due and writable)


@given(instants("0002-02-01", "9999-12-31"), st.integers(1, RETENTION_MONTHS))
def test_the_cutoff_moves_at_months_ends_alone(now: datetime, months: int) -> None:
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    assert due_cutoff(now, months) == due_cutoff(first, months)
    assert due_cutoff(first - TICK, months) <= due_cutoff(first, months)
    assert due_cutoff(now, months) < LAST_INSTANT


@pytest.mark.parametrize("months", [0, -1, 26])
def test_no_cutoff_for_what_no_policy_may_say(months: int) -> None:
    with pytest.raises(InvalidInputError, match="1 to 25 months"):
        due_cutoff(at("2026-11-24"), months)
