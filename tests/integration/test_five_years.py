"""Five years of real messages: at every day what is live is exactly what a naive model says, and in the end nothing is kept too long."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from cli.sweep import STEPS
from keyvault.errors import SubjectEndedError
from keyvault.home import Home
from keyvault.results import values_of
from keyvault.store.tables import scopes
from shredder.reporting import record_facts
from shredder.sweep import sweep
from tests.facts import report as reported
from tests.homes import TestHome, in_ring_custody
from tests.policies import UNLIMITED, built_in
from tests.sweeping import told_the_time

MESSAGES = Path(__file__).parents[3] / "shared" / "data" / "communications.jsonl"
FIRST, LAST = date(2024, 5, 1), date(2029, 5, 1)
SWEPT_AT = time(3, 30)
POLICY = built_in(limits=UNLIMITED)
GRACE = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class Fact:
    """What is reported on a day: the type, since when it is so, and whom it is about."""

    type: str
    at: date
    fields: Mapping[str, str]


OTHERS = {
    "user/seen-last-in-march": date(2026, 4, 10),
    "user/with-access-until-august": date(2026, 8, 1),
    "user/who-stays": None,
    "marketing/lost": date(2025, 2, 3),
    "marketing/won-back": None,
    "business/acct-x/2024": date(2028, 1, 1),
}
"""What is no communication and of no account's customer, and by hand the first day on which it is not to be there any more."""


@dataclass(kw_only=True)
class Model:
    """What should be live: days counted one by one, without anything of the program's."""

    alive: set[str] = field(default_factory=set)
    ever: set[str] = field(default_factory=set)
    months: dict[str, date] = field(default_factory=dict)
    """The first day on which each account-month is not to be there any more."""
    people: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    ends: dict[str, date] = field(default_factory=dict)
    """The first day on which an account's people are not to be there any more."""

    def record(self, account: str, consumer: str, day: date) -> tuple[set[str], set[str]]:
        """Note a message; return the scopes that it is the first in, and those that there is no room for any more."""
        month = f"communications/{account}/{day:%Y-%m}"
        person = f"consumer/{account}/{consumer}"
        new = {month, person} - self.ever
        if self.ends.get(account, LAST) <= day:
            return set(), new
        years, index = divmod(day.month - 1 + 26, 12)  # the end of the month, and 25 months
        self.months[month] = date(day.year + years, index + 1, 1)
        self.people[account].add(person)
        self.alive |= new
        self.ever |= new
        return new, set()

    def report(self, fact: Fact) -> None:
        """Note what ends an account, or does not any more; what else is reported is in `OTHERS`."""
        account = fact.fields.get("account", "")
        if fact.type == "account.reactivated":
            self.ends.pop(account, None)
        elif fact.type == "account.not-in-good-standing":
            self.ends[account] = min(fact.at + GRACE, self.ends.get(account, LAST))
        elif fact.type == "account.closed":
            self.ends[account] = min(fact.at, self.ends.get(account, LAST))

    def pass_day(self, day: date) -> set[str]:
        """Take away what ends on this day, and return it."""
        gone = {month for month, end in self.months.items() if end <= day}
        gone |= {name for name, end in OTHERS.items() if end is not None and end <= day}
        for account, end in self.ends.items():
            if end <= day:
                gone |= self.people[account]
        gone &= self.alive
        self.alive -= gone
        return gone


def messages() -> Mapping[date, list[tuple[str, str]]]:
    """Return who wrote to which account, by day."""
    found: dict[date, list[tuple[str, str]]] = defaultdict(list)
    for text in MESSAGES.read_text().splitlines():
        message = json.loads(text)
        day = datetime.fromisoformat(message["recorded_at"]).date()
        found[day].append((message["account"], message["consumer"]))
    return found


def facts(accounts: list[str]) -> Mapping[date, list[Fact]]:
    """Return what is reported on which day: every account has a history of its own, some while messages come in, some afterwards."""
    found: dict[date, list[Fact]] = defaultdict(list)

    def tell(day: date, kind: str, at: date | None = None, **fields: str) -> None:
        found[day].append(Fact(type=kind, at=at or day, fields=fields))

    for number, account in enumerate(accounts):
        start = date(2025, 3, 1) if number % 2 else date(2026, 12, 1)
        lapsed = start + timedelta(days=11 * (number // 2))
        lapse, back, close = "account.not-in-good-standing", "account.reactivated", "account.closed"
        histories: list[list[tuple[int, str, int]]] = [
            [(0, lapse, 0)],
            [(0, lapse, 0), (29, back, 29), (200, close, 200)],
            [(0, close, 0)],
            [(0, lapse, 0), (10, back, 10)],
            [(45, lapse, 0)],  # reported when its days are over
            [(0, lapse, 0), (10, close, 10)],
            [],
            [(0, close, 0), (90, back, 90)],  # what is gone is gone
        ]
        for after, kind, since in histories[number // 2 % len(histories)]:
            tell(lapsed + timedelta(days=after), kind, lapsed + timedelta(days=since), account=account)
    for user in ("seen-last-in-march", "with-access-until-august", "who-stays"):
        tell(date(2024, 5, 2), "user.created", user=user)
        tell(date(2024, 5, 2), "access.granted", user=user, account="acct-x")
        tell(date(2025, 3, 10), "user.signed-in", user=user)
    tell(date(2025, 6, 1), "access.removed", user="seen-last-in-march", account="acct-x")
    tell(date(2026, 8, 1), "access.removed", user="with-access-until-august", account="acct-x")
    for contact in ("lost", "won-back"):
        tell(date(2025, 2, 3), "contact.no-longer-valuable", contact=contact)
    tell(date(2025, 2, 3), "contact.valuable", contact="won-back")
    classified = {"account": "acct-x", "year": "2024", "class": "operations"}
    found[date(2025, 1, 10)].append(Fact(type="business.classified", at=date(2025, 1, 10), fields=classified))
    return found


def days() -> Iterator[date]:
    day = FIRST
    while day <= LAST:
        yield day
        day += timedelta(days=1)


@in_ring_custody
def test_every_day_of_five_years(home: TestHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps on each day on which the model or a fact changes anything, and on the first of each month, on which nothing may."""
    clock = told_the_time(monkeypatch, datetime.combine(FIRST, SWEPT_AT, UTC))
    by_day = messages()
    history = facts(sorted({account for pairs in by_day.values() for account, _ in pairs}))
    model = Model(alive=set(OTHERS), ever=set(OTHERS))
    names: dict[bytes, str] = {}
    destroyed = idle = turned_away = 0
    with home.opened() as opened, home.vault() as vault:
        for day in days():
            clock.jump(datetime.combine(day, SWEPT_AT, UTC))
            told = history.get(day, [])
            for fact in told:
                model.report(fact)
            record(opened, told)
            gone = model.pass_day(day)
            if gone or day.day == 1 or told:
                found = sweep(opened, POLICY, steps=STEPS, trust_clock=day)
                assert (found.destroyed, found.failed, found.spared, found.problems) == (len(gone), [], 0, ()), day
                assert (alive := {names[lookup] for lookup in live(opened)}) == model.alive or day == FIRST, (
                    alive ^ model.alive
                )
                destroyed += found.destroyed
                idle += not gone
            noted = [model.record(account, consumer, day) for account, consumer in by_day.get(day, ())]
            new, late = (set().union(*(pair[place] for pair in noted)) for place in (0, 1))
            new |= set(OTHERS) if day == FIRST else set()
            names |= {opened.keys.lookup(name.encode()): name for name in new}
            if new:
                values_of(vault.ensure_scopes(sorted(new)))
            assert all(isinstance(refused, SubjectEndedError) for refused in vault.ensure_scopes(sorted(late))), day
            turned_away += len(late)
    assert {name for name in model.alive if name.startswith("communications/")} == set()
    assert destroyed == len(model.ever) - len(model.alive)
    assert (len(model.ever) > 5_000, turned_away > 100, idle > 20) == (True, True, True)
    stay = {name for name, end in OTHERS.items() if end is None}
    assert stay == {name for name in model.alive if not name.startswith("consumer/")}
    assert len(model.alive) > 500  # of the accounts that are in good standing


def record(home: Home, told: list[Fact]) -> None:
    """Report facts as the platform does, without a wait."""
    reports = [reported(fact.type, datetime.combine(fact.at, time.min, UTC), **fact.fields) for fact in told]
    if reports:
        record_facts(home, POLICY, reports, timedelta(0))


def live(home: Home) -> list[bytes]:
    """Return the look-ups of all that is neither fenced nor destroyed, by a query of the test's own."""
    query = sa.select(scopes.c.lookup).where(scopes.c.state.in_(["active", "suspended"]))
    return home.database.read(lambda connection: list(connection.execute(query).scalars()))
