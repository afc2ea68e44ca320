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
from keyvault.custody import ring_sealing as sealing
from keyvault.custody.base import Custody, Proof, Target
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
from keyvault.puncture_state import RingState
from keyvault.results import values_of
from keyvault.store import outbox
from keyvault.store import scopes as scope_store
from keyvault.store.scopes import ScopeRow
from keyvault.store.tables import certificate_openings
from keyvault.testing import ManualClock, faulty_engine
from keyvault.transit.base import TransitEngine
from shredder import destroy, erase, fence
from shredder.destroy import Destroyer, PlanItem, PlannedAction
from tests.homes import TestHome, in_dedicated_custody, in_ring_custody, vault_home
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


def test_batches_before_a_pause_are_finished_and_those_after_it_untouched(
    home: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(home, PERSON, MONTH)
    monkeypatch.setattr(destroy, "BATCH", 1)
    monkeypatch.setattr(destroy, "GROUP", 1)
    with home.opened() as opened:
        destroyer = Destroyer(opened)

        def then_paused(*given: Any) -> dict[bytes, bytes]:
            fenced = fence.fence(*given)
            destroyer.pause()
            return fenced

        monkeypatch.setattr(destroy, "fence", then_paused)
        with pytest.raises(DestructionPausedError):
            destroyer.destroy([PERSON, MONTH], ticket="T-1", requested_by="tester")
        states = {row_of(opened, PERSON).state, row_of(opened, MONTH).state}
        assert states == {KeyState.DESTROYED, KeyState.ACTIVE}
        assert destroyer.status().pending == 0


PROOFS = {
    "dedicated": [{"key": "absent", "neighbour": "none", "retained_ciphertext": "refused"}],
    # The month's ring holds nothing else and goes whole; the person's holds another, which is shown to be untouched.
    "ring": [
        {"key": "absent", "neighbour": "none", "retained_ciphertext": "refused"},
        {"key": "punctured", "neighbour": "derivable", "retained_ciphertext": "refused"},
    ],
}


@pytest.mark.usefixtures("months_are_due")
def test_events_carry_commitments_and_the_evidence(home: TestHome, custody: str) -> None:
    create(home, PERSON, OTHER, MONTH)
    with home.opened() as opened:
        commitments = {b64(row_of(opened, name).commitment) for name in (PERSON, MONTH)}
        Destroyer(opened).destroy([PERSON, MONTH], ticket="T-1", requested_by="tester", reason="test")
        (fenced,) = (event for event in events(opened) if event["type"] == "destroy.fenced")
        destroyed = [event for event in events(opened) if event["type"] == "key.destroyed"]
        person, month = row_of(opened, PERSON), row_of(opened, MONTH)
    told = [scope for event in destroyed for scope in event["scopes"]]
    assert set(fenced["scopes"]) == set(told) == commitments
    assert len(told) == len(commitments), "each scope is in one event"
    assert (fenced["reason"], fenced["approvals"], fenced["records"]) == ("test", 1, [])
    assert sorted((event["proof"] for event in destroyed), key=str) == PROOFS[custody]
    assert len({event["erasure"] for event in destroyed}) == 1, "one run did it"
    for event in destroyed:
        assert (event["fence"], event["destroy_id"], event["custody"]) == (
            fenced["id"],
            fenced["destroy_id"],
            [custody],
        )
        assert fenced["at"] <= event["fenced_at"] <= event["at"] < event["lease_bound"] < event["horizon"]
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
        assert set(sealed) == {before.id}, (
            "the salt of an account-month stays, and who asks for its certificate names it"
        )
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
    engine = faulty_engine(opened.engine, EngineFault(at=at, error=error))
    return assemble(opened.settings, opened.database, engine, path=opened.path)


@in_dedicated_custody
@pytest.mark.parametrize("at", ["before delete_keys", "after delete_keys", "before read_keys", "after read_keys"])
def test_an_engine_that_fails_leaves_the_destruction_pending_and_says_so(home: TestHome, at: str) -> None:
    create(home, PERSON)
    with home.opened() as opened:
        broken = faulty_home(opened, at, Unavailable("the engine is down"))
        with pytest.raises(Unavailable):
            Destroyer(broken).destroy([PERSON], ticket="T-1", requested_by="tester")
        assert_pending_until_it_is_finished(opened, PERSON)


def both_sides(*calls: str) -> list[str]:
    return [f"{side} {call}" for call in calls for side in ("before", "after")]


# What fencing needs as well (it opens names) cannot be among these: it would not come to a fence.
REPLACING = both_sides("rotate", "encrypt", "put_state", "set_min_versions", "trim", "read_keys", "delete_state")
DELETING = both_sides("delete_keys", "read_keys", "delete_state", "list_state")


@pytest.mark.usefixtures("months_are_due")
@in_ring_custody
def test_an_engine_that_fails_at_a_step_of_a_ring_leaves_the_destruction_pending_and_says_so(home: TestHome) -> None:
    cases = [(f"consumer/acct-1/{index}", at) for index, at in enumerate(REPLACING)]
    cases += [(f"communications/acct-1/2026-{month:02}", at) for month, at in enumerate(DELETING, start=1)]
    create(home, *(name for name, _ in cases))
    for name, at in cases:
        with home.opened() as opened:
            told = len(errors_told(opened))
            broken = faulty_home(opened, at, Unavailable("the engine is down"))
            (outcome,) = Destroyer(broken).destroy([name], ticket="T-1", requested_by="tester")
            assert isinstance(outcome.error, Unavailable), at
            assert errors_told(opened)[told:] == [["Unavailable"]], at
            assert_pending_until_it_is_finished(opened, name)


def assert_pending_until_it_is_finished(opened: Home, name: str) -> None:
    row = row_of(opened, name)
    assert row.state is KeyState.DEACTIVATED
    destroyed = [event for event in events(opened) if event["type"] == "key.destroyed"]
    assert not any(b64(row.commitment) in event["scopes"] for event in destroyed)
    vault = KeyVault(opened)
    assert isinstance(vault.ensure_scopes([name])[0], ScopeFencedError)
    assert isinstance(vault.suspend([name])[0], ScopeFencedError)
    outcomes = Destroyer(opened).finish_pending()
    assert [outcome.error for outcome in outcomes] == [None]
    assert row_of(opened, name).state is KeyState.DESTROYED


def errors_told(home: Home) -> list[list[str]]:
    return [event["errors"] for event in events(home) if event["type"] == "destroy.failed"]


def _does_nothing(_engine: object, *_: object, **__: object) -> None:
    """Stand for a call that is answered and has no effect."""


def _deletes_nothing(_engine: object, names: Sequence[str]) -> list[None]:
    return [None for _ in names]


@pytest.mark.usefixtures("months_are_due")
@pytest.mark.parametrize(
    ("custody", "name", "call", "fault"),
    [
        ("dedicated", PERSON, "delete_keys", _deletes_nothing),
        ("ring", MONTH, "delete_keys", _deletes_nothing),
        ("ring", PERSON, "trim", _does_nothing),
        ("ring", PERSON, "set_min_versions", _does_nothing),
    ],
    indirect=["custody"],
)
def test_a_key_that_is_still_there_is_not_called_destroyed(
    home: TestHome, monkeypatch: pytest.MonkeyPatch, name: str, call: str, fault: object
) -> None:
    create(home, name)
    with home.opened() as opened:
        monkeypatch.setattr(type(opened.engine), call, fault)
        outcome = Destroyer(opened).destroy([name], ticket="T-1", requested_by="tester")[0]
        assert isinstance(outcome.error, NotProvenError)
        assert outcome.at is None
        assert row_of(opened, name).state is KeyState.DEACTIVATED
        assert errors_told(opened) == [["NotProvenError"]]
        monkeypatch.undo()
        assert Destroyer(opened).finish_pending()[0].error is None


@in_ring_custody
def test_a_state_that_still_holds_the_scope_is_not_called_punctured(
    home: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(home, PERSON, OTHER)
    with home.opened() as opened:
        monkeypatch.setattr(RingState, "puncture_slots", lambda state, _slots: state)
        outcome = Destroyer(opened).destroy([PERSON], ticket="T-1", requested_by="tester")[0]
        assert isinstance(outcome.error, NotProvenError)
        assert errors_told(opened) == [["NotProvenError"]]
        monkeypatch.undo()
        assert Destroyer(opened).finish_pending()[0].error is None
    with home.vault() as vault:
        assert vault.open(vault.seal(b"untouched", [OTHER])) == b"untouched"


@pytest.mark.usefixtures("months_are_due")
def test_a_deletion_that_failed_is_no_destruction_although_the_key_reads_absent(
    home: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted deletion leaves the archive behind a key that the engine calls absent: only erasing again finishes it."""
    create(home, MONTH)
    with home.opened() as opened:
        delete_keys = type(opened.engine).delete_keys

        def interrupted(engine: TransitEngine, names: Sequence[str]) -> list[KeyVaultError]:
            delete_keys(engine, names)
            return [Unavailable("the answer was lost") for _ in names]

        with monkeypatch.context() as patch:
            patch.setattr(type(opened.engine), "delete_keys", interrupted)
            outcome = Destroyer(opened).destroy([MONTH], ticket="T-1", requested_by="tester")[0]
        assert isinstance(outcome.error, Unavailable)
        assert row_of(opened, MONTH).state is KeyState.DEACTIVATED
        assert "key.destroyed" not in {event["type"] for event in events(opened)}
        assert Destroyer(opened).finish_pending()[0].error is None


class _Holding:
    """A custody that cannot prove one scope gone."""

    def __init__(self, custody: Custody, scope_id: bytes) -> None:
        self.name = custody.name
        self._custody = custody
        self._scope_id = scope_id

    def destroy(self, targets: Sequence[Target]) -> list[Proof | KeyVaultError]:
        left = NotProvenError("the test says so")
        proofs = self._custody.destroy([target for target in targets if target.row.id != self._scope_id])
        return [left if target.row.id == self._scope_id else proofs.pop(0) for target in targets]


def test_what_is_proven_of_a_group_is_acknowledged_and_the_rest_by_the_next_run(home: TestHome) -> None:
    names = [PERSON, OTHER, MONTH]
    create(home, *names)
    with home.opened() as opened:
        cause = fence.Cause(reason="customer-request", ticket="T-1", requested_by="tester")
        rows = [row_of(opened, name) for name in names]
        pending = fence.fence(opened, rows, cause)
        assert len(set(pending.values())) == 1
        holding: Any = {code: _Holding(custody, rows[1].id) for code, custody in opened.custodies.items()}
        outcomes = erase.finish(
            replace(opened, custodies=holding),
            {(row.id, b""): pending[row.id] for row in rows},
            {row.id: row for row in rows},
            fence.stamp(opened, pending.values()),
        )
        assert [outcome.error is None for outcome in outcomes] == [True, False, True]
        expected = [KeyState.DESTROYED, KeyState.DEACTIVATED, KeyState.DESTROYED]
        assert [row_of(opened, name).state for name in names] == expected
        assert [outcome.error for outcome in Destroyer(opened).finish_pending()] == [None]
        assert [row_of(opened, name).state for name in names] == [KeyState.DESTROYED] * 3
        told = [event["scopes"] for event in events(opened) if event["type"] == "key.destroyed"]
    assert sorted(len(scopes) for scopes in told) == [1, 2]
    assert len({scope for scopes in told for scope in scopes}) == 3, "each is told once"


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
        assert [event["type"] for event in events(opened) if event["type"] != "ring.changed"] == ["scope.created"]


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


def erasure_of(home: Home, name: str) -> str:
    commitment = b64(row_of(home, name).commitment)
    destroyed = (event for event in events(home) if event["type"] == "key.destroyed")
    (erasure,) = (str(event["erasure"]) for event in destroyed if commitment in event["scopes"])
    return erasure


def told_to_vault(server: VaultServer, event_id: str) -> set[tuple[str, str]]:
    """Return the calls that Vault's audit log has under this id: operation, and path without the mount."""
    lines = [json.loads(line) for line in server.audited() if event_id.encode() in line]
    return {
        (line["request"]["operation"], line["request"]["path"].split("/", 1)[1])
        for line in lines
        if line["type"] == "request" and line["request"]["headers"]["x-keyvault-event"] == [event_id]
    }


def test_vault_hears_of_each_erasure_by_its_id(tmp_path: Path, vault_server: VaultServer, store_url: str) -> None:
    home = vault_home(tmp_path, vault_server, store_url, custody="dedicated")
    create(home, PERSON)
    with home.opened() as opened:
        Destroyer(opened).destroy([PERSON], ticket="T-1", requested_by="tester")
        erasure, key = erasure_of(opened, PERSON), row_of(opened, PERSON).key_ref
    told = told_to_vault(vault_server, erasure)
    assert {("update", f"keys/{key}/config"), ("delete", f"keys/{key}"), ("read", f"keys/{key}")} <= told


@pytest.mark.usefixtures("months_are_due")
def test_vault_hears_of_every_call_for_a_ring_by_the_erasures_id(
    tmp_path: Path, vault_server: VaultServer, store_url: str
) -> None:
    home = vault_home(tmp_path, vault_server, store_url, custody="ring")
    create(home, PERSON, OTHER, MONTH)
    with home.opened() as opened:
        Destroyer(opened).destroy([PERSON, MONTH], ticket="T-1", requested_by="tester")
        erasure = erasure_of(opened, PERSON)
        assert erasure_of(opened, MONTH) == erasure, "both went in one run, each on a thread of its own"
        person, month = (ring_of(row_of(opened, name)) for name in (PERSON, MONTH))
        (entry,) = opened.engine.list_state(sealing.folder(person))
    told = told_to_vault(vault_server, erasure)
    key, pointer = sealing.key_name(person), sealing.pointer_path(person, 1)
    state, first = (sealing.entry_path(person, name) for name in (entry, sealing.FIRST_ENTRY))
    assert {
        ("update", f"keys/{key}/rotate"),
        ("update", f"keys/{key}/config"),
        ("update", f"keys/{key}/trim"),
        ("read", f"keys/{key}"),
        ("create", f"data/{state}"),
        ("read", f"data/{state}"),
        ("delete", f"metadata/{first}"),
    } <= told
    assert ("update", f"data/{pointer}") in told or ("create", f"data/{pointer}") in told
    gone = sealing.key_name(month)
    assert {("update", f"keys/{gone}/config"), ("delete", f"keys/{gone}"), ("read", f"keys/{gone}")} <= told
    assert ("delete", f"metadata/{sealing.pointer_path(month, 1)}") in told


def ring_of(row: ScopeRow) -> bytes:
    assert row.ring_id is not None
    return row.ring_id


def test_no_name_reaches_vaults_audit_log(tmp_path: Path, vault_server: VaultServer, store_url: str) -> None:
    home = vault_home(tmp_path, vault_server, store_url)
    name = f"consumer/acct-{tmp_path.name}-audited/+15550009876"
    create(home, name)
    with home.opened() as opened:
        Destroyer(opened).destroy([name], ticket="T-1", requested_by="tester")
    assert not any(b"-audited" in line or b"15550009876" in line for line in vault_server.audited())
