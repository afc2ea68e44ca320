"""Five years of real messages: at every day what is live is exactly what a naive model says, and in the end nothing is kept too long."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import pytest

from keyvault.home import Home
from keyvault.results import values_of
from shredder.sweep import sweep
from tests.homes import TestHome, in_ring_custody
from tests.policies import UNLIMITED, built_in
from tests.sweeping import live, put_subject, told_the_time

MESSAGES = Path(__file__).parents[3] / "shared" / "data" / "communications.jsonl"
FIRST, LAST = date(2024, 5, 1), date(2029, 5, 1)
SWEPT_AT = time(3, 30)
POLICY = built_in(limits=UNLIMITED)
GRACE = timedelta(days=30)


@dataclass(frozen=True, kw_only=True)
class Fact:
    """What is reported of an account on a day."""

    account: str
    status: str


@dataclass(kw_only=True)
class Model:
    """What should be live: days counted one by one, without anything of the program's."""

    alive: set[str] = field(default_factory=set)
    months: dict[str, date] = field(default_factory=dict)
    """The first day on which each account-month is not to be there any more."""
    people: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    ends: dict[str, date] = field(default_factory=dict)

    def record(self, account: str, consumer: str, day: date) -> set[str]:
        """Note a message; return the scopes that it is the first in."""
        month = f"communications/{account}/{day:%Y-%m}"
        person = f"consumer/{account}/{consumer}"
        years, index = divmod(day.month - 1 + 26, 12)  # the end of the month, and 25 months
        self.months[month] = date(day.year + years, index + 1, 1)
        self.people[account].add(person)
        new = {month, person} - self.alive
        self.alive |= new
        return new

    def report(self, fact: Fact, day: date) -> None:
        self.ends.pop(fact.account, None)
        if fact.status == "lapsed":
            self.ends[fact.account] = day + GRACE
        elif fact.status == "closed":
            self.ends[fact.account] = day

    def pass_day(self, day: date) -> set[str]:
        """Take away what ends on this day, and return it."""
        gone = {month for month, end in self.months.items() if end <= day}
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
    """Every account has a history of its own; no message comes in behind the end of one, because all come by November 2026."""
    found: dict[date, list[Fact]] = defaultdict(list)
    for number, account in enumerate(accounts):
        lapsed = date(2026, 12, 1) + timedelta(days=11 * number)
        history = {
            0: [(lapsed, "lapsed")],
            1: [(lapsed, "lapsed"), (lapsed + timedelta(days=29), "active"), (lapsed + timedelta(days=200), "closed")],
            2: [(lapsed, "closed")],
            3: [(lapsed, "lapsed"), (lapsed + timedelta(days=10), "active")],
        }
        for day, status in history[number % 4]:
            found[day].append(Fact(account=account, status=status))
    return found


def days() -> Iterator[date]:
    day = FIRST
    while day <= LAST:
        yield day
        day += timedelta(days=1)


@in_ring_custody
def test_every_day_of_five_years(home: TestHome, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = told_the_time(monkeypatch, datetime.combine(FIRST, SWEPT_AT, UTC))
    by_day = messages()
    history = facts(sorted({account for pairs in by_day.values() for account, _ in pairs}))
    model, everything = Model(), set[str]()
    destroyed = idle = 0
    with home.opened() as opened, home.vault() as vault:
        for day in days():
            clock.jump(datetime.combine(day, SWEPT_AT, UTC))
            for fact in history.get(day, ()):
                report(opened, fact, datetime.combine(day, time.min, UTC))
                model.report(fact, day)
            gone = model.pass_day(day)
            if gone or day.day == 1 or day in history:
                found = sweep(opened, POLICY, trust_clock=day)
                assert (found.destroyed, found.failed, found.spared) == (len(gone), [], 0), day
                assert live(opened, everything) == model.alive, day
                destroyed += found.destroyed
                idle += not gone
            new = set().union(*(model.record(account, consumer, day) for account, consumer in by_day.get(day, ())))
            if new:
                values_of(vault.ensure_scopes(sorted(new)))
                everything |= new
    assert len(everything) == 1_221 + 5_139
    assert {name for name in model.alive if name.startswith("communications/")} == set()
    assert (destroyed, idle > 20) == (len(everything) - len(model.alive), True)
    assert (
        sum(name.startswith("consumer/") for name in model.alive) > 1_000
    )  # of the accounts that are in good standing


def report(home: Home, fact: Fact, at: datetime) -> None:
    """Write what the fact comes to."""
    due = {"active": None, "lapsed": at + GRACE, "closed": at}[fact.status]
    put_subject(home, "account", fact.account, due_at=due, status=fact.status)
