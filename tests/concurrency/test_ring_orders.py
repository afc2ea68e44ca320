"""Nasty orders around a ring: shredders, creators and issuers that meet there, overtake each other, sleep and die."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing.synchronize import Barrier
from typing import Any, NoReturn

import pytest

from keyvault import KeyVault, ScopeInfo
from keyvault.custody import ring_shredding
from keyvault.custody.ring import RingCustody
from keyvault.custody.ring_cache import CachedRing
from keyvault.errors import ScopeDestroyedError, ScopeFencedError
from keyvault.home import Home, assemble, open_engine
from keyvault.results import values_of
from keyvault.settings import load_settings
from keyvault.store import leases, rings
from keyvault.store.database import Database
from keyvault.testing import FaultyDatabase, faulty_engine
from shredder.destroy import Destroyer, PlanItem
from shredder.fence import Cause, fence
from tests.forking import let_threads_end
from tests.homes import TestHome
from tests.ring_homes import (
    OLD_MONTH,
    Ledger,
    assert_open,
    consumer,
    month,
    opened,
    row_of,
    shred,
    shred_records,
    told,
)
from tests.rings import at_every_step

RECORDS = tuple(f"rec-{number}" for number in range(100))
LATE = month("late", OLD_MONTH)
DUE = month("due", OLD_MONTH)

on_embedded = pytest.mark.parametrize("home", ["embedded+sqlite"], indirect=True)


@pytest.fixture
def custody() -> str:
    return "ring"


@dataclass(kw_only=True)
class Pause:
    """Runs an action inside the `at`-th call to the engine, counted from when it is armed."""

    at: int
    action: Callable[[], object]
    armed: bool = False
    steps: list[str] = field(default_factory=list)

    def __call__(self, step: str) -> None:
        if self.armed:
            self.steps.append(step)
            if len(self.steps) == self.at:
                self.action()


@contextmanager
def paused_shredder(home: TestHome, pause: Pause) -> Iterator[Destroyer]:
    """Open the home for a shredder that stops where `pause` says."""
    settings = load_settings(home.path)
    engine = faulty_engine(open_engine(home.path, settings, role="shredder"), pause)
    made = assemble(settings, Database(settings.store), engine, path=home.path)
    pause.armed = True
    try:
        yield Destroyer(made)
    finally:
        pause.armed = False
        made.close()


def cached(home: Home, name: str) -> CachedRing:
    custody = home.custody
    assert isinstance(custody, RingCustody)
    return custody._cache._rings[row_of(home, name).ring_id or b""]


# --- shredders ------------------------------------------------------------------------------------------------------


def test_a_shredder_opens_no_state_twice_that_nobody_has_replaced(home: TestHome) -> None:
    ledger = Ledger(home=home)
    ledger.create(consumer(0), consumer(1))
    counted = Pause(at=0, action=lambda: None)
    with paused_shredder(home, counted) as destroyer:
        shred(destroyer, consumer(0))
    opened_for = ("the system's keys", "the fence", "reading back", "the stored state", "the proof")
    assert counted.steps.count("before decrypt") == len(opened_for)


def _shred_at_once(home: TestHome, names: list[str], start: Barrier) -> None:
    with home.destroyer() as destroyer:
        start.wait(timeout=60)
        shred(destroyer, *names)


def test_two_processes_destroy_in_one_ring_at_once_and_both_are_done(home: TestHome) -> None:
    ledger = Ledger(home=home)
    names = [consumer(number) for number in range(12)]
    ledger.create(*names, consumer("neighbour"))
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(2)
    workers = [context.Process(target=_shred_at_once, args=(home, names[half::2], start)) for half in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    ledger.gone = {(name, None) for name in names}
    assert_open(home, ledger.left)
    assert {type(result) for result in opened(home, ledger.items[:12])} == {ScopeDestroyedError}
    with home.opened() as shredding:
        counted = told(shredding, "key.destroyed", "scopes")
    assert set(counted.values()) == {1}
    assert len(counted) == 12


@on_embedded
def test_a_shredder_that_sleeps_past_its_lease_at_any_step_does_no_harm_and_comes_to_its_end(
    home: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one takes the lease, destroys more in the ring, in the same scope too, and is done before the first goes on."""
    monkeypatch.setattr(ring_shredding, "LEASE_SECONDS", 0.0)
    ledger = Ledger(home=home)
    ledger.create(consumer("neighbour"))

    def run(at: int) -> list[str]:
        mine, theirs = month(f"{at}-mine"), month(f"{at}-theirs")
        first = len(ledger.items)
        ledger.create(mine, theirs, records=RECORDS[:3])

        def overtake() -> None:
            with home.destroyer() as other:
                shred_records(other, mine, RECORDS[2])
                shred(other, theirs)

        pause = Pause(at=at, action=overtake)
        with paused_shredder(home, pause) as destroyer:
            shred_records(destroyer, mine, RECORDS[1])
        ledger.gone.add((mine, RECORDS[1]))
        if len(pause.steps) >= at:
            ledger.gone |= {(mine, RECORDS[2]), (theirs, None)}
        for item, result in zip(ledger.items[first:], opened(home, ledger.items[first:]), strict=True):
            assert isinstance(result, ScopeDestroyedError) if ledger.is_gone(item) else result == item.content
        return pause.steps

    assert len(at_every_step(run, stride=2)) > 40
    assert_open(home, ledger.left)


def _not_allowed(*_: object) -> NoReturn:
    raise AssertionError("it waited")


def test_the_lease_of_a_dead_process_is_taken_at_once(home: TestHome, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(home=home)
    ledger.create(consumer(0), consumer(1))
    with home.opened() as shredding:
        ring_id = row_of(shredding, consumer(0)).ring_id or b""

    def hold() -> None:
        with home.opened() as holder:
            now = holder.clock.now()
            until = now + timedelta(hours=1)
            name = ring_shredding._lease(ring_id)
            assert holder.database.write(lambda c: leases.acquire(c, name, now=now, until=until)) == 1

    let_threads_end()
    holder = multiprocessing.get_context("fork").Process(target=hold)
    holder.start()
    holder.join()
    assert holder.exitcode == 0
    monkeypatch.setattr(time, "sleep", _not_allowed)
    ledger.shred(consumer(0))
    assert_open(home, ledger.left)


def test_the_lease_of_a_living_process_is_waited_for(home: TestHome, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(home=home)
    ledger.create(consumer(0), consumer(1))
    waited: list[float] = []
    with home.opened() as shredding:
        name = ring_shredding._lease(row_of(shredding, consumer(0)).ring_id or b"")
        now = shredding.clock.now()
        token = shredding.database.write(lambda c: leases.acquire(c, name, now=now, until=now + timedelta(hours=1)))
        assert token is not None

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            shredding.database.write(lambda c: leases.release(c, name, token, now=now))

        monkeypatch.setattr(time, "sleep", sleep)
        ledger.shred(consumer(0))
    assert len(waited) == 1
    assert_open(home, ledger.left)


# --- a creator and the end of a month ---------------------------------------------------------------------------------


def created(vault: KeyVault) -> ScopeInfo:
    (info,) = values_of(vault.ensure_scopes([LATE]))
    return info


def test_a_creator_that_was_first_keeps_its_months_ring_alive(home: TestHome) -> None:
    """It holds the ring inside its transaction while the shredder comes to decide; the shredder waits, and punctures."""
    ledger = Ledger(home=home)
    ledger.create(DUE)
    settings = load_settings(home.path)
    armed, shredding = False, None
    with ThreadPoolExecutor(1) as pool:

        def hook(step: str) -> None:
            nonlocal armed, shredding
            if armed and step == "before commit":
                armed = False
                shredding = pool.submit(ledger.shred, DUE)

        database = FaultyDatabase(settings.store, hook)
        made = assemble(settings, database, open_engine(home.path, settings, role="issuer"), path=home.path)
        with KeyVault(made) as vault:
            armed = True
            created(vault)
        assert isinstance(shredding, Future)
        shredding.result()
    ledger.create(LATE)
    assert_open(home, ledger.left)
    with home.opened() as looking:
        ring = row_of(looking, LATE).ring_id
        assert ring == row_of(looking, DUE).ring_id
        assert looking.database.read(lambda c: rings.by_id(c, [ring or b""]))[ring or b""].destroyed_at is None


@pytest.mark.usefixtures("months_are_due")
def test_a_creator_that_was_late_finds_the_months_ring_closed_and_goes_elsewhere(
    home: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a slot already, and writes its row while the shredder's decision is being committed."""
    ledger = Ledger(home=home)
    close = rings.close
    with home.vault() as vault, ThreadPoolExecutor(1) as pool:
        values_of(vault.ensure_scopes([DUE]))  # so that this creator has more slots of the ring at hand
        creating: list[Future[ScopeInfo]] = []

        def closing(*args: Any, **kwargs: Any) -> None:
            close(*args, **kwargs)
            if not creating:
                creating.append(pool.submit(created, vault))

        monkeypatch.setattr(rings, "close", closing)
        with home.destroyer() as destroyer:
            shred(destroyer, DUE)
        creating[0].result()
    monkeypatch.undo()
    ledger.create(LATE)
    assert_open(home, ledger.items)
    with home.opened() as looking:
        due, late = row_of(looking, DUE).ring_id or b"", row_of(looking, LATE).ring_id or b""
        known = looking.database.read(lambda c: rings.by_id(c, [due, late]))
    assert due != late
    assert known[due].destroyed_at is not None
    assert known[late].closed_at is None


# --- issuers with a state at hand -------------------------------------------------------------------------------------


@on_embedded
def test_a_record_is_read_at_any_moment_of_a_change_of_its_scopes_records(home: TestHome) -> None:
    """By an issuer that has the state before at hand, and by one that has nothing; the one being erased is refused."""
    ledger = Ledger(home=home)
    ledger.create(month("a"), month("b"), records=RECORDS)
    ledger.shred_records(month("a"), RECORDS[0])
    left = iter(RECORDS[1:])

    def run(at: int) -> list[str]:
        record = next(left)
        with home.vault() as warm, home.vault() as cold:

            def read() -> None:
                for vault in (warm, cold):
                    assert vault.open(item.envelope) == item.content
                    with pytest.raises(ScopeFencedError):
                        vault.open(erased.envelope)

            erased = next(item for item in ledger.items if (item.scope, item.record) == (month("a"), record))
            item = next(i for i in ledger.items if (i.scope, i.record) == (month("a"), RECORDS[-1]))
            assert warm.open(erased.envelope) == erased.content
            fence_open = Pause(at=at + 2, action=read)  # the first two are the fence's, for the look at the name
            with paused_shredder(home, fence_open) as destroyer:
                shred_records(destroyer, month("a"), record)
            ledger.gone.add((month("a"), record))
            for vault in (warm, cold):
                with pytest.raises(ScopeDestroyedError):
                    vault.open(erased.envelope)
        return fence_open.steps[2:]

    assert len(at_every_step(run, stride=2)) > 30
    assert_open(home, ledger.left)


def test_a_fenced_scope_is_refused_at_once_by_an_issuer_that_could_still_derive_its_key(home: TestHome) -> None:
    ledger = Ledger(home=home)
    ledger.create(consumer(0), consumer(1))
    cause = Cause(reason="customer-request", ticket="T-1", requested_by="tester")
    with home.opened("issuer") as issuing:
        vault = KeyVault(issuing)
        assert [vault.open(item.envelope) for item in ledger.items] == [item.content for item in ledger.items]
        cached(issuing, consumer(0)).loaded.state.derive(row_of(issuing, consumer(0)).slot or 0).wipe()
        with home.opened() as shredding:
            (item,) = Destroyer(shredding).plan([consumer(0)])
            assert isinstance(item, PlanItem)
            fence(shredding, [item.row], cause)
        with pytest.raises(ScopeFencedError):
            vault.open(ledger.items[0].envelope)
        with pytest.raises(ScopeFencedError):
            vault.seal(b"x", [consumer(0)])
        assert vault.open(ledger.items[1].envelope) == ledger.items[1].content


def test_a_state_at_hand_is_wiped_once_the_database_knows_of_a_newer_one(home: TestHome) -> None:
    ledger = Ledger(home=home)
    ledger.create(month("a"), month("b"), records=RECORDS[:3])
    ledger.shred_records(month("b"), RECORDS[0])
    with home.opened("issuer") as issuing:
        vault = KeyVault(issuing)
        for item in ledger.left:
            assert vault.open(item.envelope) == item.content
        old = cached(issuing, month("a"))
        buffers = [
            old.loaded.state.slots.seeds,
            *(buffer for entry in old.loaded.state.entries for buffer in (entry.scope_seed, entry.records.key)),
            *(frontier.seeds for frontier in old._frontiers.values()),
        ]
        assert len(buffers) == 4
        assert all(any(buffer) for buffer in buffers)
        ledger.shred(month("a"))
        for item in ledger.left:
            assert vault.open(item.envelope) == item.content
        assert not any(any(buffer) for buffer in buffers), "an older state is still in memory"
        new = cached(issuing, month("a"))
        assert (old.loaded.epoch, new.loaded.epoch) == (1, 2)
        issuing.custody.close()
        assert not any(new.loaded.state.slots.seeds)
