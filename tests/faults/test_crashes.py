"""SIGKILL between every two steps: the next run finishes, nothing is lost, nothing stays alive."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import timedelta
from functools import partial
from itertools import count

import pytest

from keyvault import KeyVault, OpenRequest, SealRequest
from keyvault.custody import dedicated
from keyvault.custody.ring_reading import RingReader
from keyvault.custody.ring_sealing import key_name
from keyvault.home import Home
from keyvault.results import values_of
from keyvault.states import KeyState
from keyvault.store import intents, outbox, rings
from keyvault.store import scopes as scope_store
from keyvault.store.scopes import ScopeRow
from keyvault.system_keys import SYSTEM_KEY
from shredder.destroy import Destroyer
from shredder.erase import Outcome
from tests.faults.killing import survives
from tests.homes import TestHome, in_ring_custody

FEWEST_STEPS = 8
MOST_STEPS = 300


def steps(custody: str) -> Iterator[int]:
    """Step numbers until the test breaks off, bounded.

    A ring takes many more steps, and so only the moments before each: where nothing else is at work those after are the same.
    """
    for step in count(1, 2 if custody == "ring" else 1):
        assert step < MOST_STEPS, "the action has more steps than it should"
        yield step


def live_rows(home: Home) -> list[ScopeRow]:
    rows = home.database.read(lambda connection: scope_store.page(connection, after=b"", limit=10_000))
    return [row for row in rows if row.state is not KeyState.DESTROYED]


def engine_keys(home: Home) -> set[str]:
    return set(home.engine.list_keys()) - {SYSTEM_KEY}


def keys_of(rows: Sequence[ScopeRow]) -> set[str]:
    """Return the names of the transit keys that these scopes are under: their own, or their rings'."""
    return {row.key_ref or key_name(row.ring_id or b"") for row in rows}


def scope_events(home: Home, event_type: str) -> Counter[str]:
    events = [json.loads(body) for _, body in home.database.read(lambda c: outbox.bodies(c, limit=100_000))]
    return Counter(
        scope for event in events if event["type"] == event_type for scope in event.get("scopes", [event.get("scope")])
    )


def test_creation_killed_at_every_step(home: TestHome, custody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    for step in steps(custody):
        close_all_rings(home)
        names = [f"consumer/acct-{step}/{index}" for index in range(2)]
        finished = survives(home, "issuer", partial(create, names=names), step)
        with home.vault() as vault:
            values_of(vault.ensure_scopes(names))
            envelope = vault.seal(b"still works", names)
            assert vault.open(envelope) == b"still works"
        made += len(names)
        if finished:
            break
    assert step > FEWEST_STEPS, "the steps were not counted"
    monkeypatch.setattr(dedicated, "ABANDONED_AFTER", timedelta(0))
    with home.opened() as opened:
        Destroyer(opened).collect()
        rows = live_rows(opened)
        assert len(rows) == made
        assert len({row.key_ref or (row.ring_id, row.slot) for row in rows}) == made
        assert_only_needed_keys_are_left(opened)
        assert opened.database.read(intents.count) == 0
        created = scope_events(opened, "scope.created")
        assert set(created.values()) == {1}
        assert len(created) == made


def close_all_rings(home: TestHome) -> None:
    """Let the next creation make a ring, too."""
    with home.opened() as opened:
        for ring_id in opened.database.read(rings.all_ring_ids):
            opened.database.write(partial(rings.close, ring_id=ring_id, at=opened.clock.now()))


def test_destruction_killed_at_every_step(home: TestHome, custody: str) -> None:
    killed_at_every_step(
        home, custody, names=("consumer/acct-{}/one", "consumer/acct-{}/two"), kept="consumer/acct-{}/kept"
    )


@pytest.mark.usefixtures("months_are_due")
@in_ring_custody
def test_the_destruction_of_a_whole_ring_killed_at_every_step(home: TestHome, custody: str) -> None:
    """A month that is due: its ring goes with its transit key, and another is opened for the month's next."""
    months = ("communications/acct-{}-1/2026-10", "communications/acct-{}-2/2026-10")
    killed_at_every_step(home, custody, names=months, kept="communications/acct-{}/2026-09")
    with home.opened() as opened:
        used = [ring for ring in opened.database.read(rings.all_rings) if ring.month == "2026-10" and ring.chunks]
    assert len(used) > FEWEST_STEPS
    assert all(ring.destroyed_at is not None for ring in used)


def killed_at_every_step(home: TestHome, custody: str, *, names: tuple[str, ...], kept: str) -> None:
    """Destroy the scopes of these names beside one that is kept; what is between the braces differs in each round."""
    destroyed, neighbours = 0, []
    for step in steps(custody):
        doomed, neighbour = [name.format(step) for name in names], kept.format(step)
        with home.vault() as vault:
            values_of(vault.ensure_scopes([*doomed, neighbour]))
            sealed = values_of(vault.seal_many([SealRequest(plaintext=b"secret", scopes=(name,)) for name in doomed]))
            neighbours.append(vault.seal(b"untouched", [neighbour]))
        finished = survives(home, "shredder", partial(destroy, names=doomed), step)
        with home.opened() as opened:
            assert_destroyed_rows_have_no_key(opened)
            Destroyer(opened).finish_pending()
            outcomes = destroy(opened, doomed)
            assert [outcome.error for outcome in outcomes] == [None] * len(doomed)
            assert_destroyed_rows_have_no_key(opened)
            assert_only_needed_keys_are_left(opened)
        with home.vault() as vault:
            assert {type(error).__name__ for error in vault.open_many(opens(sealed))} == {"ScopeDestroyedError"}
            assert vault.open(neighbours[-1]) == b"untouched"
        destroyed += len(doomed)
        if finished:
            break
    assert step > FEWEST_STEPS, "the steps were not counted"
    with home.vault() as vault:
        assert values_of(vault.open_many(opens(neighbours))) == [b"untouched"] * len(neighbours)
    with home.opened() as opened:
        for event_type in ("destroy.fenced", "key.destroyed"):
            told = scope_events(opened, event_type)
            assert set(told.values()) == {1}, event_type
            assert len(told) == destroyed, event_type


def create(opened: Home, names: list[str]) -> None:
    values_of(KeyVault(opened).ensure_scopes(names))


def destroy(opened: Home, names: list[str]) -> list[Outcome]:
    return Destroyer(opened).destroy(names, ticket="T-1", requested_by="tester")


def opens(sealed: list[bytes]) -> list[OpenRequest]:
    return [OpenRequest(envelope=envelope) for envelope in sealed]


def assert_only_needed_keys_are_left(home: Home) -> None:
    """What is left is under live scopes, or a ring that is written down and still takes scopes, or holds ended ones beside none."""
    needed = keys_of(live_rows(home))
    waiting = {key_name(ring.id) for ring in home.database.read(rings.all_rings) if ring.destroyed_at is None}
    assert needed <= engine_keys(home) <= needed | waiting


def assert_destroyed_rows_have_no_key(home: Home) -> None:
    """Whatever the database calls destroyed after a crash is gone from the engine: the key itself, or the node from its ring."""
    rows = home.database.read(lambda connection: scope_store.page(connection, after=b"", limit=10_000))
    there = engine_keys(home)
    destroyed = [row for row in rows if row.state is KeyState.DESTROYED]
    assert not {row.key_ref for row in destroyed if row.key_ref} & there
    slots: dict[bytes, set[int]] = defaultdict(set)
    for row in destroyed:
        if row.ring_id is not None and row.slot is not None and key_name(row.ring_id) in there:
            slots[row.ring_id].add(row.slot)
    reader = RingReader(home.engine, 1)
    for ring_id, gone in slots.items():
        assert gone <= set(reader.load(ring_id).state.punctured)
