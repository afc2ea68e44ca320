"""SIGKILL between every two steps: the next run finishes, nothing is lost, nothing stays alive."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from itertools import count

import pytest

from keyvault import KeyVault, OpenRequest, SealRequest
from keyvault.custody import dedicated
from keyvault.home import Home
from keyvault.results import values_of
from keyvault.states import KeyState
from keyvault.store import intents, outbox
from keyvault.store import scopes as scope_store
from keyvault.system_keys import SYSTEM_KEY
from shredder.destroy import Destroyer
from shredder.erase import Outcome
from tests.faults.killing import survives
from tests.homes import TestHome

FEWEST_STEPS = 8
MOST_STEPS = 200


def steps() -> Iterator[int]:
    """Step numbers until the test breaks off, bounded."""
    for step in count(1):
        assert step < MOST_STEPS, "the action has more steps than it should"
        yield step


def live_rows(home: Home) -> list[scope_store.ScopeRow]:
    rows = home.database.read(lambda connection: scope_store.page(connection, after=b"", limit=10_000))
    return [row for row in rows if row.state is not KeyState.DESTROYED]


def engine_keys(home: Home) -> set[str]:
    return set(home.engine.list_keys()) - {SYSTEM_KEY}


def scope_events(home: Home, event_type: str) -> Counter[str]:
    events = [json.loads(body) for _, body in home.database.read(lambda c: outbox.bodies(c, limit=100_000))]
    return Counter(
        scope for event in events if event["type"] == event_type for scope in event.get("scopes", [event.get("scope")])
    )


def test_creation_killed_at_every_step(home: TestHome, monkeypatch: pytest.MonkeyPatch) -> None:
    for step in steps():
        names = [f"consumer/acct-{step}/{index}" for index in range(2)]
        finished = survives(home, "issuer", partial(create, names=names), step)
        with home.vault() as vault:
            values_of(vault.ensure_scopes(names))
            envelope = vault.seal(b"still works", names)
            assert vault.open(envelope) == b"still works"
        if finished:
            break
    assert step > FEWEST_STEPS, "the steps were not counted"
    monkeypatch.setattr(dedicated, "ABANDONED_AFTER", timedelta(0))
    with home.opened() as opened:
        Destroyer(opened).collect()
        rows = live_rows(opened)
        assert len(rows) == 2 * step
        assert engine_keys(opened) == {row.key_ref for row in rows}
        assert opened.database.read(intents.count) == 0
        created = scope_events(opened, "scope.created")
        assert set(created.values()) == {1}
        assert len(created) == 2 * step


def test_destruction_killed_at_every_step(home: TestHome) -> None:
    with home.vault() as vault:
        values_of(vault.ensure_scopes(["consumer/acct/neighbour"]))
        neighbour = vault.seal(b"untouched", ["consumer/acct/neighbour"])
    for step in steps():
        names = [f"consumer/acct-{step}/{index}" for index in range(2)]
        with home.vault() as vault:
            values_of(vault.ensure_scopes(names))
            sealed = values_of(vault.seal_many([SealRequest(plaintext=b"secret", scopes=(name,)) for name in names]))
        finished = survives(home, "shredder", partial(destroy, names=names), step)
        with home.opened() as opened:
            assert_destroyed_rows_have_no_key(opened)
            Destroyer(opened).finish_pending()
            outcomes = destroy(opened, names)
            assert [outcome.error for outcome in outcomes] == [None, None]
            assert len(engine_keys(opened)) == 1, "only the neighbour's key is left"
        with home.vault() as vault:
            assert {type(error).__name__ for error in vault.open_many(opens(sealed))} == {"ScopeDestroyedError"}
            assert vault.open(neighbour) == b"untouched"
        if finished:
            break
    assert step > FEWEST_STEPS, "the steps were not counted"
    with home.opened() as opened:
        for event_type in ("destroy.fenced", "key.destroyed"):
            told = scope_events(opened, event_type)
            assert set(told.values()) == {1}, event_type
            assert len(told) == 2 * step, event_type


def create(opened: Home, names: list[str]) -> None:
    values_of(KeyVault(opened).ensure_scopes(names))


def destroy(opened: Home, names: list[str]) -> list[Outcome]:
    return Destroyer(opened).destroy(names, ticket="T-1", requested_by="tester")


def opens(sealed: list[bytes]) -> list[OpenRequest]:
    return [OpenRequest(envelope=envelope) for envelope in sealed]


def assert_destroyed_rows_have_no_key(home: Home) -> None:
    """Whatever the database calls destroyed after a crash is gone from the engine."""
    rows = home.database.read(lambda connection: scope_store.page(connection, after=b"", limit=10_000))
    destroyed = {row.key_ref for row in rows if row.state is KeyState.DESTROYED}
    assert not destroyed & engine_keys(home)
