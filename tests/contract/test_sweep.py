"""Sweeps on every pair of engine and store: what is due goes, with its reason, and nothing else."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

import keyvault.home
from cli.sweep import STEPS
from keyvault.creation import ScopeCreator
from keyvault.errors import (
    ClockAheadError,
    ConfirmationNeededError,
    DestructionPausedError,
    NotProvenError,
    ScopeDestroyedError,
    ScopeFencedError,
    SubjectEndedError,
    SweepRunningError,
    Unavailable,
)
from keyvault.home import Home
from keyvault.persons import Person
from keyvault.results import values_of
from keyvault.states import KeyState
from keyvault.store import due, fenced_records, leases, outbox, rings, system
from keyvault.store import scopes as scope_store
from keyvault.store import subjects as subject_store
from keyvault.store.tables import leases as lease_table
from keyvault.store.tables import scopes as scope_table
from keyvault.store.tables import subjects
from shredder import sweep as sweep_module
from shredder import sweep_lease, trusted_time
from shredder.destroy import Destroyer
from shredder.plan import PlanEntry
from shredder.policy import Limits, Requester, RequestKind
from shredder.reporting import record_facts
from shredder.requests import Requests, RequestState
from shredder.submission import Submission
from shredder.sweep import SweepReport, plan_sweep, sweep
from tests.facts import report as reported
from tests.homes import TestHome, in_dedicated_custody, in_ring_custody
from tests.policies import UNLIMITED, built_in
from tests.sweeping import SimulatedManualClock, create, live, put_subject, states, told_the_time

START = datetime(2024, 5, 10, 12, tzinfo=UTC)
DUE = datetime(2026, 7, 1, tzinfo=UTC)
"""When the account-months of May 2024 are due."""
MAY = ("communications/acct-1/2024-05", "communications/acct-2/2024-05")
JUNE = "communications/acct-1/2024-06"
PEOPLE = ("consumer/acct-1/ada", "consumer/acct-1/bob", "customer/acct-1/greetings")
OTHER_PERSON = "consumer/acct-2/eve"
POLICY = built_in(limits=UNLIMITED)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimulatedManualClock:
    return told_the_time(monkeypatch, START)


def swept(home: TestHome, **options: Any) -> SweepReport:
    """Sweep at a time that somebody stands for."""
    with home.opened() as opened:
        return sweep(opened, POLICY, trust_clock=opened.clock.now().date(), **options)


def fences(home: Home) -> list[dict[str, Any]]:
    bodies = home.database.read(lambda connection: outbox.bodies(connection, limit=10_000))
    events = [json.loads(body) for _, body in bodies]
    return [event for event in events if event["type"] == "destroy.fenced"]


# --- what is due ------------------------------------------------------------------------------------------------------


def test_account_months_go_when_25_months_have_passed_and_not_a_microsecond_before(
    home: TestHome, clock: SimulatedManualClock
) -> None:
    create(home, *MAY)
    clock.jump(datetime(2024, 6, 30, 23, 59, 59, tzinfo=UTC))
    create(home, JUNE)
    clock.jump(DUE - timedelta(microseconds=1))
    assert swept(home).destroyed == 0
    clock.jump(DUE)
    report = swept(home)
    assert (report.destroyed, report.spared, report.failed) == (2, 0, [])
    assert report.plan.entries == (
        PlanEntry(kind=report.plan.entries[0].kind, reason="retention-period", month="2026-07", scopes=2),
    )
    with home.opened() as opened:
        assert live(opened, [*MAY, JUNE]) == {JUNE}
        (event,) = fences(opened)
        assert (event["reason"], event["approvals"], event["policy"]) == ("retention-period", 0, POLICY.version)
        assert event["request"] is event["approved_by"] is None


def test_fewer_months_of_a_companys_own_policy(home: TestHome, clock: SimulatedManualClock) -> None:
    create(home, *MAY)
    policy = built_in(limits=UNLIMITED, months=3)
    with home.opened() as opened:
        clock.jump(datetime(2024, 8, 31, 23, 59, 59, 999999, tzinfo=UTC))
        assert plan_sweep(opened, policy, clock.now()).count == 0
        clock.jump(datetime(2024, 9, 1, tzinfo=UTC))
        (entry,) = plan_sweep(opened, policy, clock.now()).entries
        assert (entry.month, entry.scopes) == ("2024-09", 2)
        assert sweep(opened, policy, trust_clock=clock.now().date()).destroyed == 2
        assert live(opened, MAY) == set()


@pytest.mark.parametrize(("status", "reason"), [("closed", "account-closed"), ("lapsed", "account-lapsed")])
def test_customer_data_goes_with_its_account_and_account_months_stay(
    home: TestHome, clock: SimulatedManualClock, status: str, reason: str
) -> None:
    create(home, *MAY, *PEOPLE, OTHER_PERSON)
    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=START + timedelta(days=1), status=status)
    assert swept(home).plan.count == 0
    clock.advance(timedelta(days=1))
    assert swept(home).destroyed == 3
    with home.opened() as opened:
        assert live(opened, [*MAY, *PEOPLE, OTHER_PERSON]) == {*MAY, OTHER_PERSON}
        assert {event["reason"] for event in fences(opened)} == {reason}


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        ("user", "user/u-1", "user-inactive"),
        ("contact", "marketing/c-1", "no-longer-valuable"),
        ("business", "business/acct-1/2024", "class-period"),
    ],
)
@in_ring_custody
def test_what_facts_about_others_make_due(
    home: TestHome, clock: SimulatedManualClock, kind: str, name: str, reason: str
) -> None:
    create(home, name, PEOPLE[0], "user/u-2", "marketing/c-2", "business/acct-2/2024")
    with home.opened() as opened:
        put_subject(opened, kind, name.partition("/")[2], due_at=clock.now(), status="ended")
        report = sweep(opened, POLICY)
        assert (report.destroyed, [entry.reason for entry in report.plan.entries]) == (1, [reason])
        assert states(opened, [name, "user/u-2"])[name] is KeyState.DESTROYED
        assert len(live(opened, [PEOPLE[0], "user/u-2", "marketing/c-2", "business/acct-2/2024"])) == 4


@in_ring_custody
def test_what_a_user_deleted_goes_with_the_account(home: TestHome, clock: SimulatedManualClock) -> None:
    create(home, *MAY, JUNE.replace("06", "05").replace("acct-1", "acct-3"))
    with home.vault() as vault:
        values_of(vault.suspend([MAY[0]]))
        values_of(vault.suspend_records(MAY[1], ["r-1", "r-2"]))
        values_of(vault.suspend([MAY[1].replace("acct-2", "acct-3")]))
    with home.opened() as opened:
        for account in ("acct-1", "acct-2"):
            put_subject(opened, "account", account, due_at=clock.now())
        plan = plan_sweep(opened, POLICY, clock.now())
        assert [(entry.scopes, entry.records, entry.reason) for entry in plan.entries] == [(1, 2, "account-closed")]
        report = sweep(opened, POLICY)
        assert report.destroyed == 3
        assert live(opened, MAY) == {MAY[1]}
        marks = opened.database.read(fenced_records.count_by_state)
        assert marks[KeyState.DESTROYED] == 2
        assert live(opened, ["communications/acct-3/2024-05"])


def test_a_plan_changes_nothing_and_looks_ahead(home: TestHome, clock: SimulatedManualClock) -> None:
    create(home, *MAY, *PEOPLE)
    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=START + timedelta(days=40))
        assert plan_sweep(opened, POLICY, clock.now()).count == 0
        plan = plan_sweep(opened, POLICY, DUE)
        found = [(str(entry.kind), entry.month, entry.scopes) for entry in plan.entries]
        assert found == [("communications", "2026-07", 2), ("consumer", "2024-06", 2), ("customer", "2024-06", 1)]
        assert live(opened, [*MAY, *PEOPLE]) == {*MAY, *PEOPLE}


@in_ring_custody
def test_a_due_month_takes_its_ring_in_as_many_calls_as_it_has_rings(
    home: TestHome, clock: SimulatedManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(home, *(f"communications/acct-{number}/2024-05" for number in range(40)))
    clock.jump(DUE)
    with home.opened() as opened:
        deleted: list[str] = []
        original = type(opened.engine).delete_keys

        def delete_keys(self: Any, names: Any) -> Any:
            deleted.extend(names)
            return original(self, names)

        monkeypatch.setattr(type(opened.engine), "delete_keys", delete_keys)
        assert sweep(opened, POLICY, trust_clock=DUE.date()).destroyed == 40
        assert len(deleted) == 1


def test_settled_subjects_are_not_looked_at_again(home: TestHome, clock: SimulatedManualClock) -> None:
    create(home, *PEOPLE)
    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=clock.now())
        put_subject(opened, "account", "acct-later", due_at=clock.now() + timedelta(days=1))
        put_subject(opened, "account", "acct-good", due_at=None, status="active")
        sweep(opened, POLICY)
        query = sa.select(subjects.c.id).where(subjects.c.settled)
        settled = opened.database.read(lambda c: list(c.execute(query).scalars()))
        assert settled == [opened.keys.pseudonym_of("account", "acct-1")]


def test_small_groups_go_all_the_same(
    home: TestHome, clock: SimulatedManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "GROUP", 2)
    people = [f"consumer/acct-1/p-{number}" for number in range(5)]
    create(home, *people, *MAY)
    clock.jump(DUE)
    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=START)
        report = sweep(opened, POLICY, trust_clock=DUE.date())
        assert (report.destroyed, report.failed) == (7, [])
        assert live(opened, [*people, *MAY]) == set()


# --- what keeps a sweep from running ------------------------------------------------------------------------------------


def test_limits_need_the_exact_count(home: TestHome, clock: SimulatedManualClock) -> None:
    create(home, *PEOPLE)
    policy = built_in(limits=Limits(scopes=2, percent=100, percent_from=10, clock_jump_days=2))
    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=clock.now())
        for confirm in (None, 2, 4):
            with pytest.raises(ConfirmationNeededError, match="3 are due"):
                sweep(opened, policy, confirm=confirm)
        assert live(opened, PEOPLE) == set(PEOPLE)
        assert sweep(opened, policy, confirm=3).destroyed == 3


@in_dedicated_custody
def test_a_share_of_all_that_is_live_is_a_limit_too(home: TestHome, clock: SimulatedManualClock) -> None:
    create(home, *PEOPLE, OTHER_PERSON)
    policy = built_in(limits=Limits(scopes=1000, percent=50, percent_from=4, clock_jump_days=2))
    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=clock.now())
        with pytest.raises(ConfirmationNeededError, match="of 4 live"):
            sweep(opened, policy)


def test_what_becomes_due_behind_the_plan_waits_for_the_next_sweep(
    home: TestHome, clock: SimulatedManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(home, *PEOPLE, OTHER_PERSON)
    original = plan_sweep

    def then_more(opened: Home, *args: Any) -> Any:
        plan = original(opened, *args)
        put_subject(opened, "account", "acct-2", due_at=clock.now())
        return plan

    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=clock.now())
        monkeypatch.setattr(sweep_module, "plan_sweep", then_more)
        assert sweep(opened, POLICY).destroyed == 3
        monkeypatch.undo()
        assert len(live(opened, [*PEOPLE, OTHER_PERSON])) == 1


def test_pause_stops_a_sweep(home: TestHome, clock: SimulatedManualClock) -> None:
    create(home, *PEOPLE)
    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=clock.now())
        Destroyer(opened).pause()
        with pytest.raises(DestructionPausedError):
            sweep(opened, POLICY)
        assert live(opened, PEOPLE) == set(PEOPLE)
        Destroyer(opened).unpause()
        assert sweep(opened, POLICY).destroyed == 3


def test_steps_come_before_the_plan(home: TestHome, clock: SimulatedManualClock) -> None:
    create(home, *PEOPLE)
    with home.opened() as opened:

        def close(opened: Home, _policy: object) -> list[str]:
            put_subject(opened, "account", "acct-1", due_at=clock.now())
            return ["request 17 waits"]

        report = sweep(opened, POLICY, steps=[close])
        assert (report.problems, report.destroyed, report.complete) == (("request 17 waits",), 3, False)


def test_a_sweep_suspends_what_facts_say_and_carries_out_requests(home: TestHome, clock: SimulatedManualClock) -> None:
    third = "consumer/acct-3/kim"
    create(home, MAY[0], *PEOPLE, OTHER_PERSON, third)
    with home.opened() as plain:
        opened = replace(plain, settings=replace(plain.settings, approvals=2))
        requests = Requests(opened, POLICY)
        report = partial(record_facts, opened, POLICY, after=timedelta(days=7))
        report([reported("account.closed", START - timedelta(days=1), account="acct-1")])
        report([reported("account.not-in-good-standing", START + timedelta(days=1), account="acct-3")])
        asked = [
            Submission(ticket="T-1", requester=Requester.CUSTOMER, kind=RequestKind.DELETE, account="acct-1"),
            Submission(ticket="T-2", requester=Requester.CUSTOMER, kind=RequestKind.ANONYMIZE, scopes=(OTHER_PERSON,)),
        ]
        views = [requests.submit(each, Person(identity="ada", display="Ada")) for each in asked]
        agreed = [requests.approve(view.row.id, Person(identity="grace", display="Grace")) for view in views]
        assert [view.state for view in agreed] == [RequestState.AWAITING_BILLING, RequestState.APPROVED]
        assert states(opened, [third]) == {third: KeyState.ACTIVE}
        clock.advance(timedelta(days=1))
        first = sweep(opened, POLICY, steps=STEPS)
        assert (first.complete, first.plan.count) == (True, 0)
        assert states(opened, [third, OTHER_PERSON]) == {third: KeyState.SUSPENDED, OTHER_PERSON: KeyState.DESTROYED}
        assert live(opened, [MAY[0], *PEOPLE]) == {MAY[0], *PEOPLE}
        through = (START - timedelta(days=1)).isoformat()
        report([reported("usage.billed", clock.now(), account="acct-1", through=through)])
        assert sweep(opened, POLICY, steps=STEPS).complete
        assert live(opened, [MAY[0], *PEOPLE, third]) == {third}
        assert [requests.show(view.row.id).state for view in views] == [RequestState.DONE] * 2


# --- one at a time ------------------------------------------------------------------------------------------------------


@contextmanager
def another_sweep(opened: Home, *, seconds: int = 60) -> Iterator[None]:
    """Hold the lease on another machine, which dies at the end."""

    def take(connection: sa.Connection) -> None:
        now = opened.database.now(connection)
        token = leases.acquire(connection, "sweep", now=now, until=now + timedelta(seconds=seconds))
        assert token is not None
        connection.execute(sa.update(lease_table).where(lease_table.c.name == "sweep").values(holder="elsewhere/1"))

    opened.database.write(take)
    yield
    opened.database.write(lambda c: c.execute(sa.delete(lease_table).where(lease_table.c.name == "sweep")))


def test_one_sweep_at_a_time(home: TestHome, clock: SimulatedManualClock) -> None:
    create(home, *PEOPLE)
    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=clock.now())
        with another_sweep(opened), pytest.raises(SweepRunningError):
            sweep(opened, POLICY)
        assert live(opened, PEOPLE) == set(PEOPLE)
        with another_sweep(opened, seconds=-1):
            assert sweep(opened, POLICY).destroyed == 3  # that one did not renew its lease
        assert sweep(opened, POLICY).destroyed == 0


@in_dedicated_custody
def test_a_lease_is_renewed_and_its_loss_stops_the_sweep(
    home: TestHome, clock: SimulatedManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_lease, "RENEWED_EVERY", 0.01)
    create(home, *PEOPLE)
    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=clock.now())

        def lose(opened: Home, _policy: object) -> None:
            opened.database.write(
                lambda c: c.execute(sa.text("UPDATE leases SET token = token + 1 WHERE name = 'sweep'"))
            )

        with sweep_lease.held(opened) as lease:
            lose(opened, None)
            lease._lost.wait(10)
            with pytest.raises(SweepRunningError):
                lease.check()
        assert live(opened, PEOPLE) == set(PEOPLE)


# --- facts that change in mid-sweep -------------------------------------------------------------------------------------


def test_a_reactivation_in_mid_sweep_saves_what_is_not_fenced_yet(
    home: TestHome, clock: SimulatedManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(home, *PEOPLE, OTHER_PERSON)
    original = Destroyer.destroy_rows

    def late(self: Destroyer, *args: Any) -> Any:
        put_subject(self._home, "account", "acct-1", due_at=None, status="active")
        return original(self, *args)

    with home.opened() as opened:
        for account in ("acct-1", "acct-2"):
            put_subject(opened, "account", account, due_at=clock.now())
        with monkeypatch.context() as patch:
            patch.setattr(Destroyer, "destroy_rows", late)
            report = sweep(opened, POLICY)
        assert (report.plan.count, report.destroyed, report.spared, report.failed) == (4, 1, 3, [])
        assert live(opened, [*PEOPLE, OTHER_PERSON]) == set(PEOPLE)
    with home.vault() as vault:
        vault.seal(b"still works", [PEOPLE[0]])


@in_ring_custody
def test_an_undelete_in_mid_sweep_saves_months_and_records(
    home: TestHome, clock: SimulatedManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(home, *MAY)
    with home.vault() as vault:
        values_of(vault.suspend([MAY[0]]))
        values_of(vault.suspend_records(MAY[1], ["r-1", "r-2"]))

    def undeleting(method: Callable[..., Any]) -> Callable[..., Any]:
        def late(self: Destroyer, *args: Any) -> Any:
            """Reactivate the accounts, undelete some, and close them again."""
            for account in ("acct-1", "acct-2"):
                put_subject(self._home, "account", account, due_at=None, status="active")
            with home.vault() as vault:
                values_of(vault.resume([MAY[0]]))
                values_of(vault.resume_records(MAY[1], ["r-1"]))
            for account in ("acct-1", "acct-2"):
                put_subject(self._home, "account", account, due_at=clock.now())
            return method(self, *args)

        return late

    with home.opened() as opened:
        for account in ("acct-1", "acct-2"):
            put_subject(opened, "account", account, due_at=clock.now())
        for name in ("destroy_rows", "destroy_tags"):
            monkeypatch.setattr(Destroyer, name, undeleting(getattr(Destroyer, name)))
        report = sweep(opened, POLICY)
        assert (report.plan.count, report.destroyed, report.failed) == (3, 1, [])
        assert live(opened, MAY) == set(MAY)
    with home.vault() as vault:
        vault.seal(b"x", [MAY[1]], record="r-1")


@in_ring_custody
def test_an_undelete_at_the_fence_comes_too_late(
    home: TestHome, clock: SimulatedManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at what is due and the fence's update nothing moves a scope."""
    create(home, *MAY)
    with home.vault() as vault:
        values_of(vault.suspend([MAY[0]]))
    original = due.still_due_scopes
    answers: list[Any] = []

    def undelete() -> None:
        with home.vault() as vault:
            answers.extend(vault.resume([MAY[0]]))

    other = threading.Thread(target=undelete)

    def slow(*args: Any) -> set[bytes]:
        still = original(*args)
        other.start()
        other.join(0.5)
        assert other.is_alive()
        return still

    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=clock.now())
        monkeypatch.setattr(due, "still_due_scopes", slow)
        assert sweep(opened, POLICY).destroyed == 1
        other.join(30)
        assert [type(answer) for answer in answers] in ([ScopeFencedError], [ScopeDestroyedError])
        assert live(opened, MAY) == {MAY[1]}


# --- scopes that come to be while their account is closed ---------------------------------------------------------------


def close_and_sweep(home: TestHome) -> SweepReport:
    with home.opened() as opened:
        now = opened.clock.now()
        record_facts(opened, POLICY, [reported("account.closed", now, account="acct-1")], timedelta(0))
        return sweep(opened, POLICY)


def is_settled(home: Home) -> bool:
    account = home.keys.pseudonym_of("account", "acct-1")
    return home.database.read(lambda c: subject_store.by_id(c, [account]))[account].settled


@pytest.mark.usefixtures("clock")
def test_nothing_is_created_under_an_account_that_was_closed_since_the_creator_looked(
    home: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(home, PEOPLE[0])
    original = ScopeCreator._draft
    destroyed: list[int] = []

    def late(self: ScopeCreator, *args: Any) -> Any:
        destroyed.append(close_and_sweep(home).destroyed)
        return original(self, *args)

    with home.vault() as vault:
        with monkeypatch.context() as patch:
            patch.setattr(ScopeCreator, "_draft", late)
            refused, made = vault.ensure_scopes([PEOPLE[1], OTHER_PERSON])
        assert isinstance(refused, SubjectEndedError)
        assert destroyed == [1]
        values_of([made])
        vault.seal(b"works", [OTHER_PERSON])
    with home.opened() as opened:
        assert is_settled(opened)
        assert live(opened, [*PEOPLE, OTHER_PERSON]) == {OTHER_PERSON}
        assert scopes_of_account(opened, "acct-1") == 1


@pytest.mark.usefixtures("clock")
def test_what_is_created_while_its_account_is_closed_is_found(home: TestHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """The creator has asked, in its transaction; the account is closed and swept before that is committed."""
    original = scope_store.insert_new
    other = threading.Thread(target=close_and_sweep, args=[home])

    def slow(*args: Any) -> set[bytes]:
        won = original(*args)
        other.start()
        other.join(1)
        assert other.is_alive()
        return won

    monkeypatch.setattr(scope_store, "insert_new", slow)
    create(home, PEOPLE[0])
    other.join(30)
    with home.opened() as opened:
        swept_now = sweep(opened, POLICY).destroyed
        assert live(opened, PEOPLE) == set()
        assert is_settled(opened)
    # SQLite's one writer lets the closure wait for the creator, so that its own sweep finds the scope already.
    assert swept_now == (1 if opened.database.dialect == "postgresql" else 0)


def scopes_of_account(home: Home, account: str) -> int:
    query = sa.select(sa.func.count()).where(scope_table.c.account == home.keys.pseudonym_of("account", account))
    return home.database.read(lambda c: c.execute(query).scalar_one())


# --- what fails ---------------------------------------------------------------------------------------------------------


@in_dedicated_custody
def test_what_fails_is_reported_and_the_next_sweep_finishes_it(
    home: TestHome, clock: SimulatedManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(home, *PEOPLE)
    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=clock.now())
        with monkeypatch.context() as patch:
            patch.setattr(type(opened.engine), "delete_keys", lambda _self, names: [None for _ in names])
            report = sweep(opened, POLICY)
        assert (report.destroyed, len(report.failed)) == (0, 3)
        assert all(isinstance(outcome.error, NotProvenError) for outcome in report.failed)
        again = sweep(opened, POLICY)
        assert ([outcome.error for outcome in again.finished], again.destroyed) == ([None] * 3, 0)
        assert set(states(opened, PEOPLE).values()) == {KeyState.DESTROYED}


@in_dedicated_custody
def test_an_engine_that_is_away_stops_the_sweep(
    home: TestHome, clock: SimulatedManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(home, *PEOPLE)
    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=clock.now())
        with monkeypatch.context() as patch:

            def away(_self: object, names: list[str]) -> list[Any]:
                return [Unavailable("away") for _ in names]

            patch.setattr(type(opened.engine), "delete_keys", away)
            with pytest.raises(Unavailable):
                sweep(opened, POLICY)
        assert len(sweep(opened, POLICY).finished) == 3
        assert live(opened, PEOPLE) == set()


# --- clocks ---------------------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_a_year_ahead_stops_the_sweep(home: TestHome, clock: SimulatedManualClock) -> None:
    create(home, *PEOPLE)
    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=START + timedelta(days=300))
        sweep(opened, POLICY)
        clock.jump(START + timedelta(days=365))
        with home.vault() as vault:
            values_of(vault.ensure_scopes([OTHER_PERSON]))  # an event with the wrong time makes it no more trusted
        for wrong in (None, START.date()):
            with pytest.raises(ClockAheadError):
                sweep(opened, POLICY, trust_clock=wrong)
        assert live(opened, PEOPLE) == set(PEOPLE)
        clock.jump(START + timedelta(days=2))
        assert sweep(opened, POLICY).destroyed == 0
        clock.jump(START + timedelta(days=365))
        assert sweep(opened, POLICY, trust_clock=clock.now().date()).destroyed == 3


def test_a_clock_that_jumps_a_year_back_makes_less_due(home: TestHome, clock: SimulatedManualClock) -> None:
    create(home, *PEOPLE, *MAY)
    clock.jump(DUE)
    swept(home)
    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=DUE - timedelta(days=1))
        clock.jump(DUE - timedelta(days=365))
        assert sweep(opened, POLICY).destroyed == 0
        assert live(opened, PEOPLE) == set(PEOPLE)
        assert opened.database.read(system.trusted_at) == DUE
        clock.jump(DUE)
        assert sweep(opened, POLICY).destroyed == 3


def test_the_first_sweep_of_a_home_goes_by_its_oldest_event(home: TestHome, clock: SimulatedManualClock) -> None:
    with home.opened() as opened:
        sweep(opened, POLICY)  # nothing is known, and nothing is there
        opened.database.write(lambda c: c.execute(sa.text("UPDATE system SET trusted_at = NULL")))
        create(home, *MAY)
        clock.jump(DUE)
        create(home, *PEOPLE)  # stamped by the clock that is in doubt
        with pytest.raises(ClockAheadError):
            sweep(opened, POLICY)


def test_a_real_clock_is_held_against_the_databases(home: TestHome) -> None:
    class Ahead(SimulatedManualClock):
        simulated = False

    now = datetime.now(UTC)
    with home.opened() as opened:
        ahead = replace(opened, clock=Ahead(now + timedelta(hours=1)))
        at = trusted_time.trusted_now(ahead, UNLIMITED)
        if opened.database.dialect == "postgresql":
            assert now <= at < now + timedelta(minutes=10)
        else:
            assert at == ahead.clock.now()
        behind = replace(opened, clock=Ahead(now - timedelta(days=365)))
        assert trusted_time.trusted_now(behind, UNLIMITED) == behind.clock.now()


class AheadClock(SimulatedManualClock):
    """A clock that somebody set, of a home that goes by real time."""

    simulated = False


@in_ring_custody
def test_a_clock_that_is_ahead_destroys_no_whole_ring(home: TestHome, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the database does not know of may be in a ring whose month is not due: only the earlier clock counts."""
    now = datetime.now(UTC)
    month = f"communications/acct-1/{now:%Y-%m}"
    create(home, month)
    monkeypatch.setattr(keyvault.home, "make_clock", lambda _settings: AheadClock(now + timedelta(days=900)))
    with home.opened() as opened:
        (outcome,) = Destroyer(opened).destroy([month], ticket="T-1", requested_by="ada")
        assert outcome.error is None
        (ring,) = [ring for ring in opened.database.read(rings.all_rings) if ring.opened_at and ring.month]
        has_its_own_clock = opened.database.dialect == "postgresql"
        assert (ring.destroyed_at is None, ring.closed_at is None) == (has_its_own_clock, has_its_own_clock)
