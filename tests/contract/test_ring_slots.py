"""Giving out slots, over both engines: never one twice, rings in their order, the next one made ahead."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from keyvault.custody import ring_slots
from keyvault.custody.base import Placement
from keyvault.custody.ring_sealing import slots_path
from keyvault.custody.ring_slots import SlotAllocator
from keyvault.custody.ring_state import RingStates
from keyvault.errors import RestoreDetected, Unavailable
from keyvault.scopes import Scope, ScopeKind
from keyvault.store import rings
from keyvault.store.database import Database
from keyvault.store.migrate import migrate
from keyvault.store.rings import RingRow
from keyvault.testing import ManualClock, faulty_engine
from keyvault.transit.base import TransitEngine

START = datetime(2026, 11, 24, tzinfo=UTC)
PERSON = Scope.of(ScopeKind.CONSUMER, "acct-1", "a")
YEAR = Scope.of(ScopeKind.BUSINESS, "acct-1", "2026")


def month(period: str) -> Scope:
    return Scope.of(ScopeKind.COMMUNICATIONS, "acct-1", period)


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_slots, "CHUNK_SLOTS", 4)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'store.db'}", create=True)
    migrate(made)
    yield made
    made.close()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


class Process:
    """An allocator as each process has one."""

    def __init__(self, database: Database, engine: TransitEngine, clock: ManualClock, capacity: int = 16) -> None:
        self.database, self.engine = database, engine
        self.slots = SlotAllocator(database, engine, clock, RingStates(engine, 1), incarnation=1, capacity=capacity)

    def take(self, *scopes: Scope) -> list[Placement]:
        """Take slots, and note their chunks as the creating transaction does."""
        placements = self.slots.take(scopes)
        used: dict[bytes, int] = {}
        for placement in placements:
            assert placement.ring_id is not None
            assert placement.slot is not None
            number = ring_slots.chunk_number(placement.slot)
            used[placement.ring_id] = max(number, used.get(placement.ring_id, 0))
        assert self.database.write(lambda c: rings.take_slots(c, used)) == used.keys()
        return placements


def known(database: Database) -> list[RingRow]:
    return database.read(rings.all_rings)


def places(placements: list[Placement]) -> list[tuple[bytes | None, int | None]]:
    return [(placement.ring_id, placement.slot) for placement in placements]


def test_processes_never_get_the_same_slot(engine: TransitEngine, database: Database, clock: ManualClock) -> None:
    one, other = Process(database, engine, clock), Process(database, engine, clock)
    taken = [place for _ in range(5) for process in (one, other) for place in places(process.take(PERSON, PERSON))]
    assert len(set(taken)) == len(taken) == 20


def test_a_ring_is_filled_before_the_next(engine: TransitEngine, database: Database, clock: ManualClock) -> None:
    process = Process(database, engine, clock)
    taken = process.take(*[PERSON] * 40)
    assert [placement.slot for placement in taken] == [*range(16), *range(16), *range(8)]
    assert len({placement.ring_id for placement in taken}) == 3


def test_account_months_have_rings_of_their_month_and_the_rest_share(
    engine: TransitEngine, database: Database, clock: ManualClock
) -> None:
    process = Process(database, engine, clock)
    taken = process.take(month("2026-10"), month("2026-11"), PERSON, YEAR, month("2026-10"))
    ids = [placement.ring_id for placement in taken]
    assert ids[0] == ids[4]
    assert ids[2] == ids[3]
    assert len(set(ids)) == 3
    months = {ring.id: ring.month for ring in known(database)}
    assert [months[ring_id or b""] for ring_id in ids] == ["2026-10", "2026-11", None, None, "2026-10"]


def test_the_version_of_the_slots_entry_counts_the_chunks(
    engine: TransitEngine, database: Database, clock: ManualClock
) -> None:
    process = Process(database, engine, clock)
    for count, version in ((1, 1), (3, 1), (1, 2), (8, 4)):
        (ring_id,) = {placement.ring_id for placement in process.take(*[PERSON] * count)}
        entry = engine.get_state(slots_path(ring_id or b"", 1))
        assert entry is not None
        assert entry.version == version
    assert {ring.chunks for ring in known(database) if ring.id == ring_id} == {4}


def test_the_next_ring_is_made_before_anybody_waits_for_it(
    engine: TransitEngine, database: Database, clock: ManualClock
) -> None:
    process = Process(database, engine, clock)
    process.take(*[PERSON] * 8)
    assert len(known(database)) == 1
    process.take(*[PERSON] * 4)
    spare = next(ring for ring in known(database) if ring.opened_at is None)
    RingStates(engine, 1).load(spare.id).state.wipe()
    process.take(*[PERSON] * 5)
    assert next(ring for ring in known(database) if ring.id == spare.id).opened_at == START


@pytest.mark.parametrize("capacity", [1, 3, 6])
def test_a_ring_smaller_than_its_chunks_gives_out_what_it_has(
    engine: TransitEngine, database: Database, clock: ManualClock, capacity: int
) -> None:
    process = Process(database, engine, clock, capacity)
    taken = process.take(*[PERSON] * (2 * capacity))
    assert [placement.slot for placement in taken] == [*range(capacity)] * 2


def test_a_ring_takes_no_scopes_after_thirty_days(
    engine: TransitEngine, database: Database, clock: ManualClock
) -> None:
    one, other = Process(database, engine, clock), Process(database, engine, clock)
    (first,), _ = one.take(PERSON), other.take(PERSON)
    clock.advance(timedelta(days=30) - timedelta(microseconds=1))
    assert one.take(PERSON)[0].ring_id == first.ring_id
    clock.advance(timedelta(microseconds=1))
    for process in (one, other):
        assert process.take(PERSON)[0].ring_id != first.ring_id
    closed = next(ring for ring in known(database) if ring.id == first.ring_id)
    assert closed.closed_at == START + timedelta(days=30)


def test_slots_of_a_ring_that_was_closed_are_given_out_no_more(
    engine: TransitEngine, database: Database, clock: ManualClock
) -> None:
    process = Process(database, engine, clock)
    (first,) = process.take(PERSON)
    assert first.ring_id is not None
    database.write(lambda c: rings.close(c, first.ring_id or b"", at=START))
    assert database.write(lambda c: rings.take_slots(c, {first.ring_id or b"": 1})) == set()
    process.slots.forget({first.ring_id})
    assert process.take(PERSON)[0].ring_id != first.ring_id


def test_a_lost_answer_costs_a_chunk_and_gives_no_slot_twice(
    engine: TransitEngine, database: Database, clock: ManualClock
) -> None:
    process = Process(database, engine, clock)
    first = process.take(*[PERSON] * 4)
    lost = [True]

    def lose(step: str) -> None:
        if step == "after put_state" and lost.pop():
            raise Unavailable("the answer was lost")

    with pytest.raises(Unavailable):
        Process(database, faulty_engine(engine, lose), clock).take(PERSON)
    after = process.take(*[PERSON] * 4)
    assert [placement.slot for placement in (*first, *after)] == [0, 1, 2, 3, 8, 9, 10, 11]


def test_an_older_database_gives_no_slot_out_again(
    engine: TransitEngine, database: Database, clock: ManualClock, tmp_path: Path
) -> None:
    process = Process(database, engine, clock)
    taken = process.take(*[PERSON] * 2)
    with (
        closing(sqlite3.connect(tmp_path / "store.db")) as source,
        closing(sqlite3.connect(tmp_path / "older.db")) as to,
    ):
        source.backup(to)
    taken += process.take(*[PERSON] * 7)
    older = Database(f"sqlite:///{tmp_path / 'older.db'}")
    after = Process(older, engine, clock).take(*[PERSON] * 9)
    older.close()
    assert not set(places(taken)) & set(places(after))


def test_an_older_engine_is_noticed(engine: TransitEngine, database: Database, clock: ManualClock) -> None:
    process = Process(database, engine, clock)
    (first,) = process.take(PERSON)
    database.write(lambda c: rings.take_slots(c, {first.ring_id or b"": 2}))
    with pytest.raises(
        RestoreDetected, match="the engine has given out 1 chunks of slots, and 2 are known to be given out"
    ):
        Process(database, engine, clock).take(PERSON)


def test_an_engine_that_lost_what_this_process_reserved_is_noticed_before_any_scope_sits_there(
    engine: TransitEngine, database: Database, clock: ManualClock
) -> None:
    process = Process(database, engine, clock)
    ring_id = process.slots.take([PERSON] * 8)[0].ring_id or b""
    engine.delete_state(slots_path(ring_id, 1))
    engine.put_state(slots_path(ring_id, 1), "4", expected_version=0)
    with pytest.raises(RestoreDetected, match="given out 1 chunks of slots, and 2 are known"):
        process.slots.take([PERSON])


def test_the_database_is_asked_for_rings_once_and_again_for_each_that_is_new(
    engine: TransitEngine, database: Database, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []

    def counted(connection: Connection, *, incarnation: int, month: str | None) -> list[RingRow]:
        asked.append(month)
        return taking(connection, incarnation=incarnation, month=month)

    taking = rings.taking
    monkeypatch.setattr(rings, "taking", counted)
    process = Process(database, engine, clock, capacity=64)
    process.take(PERSON)
    asked.clear()
    process.take(*[PERSON] * 40)
    assert asked == [None]
    process.take(PERSON)
    assert asked == [None], "nothing is asked while a chunk lasts"
    process.take(*[PERSON] * 4)
    assert asked == [None, None], "and again by each call that needs more"


def test_a_ring_that_was_announced_and_not_made_is_made_by_the_next(
    engine: TransitEngine, database: Database, clock: ManualClock
) -> None:
    def die(step: str) -> None:
        if step == "before create_keys":
            raise Unavailable("down")

    with pytest.raises(Unavailable):
        Process(database, faulty_engine(engine, die), clock).take(PERSON)
    (announced,) = known(database)
    assert Process(database, engine, clock).take(PERSON)[0].ring_id == announced.id
