"""The destruction protocol on every pair of engine and store."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from keyvault import KeyState, KeyVault
from keyvault.errors import (
    DestructionPausedError,
    InvalidInputError,
    InvalidScopeError,
    KeyVaultError,
    NotProvenError,
    ScopeDestroyedError,
    ScopeFencedError,
    Unavailable,
    UnknownScopeError,
)
from keyvault.home import Home, assemble
from keyvault.identity import commit, decode_identity
from keyvault.results import values_of
from keyvault.store import outbox
from keyvault.store import scopes as scope_store
from keyvault.store.scopes import ScopeRow
from keyvault.store.tables import certificate_openings
from keyvault.testing import ManualClock, faulty_engine
from keyvault.transit.base import TransitEngine
from shredder import fence
from shredder.destroy import Destroyer, PlanItem, PlannedAction
from tests.homes import TestHome, vault_home
from tests.servers import VaultServer

PERSON = "consumer/acct-1/+15551000862"
OTHER = "consumer/acct-1/+15551000863"
MONTH = "communications/acct-1/2026-10"


def create(home: TestHome, *names: str) -> None:
    with home.vault() as vault:
        values_of(vault.ensure_scopes(names))


def events(home: Home) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in home.database.read(lambda c: outbox.bodies(c, limit=10_000))]


def row_of(home: Home, name: str) -> ScopeRow:
    lookup = home.keys.lookup(name.encode())
    return home.database.read(lambda c: scope_store.newest_by_lookup(c, [lookup]))[lookup]


def test_plan_says_what_would_happen_and_changes_nothing(home: TestHome) -> None:
    create(home, PERSON, OTHER)
    with home.destroyer() as destroyer:
        destroyer.destroy([OTHER], ticket="T-1", requested_by="tester")
        plan = destroyer.plan([PERSON, OTHER, "consumer/acct-1/nobody", "bogus"])
        again = destroyer.plan([PERSON])
    actions = [item.action if isinstance(item, PlanItem) else type(item) for item in plan]
    assert actions == [PlannedAction.DESTROY, PlannedAction.NOTHING, UnknownScopeError, InvalidScopeError]
    assert again[:1] == plan[:1]


@pytest.mark.parametrize("bad", ["consumer/acct-1/nobody", "bogus", "consumer/acct-1"])
def test_one_bad_name_refuses_the_whole_call(home: TestHome, bad: str) -> None:
    create(home, PERSON)
    with home.destroyer() as destroyer:
        with pytest.raises((UnknownScopeError, InvalidScopeError)):
            destroyer.destroy([PERSON, bad], ticket="T-1", requested_by="tester")
        assert destroyer.status().pending == 0
    with home.vault() as vault:
        assert values_of(vault.describe([PERSON]))[0].state is KeyState.ACTIVE


@pytest.mark.parametrize(
    ("ticket", "reason"), [("", "x"), (" ", "x"), ("t" * 257, "x"), ("T", "X"), ("T", ""), ("T", "a b")]
)
def test_a_malformed_cause_is_refused(home: TestHome, ticket: str, reason: str) -> None:
    with home.destroyer() as destroyer, pytest.raises(InvalidInputError):
        destroyer.destroy([PERSON], ticket=ticket, requested_by="tester", reason=reason)


def test_destroying_twice_keeps_the_first_time(home: TestHome) -> None:
    create(home, PERSON, OTHER)
    with home.destroyer() as destroyer:
        first = destroyer.destroy([PERSON], ticket="T-1", requested_by="tester")
        second = destroyer.destroy([PERSON, OTHER, PERSON], ticket="T-2", requested_by="tester")
    assert second[0] == first[0]
    assert [outcome.error for outcome in second] == [None, None]


def test_suspended_scopes_are_destroyed_too(home: TestHome) -> None:
    create(home, PERSON)
    with home.vault() as vault:
        values_of(vault.suspend([PERSON]))
    with home.destroyer() as destroyer:
        assert destroyer.destroy([PERSON], ticket="T-1", requested_by="tester")[0].error is None


def test_pause_stops_before_the_fence_and_lets_nothing_start(home: TestHome) -> None:
    create(home, PERSON)
    with home.destroyer() as destroyer:
        assert destroyer.pause() is True
        assert destroyer.pause() is False
        with pytest.raises(DestructionPausedError):
            destroyer.destroy([PERSON], ticket="T-1", requested_by="tester")
        assert (destroyer.status().paused, destroyer.status().pending) == (True, 0)
    with home.vault() as vault:
        vault.seal(b"x", [PERSON])
    with home.destroyer() as destroyer:
        assert destroyer.unpause() is True
        assert destroyer.destroy([PERSON], ticket="T-1", requested_by="tester")[0].error is None


def test_events_carry_commitments_and_the_evidence(home: TestHome) -> None:
    create(home, PERSON, MONTH)
    with home.opened() as opened:
        commitments = {b64(row_of(opened, name).commitment) for name in (PERSON, MONTH)}
        Destroyer(opened).destroy([PERSON, MONTH], ticket="T-1", requested_by="tester", reason="test")
        by_type = {event["type"]: event for event in events(opened)}
        person, month = row_of(opened, PERSON), row_of(opened, MONTH)
    fenced, destroyed = by_type["destroy.fenced"], by_type["key.destroyed"]
    assert set(fenced["scopes"]) == set(destroyed["scopes"]) == commitments
    assert (fenced["reason"], fenced["approvals"], destroyed["fence"]) == ("test", 1, fenced["id"])
    assert destroyed["proof"] == {"key": "absent", "retained_ciphertext": "refused"}
    assert fenced["at"] <= destroyed["fenced_at"] <= destroyed["at"] < destroyed["lease_bound"] < destroyed["horizon"]
    assert person.salt is None, "the salt of a person's name goes with the key"
    assert month.salt is not None, "the salt of an account-month stays, to reconcile populations"
    assert commit(month.salt, MONTH.encode()) == month.commitment
    assert person.sealed_name is None
    assert month.sealed_name is None
    assert person.fenced_at is not None
    assert person.lease_bound == person.fenced_at + timedelta(seconds=65)


def test_the_opening_is_kept_sealed_until_the_horizon_and_then_forgotten(home: TestHome) -> None:
    create(home, PERSON, MONTH)
    with home.opened() as opened:
        before = row_of(opened, PERSON)
        Destroyer(opened).destroy([PERSON, MONTH], ticket="T-1", requested_by="tester")
        sealed = {
            row.scope_id: row.sealed
            for row in opened.database.read(lambda c: c.execute(select(certificate_openings)).all())
        }
        opening = decode_identity(opened.keys.open_journal(sealed[before.id], b"opening" + before.id))
        assert opening.name == PERSON
        assert commit(opening.salt, opening.name.encode()) == before.commitment
        clock = ManualClock(opened.clock.now() + fence.BACKUP_HORIZON - timedelta(minutes=1))
        Destroyer(replace(opened, clock=clock)).forget_expired()
        with home.vault() as vault:
            assert isinstance(vault.ensure_scopes([PERSON])[0], ScopeDestroyedError)
        clock.advance(timedelta(minutes=2))
        Destroyer(replace(opened, clock=clock)).forget_expired()
        assert opened.database.read(lambda c: c.execute(select(certificate_openings)).all()) == []
    with home.vault() as vault:
        forgotten, kept = vault.describe([PERSON, MONTH])
    assert isinstance(forgotten, UnknownScopeError)
    assert not isinstance(kept, UnknownScopeError)


class EngineFault:
    """Fails chosen engine calls, after or instead of making them."""

    def __init__(self, *, at: str, error: Exception) -> None:
        self.at = at
        self.error = error

    def __call__(self, step: str) -> None:
        if step == self.at:
            raise self.error


def faulty_home(opened: Home, at: str, error: Exception) -> Home:
    return assemble(opened.settings, opened.database, faulty_engine(opened.engine, EngineFault(at=at, error=error)))


@pytest.mark.parametrize("at", ["before delete_keys", "after delete_keys", "before read_keys", "after read_keys"])
def test_an_engine_that_fails_leaves_the_destruction_pending_and_says_so(home: TestHome, at: str) -> None:
    create(home, PERSON)
    with home.opened() as opened:
        broken = faulty_home(opened, at, Unavailable("the engine is down"))
        with pytest.raises(Unavailable):
            Destroyer(broken).destroy([PERSON], ticket="T-1", requested_by="tester")
        assert row_of(opened, PERSON).state is KeyState.DEACTIVATED
        vault = KeyVault(opened)
        assert isinstance(vault.ensure_scopes([PERSON])[0], ScopeFencedError)
        assert isinstance(vault.suspend([PERSON])[0], ScopeFencedError)
        outcomes = Destroyer(opened).finish_pending()
        assert [outcome.error for outcome in outcomes] == [None]
        assert row_of(opened, PERSON).state is KeyState.DESTROYED


def test_a_key_that_is_still_there_is_not_called_destroyed(home: TestHome, monkeypatch: pytest.MonkeyPatch) -> None:
    create(home, PERSON)
    with home.opened() as opened:
        monkeypatch.setattr(type(opened.engine), "delete_keys", lambda _self, names: [None for _ in names])
        outcome = Destroyer(opened).destroy([PERSON], ticket="T-1", requested_by="tester")[0]
        assert isinstance(outcome.error, NotProvenError)
        assert outcome.at is None
        assert row_of(opened, PERSON).state is KeyState.DEACTIVATED
        failed = [event for event in events(opened) if event["type"] == "destroy.failed"]
        assert [event["errors"] for event in failed] == [["NotProvenError"]]
        monkeypatch.undo()
        assert Destroyer(opened).finish_pending()[0].error is None


def test_a_deletion_that_failed_is_no_destruction_although_the_key_reads_absent(
    home: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted deletion leaves the archive behind a key that the engine calls absent: only erasing again finishes it."""
    create(home, PERSON)
    with home.opened() as opened:
        delete_keys = type(opened.engine).delete_keys

        def interrupted(engine: TransitEngine, names: Sequence[str]) -> list[KeyVaultError]:
            delete_keys(engine, names)
            return [Unavailable("the answer was lost") for _ in names]

        monkeypatch.setattr(type(opened.engine), "delete_keys", interrupted)
        outcome = Destroyer(opened).destroy([PERSON], ticket="T-1", requested_by="tester")[0]
        assert isinstance(outcome.error, Unavailable)
        assert row_of(opened, PERSON).state is KeyState.DEACTIVATED
        assert "key.destroyed" not in {event["type"] for event in events(opened)}
        monkeypatch.undo()
        assert Destroyer(opened).finish_pending()[0].error is None


def test_an_unreachable_engine_fences_nothing(home: TestHome) -> None:
    create(home, PERSON)
    with home.opened() as opened:
        broken = faulty_home(opened, "never", Unavailable("x"))
        results: Mapping[str, Any] = {"decrypt": lambda items: [Unavailable("sealed") for _ in items]}
        for name, answer in results.items():
            setattr(broken.engine, name, answer)
        with pytest.raises(Unavailable):
            Destroyer(broken).destroy([PERSON], ticket="T-1", requested_by="tester")
        assert row_of(opened, PERSON).state is KeyState.ACTIVE
        assert [event["type"] for event in events(opened)] == ["scope.created"]


def test_groups_of_more_than_a_thousand_are_split(home: TestHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "MAX_SCOPES_PER_EVENT", 3)
    names = [f"consumer/acct-1/{index}" for index in range(8)]
    create(home, *names)
    done: list[int] = []
    with home.opened() as opened:
        outcomes = Destroyer(opened).destroy(names, ticket="T-1", requested_by="tester", progress=done.append)
        groups = [len(event["scopes"]) for event in events(opened) if event["type"] == "key.destroyed"]
    assert all(outcome.error is None for outcome in outcomes)
    assert sorted(groups) == [2, 3, 3]
    assert sum(done) == len(names)


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_vault_hears_of_each_destruction_by_its_event(
    tmp_path: Path, vault_server: VaultServer, postgres_url: str
) -> None:
    home = vault_home(tmp_path, vault_server, postgres_url)
    create(home, PERSON)
    with home.opened() as opened:
        Destroyer(opened).destroy([PERSON], ticket="T-1", requested_by="tester")
        fenced = next(event for event in events(opened) if event["type"] == "destroy.fenced")
        key = row_of(opened, PERSON).key_ref
    with vault_server.audit_file.open() as audit:
        lines = [json.loads(line) for line in audit if fenced["id"] in line]
    told = {
        (line["request"]["operation"], line["request"]["path"].split("/", 1)[1])
        for line in lines
        if line["type"] == "request" and line["request"]["headers"]["x-keyvault-event"] == [fenced["id"]]
    }
    assert {("update", f"keys/{key}/config"), ("delete", f"keys/{key}"), ("read", f"keys/{key}")} <= told


def test_no_name_reaches_vaults_audit_log(tmp_path: Path, vault_server: VaultServer, postgres_url: str) -> None:
    home = vault_home(tmp_path, vault_server, postgres_url)
    name = f"consumer/acct-{tmp_path.name}-audited/+15550009876"
    create(home, name)
    with home.opened() as opened:
        Destroyer(opened).destroy([name], ticket="T-1", requested_by="tester")
    with vault_server.audit_file.open() as audit:
        assert not any("-audited" in line or "15550009876" in line for line in audit)
