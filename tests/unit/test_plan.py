"""The policy's automatic rules as values, and what their counts come to."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from keyvault.due_rules import DueCount
from keyvault.scopes import ScopeKind
from shredder.plan import PlanEntry, due_rules, make_plan, shifted
from tests.policies import built_in

AT = datetime(2026, 11, 24, 12, tzinfo=UTC)
MONTH_BEGINS = datetime(2026, 11, 1, tzinfo=UTC)


def test_every_kind_has_its_rules() -> None:
    rules = due_rules(built_in(), AT)
    found = {(rule.reason, rule.subject, rule.closed, rule.deleted_after): (rule.kinds, rule.until) for rule in rules}
    months = frozenset({ScopeKind.COMMUNICATIONS})
    accounts = frozenset({ScopeKind.CONSUMER, ScopeKind.CUSTOMER})
    assert found == {
        ("retention-period", None, None, None): (months, MONTH_BEGINS),
        ("account-closed", "account", True, None): (accounts, AT),
        ("account-closed", "account", True, MONTH_BEGINS): (months, AT),
        ("account-lapsed", "account", False, None): (accounts, AT),
        ("account-lapsed", "account", False, MONTH_BEGINS): (months, AT),
        ("user-inactive", "user", None, None): (frozenset({ScopeKind.USER}), AT),
        ("no-longer-valuable", "contact", None, None): (frozenset({ScopeKind.MARKETING}), AT),
        ("class-period", "business", None, None): (frozenset({ScopeKind.BUSINESS}), AT),
    }
    assert len(rules) == len(found)
    assert rules[0].subject is None


@pytest.mark.parametrize(("months", "until"), [(25, MONTH_BEGINS), (24, datetime(2026, 12, 1, tzinfo=UTC))])
def test_what_the_calendar_ends_is_not_due_a_second_time(months: int, until: datetime) -> None:
    calendar, *others = due_rules(built_in(months=months), AT)
    assert calendar.until == until
    assert {rule.deleted_after for rule in others} == {None, until}


def test_counts_are_put_together_by_kind_month_and_reason() -> None:
    calendar, closed, deleted, *_ = due_rules(built_in(), AT)
    consumer = DueCount(kind=ScopeKind.CONSUMER, month="2026-11", count=3)
    month = DueCount(kind=ScopeKind.COMMUNICATIONS, month="2026-11", count=2)
    plan = make_plan(
        built_in(), AT, [(calendar, [month], []), (closed, [consumer], []), (deleted, [month], [month, month])]
    )
    assert plan.entries == (
        PlanEntry(kind=ScopeKind.COMMUNICATIONS, month="2026-11", reason="account-closed", scopes=2, records=4),
        PlanEntry(kind=ScopeKind.COMMUNICATIONS, month="2026-11", reason="retention-period", scopes=2),
        PlanEntry(kind=ScopeKind.CONSUMER, month="2026-11", reason="account-closed", scopes=3),
    )
    assert (plan.at, plan.count) == (AT, 11)
    assert make_plan(built_in(), AT, []).count == 0


def test_a_shorter_period_makes_months_due_earlier() -> None:
    policy = built_in(months=3)
    calendar = due_rules(policy, AT)[0]
    stored = DueCount(kind=ScopeKind.COMMUNICATIONS, month="2028-09", count=1)
    (entry,) = make_plan(policy, AT, [(calendar, [stored], [])]).entries
    assert entry.month == "2026-11"
    assert calendar.until >= datetime(2028, 9, 1, tzinfo=UTC) > calendar.until - timedelta(days=31)


@pytest.mark.parametrize(
    ("month", "by", "result"),
    [
        ("2026-11", 0, "2026-11"),
        ("2026-11", 1, "2026-12"),
        ("2026-12", 1, "2027-01"),
        ("2026-01", -1, "2025-12"),
        ("2026-11", 25, "2028-12"),
        ("2026-11", -22, "2025-01"),
        ("0999-12", 1, "1000-01"),
    ],
)
def test_months_later_and_earlier(month: str, by: int, result: str) -> None:
    assert shifted(month, by) == result
