"""Facts in both stores: recorded once, judged whole, and followed by the scopes of their subjects."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from keyvault import KeyRequest, KeyVault
from keyvault.errors import AlreadyDueError, InvalidInputError, ScopeSuspendedError
from keyvault.events import b64
from keyvault.home import Home
from keyvault.results import values_of
from keyvault.scopes import Scope, ScopeKind
from keyvault.states import KeyState, SuspendedBy
from keyvault.store import facts as fact_store
from keyvault.store import outbox, subjects
from keyvault.store import scopes as scope_store
from keyvault.store.scopes import ScopeRow
from keyvault.store.subjects import SubjectRow
from keyvault.subjects import SubjectKind
from keyvault.testing import ManualClock
from shredder import policy_file
from shredder.fact_lines import Report
from shredder.facts import Fact, FactType, judge
from shredder.reporting import Recorded, record_facts, rejudge
from shredder.standing import GROUP, Standing, apply_standing
from tests.facts import POLICY, report
from tests.faults.killing import survives
from tests.homes import TestHome, in_dedicated_custody

pytestmark = in_dedicated_custody

NOW = datetime.now(UTC).replace(microsecond=0)
WEEK = timedelta(days=7)
CONSUMER, GREETING, USER, CONTACT = "consumer/a/1", "customer/a/greetings", "user/u", "marketing/m"
MONTH, YEAR, OTHER = f"communications/a/{NOW:%Y-%m}", f"business/a/{NOW:%Y}", "consumer/b/1"
ALL = [CONSUMER, GREETING, USER, CONTACT, MONTH, YEAR, OTHER]


def record(home: Home, *reports: Report, after: timedelta = WEEK) -> Recorded:
    return record_facts(home, POLICY, reports, after)


def ago(**delta: float) -> datetime:
    return NOW - timedelta(**delta)


def make(home: Home, names: Sequence[str] = ALL) -> None:
    values_of(KeyVault(home).ensure_scopes(names))


def row_of(home: Home, name: str) -> ScopeRow:
    lookup = home.keys.lookup(Scope.parse(name).canonical)
    return home.database.read(lambda c: scope_store.newest_by_lookup(c, [lookup]))[lookup]


def suspended(home: Home, names: Sequence[str] = ALL) -> set[str]:
    return {name for name in names if row_of(home, name).suspended_by is SuspendedBy.FACTS}


def subject_of(home: Home, kind: SubjectKind, name: str) -> SubjectRow:
    pseudonym = home.keys.pseudonym_of(kind, name)
    return home.database.read(lambda c: subjects.by_id(c, [pseudonym]))[pseudonym]


def events(home: Home, kind: str) -> list[dict[str, Any]]:
    bodies = [json.loads(body) for _, body in home.database.read(lambda c: outbox.bodies(c, limit=100_000))]
    return [event for event in bodies if event["type"] == kind]


def test_a_lapse_suspends_what_follows_the_account_and_a_reactivation_resumes_it(home: TestHome) -> None:
    with home.opened() as opened:
        make(opened)
        values_of(KeyVault(opened).suspend([GREETING]))  # a user deleted it
        done = record(opened, report("account.not-in-good-standing", ago(days=1), account="a"))
        assert (done.new, done.known, done.subjects, done.standing) == (1, 0, 1, Standing(suspended=1))
        assert suspended(opened) == {CONSUMER}
        assert subject_of(opened, SubjectKind.ACCOUNT, "a") == SubjectRow(
            id=opened.keys.pseudonym_of("account", "a"),
            kind="account",
            status="lapsed",
            suspend_at=ago(days=1),
            due_at=ago(days=1) + timedelta(days=30),
        )
        done = record(opened, report("account.reactivated", ago(hours=1), account="a"))
        assert done.standing == Standing(resumed=1)
        assert suspended(opened) == set()
        assert row_of(opened, GREETING).suspended_by is SuspendedBy.USER
        assert subject_of(opened, SubjectKind.ACCOUNT, "a").due_at is None
        consumer = {row_of(opened, CONSUMER).id}
        told = {
            kind: {event["scope_id"] for event in events(opened, kind)} for kind in ("scope.suspended", "scope.resumed")
        }
        assert len(told["scope.suspended"]) == 2
        assert len(told["scope.resumed"]) == len(consumer)


def test_every_kind_of_subject_waits_in_suspension(home: TestHome) -> None:
    with home.opened() as opened:
        make(opened)
        done = record(
            opened,
            report("account.closed", ago(days=1), account="a"),
            report("user.created", ago(days=900), user="u"),
            report("access.removed", ago(days=1), user="u", account="a"),
            report("contact.no-longer-valuable", ago(days=1), contact="m"),
            report("business.classified", ago(days=1), account="a", year=f"{NOW:%Y}", **{"class": "tax"}),
        )
        assert done.subjects == 4
        assert suspended(opened) == {CONSUMER, GREETING, USER, CONTACT}
        for kind, name in ((SubjectKind.ACCOUNT, "a"), (SubjectKind.USER, "u"), (SubjectKind.CONTACT, "m")):
            due = subject_of(opened, kind, name).due_at
            assert due is not None
            assert NOW + WEEK <= due <= datetime.now(UTC) + WEEK, kind
        assert subject_of(opened, SubjectKind.BUSINESS, f"a/{NOW:%Y}").due_at == datetime(
            NOW.year + 8, 1, 1, tzinfo=UTC
        )


def test_what_is_known_changes_nothing_and_makes_no_event(home: TestHome) -> None:
    facts = [
        report("account.opened", ago(days=9), account="a"),
        report("user.signed-in", ago(days=5), user="u"),
        report("user.signed-in", ago(days=3), user="u"),
        report("usage.billed", ago(days=2), account="a", through=f"{ago(days=3):%Y-%m-%d}"),
        report("account.closed", ago(days=1), account="a"),
    ]
    with home.opened() as opened:
        first = record(opened, *facts)
        assert (first.new, first.known) == (4, 1)
        before = {
            kind: subject_of(opened, kind, name) for kind, name in ((SubjectKind.ACCOUNT, "a"), (SubjectKind.USER, "u"))
        }
        for again in (facts, list(reversed(facts)), facts[:2] * 3):
            done = record(opened, *again, after=timedelta(days=90))
            assert (done.new, done.known, done.subjects) == (0, len(again), 0)
        assert {
            kind: subject_of(opened, kind, name) for kind, name in ((SubjectKind.ACCOUNT, "a"), (SubjectKind.USER, "u"))
        } == before
        (event,) = events(opened, "facts.recorded")
        assert len(event["facts"]) == 4
        known = opened.database.read(lambda c: fact_store.of_subjects(c, [opened.keys.pseudonym_of("user", "u")]))
        assert [row.at for rows in known.values() for row in rows] == [ago(days=3)]


def test_due_dates_can_be_worked_out_from_events_alone(home: TestHome) -> None:
    with home.opened() as opened:
        record(
            opened,
            report("user.created", ago(days=900), user="u"),
            report("access.granted", ago(days=900), user="u", account="a"),
            report("account.not-in-good-standing", ago(days=4), account="a"),
        )
        record(opened, report("access.removed", ago(days=1), user="u", account="a"), after=timedelta(0))
        facts: dict[tuple[str, str], list[Fact]] = {}
        for event in events(opened, "facts.recorded"):
            for told in event["facts"]:
                facts.setdefault((told["subject"], told["kind"]), []).append(
                    Fact(
                        type=FactType(told["type"]),
                        detail=told["detail"],
                        at=datetime.fromisoformat(told["at"]),
                        not_before=datetime.fromisoformat(event["not_before"]),
                    )
                )
        verdicts = {kind: judge(SubjectKind(kind), given, POLICY).due_at for (_, kind), given in facts.items()}
        assert verdicts == {
            "user": subject_of(opened, SubjectKind.USER, "u").due_at,
            "account": subject_of(opened, SubjectKind.ACCOUNT, "a").due_at,
        }
        assert all(event["policy"] == POLICY.version for event in events(opened, "facts.recorded"))


def test_nothing_new_goes_under_a_closed_account(home: TestHome) -> None:
    with home.opened() as opened:
        make(opened, [CONSUMER])
        record(opened, report("account.closed", ago(days=1), account="a"))
        vault = KeyVault(opened)
        old, new, month, other = vault.ensure_scopes([CONSUMER, "consumer/a/2", MONTH, OTHER])
        assert isinstance(new, AlreadyDueError)
        assert isinstance(month, AlreadyDueError)
        assert "consumer/a" not in str(new)
        values_of([old, other])
        record(opened, report("account.reactivated", ago(hours=1), account="a"))
        values_of(vault.ensure_scopes(["consumer/a/2", MONTH]))


def test_what_is_made_under_a_lapsed_account_is_suspended_at_once(home: TestHome) -> None:
    with home.opened() as opened:
        make(opened, [CONSUMER])
        record(opened, report("account.not-in-good-standing", ago(days=1), account="a"))
        vault = KeyVault(opened)
        new, month, other = values_of(vault.ensure_scopes(["consumer/a/2", MONTH, OTHER]))
        assert [info.state for info in (new, month, other)] == [KeyState.SUSPENDED, KeyState.ACTIVE, KeyState.ACTIVE]
        assert suspended(opened, ["consumer/a/2", MONTH, OTHER]) == {"consumer/a/2"}
        assert events(opened, "scope.suspended")[-1]["scope_id"] == b64(new.id)
        request = KeyRequest(scopes=("consumer/a/2",))
        with home.vault() as issuer:
            assert isinstance(issuer.generate_data_keys([request])[0], ScopeSuspendedError)
            record(opened, report("account.reactivated", ago(hours=1), account="a"))
            values_of(issuer.generate_data_keys([request]))


def test_nothing_new_goes_under_a_contact_that_is_due(home: TestHome) -> None:
    with home.opened() as opened:
        record(opened, report("contact.no-longer-valuable", ago(days=1), contact="m"), after=timedelta(0))
        (refused,) = KeyVault(opened).ensure_scopes([CONTACT])
        assert isinstance(refused, AlreadyDueError)


def test_standing_is_applied_in_groups(home: TestHome, monkeypatch: pytest.MonkeyPatch) -> None:
    assert GROUP == 1_000
    monkeypatch.setattr("shredder.standing.GROUP", 2)
    names = [f"consumer/a/{number}" for number in range(5)]
    with home.opened() as opened:
        make(opened, names)
        assert record(opened, report("account.closed", ago(days=1), account="a")).standing == Standing(suspended=5)
        assert record(opened, report("account.reactivated", ago(hours=1), account="a")).standing == Standing(resumed=5)
        assert len(events(opened, "scope.suspended")) == len(events(opened, "scope.resumed")) == 5


def test_what_is_fenced_or_was_settled_is_left_alone(home: TestHome) -> None:
    with home.opened() as opened:
        make(opened, [CONSUMER, "consumer/a/2"])
        fenced = row_of(opened, CONSUMER)
        opened.database.write(
            lambda c: scope_store.change_state(c, [fenced.id], before=[KeyState.ACTIVE], after=KeyState.DEACTIVATED)
        )
        assert record(opened, report("account.closed", ago(days=1), account="a")).standing == Standing(suspended=1)
        settled = replace(subject_of(opened, SubjectKind.ACCOUNT, "a"), settled=True)
        opened.database.write(lambda c: subjects.put(c, [settled]))
        other = row_of(opened, "consumer/a/2").id
        opened.database.write(
            lambda c: scope_store.change_state(c, [other], before=[KeyState.SUSPENDED], after=KeyState.ACTIVE)
        )
        assert apply_standing(opened) == Standing()
        # the same again is known, and what was settled stays so; anything that changes what is due opens it again
        record(opened, report("account.closed", ago(days=1), account="a"))
        assert subject_of(opened, SubjectKind.ACCOUNT, "a").settled
        record(opened, report("account.closed", ago(days=2), account="a"), after=timedelta(0))
        assert not subject_of(opened, SubjectKind.ACCOUNT, "a").settled
        assert row_of(opened, CONSUMER).state is KeyState.DEACTIVATED


def test_an_instant_in_the_future_suspends_later_and_resumes_nothing(home: TestHome) -> None:
    with home.opened() as plain:
        clock = ManualClock(NOW)
        opened = replace(plain, clock=clock)
        make(plain, [CONSUMER])
        record(opened, report("account.closed", NOW + timedelta(seconds=3), account="a"))
        assert suspended(opened, [CONSUMER]) == set()
        clock.advance(timedelta(seconds=3))
        assert apply_standing(opened) == Standing(suspended=1)
        clock.jump(NOW - timedelta(days=365))
        assert apply_standing(opened) == Standing()
        assert suspended(opened, [CONSUMER]) == {CONSUMER}


def test_another_policy_is_judged_anew(home: TestHome) -> None:
    consumer = replace(POLICY.categories[ScopeKind.CONSUMER], grace_days=60)
    longer = replace(POLICY, categories={**POLICY.categories, ScopeKind.CONSUMER: consumer})
    with home.opened() as opened:
        record(opened, report("account.not-in-good-standing", ago(days=1), account="a"))
        record(opened, report("account.opened", ago(days=1), account="b"))
        assert rejudge(opened, POLICY) == 0
        assert rejudge(opened, longer) == 1
        assert subject_of(opened, SubjectKind.ACCOUNT, "a").due_at == ago(days=1) + timedelta(days=60)


def test_a_change_of_the_homes_policy_reaches_what_was_reported_before_it(home: TestHome) -> None:
    built_in = (Path(policy_file.__file__).parent / policy_file.POLICY_FILE).read_text()
    with home.opened() as opened:
        before = policy_file.home_policy(opened)
        record_facts(opened, before, [report("account.not-in-good-standing", ago(days=1), account="a")], WEEK)
        assert subject_of(opened, SubjectKind.ACCOUNT, "a").due_at == ago(days=1) + timedelta(days=30)
        longer = built_in.replace("grace_days = 30", "grace_days = 90").replace('"2026-11"', '"acme/2"')
        (home.path / policy_file.POLICY_FILE).write_text(longer)
        assert policy_file.home_policy(opened).version == "acme/2"
        assert subject_of(opened, SubjectKind.ACCOUNT, "a").due_at == ago(days=1) + timedelta(days=90)


def test_two_importers_at_once_judge_all_facts(home: TestHome) -> None:
    names = [f"acct-{number}" for number in range(20)]
    with home.opened() as opened:
        lapses = [report("account.not-in-good-standing", ago(days=9), account=name) for name in names]
        returns = [report("account.reactivated", ago(days=3), account=name) for name in reversed(names)]
        with ThreadPoolExecutor(2) as pool:
            done = list(pool.map(lambda facts: record(opened, *facts), [lapses, returns] * 3))
        assert sum(one.new for one in done) == 2 * len(names)
        assert {subject_of(opened, SubjectKind.ACCOUNT, name).status for name in names} == {"active"}
        assert sum(len(event["facts"]) for event in events(opened, "facts.recorded")) == 2 * len(names)


def test_the_wait_has_bounds(home: TestHome) -> None:
    with home.opened() as opened:
        for wait in (timedelta(days=-1), timedelta(days=4_000)):
            with pytest.raises(InvalidInputError, match="wait"):
                record(opened, report("account.opened", ago(days=1), account="a"), after=wait)
        assert events(opened, "facts.recorded") == []


def test_the_store_holds_no_name(home: TestHome) -> None:
    with home.opened() as opened:
        record(
            opened,
            report("access.granted", ago(days=1), user="ada.lovelace", account="acct-secret"),
            report("contact.valuable", ago(days=1), contact="ada@example.com"),
        )
        stored = [str(body) for _, body in opened.database.read(outbox.bodies)]
        ids = [row.id for row in opened.database.read(lambda c: subjects.page(c, after=b"", limit=9))]
        stored += map(str, opened.database.read(lambda c: fact_store.of_subjects(c, ids)).values())
        assert stored
        assert not [text for text in stored if "lovelace" in text or "ada@" in text or "secret" in text]


def test_an_import_killed_at_every_step_is_finished_by_the_next(
    home: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shredder.reporting.GROUP", 2)
    with home.opened() as opened:
        make(opened, [f"consumer/{account}/1" for account in "abc"])
    facts = [report("account.closed", ago(days=1), account=account) for account in "abc"]
    for step in range(1, 200):
        if survives(home, "shredder", partial(_import, facts=facts), step):
            break
    assert step > 4, "the steps were not counted"
    with home.opened() as opened:
        record(opened, *facts)
        names = [f"consumer/{account}/1" for account in "abc"]
        assert suspended(opened, names) == set(names)
        assert sum(len(event["facts"]) for event in events(opened, "facts.recorded")) == 3
        assert len(events(opened, "scope.suspended")) == 3


def test_what_a_killed_import_left_is_followed_by_any_later_one(home: TestHome) -> None:
    with home.opened() as opened:
        make(opened, [CONSUMER])
    closed = [report("account.closed", ago(days=1), account="a")]
    for step in range(1, 200):
        with home.opened() as opened:
            if suspended(opened, [CONSUMER]):
                break
        survives(home, "shredder", partial(_import, facts=closed), step)
        with home.opened() as opened:
            if events(opened, "facts.recorded") and not suspended(opened, [CONSUMER]):
                assert record(opened).standing == Standing(suspended=1)
                return
    pytest.fail("no step was between the facts and their scopes")


def _import(home: Home, *, facts: Sequence[Report]) -> None:
    record_facts(home, POLICY, facts, WEEK)
