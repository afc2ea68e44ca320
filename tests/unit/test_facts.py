"""What facts about one subject come to, in any order and however often they are reported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault.errors import ConfigurationError
from keyvault.scopes import ScopeKind, add_months
from keyvault.subjects import SubjectKind
from shredder.facts import REGISTERS, Fact, FactType, Verdict, judge, merge
from shredder.policy import Policy
from tests.facts import POLICY, day, fact

OPENED, LAPSED, BACK, CLOSED = (
    FactType.OPENED,
    FactType.NOT_IN_GOOD_STANDING,
    FactType.REACTIVATED,
    FactType.CLOSED,
)
GRANTED, REMOVED, CREATED, SIGNED_IN = FactType.GRANTED, FactType.REMOVED, FactType.CREATED, FactType.SIGNED_IN
WANTED, UNWANTED, CLASSIFIED, BILLED = (
    FactType.VALUABLE,
    FactType.NO_LONGER_VALUABLE,
    FactType.CLASSIFIED,
    FactType.BILLED,
)


def of(kind: SubjectKind, *facts: Fact, policy: Policy = POLICY) -> Verdict:
    return judge(kind, facts, policy)


def account(*facts: Fact) -> tuple[str, datetime | None, datetime | None]:
    verdict = of(SubjectKind.ACCOUNT, *facts)
    return verdict.status, verdict.suspend_at, verdict.due_at


@pytest.mark.parametrize(
    ("facts", "status", "suspended", "due"),
    [
        ([], "active", None, None),
        ([fact(OPENED, 1)], "active", None, None),
        ([fact(LAPSED, 10)], "lapsed", 10, 40),
        ([fact(CLOSED, 10)], "closed", 10, 10),
        # the waiting time
        ([fact(LAPSED, 10, wait_until=39)], "lapsed", 10, 40),
        ([fact(LAPSED, 10, wait_until=50)], "lapsed", 10, 50),
        ([fact(CLOSED, 10, wait_until=17)], "closed", 10, 17),
        # reported every night
        ([fact(LAPSED, 10), fact(LAPSED, 11), fact(LAPSED, 12)], "lapsed", 10, 40),
        ([fact(CLOSED, 10, wait_until=17), fact(CLOSED, 11, wait_until=18)], "closed", 10, 17),
        ([fact(CLOSED, 10), fact(LAPSED, 11)], "closed", 10, 10),
        # an earlier loss that was reported later makes nothing later
        ([fact(LAPSED, 20, wait_until=27), fact(LAPSED, 10, wait_until=60)], "lapsed", 10, 50),
        # closed after a lapse: the earlier of both dues
        ([fact(LAPSED, 10), fact(CLOSED, 15, wait_until=22)], "closed", 15, 22),
        ([fact(LAPSED, 10), fact(CLOSED, 39, wait_until=46)], "closed", 39, 40),
        # reactivated
        ([fact(LAPSED, 10), fact(BACK, 20)], "active", None, None),
        ([fact(CLOSED, 10), fact(BACK, 20)], "active", None, None),
        ([fact(LAPSED, 10), fact(BACK, 20), fact(LAPSED, 30)], "lapsed", 30, 60),
        ([fact(LAPSED, 10), fact(BACK, 20), fact(CLOSED, 30)], "closed", 30, 30),
        ([fact(CLOSED, 10), fact(OPENED, 20)], "active", None, None),
        # at the same instant what keeps the data wins, but an opening comes first
        ([fact(LAPSED, 10), fact(BACK, 10)], "active", None, None),
        ([fact(CLOSED, 10), fact(BACK, 10)], "active", None, None),
        ([fact(CLOSED, 10), fact(OPENED, 10)], "closed", 10, 10),
        ([fact(LAPSED, 10), fact(CLOSED, 10)], "closed", 10, 10),
        ([fact(OPENED, 10), fact(BACK, 10), fact(LAPSED, 10)], "active", None, None),
    ],
)
def test_accounts(facts: list[Fact], status: str, suspended: float | None, due: float | None) -> None:
    expected = tuple(None if number is None else day(number) for number in (suspended, due))
    assert account(*facts) == (status, *expected)


def test_billing_goes_as_far_as_the_latest_bill_says() -> None:
    bills = [fact(BILLED, 10, day(9).isoformat()), fact(BILLED, 40, day(39).isoformat())]
    assert of(SubjectKind.ACCOUNT, *bills).billed_through == day(39)
    corrected = fact(BILLED, 41, day(20).isoformat())
    assert of(SubjectKind.ACCOUNT, *bills, corrected, fact(CLOSED, 50)).billed_through == day(20)
    assert of(SubjectKind.ACCOUNT, fact(CLOSED, 50)).billed_through is None


def test_of_two_bills_at_one_instant_the_one_that_goes_less_far_counts() -> None:
    bills = [fact(BILLED, 10, day(9).isoformat()), fact(BILLED, 10, day(8).isoformat())]
    assert of(SubjectKind.ACCOUNT, *bills).billed_through == day(8)


def test_the_longest_grace_of_what_follows_accounts_counts() -> None:
    consumer = replace(POLICY.categories[ScopeKind.CONSUMER], grace_days=45)
    policy = replace(POLICY, categories={**POLICY.categories, ScopeKind.CONSUMER: consumer})
    assert of(SubjectKind.ACCOUNT, fact(LAPSED, 10), policy=policy).due_at == day(55)


@pytest.mark.parametrize(
    ("kind", "scope", "field", "facts"),
    [
        (SubjectKind.ACCOUNT, ScopeKind.CUSTOMER, "grace_days", [fact(LAPSED, 1)]),
        (SubjectKind.USER, ScopeKind.USER, "months", [fact(CREATED, 1), fact(REMOVED, 2, "a")]),
    ],
)
def test_a_policy_without_a_number_makes_nothing_due(
    kind: SubjectKind, scope: ScopeKind, field: str, facts: list[Fact]
) -> None:
    category = replace(POLICY.categories[scope], **{field: None})  # type: ignore[arg-type]
    policy = replace(POLICY, categories={**POLICY.categories, scope: category})
    with pytest.raises(ConfigurationError, match=field):
        judge(kind, facts, policy)


# --- users ------------------------------------------------------------------------------------------------------------


def user(*facts: Fact) -> tuple[str, datetime | None, datetime | None]:
    verdict = of(SubjectKind.USER, *facts)
    return verdict.status, verdict.suspend_at, verdict.due_at


def months_after(number: float) -> datetime:
    return add_months(day(number), 13)


@pytest.mark.parametrize(
    "facts",
    [
        [],
        [fact(CREATED, 0)],
        [fact(SIGNED_IN, 0)],
        [fact(CREATED, 0), fact(GRANTED, 1, "a")],
        [fact(CREATED, 0), fact(GRANTED, 1, "a"), fact(GRANTED, 1, "b"), fact(REMOVED, 5, "a")],
        [fact(CREATED, 0), fact(REMOVED, 5, "a"), fact(GRANTED, 6, "a")],
        [fact(CREATED, 0), fact(REMOVED, 5, "a"), fact(GRANTED, 5, "a")],
        [fact(CREATED, 0), fact(REMOVED, 5, "a"), fact(GRANTED, 700, "b")],
    ],
)
def test_users_who_have_access_or_whose_access_is_unknown_are_never_due(facts: list[Fact]) -> None:
    assert user(*facts) == ("active", None, None)


def test_a_user_of_whom_neither_creation_nor_sign_in_is_known_is_not_due() -> None:
    assert user(fact(REMOVED, 5, "a")) == ("no-access", None, None)


@pytest.mark.parametrize(
    ("facts", "due"),
    [
        # whichever comes last
        ([fact(CREATED, 0), fact(REMOVED, 5, "a")], months_after(0)),
        ([fact(CREATED, 0), fact(SIGNED_IN, 3), fact(REMOVED, 5, "a")], months_after(3)),
        ([fact(CREATED, 0), fact(SIGNED_IN, 3), fact(REMOVED, 800, "a")], day(800)),
        ([fact(SIGNED_IN, 3), fact(REMOVED, 800, "a"), fact(REMOVED, 900, "b")], day(900)),
        # a sign-in after the removal
        ([fact(SIGNED_IN, 30), fact(REMOVED, 5, "a")], months_after(30)),
        # reported every night
        ([fact(SIGNED_IN, 3), fact(REMOVED, 800, "a"), fact(REMOVED, 801, "a")], day(800)),
        # lost again
        ([fact(SIGNED_IN, 3), fact(REMOVED, 500, "a"), fact(GRANTED, 600, "a"), fact(REMOVED, 900, "a")], day(900)),
    ],
)
def test_users_are_due(facts: list[Fact], due: datetime) -> None:
    assert user(*facts) == ("no-access", None, due)


def test_a_user_who_is_due_before_the_waiting_time_is_over_waits_in_suspension() -> None:
    created, removed = fact(CREATED, 0), fact(REMOVED, 800, "a", wait_until=807)
    assert user(created, removed) == ("no-access", day(800), day(807))
    assert user(replace(created, not_before=day(810)), removed) == ("no-access", day(800), day(810))
    assert user(created, replace(removed, at=day(5), not_before=day(12))) == ("no-access", None, months_after(0))


def test_thirteen_months_are_counted_by_the_calendar() -> None:
    def due(signed_in: str) -> datetime | None:
        sign_in = Fact(type=SIGNED_IN, at=datetime.fromisoformat(signed_in), not_before=day(-5000))
        return of(SubjectKind.USER, sign_in, fact(REMOVED, -5000, "a", wait_until=-5000)).due_at

    assert due("2024-01-31T23:59:59+00:00") == datetime(2025, 3, 1, tzinfo=UTC)
    assert due("2023-01-29T12:00:00+00:00") == datetime(2024, 2, 29, 12, tzinfo=UTC)
    assert due("2026-11-30T00:00:00+00:00") == datetime(2027, 12, 30, tzinfo=UTC)


# --- contacts and business years --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "status", "suspended", "due"),
    [
        ([], "valuable", None, None),
        ([fact(UNWANTED, 5)], "not-valuable", None, 5),
        ([fact(UNWANTED, 5, wait_until=12)], "not-valuable", 5, 12),
        ([fact(UNWANTED, 5, wait_until=12), fact(UNWANTED, 6, wait_until=13)], "not-valuable", 5, 12),
        ([fact(UNWANTED, 5), fact(WANTED, 6)], "valuable", None, None),
        ([fact(UNWANTED, 5), fact(WANTED, 5)], "valuable", None, None),
        ([fact(UNWANTED, 5), fact(WANTED, 6), fact(UNWANTED, 7)], "not-valuable", None, 7),
    ],
)
def test_contacts(facts: list[Fact], status: str, suspended: float | None, due: float | None) -> None:
    instants = [None if number is None else day(number) for number in (suspended, due)]
    assert of(SubjectKind.CONTACT, *facts) == Verdict(status=status, suspend_at=instants[0], due_at=instants[1])


def business(*facts: Fact) -> tuple[str, datetime | None, datetime | None]:
    verdict = of(SubjectKind.BUSINESS, *facts)
    return verdict.status, verdict.suspend_at, verdict.due_at


def test_a_class_counts_from_the_end_of_the_year() -> None:
    assert business(fact(CLASSIFIED, 5, "tax/2020")) == ("classified", None, datetime(2028, 1, 1, tzinfo=UTC))
    assert business(fact(CLASSIFIED, 5, "operations/2020", wait_until=12)) == (
        "classified",
        datetime(2024, 1, 1, tzinfo=UTC),
        day(12),
    )


def test_the_latest_class_wins_and_of_two_at_one_instant_the_longer() -> None:
    tax, accounting = fact(CLASSIFIED, 5, "tax/2020"), fact(CLASSIFIED, 6, "accounting/2020")
    assert business(tax, accounting)[2] == datetime(2031, 1, 1, tzinfo=UTC)
    assert business(replace(tax, at=day(7)), accounting)[2] == datetime(2028, 1, 1, tzinfo=UTC)
    assert business(replace(tax, at=day(6)), accounting)[2] == datetime(2031, 1, 1, tzinfo=UTC)


def test_a_class_that_is_reported_again_postpones_nothing() -> None:
    first = fact(CLASSIFIED, 5, "operations/2020", wait_until=12)
    again = fact(CLASSIFIED, 9, "operations/2020", wait_until=16)
    other = fact(CLASSIFIED, 7, "tax/2020", wait_until=14)
    assert business(first, again)[2] == day(12)
    assert business(first, other, again)[2] == day(16)


def test_a_class_that_the_policy_dropped_keeps_the_records() -> None:
    gone = fact(CLASSIFIED, 5, "gone/2000")
    assert business() == business(gone) == ("unclassified", None, None)
    assert business(gone, fact(CLASSIFIED, 5, "tax/2000")) == ("unclassified", None, None)


# --- order and repetition ---------------------------------------------------------------------------------------------

TYPES = {
    SubjectKind.ACCOUNT: [OPENED, LAPSED, BACK, CLOSED, BILLED],
    SubjectKind.USER: [CREATED, SIGNED_IN, GRANTED, REMOVED],
    SubjectKind.CONTACT: [WANTED, UNWANTED],
    SubjectKind.BUSINESS: [CLASSIFIED],
}


def some_fact(kind: FactType) -> st.SearchStrategy[Fact]:
    details = {
        BILLED: [day(1).isoformat(), day(2).isoformat()],
        GRANTED: ["a", "b"],
        REMOVED: ["a", "b"],
        CLASSIFIED: ["tax/2020", "operations/2020", "gone/2020"],
    }.get(kind, [""])
    return st.builds(
        lambda detail, at, wait: fact(kind, at, detail, wait_until=at + wait),
        st.sampled_from(details),
        st.integers(0, 6),
        st.integers(0, 60),
    )


def histories(kind: SubjectKind) -> st.SearchStrategy[list[Fact]]:
    return st.lists(st.sampled_from(TYPES[kind]).flatmap(some_fact), max_size=8, unique_by=lambda one: one.key)


HISTORIES = st.sampled_from(SubjectKind).flatmap(lambda kind: st.tuples(st.just(kind), histories(kind)))
given_histories = given(HISTORIES, st.randoms())


def recorded(groups: Sequence[Sequence[Fact]]) -> list[Fact]:
    """Return what is in the table after these groups were reported."""
    stored: list[Fact] = []
    for group in groups:
        new, superseded = merge(stored, group)
        stored = [one for one in stored if one not in superseded] + new
    return stored


@given_histories
def test_order_and_repetition_change_no_verdict(history: tuple[SubjectKind, list[Fact]], random: Random) -> None:
    kind, facts = history
    expected = judge(kind, facts, POLICY)
    shuffled = list(facts) + facts[: len(facts) // 2]
    random.shuffle(shuffled)
    assert judge(kind, shuffled, POLICY) == expected
    assert judge(kind, recorded([shuffled]), POLICY) == expected
    assert judge(kind, recorded([[one] for one in shuffled]), POLICY) == expected


@given_histories
def test_what_was_recorded_is_known(history: tuple[SubjectKind, list[Fact]], random: Random) -> None:
    _, facts = history
    stored = recorded([facts])
    random.shuffle(facts)
    assert merge(stored, facts) == ([], [])
    for register in REGISTERS:
        assert sum(one.type is register for one in stored) <= 1


@given(HISTORIES)
def test_nothing_is_due_before_its_waiting_time_or_any_fact(history: tuple[SubjectKind, list[Fact]]) -> None:
    kind, facts = history
    due = judge(kind, facts, POLICY).due_at
    if due is not None:
        assert due >= min(one.not_before for one in facts)
        assert due >= min(one.at for one in facts)


def test_a_repeated_report_keeps_the_wait_it_first_had() -> None:
    first = fact(CLOSED, 10, wait_until=17)
    assert merge([first], [replace(first, not_before=day(30))]) == ([], [])


def test_of_registers_the_latest_stays() -> None:
    old, newer = fact(SIGNED_IN, 5), fact(SIGNED_IN, 6)
    assert merge([old], [newer]) == ([newer], [old])
    assert merge([newer], [old]) == ([], [])
    less = fact(BILLED, 5, day(1).isoformat())
    assert merge([fact(BILLED, 5, day(2).isoformat())], [less])[0] == [less]
