"""Slots of closed rings that no scope sits in: gone for good, told, and never one that a scope sits in."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyvault.custody import ring_shredding
from keyvault.custody.ring_shredding import RingShredder
from keyvault.custody.ring_state import RingStates
from keyvault.errors import DestructionPausedError, NotProvenError, RestoreDetected, Unavailable
from keyvault.events import b64
from keyvault.home import AUDITOR, Home, open_engine
from keyvault.persons import Person
from keyvault.store import outbox, rings, system
from keyvault.store.rings import RingRow
from shredder import sweep as sweep_module
from shredder import unused_slots
from shredder.attest import attest
from shredder.audit.fold import Ledger
from shredder.sweep import SweepReport, sweep
from tests import ring_homes
from tests.backups import Backups
from tests.contract.test_fold import ledger_of
from tests.entries import shown
from tests.homes import TestHome
from tests.policies import UNLIMITED, built_in
from tests.ring_homes import assert_open, consumer
from tests.sweeping import SimulatedManualClock, told_the_time

START = datetime(2026, 11, 5, 12, tzinfo=UTC)
CLOSING = START + timedelta(days=30)
MONTH = "communications/acct-1/2026-11"
RECORDS = ("rec-1", "rec-2")
ADA = Person(identity="ada", display="Ada Lovelace")
POLICY = built_in(limits=UNLIMITED)


@pytest.fixture
def custody() -> str:
    return "ring"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimulatedManualClock:
    return told_the_time(monkeypatch, START)


@pytest.fixture
def filled(home: TestHome, clock: SimulatedManualClock) -> ring_homes.Ledger:
    """Two rings, with scopes that live and one that is gone."""
    assert clock.now() == START
    ledger = ring_homes.Ledger(home=home)
    ledger.create(*map(consumer, range(4)), MONTH, records=RECORDS)
    ledger.shred(consumer(0))
    return ledger


def swept(home: Home) -> SweepReport:
    return sweep(home, POLICY, trust_clock=home.clock.now().date())


def told(home: Home, *types: str) -> list[dict[str, Any]]:
    bodies = home.database.read(lambda connection: outbox.bodies(connection, limit=100_000))
    return [event for _, body in bodies if (event := json.loads(body))["type"] in types]


def rings_of(home: Home) -> list[RingRow]:
    return [ring for ring in home.database.read(rings.all_rings) if ring.opened_at is not None]


def kept(home: Home, ring: RingRow) -> set[int]:
    """Return the slots whose nodes the engine's state still gives."""
    loaded = RingStates(home.engine, 1).load(ring.id)
    try:
        return set(range(ring.capacity)) - set(loaded.state.punctured)
    finally:
        loaded.state.wipe()


def living(home: Home, ring: RingRow) -> set[int]:
    return set(home.database.read(lambda connection: rings.live_slots(connection, ring.id)))


def assert_only_the_living_are_kept(home: Home) -> None:
    for ring in rings_of(home):
        assert kept(home, ring) == living(home, ring)


def attested(home: Home) -> Ledger:
    """Return what the log comes to, once an auditor has attested the inventory."""
    with closing(open_engine(home.path, home.settings, role=AUDITOR)) as auditor:
        attest(home, auditor, ADA)
    return ledger_of(home)


def test_they_go_when_their_ring_has_closed_and_nothing_else_does(
    filled: ring_homes.Ledger, clock: SimulatedManualClock
) -> None:
    clock.jump(CLOSING)
    with filled.home.opened() as home:
        report = swept(home)
        assert (report.slots.rings, report.complete, report.destroyed) == (2, True, 0)
        fenced, destroyed = told(home, "slots.fenced"), told(home, "slots.destroyed")
        assert {event["ring"]: (event["scopes"], event["unused"]) for event in fenced} == {
            b64(ring.id): (1 if ring.month else 4, ring.capacity - (1 if ring.month else 4)) for ring in rings_of(home)
        }
        assert {event["ring"] for event in destroyed} == {event["ring"] for event in fenced}
        assert all(event["proof"]["neighbour"] == "derivable" for event in destroyed)
        assert_only_the_living_are_kept(home)
    assert_open(filled.home, filled.left)


def test_a_second_sweep_finds_nothing_to_do(filled: ring_homes.Ledger, clock: SimulatedManualClock) -> None:
    clock.jump(CLOSING)
    with filled.home.opened() as home:
        swept(home)
        before = [(ring.epoch, ring.highest_version) for ring in rings_of(home)]
        assert swept(home).slots.rings == 0
        assert [(ring.epoch, ring.highest_version) for ring in rings_of(home)] == before
        assert len(told(home, "slots.fenced", "slots.destroyed")) == 4


def test_a_ring_that_takes_scopes_keeps_its_slots(filled: ring_homes.Ledger, clock: SimulatedManualClock) -> None:
    clock.jump(CLOSING - timedelta(microseconds=1))
    with filled.home.opened() as home:
        assert swept(home).slots.rings == 0
        assert not told(home, "slots.fenced")
        assert all(ring.closed_at is None for ring in rings_of(home))
    filled.create(consumer("late"))
    clock.jump(CLOSING)
    with filled.home.opened() as home:
        assert swept(home).slots.rings == 2
    filled.create(consumer("later"), MONTH.replace("acct-1", "acct-2"), records=RECORDS)
    assert_open(filled.home, filled.left)


def test_scopes_and_records_of_such_a_ring_are_destroyed_as_before(
    filled: ring_homes.Ledger, clock: SimulatedManualClock
) -> None:
    clock.jump(CLOSING)
    with filled.home.opened() as home:
        swept(home)
    filled.shred(consumer(1))
    filled.shred_records(MONTH, RECORDS[0])
    assert_open(filled.home, filled.left)
    with filled.home.opened() as home:
        assert len(told(home, "slots.destroyed")) == 2
        assert_only_the_living_are_kept(home)


@pytest.mark.usefixtures("months_are_due")
def test_a_whole_ring_tells_how_many_scopes_it_had(filled: ring_homes.Ledger) -> None:
    filled.shred(MONTH)
    with filled.home.opened() as home:
        (gone,) = [ring for ring in rings_of(home) if ring.destroyed_at is not None]
        (event,) = told(home, "slots.fenced")
        assert (event["ring"], event["scopes"], event["unused"]) == (b64(gone.id), 1, gone.capacity - 1)
        assert swept(home).slots.rings == 0
        assert not told(home, "slots.destroyed")
        ledger = attested(home)
        assert ledger.attested is not None
        assert ledger.attested.slots == 256 + 1


def test_they_leave_an_auditor_no_room(filled: ring_homes.Ledger, clock: SimulatedManualClock) -> None:
    with filled.home.opened() as home:
        clock.jump(START + timedelta(hours=1))
        before = attested(home)
        clock.jump(CLOSING)
        swept(home)
        after = attested(home)
    for ledger in (before, after):
        assert not ledger.findings, shown(ledger.findings)
    assert before.attested is not None
    assert before.attested.room == 2 * 256 - 5
    assert after.attested is not None
    assert after.attested.room == 0


def test_a_creator_whose_clock_is_behind_goes_on_in_the_next_ring(
    filled: ring_homes.Ledger, clock: SimulatedManualClock
) -> None:
    with filled.home.vault() as vault, filled.home.opened() as home:
        new = ring_homes.filled(vault, [consumer("before")])
        unused_slots.destroy_unused_slots(home, CLOSING)
        assert clock.now() == START
        new += ring_homes.filled(vault, [consumer("after"), MONTH.replace("acct-1", "acct-3")], RECORDS)
        assert len(rings_of(home)) == 4
    assert_open(filled.home, [*filled.left, *new])


def test_of_a_full_ring_nothing_is_destroyed_and_nothing_claimed(home: TestHome, clock: SimulatedManualClock) -> None:
    ledger = ring_homes.Ledger(home=ring_homes.with_capacity(home, 4))
    ledger.create(*map(consumer, range(4)))
    clock.jump(CLOSING)
    with home.opened() as opened:
        report = swept(opened)
        assert (report.slots.rings, report.complete) == (1, True)
        (event,) = told(opened, "slots.fenced")
        assert (event["scopes"], event["unused"]) == (4, 0)
        assert not told(opened, "slots.destroyed")
        (ring,) = rings_of(opened)
        assert (ring.epoch, kept(opened, ring)) == (0, {0, 1, 2, 3})
        assert swept(opened).slots.rings == 0
        found = attested(opened)
        assert not found.findings, shown(found.findings)
        assert found.attested is not None
        assert found.attested.room == 0
    assert_open(home, ledger.left)


def test_notices_are_given_whatever_keeps_unused_slots(
    filled: ring_homes.Ledger, clock: SimulatedManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivered: list[Home] = []
    monkeypatch.setattr(sweep_module, "deliver", delivered.append)
    monkeypatch.setattr(unused_slots, "require_current", _away)
    clock.jump(CLOSING)
    with filled.home.opened() as home:
        with pytest.raises(Unavailable):
            swept(home)
        assert len(delivered) == 1
        assert home.database.read(system.trusted_at) == CLOSING


def _away(_home: Home) -> None:
    raise Unavailable("the log is away")


# --- what goes wrong in between ---------------------------------------------------------------------------------------


class Died(BaseException):
    """The process ends here."""


def dies(*_args: object, **_named: object) -> None:
    raise Died


@pytest.mark.parametrize(
    ("place", "name"),
    [
        (unused_slots, "fence_slots"),
        (RingShredder, "destroy_unused"),
        (RingStates, "_flip"),
        (RingStates, "_trim"),
        (RingStates, "_finish"),
        (ring_shredding, "_note_punctured"),
    ],
    ids=["closed", "fenced", "before the flip", "flipped", "trimmed", "proven"],
)
def test_the_next_sweep_finishes_what_a_crash_left(
    filled: ring_homes.Ledger, clock: SimulatedManualClock, place: object, name: str
) -> None:
    clock.jump(CLOSING)
    with filled.home.opened() as home, pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, dies)
        with pytest.raises(Died):
            swept(home)
    assert_open(filled.home, filled.left)
    with filled.home.opened() as home:
        assert not told(home, "slots.destroyed")
        assert swept(home).slots.rings == 2
        assert_only_the_living_are_kept(home)
        assert (len(told(home, "slots.fenced")), len(told(home, "slots.destroyed"))) == (2, 2)
        assert not (findings := attested(home).findings), shown(findings)
    assert_open(filled.home, filled.left)


def test_what_cannot_be_proven_is_a_problem_of_the_sweep(
    filled: ring_homes.Ledger, clock: SimulatedManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_args: object) -> None:
        raise NotProvenError("not proven")

    clock.jump(CLOSING)
    with filled.home.opened() as home:
        with monkeypatch.context() as patch:
            patch.setattr(RingStates, "_require_retired", refuses)
            report = swept(home)
        assert (report.slots.rings, len(report.slots.problems), report.complete) == (0, 2, False)
        assert not told(home, "slots.destroyed")
        assert swept(home).slots.rings == 2


def test_a_shred_in_between_takes_them_along(
    filled: ring_homes.Ledger, clock: SimulatedManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock.jump(CLOSING)
    with filled.home.opened() as home, monkeypatch.context() as patch:
        patch.setattr(RingShredder, "destroy_unused", lambda _self, _rings: {})
        assert (report := swept(home)).slots.rings == 0
        assert len(report.slots.problems) == 2
    filled.shred(consumer(1))
    with filled.home.opened() as home:
        (event,) = told(home, "slots.destroyed")
        (ring,) = [ring for ring in rings_of(home) if ring.month is None]
        assert event["ring"] == b64(ring.id)
        assert kept(home, ring) == living(home, ring)
        assert swept(home).slots.rings == 1
    assert_open(filled.home, filled.left)


def test_nothing_is_fenced_while_destructions_are_paused(
    filled: ring_homes.Ledger, clock: SimulatedManualClock
) -> None:
    clock.jump(CLOSING)
    with filled.home.destroyer() as destroyer:
        destroyer.pause()
    with filled.home.opened() as home:
        with pytest.raises(DestructionPausedError):
            unused_slots.destroy_unused_slots(home, clock.now())
        assert not told(home, "slots.fenced")


@pytest.mark.parametrize("calls", [1, 2], ids=["closing", "fence"])
def test_nothing_is_punctured_before_its_events_are_in_the_log(
    filled: ring_homes.Ledger, clock: SimulatedManualClock, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    clock.jump(CLOSING)
    with filled.home.opened() as home:
        states = [kept(home, ring) for ring in rings_of(home)]
        monkeypatch.setattr(type(home.log), "settle", _failing_at(calls, type(home.log).settle))
        with pytest.raises(Unavailable):
            unused_slots.destroy_unused_slots(home, clock.now())
        assert len(told(home, "slots.fenced")) == (0 if calls == 1 else 2)
        assert [kept(home, ring) for ring in rings_of(home)] == states


def _failing_at(number: int, settle: Callable[[Any], None]) -> Callable[[Any], None]:
    left: Sequence[int] = list(range(number))

    def settled(self: Any) -> None:
        nonlocal left
        left = left[1:]
        if not left:
            raise Unavailable("the log is away")
        settle(self)

    return settled


def test_an_older_database_destroys_no_slot_of_a_scope_that_it_does_not_know(
    filled: ring_homes.Ledger, clock: SimulatedManualClock, backups: Backups
) -> None:
    backups.take(filled)
    filled.create(*map(consumer, range(10, 20)), MONTH.replace("acct-1", "acct-2"), records=RECORDS)
    ((older, _),) = backups.restored()
    clock.jump(CLOSING)
    with older.opened() as home:
        states = [kept(home, ring) for ring in rings_of(home)]
        for _ in range(2):
            with pytest.raises(RestoreDetected):
                swept(home)
        assert not told(home, "slots.fenced", "slots.destroyed")
        assert [kept(home, ring) for ring in rings_of(home)] == states
    assert_open(filled.home, filled.left)
    with filled.home.opened() as home:
        assert swept(home).slots.rings == 2
    assert_open(filled.home, filled.left)
    assert_open(older, [item for item in filled.left if item.scope in {consumer(1), MONTH}])


def test_an_older_database_puts_nothing_into_slots_that_are_gone(
    filled: ring_homes.Ledger, clock: SimulatedManualClock, backups: Backups
) -> None:
    backups.take(filled)
    with filled.home.opened() as home:
        unused_slots.destroy_unused_slots(home, CLOSING)
    assert clock.now() == START
    ((older, _),) = backups.restored()
    with older.vault() as vault, pytest.raises(RestoreDetected, match="its unused slots are destroyed"):
        vault.ensure_scopes([consumer("new")])
    assert_open(older, filled.left)
