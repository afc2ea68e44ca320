"""Processes of many threads create, use, suspend, resume, renew and shred the same few scopes; their histories are then judged."""

from __future__ import annotations

import base64
import json
import multiprocessing
from collections import Counter
from pathlib import Path

import pytest

from keyvault import OpenRequest, ScopeInfo
from keyvault.custody.ring_reading import RingReader
from keyvault.custody.ring_sealing import key_name
from keyvault.errors import ScopeDestroyedError
from keyvault.events import b64
from keyvault.home import Home
from keyvault.results import values_of
from keyvault.states import KeyState
from keyvault.store import intents, outbox, rings
from keyvault.store import scopes as scope_store
from keyvault.store.scopes import ScopeRow
from keyvault.system_keys import SYSTEM_KEY
from shredder.destroy import Destroyer
from tests.concurrency import checker, history
from tests.concurrency.history import Call
from tests.concurrency.worker import Task, run
from tests.homes import CUSTODIES, TestHome, embedded_home, vault_home
from tests.servers import VaultServer

NAMES = tuple(f"consumer/acct-1/{index}" for index in range(12))
PATIENCE = 120.0


@pytest.mark.parametrize("custody", CUSTODIES)
def test_on_vault_and_postgresql(tmp_path: Path, vault_server: VaultServer, store_url: str, custody: str) -> None:
    home = vault_home(tmp_path, vault_server, store_url, custody=custody)
    calls = run_processes(home, tmp_path, processes=4, threads=8, calls=60)
    assert checker.unexpected_errors(calls) == []
    judge(home, calls)


@pytest.mark.parametrize("custody", CUSTODIES)
def test_on_the_embedded_engine_and_sqlite(tmp_path: Path, custody: str) -> None:
    home = embedded_home(tmp_path, custody=custody)
    calls = run_processes(home, tmp_path, processes=2, threads=4, calls=40)
    # The destruction is done then; only its traces in the journal wait for the other process to let go of it.
    allowed = {**checker.EXPECTED, "shred": checker.EXPECTED["shred"] | {"Unavailable"}}
    assert checker.unexpected_errors(calls, allowed) == []
    waiting = [
        message
        for call in calls
        for told, message in zip(call.told, call.messages, strict=True)
        if told == "Unavailable"
    ]
    assert all(message.startswith("the database's journal is in use by another process") for message in waiting)
    judge(home, calls)


def run_processes(home: TestHome, directory: Path, *, processes: int, threads: int, calls: int) -> list[Call]:
    """Run the workers and return all that they did, by time."""
    spawning = multiprocessing.get_context("spawn")
    start = spawning.Barrier(processes)
    files = [directory / f"history-{index}.jsonl" for index in range(processes)]
    workers = [
        spawning.Process(
            target=run,
            args=(Task(home=home, names=NAMES, process=index, threads=threads, calls=calls, history=file), start),
        )
        for index, file in enumerate(files)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(PATIENCE)
    stuck = [worker for worker in workers if worker.is_alive()]
    for worker in stuck:
        worker.kill()
        worker.join()
    codes = [worker.exitcode for worker in workers]
    for worker in workers:
        worker.close()
    assert codes == [0] * processes
    made = sorted((call for file in files for call in history.load(file)), key=lambda call: call.start)
    assert len(made) == processes * threads * calls
    return made


def judge(home: TestHome, calls: list[Call]) -> None:
    assert_it_was_a_contest(calls)
    assert checker.keys_after_the_end(calls) == []
    assert checker.keys_while_suspended(calls) == []
    assert checker.duplicates(calls) == []
    with home.opened() as opened:
        outcomes = Destroyer(opened).finish_pending()
        assert [outcome.error for outcome in outcomes] == [None] * len(outcomes)
        rows = opened.database.read(lambda connection: scope_store.page(connection, after=b"", limit=10_000))
        assert_the_store_agrees(calls, rows)
        assert_each_scope_is_told_of_once(opened, rows)
        assert_the_engine_holds_the_live_keys_alone(opened, rows)
    assert_nothing_is_lost_and_nothing_comes_back(home, calls, rows)


def assert_it_was_a_contest(calls: list[Call]) -> None:
    """Otherwise the rest would prove nothing."""
    done = Counter(call.op for call in calls if not call.told)
    assert set(done) == set(checker.EXPECTED)
    told = Counter(name for call in calls for name in call.told)
    assert {"ScopeDestroyedError", "ScopeSuspendedError"} <= set(told)
    assert any(sighting.generation > 1 for call in calls for sighting in call.seen)
    last_end = 0.0
    overlapping = 0
    for call in calls:
        overlapping += call.start < last_end
        last_end = max(last_end, call.end)
    assert overlapping > len(calls) / 2


def assert_the_store_agrees(calls: list[Call], rows: list[ScopeRow]) -> None:
    generations = {row.id.hex(): row.generation for row in rows}
    for call in calls:
        assert all(generations[sighting.id] == sighting.generation for sighting in call.seen)
    destroyed = {row.id.hex() for row in rows if row.state is KeyState.DESTROYED}
    assert {scope for call in calls for scope in call.shut} <= destroyed
    places = [row.key_ref or (row.ring_id, row.slot) for row in rows]
    assert len(set(places)) == len(places), "two scopes share a key"
    live = Counter(row.lookup for row in rows if row.state is not KeyState.DESTROYED)
    assert set(live.values()) <= {1}, "a name has two live generations"


def assert_each_scope_is_told_of_once(home: Home, rows: list[ScopeRow]) -> None:
    events = [json.loads(body) for _, body in home.database.read(lambda c: outbox.bodies(c, limit=100_000))]
    told: dict[str, Counter[str]] = {}
    for event in events:
        told.setdefault(event["type"], Counter()).update(event.get("scopes", [event.get("scope")]))
    created = [b64(row.commitment) for row in rows]
    destroyed = [b64(row.commitment) for row in rows if row.state is KeyState.DESTROYED]
    assert checker.wrong_counts("scope.created", told["scope.created"], created) == []
    assert checker.wrong_counts("destroy.fenced", told["destroy.fenced"], destroyed) == []
    assert checker.wrong_counts("key.destroyed", told["key.destroyed"], destroyed) == []


def assert_the_engine_holds_the_live_keys_alone(home: Home, rows: list[ScopeRow]) -> None:
    assert home.database.read(intents.count) == 0
    live = {row.key_ref for row in rows if row.key_ref and row.state is not KeyState.DESTROYED}
    in_use = home.database.read(rings.in_use)
    # One that a creator announced, and left to the next, may be there or not.
    announced = {key_name(ring_id) for ring_id in home.database.read(rings.all_ring_ids)}
    needed = live | {key_name(ring.id) for ring in in_use}
    assert needed <= set(home.engine.list_keys()) - {SYSTEM_KEY} <= needed | announced
    for ring in in_use:
        punctured = set(RingReader(home.engine, 1).load(ring.id).state.punctured)
        inside = [row for row in rows if row.ring_id == ring.id]
        assert {row.slot for row in inside if row.state is KeyState.DESTROYED} == punctured


def assert_nothing_is_lost_and_nothing_comes_back(home: TestHome, calls: list[Call], rows: list[ScopeRow]) -> None:
    live = {row.id.hex() for row in rows if row.state is not KeyState.DESTROYED}
    sealed = [call for call in calls if call.envelope is not None]
    with home.vault() as vault:
        resumed = vault.resume(NAMES)
        assert {info.id.hex() for info in resumed if isinstance(info, ScopeInfo)} == live
        requests = [OpenRequest(envelope=base64.b64decode(call.envelope or "")) for call in sealed]
        results = vault.open_many(requests)
        assert len(values_of(vault.ensure_scopes(NAMES, renew=True))) == len(NAMES)
    for call, result in zip(sealed, results, strict=True):
        if set(call.issued) <= live:
            assert result == (call.plaintext or "").encode()
        else:
            assert isinstance(result, ScopeDestroyedError)
    assert any(set(call.issued) <= live for call in sealed)


@pytest.fixture(autouse=True)
def _no_process_is_left() -> None:
    assert multiprocessing.active_children() == []
