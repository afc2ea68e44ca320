"""SIGKILL between every two steps of work on rings: the next run finishes, nothing is lost, nothing stays alive."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy.engine import Connection

from keyvault import KeyVault
from keyvault.custody import ring_sealing as sealing
from keyvault.custody import ring_shredding
from keyvault.custody.base import Placement
from keyvault.custody.ring_slots import SlotAllocator
from keyvault.errors import ScopeDestroyedError
from keyvault.home import Home
from keyvault.results import values_of
from keyvault.scopes import Scope
from keyvault.states import KeyState
from keyvault.store import fenced_records, rings
from keyvault.store import scopes as scope_store
from keyvault.system_keys import SYSTEM_KEY
from shredder.destroy import Destroyer, PlanItem
from shredder.fence import Cause, fence, fence_records
from tests.faults import killing
from tests.faults.killing import Countdown, survives
from tests.homes import TestHome
from tests.ring_homes import (
    OLD_MONTH,
    Ledger,
    assert_open,
    consumer,
    filled,
    month,
    opened,
    slots,
    states_of,
    told,
    with_capacity,
)
from tests.rings import entries, info

CHANGE = re.compile(
    r"after (commit|create_keys|delete_keys|rotate|set_min_versions|trim|put_state|delete_state"
    r"|DELETE .*|(POST|PUT) (?!.*/(encrypt|decrypt|login)\b).*)"
)
"""A step that changes something. Dying between two that only read is dying before the next change, or after the last."""
MOST_STEPS = 200
RECORDS = ("rec-0", "rec-1", "rec-2")
REASON = Cause(reason="customer-request", ticket="T-1", requested_by="tester")


@pytest.fixture
def custody() -> str:
    return "ring"


class ChangeCountdown(Countdown):
    """Kills the process right after a change."""

    def __call__(self, step: str) -> None:
        if CHANGE.fullmatch(step):
            super().__call__(step)


@pytest.fixture(autouse=True)
def _changes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(killing, "Countdown", ChangeCountdown)


@pytest.fixture(autouse=True)
def _one_ring_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a step's number be the same step in every run."""
    monkeypatch.setattr(ring_shredding, "PARALLEL_RINGS", 1)


def killed_at_every_step(run: Callable[[int], bool]) -> int:
    """Call `run` with the number of the fatal change until it says that it came to its end; return how many runs that took."""
    for fatal in range(1, MOST_STEPS):
        if run(fatal):
            return fatal
    raise AssertionError("the action has more steps than it should")


# --- shredding ------------------------------------------------------------------------------------------------------


def group(number: int) -> tuple[list[str], str]:
    """Return the scopes that go in one run, of three rings, one of them whole; and an account-month that loses records."""
    names = [consumer(f"{number}-0"), consumer(f"{number}-1"), month(f"{number}-whole")]
    return [*names, month(f"{number}-0", OLD_MONTH), month(f"{number}-1", OLD_MONTH)], month(f"{number}-records")


def shred_group(home: Home, *, number: int) -> None:
    """Fence scopes and records, and let one run finish them all."""
    names, with_records = group(number)
    destroyer = Destroyer(home)
    fence(home, [item.row for item in destroyer.plan(names) if isinstance(item, PlanItem)], REASON)
    plan = destroyer.plan_records(with_records, RECORDS[:2])
    fence_records(home, plan[0].row, [item.record_tag for item in plan], REASON)
    assert [outcome.error for outcome in destroyer.finish_pending()] == [None] * (len(names) + 2)


@pytest.mark.usefixtures("months_are_due")
def test_a_group_shred_killed_at_every_step_is_finished_by_the_next_run(home: TestHome) -> None:
    ledger = Ledger(home=home)
    ledger.create(consumer("neighbour"), month("neighbour"), records=RECORDS)

    def run(fatal: int) -> bool:
        names, with_records = group(fatal)
        with home.vault() as vault:
            items = filled(vault, [*names, with_records], RECORDS)
        finished = survives(home, "shredder", partial(shred_group, number=fatal), fatal)
        with home.opened() as shredding:
            assert_what_is_acknowledged_is_dead(shredding)
            Destroyer(shredding).finish_pending()
            destroyer = Destroyer(shredding)
            outcomes = destroyer.destroy(names, ticket="T-2", requested_by="tester")
            outcomes += destroyer.destroy_records(with_records, RECORDS[:2], ticket="T-2", requested_by="tester")
            assert [outcome.error for outcome in outcomes] == [None] * (len(names) + 2)
            assert_what_is_acknowledged_is_dead(shredding)
            assert_older_states_are_dead(shredding)
        ledger.items += items
        ledger.gone |= {(name, None) for name in names} | {(with_records, record) for record in RECORDS[:2]}
        for item, result in zip(items, opened(home, items), strict=True):
            assert result == item.content or (ledger.is_gone(item) and isinstance(result, ScopeDestroyedError))
        assert_open(home, ledger.left[:6])
        return finished

    runs = killed_at_every_step(run)
    assert runs > 25, "the steps were not counted"
    assert_open(home, ledger.left)
    with home.opened() as shredding:
        for event_type, members, each_run in (
            ("key.destroyed", "scopes", 5),
            ("record.destroyed", "records", 2),
        ):
            counted = told(shredding, event_type, members)
            assert set(counted.values()) == {1}
            assert len(counted) == each_run * runs


def assert_what_is_acknowledged_is_dead(home: Home) -> None:
    """Whatever the database calls destroyed cannot be derived from what the engine has."""
    rows = home.database.read(lambda connection: scope_store.page(connection, after=b"", limit=10_000))
    destroyed: dict[bytes, set[int]] = {}
    for row in rows:
        if row.state is KeyState.DESTROYED:
            destroyed.setdefault(row.ring_id or b"", set()).add(row.slot or 0)
    states = states_of(home)
    known = home.database.read(lambda connection: rings.by_id(connection, destroyed))
    for ring_id, gone in destroyed.items():
        if known[ring_id].destroyed_at is not None:
            assert home.engine.read_keys([sealing.key_name(ring_id)]) == [None]
            continue
        if home.engine.read_keys([sealing.key_name(ring_id)]) == [None]:
            continue  # destroyed whole, and not noted yet
        loaded = states.load(ring_id)
        assert gone <= set(loaded.state.punctured)


def assert_older_states_are_dead(home: Home) -> None:
    """No older state can be opened any more, and none is left but those that nobody ever pointed to."""
    states = states_of(home)
    marks = home.database.read(fenced_records.awaiting_destruction)
    assert marks == []
    for ring_id in home.database.read(rings.all_ring_ids):
        if home.engine.read_keys([sealing.key_name(ring_id)]) == [None]:
            assert entries(home.engine, ring_id) == []
            continue
        loaded = states.load(ring_id)
        assert max(info(home.engine, ring_id).min_available_version, 1) == loaded.key_version
        later = [name for name in entries(home.engine, ring_id) if sealing.is_entry(name)]
        assert {name for name in later if sealing.epoch_of(name) <= loaded.epoch} == {loaded.current.entry}


# --- creating -------------------------------------------------------------------------------------------------------


def test_creation_killed_at_every_step_gives_no_slot_out_twice_and_leaves_no_ring_unknown(
    home: TestHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_capacity(home, 4)
    given = tmp_path / "given.jsonl"
    monkeypatch.setattr(SlotAllocator, "take", noting(SlotAllocator.take, given))
    ledger = Ledger(home=home)

    def run(fatal: int) -> bool:
        names = [consumer(f"{fatal}-{index}") for index in range(2)]
        finished = survives(home, "issuer", partial(create, names=names), fatal)
        ledger.create(*names)
        with home.opened() as shredding:
            shredding.database.write(close_all)  # so that the next run opens rings, too
        return finished

    runs = killed_at_every_step(run)
    assert runs > 10, "the steps were not counted"
    assert_open(home, ledger.items)
    places = Counter(given.read_text().splitlines())
    assert set(places.values()) == {1}, "a slot was given out twice"
    with home.opened() as shredding:
        taken = {json.dumps([ring_id.hex(), slot]) for ring_id, slot in slots(shredding)}
        assert taken <= set(places)
        assert len(taken) == 2 * runs
        known = shredding.database.read(rings.all_ring_ids)
        assert set(shredding.engine.list_keys()) <= {SYSTEM_KEY, *map(sealing.key_name, known)}
        assert len(known) <= 3 * runs, "what was begun is taken into use: a run's ring, the next one's, and a spare"


def close_all(connection: Connection) -> None:
    for ring_id in rings.all_ring_ids(connection):
        rings.close(connection, ring_id, at=datetime.now(UTC))


def create(home: Home, names: list[str]) -> None:
    values_of(KeyVault(home).ensure_scopes(names))


Take = Callable[[SlotAllocator, Sequence[Scope]], list[Placement]]


def noting(take: Take, given: Path) -> Take:
    """Write down every slot that is given out, by whatever process, before it can be used."""

    def noted(self: SlotAllocator, scopes: Sequence[Scope]) -> list[Placement]:
        placements = take(self, scopes)
        lines = "".join(json.dumps([(p.ring_id or b"").hex(), p.slot]) + "\n" for p in placements)
        with given.open("a") as file:
            file.write(lines)
        return placements

    return noted
