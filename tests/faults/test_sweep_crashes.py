"""SIGKILL in mid-sweep, sweeps side by side, Vault gone in mid-sweep: the next run finishes, and nothing goes twice."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from keyvault.errors import SweepRunningError, Unavailable
from keyvault.home import Home
from keyvault.states import KeyState
from keyvault.store import outbox
from shredder.destroy import Destroyer
from shredder.sweep import SweepReport, sweep
from tests.faults.killing import survives
from tests.homes import TestHome, in_dedicated_custody, in_ring_custody, vault_home
from tests.policies import UNLIMITED, built_in
from tests.servers import VaultServer
from tests.sweeping import create, live, put_subject, states

POLICY = built_in(limits=UNLIMITED)
EVERY = 3
"""Each third step of a sweep is tried: what destroys is killed at every step by its own tests."""
MOST_STEPS = 400


def run(home: Home) -> SweepReport:
    return sweep(home, POLICY)


def events(home: Home, kind: str) -> list[dict[str, Any]]:
    bodies = home.database.read(lambda connection: outbox.bodies(connection, limit=100_000))
    return [event for event in (json.loads(body) for _, body in bodies) if event["type"] == kind]


def scopes_in(home: Home, kind: str) -> Counter[str]:
    return Counter(scope for event in events(home, kind) for scope in event["scopes"])


def closed_account(home: TestHome, account: str) -> list[str]:
    names = [f"consumer/{account}/{number}" for number in range(3)]
    create(home, *names, f"consumer/{account}-kept/neighbour")
    with home.opened() as opened:
        put_subject(opened, "account", account, due_at=opened.clock.now())
    return names


@in_ring_custody
def test_a_sweep_killed_at_a_step_is_finished_by_the_next(home: TestHome) -> None:
    gone: list[str] = []
    kept: list[str] = []
    for step in range(1, MOST_STEPS, EVERY):
        names = closed_account(home, f"acct-{step}")
        finished = survives(home, "shredder", run, step)
        gone += names
        kept.append(f"consumer/acct-{step}-kept/neighbour")
        with home.opened() as opened:
            report = sweep(opened, POLICY)
            assert report.complete
            assert set(states(opened, names).values()) == {KeyState.DESTROYED}
        if finished:
            break
    assert EVERY < step < MOST_STEPS - EVERY
    with home.opened() as opened:
        assert live(opened, [*gone, *kept]) == set(kept)
        for kind in ("destroy.fenced", "key.destroyed"):
            found = scopes_in(opened, kind)
            assert (len(found), set(found.values())) == (len(gone), {1}), kind
        assert {event["reason"] for event in events(opened, "destroy.fenced")} == {"account-closed"}
    with home.vault() as vault:
        for name in kept:
            vault.seal(b"still works", [name])


@in_dedicated_custody
def test_of_sweeps_side_by_side_one_works_and_nothing_goes_twice(home: TestHome) -> None:
    names = closed_account(home, "acct-1")
    start = threading.Barrier(4)

    def one(_number: int) -> int | None:
        with home.opened() as opened:
            start.wait(30)
            try:
                return sweep(opened, POLICY).destroyed
            except SweepRunningError:
                return None

    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(one, range(4)))
    assert sum(count or 0 for count in done) == 3
    with home.opened() as opened:
        assert set(states(opened, names).values()) == {KeyState.DESTROYED}
        assert set(scopes_in(opened, "destroy.fenced").values()) == {1}


def test_vault_gone_in_mid_sweep(
    tmp_path: Path, new_vault: Callable[..., VaultServer], postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = new_vault()
    home = vault_home(tmp_path, server, postgres_url, custody="dedicated")
    names = closed_account(home, "acct-1")
    original = Destroyer._finish_batch

    def sealed_first(self: Destroyer, keys: Any, known: Any) -> Any:
        if known:
            server.seal()
        return original(self, keys, known)

    with home.opened() as opened:
        with monkeypatch.context() as patch:
            patch.setattr(Destroyer, "_finish_batch", sealed_first)
            with pytest.raises(Unavailable):
                sweep(opened, POLICY)
        assert set(states(opened, names).values()) == {KeyState.DEACTIVATED}
        with pytest.raises(Unavailable):
            sweep(opened, POLICY)
        server.unseal()
        report = sweep(opened, POLICY)
        assert ([outcome.error for outcome in report.finished], report.plan.count) == ([None] * 3, 0)
        assert live(opened, ["consumer/acct-1-kept/neighbour"])


def test_the_lease_of_a_killed_sweep_is_taken_over_at_once(home: TestHome) -> None:
    closed_account(home, "acct-1")
    assert not survives(home, "shredder", run, 4)
    with home.opened() as opened:
        before = datetime.now(UTC)
        assert sweep(opened, POLICY).complete
        assert (datetime.now(UTC) - before).total_seconds() < 30
