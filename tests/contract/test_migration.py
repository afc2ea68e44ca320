"""Moving scopes from dedicated to ring custody, on every pair of engine and store."""

from __future__ import annotations

import base64
import io
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from keyvault import KeyRequest, KeyState, KeyVault, RewrapRequest, ScopeInfo, UnwrapRequest, WrapRequest
from keyvault.custody.former import former
from keyvault.custody.ring_state import RingStates
from keyvault.errors import (
    DecryptionFailedError,
    InvalidFormatError,
    InvalidInputError,
    InvalidScopeError,
    KeyMissingError,
    KeyVaultError,
    NotProvenError,
    PuncturedError,
    ScopeDestroyedError,
    ScopeFencedError,
    ScopeSuspendedError,
    Unavailable,
    UnknownScopeError,
)
from keyvault.home import Home, assemble
from keyvault.identity import commit, decode_identity
from keyvault.log import HomeLog
from keyvault.migration import ScopeMigrator, moving_request
from keyvault.results import values_of
from keyvault.store import log as log_store
from keyvault.store import outbox, rings, system
from keyvault.store import scopes as scope_store
from keyvault.store.scopes import ScopeRow
from keyvault.store.tables import certificate_openings
from keyvault.testing import faulty_engine
from keyvault.wrapped import CustodyCode, parse_wrapped, split_wrapped
from shredder import destroy, fence
from shredder.destroy import Destroyer
from tests.faults.killing import survives
from tests.homes import TestHome
from tests.servers import PostgresServer

MONTH = "communications/acct-1/2026-10"
PERSON = "consumer/acct-1/+15551000862"
OTHER = "consumer/acct-1/+15551000863"


@pytest.fixture
def custody() -> str:
    """New scopes of these homes get keys of their own; rings are available all the same."""
    return "dedicated"


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def row_of(home: Home, name: str) -> ScopeRow:
    lookup = home.keys.lookup(name.encode())
    return home.database.read(lambda c: scope_store.newest_by_lookup(c, [lookup]))[lookup]


def events(home: Home, kind: str) -> list[dict[str, Any]]:
    bodies = home.database.read(lambda c: outbox.bodies(c, limit=10_000))
    return [event for event in map(json.loads, (body for _, body in bodies)) if event["type"] == kind]


def custody_in(envelope: bytes) -> list[CustodyCode]:
    return [ref.custody for ref in split_wrapped(envelope, 4)[0].header.scopes]


def sealed(home: TestHome, *names: str) -> dict[str, bytes]:
    with home.vault() as vault:
        values_of(vault.ensure_scopes(names))
        return {name: vault.seal(name.encode(), [name]) for name in names}


def migrated(home: TestHome, *names: str) -> dict[str, bytes]:
    """Make scopes with keys of their own, move them, and return what was sealed before."""
    envelopes = sealed(home, *names)
    with home.vault() as vault:
        values_of(vault.migrate_scopes(names))
    return envelopes


def shred(home: TestHome, *names: str) -> None:
    with home.destroyer() as destroyer:
        outcomes = destroyer.destroy(names, ticket="T-1", requested_by="tester")
    assert all(outcome.error is None and outcome.at is not None for outcome in outcomes)


def is_punctured(home: Home, row: ScopeRow) -> bool:
    assert row.ring_id is not None
    assert row.slot is not None
    found = home.database.read(system.load)
    assert found is not None
    try:
        loaded = RingStates(home.engine, found.incarnation).load(row.ring_id)
    except KeyMissingError:
        return True  # the ring as a whole
    try:
        loaded.state.derive(row.slot).wipe()
    except PuncturedError:
        return True
    return False


def assert_both_keys_gone(home: Home, name: str) -> None:
    row = row_of(home, name)
    assert row.state is KeyState.DESTROYED
    assert row.key_ref is not None
    assert home.engine.read_keys([row.key_ref]) == [None]
    assert is_punctured(home, row)


# --- moving ---------------------------------------------------------------------------------------------------------


def test_the_scope_stays_what_it_is_and_everything_new_goes_under_the_ring(home: TestHome) -> None:
    with home.vault() as vault:
        before = values_of(vault.ensure_scopes([MONTH, PERSON]))
        old = vault.seal(b"old", [MONTH, PERSON])
        stream = io.BytesIO()
        vault.seal_stream(io.BytesIO(b"old stream"), stream, [PERSON])
        after = values_of(vault.migrate_scopes([MONTH, PERSON]))
        new = vault.seal(b"new", [MONTH, PERSON])
        record = vault.seal(b"record", [MONTH], record="r-1")
        assert vault.open(old) == b"old"
        opened = io.BytesIO()
        vault.open_stream(io.BytesIO(stream.getvalue()), opened)
        assert opened.getvalue() == b"old stream"
        assert [vault.open(new), vault.open(record)] == [b"new", b"record"]
        names = {name for _, name in vault.list_scopes()}
    assert custody_in(old) == [CustodyCode.DEDICATED] * 2
    assert custody_in(new) == [CustodyCode.RING] * 2
    assert names == {MONTH, PERSON}
    kept = ("id", "generation", "kind", "period", "state", "created_at", "due_at")
    for one, other in zip(before, after, strict=True):
        assert [getattr(one, field) for field in kept] == [getattr(other, field) for field in kept]
        assert (one.custody, one.former_custody, other.custody, other.former_custody) == (
            "dedicated",
            None,
            "ring",
            "dedicated",
        )
    assert after[0].holds_records


def test_the_new_place_gives_no_key_before_the_log_has_the_move(
    home: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with home.vault() as vault:
        values_of(vault.ensure_scopes([PERSON]))
        values_of(vault.generate_data_keys([KeyRequest(scopes=(PERSON,))]))
        values_of(vault.migrate_scopes([PERSON]))
        with monkeypatch.context() as patch:
            patch.setattr(HomeLog, "settle", _away)
            (error,) = vault.generate_data_keys([KeyRequest(scopes=(PERSON,))])
            assert isinstance(error, Unavailable)
        values_of(vault.generate_data_keys([KeyRequest(scopes=(PERSON,))]))
    with home.opened() as opened:
        assert not opened.database.read(lambda c: log_store.held(c, [row_of(opened, PERSON).id]))


def _away(_log: HomeLog) -> None:
    raise Unavailable("the log is away")


def test_each_name_has_its_own_answer_and_the_event_rebuilds_the_place(home: TestHome) -> None:
    sealed(home, MONTH, PERSON, OTHER, "user/fenced")
    shred(home, OTHER)
    with home.opened() as opened, pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(opened.engine), "delete_keys", lambda _self, names: [None for _ in names])
        outcomes = Destroyer(opened).destroy(["user/fenced"], ticket="T-1", requested_by="tester")
        assert isinstance(outcomes[0].error, NotProvenError)
    with home.vault() as vault:
        values_of(vault.suspend([PERSON]))
        names = [MONTH, "bogus", PERSON, OTHER, "user/fenced", "user/nobody", MONTH]
        results = vault.migrate_scopes(names)
        again = vault.migrate_scopes(names)
    expected = [ScopeInfo, InvalidScopeError, ScopeInfo, ScopeDestroyedError, ScopeFencedError, UnknownScopeError]
    assert [type(result) for result in results] == [*expected, ScopeInfo]
    assert [result for result in again if isinstance(result, ScopeInfo)] == [results[0], results[2], results[0]]
    assert isinstance(results[2], ScopeInfo)
    assert results[2].state is KeyState.SUSPENDED
    with home.opened() as opened:
        told = events(opened, "scope.migrated")
        assert len(told) == 2, "what is in ring custody already is not told again"
        row = row_of(opened, MONTH)
        (event,) = [event for event in told if event["scope_id"] == b64(row.id)]
        place = json.loads(opened.keys.open_journal(unb64(event["placement"]), row.id))
    assert (event["scope"], event["custody"]) == (b64(row.commitment), "ring")
    assert row.ring_id is not None
    assert row.salt is not None
    assert row.lookup is not None
    assert place == {
        "key_ref": row.key_ref,
        "ring": row.ring_id.hex(),
        "slot": row.slot,
        "salt": row.salt.hex(),
        "lookup": row.lookup.hex(),
    }


def test_a_scope_whose_own_key_is_missing_is_not_moved(home: TestHome) -> None:
    sealed(home, PERSON, OTHER)
    with home.opened() as opened:
        key = row_of(opened, PERSON).key_ref
        assert key is not None
        values_of(opened.engine.delete_keys([key]))
    with home.vault() as vault:
        lost, moved = vault.migrate_scopes([PERSON, OTHER])
        assert isinstance(lost, KeyMissingError)
        assert isinstance(moved, ScopeInfo)
        assert [info.custody for info in values_of(vault.describe([PERSON]))] == ["dedicated"]


def test_altered_headers_are_refused_as_before(home: TestHome) -> None:
    old = migrated(home, PERSON)[PERSON]
    with home.vault() as vault:
        new = vault.seal(b"new", [PERSON])
        for envelope, code in ((old, CustodyCode.RING), (new, CustodyCode.DEDICATED)):
            header = split_wrapped(envelope, 4)[0].header
            at = envelope.index(header.scopes[0].scope_id) + 16
            altered = envelope[:at] + bytes([code]) + envelope[at + 1 :]
            with pytest.raises(KeyVaultError) as caught:
                vault.open(altered)
            assert not isinstance(caught.value, Unavailable)


def test_a_home_that_changed_its_custody_moves_what_it_has(home: TestHome) -> None:
    envelopes = sealed(home, PERSON)
    settings = home.path / "keyvault.toml"
    settings.write_text(settings.read_text().replace('custody = "dedicated"', 'custody = "ring"'))
    with home.vault() as vault:
        values_of(vault.ensure_scopes([OTHER]))
        assert [info.custody for info in values_of(vault.describe([PERSON, OTHER]))] == ["dedicated", "ring"]
        values_of(vault.migrate_scopes([PERSON, OTHER]))
        assert [info.custody for info in values_of(vault.describe([PERSON, OTHER]))] == ["ring", "ring"]
        assert vault.open(envelopes[PERSON]) == PERSON.encode()


# --- wrapped data keys ----------------------------------------------------------------------------------------------


def test_wrapped_keys_come_over_with_their_data_keys(home: TestHome) -> None:
    mine = secrets.token_bytes(32)
    with home.vault() as vault:
        infos = values_of(vault.ensure_scopes([MONTH, PERSON]))
        request = WrapRequest(data_key=mine, scopes=(MONTH, PERSON), associated_data=b"a")
        old = values_of(vault.wrap_data_keys([request]))[0].wrapped
        names = {info.id: name for info, name in zip(infos, (MONTH, PERSON), strict=True)}
        values_of(vault.migrate_scopes([MONTH, PERSON]))
        moving = moving_request(old, names, b"a")
        assert isinstance(moving, RewrapRequest)
        new = values_of(vault.rewrap_data_keys([moving]))[0]
        assert [ref.custody for ref in parse_wrapped(new).header.scopes] == [CustodyCode.RING] * 2
        for wrapped in (old, new):
            assert values_of(vault.unwrap_data_keys([UnwrapRequest(wrapped=wrapped, associated_data=b"a")])) == [mine]
        assert moving_request(new, names, b"a") is None, "what is in the ring is left as it is"
        envelope = vault.seal(b"x", [PERSON])
    with pytest.raises(InvalidFormatError, match="envelopes cannot be moved"):
        moving_request(envelope, names)
    with pytest.raises(InvalidInputError, match="not among those named"):
        moving_request(old, {})


def test_a_key_of_a_single_record_is_not_moved_to_the_whole_month(home: TestHome) -> None:
    """Half in a ring, half not: its header has the record's tag and not its id, and the month's key would be another."""
    migrated(home, MONTH)
    with home.vault() as vault:
        values_of(vault.ensure_scopes([PERSON]))
        request = KeyRequest(scopes=(MONTH, PERSON), record="r-1")
        key = values_of(vault.generate_data_keys([request]))[0]
        infos = values_of(vault.migrate_scopes([MONTH, PERSON]))
        with pytest.raises(InvalidInputError, match="names a single record"):
            moving_request(key.wrapped, {info.id: "x" for info in infos})
        assert values_of(vault.unwrap_data_keys([UnwrapRequest(wrapped=key.wrapped)])) == [key.plaintext]
        moved = RewrapRequest(wrapped=key.wrapped, scopes=(MONTH, PERSON), record="r-1")
        new = values_of(vault.rewrap_data_keys([moved]))[0]
    tags = [[ref.record_tag for ref in parse_wrapped(wrapped).header.scopes] for wrapped in (key.wrapped, new)]
    assert tags[0] == tags[1]


# --- destroying -----------------------------------------------------------------------------------------------------


def test_a_shred_takes_both_keys_and_the_event_proves_both(home: TestHome) -> None:
    old = migrated(home, PERSON, OTHER)
    with home.vault() as vault:
        new = {name: vault.seal(b"new", [name]) for name in (PERSON, OTHER)}
    with home.opened() as opened:
        row = row_of(opened, PERSON)
        sealed_name = row.sealed_name
    shred(home, PERSON)
    with home.vault() as vault:
        for envelope in (old[PERSON], new[PERSON]):
            with pytest.raises(ScopeDestroyedError):
                vault.open(envelope)
        assert [vault.open(old[OTHER]), vault.open(new[OTHER])] == [OTHER.encode(), b"new"]
    with home.opened() as opened:
        assert_both_keys_gone(opened, PERSON)
        (event,) = events(opened, "key.destroyed")
        assert event["proof"] == {
            "key": "punctured",
            "retained_ciphertext": "refused",
            "neighbour": "derivable",
            "former": {"key": "absent", "retained_ciphertext": "refused", "neighbour": "none"},
        }
        # What a thief kept of the row opens nothing: not by its own key, and not by the ring's.
        before = former(row)
        assert before is not None
        assert sealed_name is not None
        assert isinstance(opened.custodies[CustodyCode.DEDICATED].open_identities([before])[0], KeyVaultError)


@pytest.mark.usefixtures("months_are_due")
def test_a_month_alone_in_its_ring_goes_with_the_ring_and_its_own_key(home: TestHome) -> None:
    migrated(home, MONTH)
    shred(home, MONTH)
    with home.opened() as opened:
        assert_both_keys_gone(opened, MONTH)
        (event,) = events(opened, "key.destroyed")
    assert (event["proof"]["key"], event["proof"]["former"]["key"]) == ("absent", "absent")


def test_erasing_a_record_leaves_what_was_sealed_before_the_move(home: TestHome) -> None:
    old = migrated(home, MONTH)[MONTH]
    with home.vault() as vault:
        record = vault.seal(b"record", [MONTH], record="r-1")
    with home.destroyer() as destroyer:
        outcomes = destroyer.destroy_records(MONTH, ["r-1"], ticket="T-1", requested_by="tester")
    assert [outcome.error for outcome in outcomes] == [None]
    with home.vault() as vault:
        with pytest.raises(ScopeDestroyedError):
            vault.open(record)
        assert vault.open(old) == MONTH.encode()


def test_the_name_of_a_person_is_kept_for_the_certificate(home: TestHome) -> None:
    migrated(home, PERSON)
    with home.opened() as opened:
        row = row_of(opened, PERSON)
    shred(home, PERSON)
    with home.opened() as opened:
        kept = opened.database.read(lambda c: c.execute(certificate_openings.select()).all())
        opening = decode_identity(opened.keys.open_journal(kept[0].sealed, b"opening" + row.id))
    assert (opening.name, commit(opening.salt, opening.name.encode())) == (PERSON, row.commitment)


@pytest.mark.parametrize("left", ["former", "ring"])
def test_while_one_of_the_two_is_not_proven_gone_the_destruction_is_pending(
    home: TestHome, monkeypatch: pytest.MonkeyPatch, left: str
) -> None:
    migrated(home, PERSON, OTHER)
    with home.opened() as opened:
        if left == "former":
            monkeypatch.setattr(type(opened.engine), "delete_keys", lambda _self, names: [None for _ in names])
        else:
            monkeypatch.setattr(type(opened.engine), "rotate", _refuse)
        outcome = Destroyer(opened).destroy([PERSON], ticket="T-1", requested_by="tester")[0]
        assert isinstance(outcome.error, NotProvenError if left == "former" else Unavailable)
        assert row_of(opened, PERSON).state is KeyState.DEACTIVATED
        assert events(opened, "key.destroyed") == []
        monkeypatch.undo()
        assert [outcome.error for outcome in Destroyer(opened).finish_pending()] == [None]
        assert_both_keys_gone(opened, PERSON)


def _refuse(*_: object, **__: object) -> None:
    raise Unavailable("the engine is down")


# --- races ----------------------------------------------------------------------------------------------------------


@contextmanager
def meanwhile(action: Any) -> Iterator[None]:
    """Run `action` once, after a migration has looked and before it writes."""
    planned = ScopeMigrator._planned
    waiting = [action]

    def hooked(self: ScopeMigrator, rows: Any) -> Any:
        results = planned(self, rows)
        if waiting:
            waiting.pop()()
        return results

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScopeMigrator, "_planned", hooked)
        yield


def test_a_shred_in_between_wins(home: TestHome) -> None:
    old = sealed(home, PERSON)[PERSON]
    with home.vault() as vault, meanwhile(lambda: shred(home, PERSON)):
        assert isinstance(vault.migrate_scopes([PERSON])[0], ScopeDestroyedError)
        with pytest.raises(ScopeDestroyedError):
            vault.open(old)
    with home.opened() as opened:
        assert (row_of(opened, PERSON).custody, row_of(opened, PERSON).ring_id) == (CustodyCode.DEDICATED, None)


def test_a_move_between_a_shreds_plan_and_its_fence_loses_no_key(
    home: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed(home, PERSON)

    def late(*args: Any) -> Any:
        with home.vault() as vault:
            values_of(vault.migrate_scopes([PERSON]))
        return fence.fence(*args)

    monkeypatch.setattr(destroy, "fence", late)
    shred(home, PERSON)
    with home.opened() as opened:
        assert row_of(opened, PERSON).custody == CustodyCode.RING
        assert_both_keys_gone(opened, PERSON)


def test_a_suspension_in_between_stays(home: TestHome) -> None:
    old = sealed(home, PERSON)[PERSON]
    with home.vault() as other, home.vault() as vault, meanwhile(lambda: values_of(other.suspend([PERSON]))):
        assert values_of(vault.migrate_scopes([PERSON]))[0].state is KeyState.SUSPENDED
        with pytest.raises(ScopeSuspendedError):
            vault.open(old)
        values_of(vault.resume([PERSON]))
        assert vault.open(old) == PERSON.encode()


def test_another_migration_in_between_decides_the_place(home: TestHome) -> None:
    sealed(home, PERSON)
    with home.vault() as other, home.vault() as vault, meanwhile(lambda: values_of(other.migrate_scopes([PERSON]))):
        values_of(vault.migrate_scopes([PERSON]))
        assert vault.open(other.seal(b"x", [PERSON])) == b"x"
    with home.opened() as opened:
        assert len(events(opened, "scope.migrated")) == 1


def test_a_ring_that_is_closed_in_between_is_not_used(home: TestHome) -> None:
    sealed(home, PERSON)
    with home.opened(role="issuer") as opened:

        def close() -> None:
            for ring_id in opened.database.read(rings.all_ring_ids):
                opened.database.write(partial(rings.close, ring_id=ring_id, at=opened.clock.now()))

        vault = KeyVault(opened)
        with meanwhile(close):
            assert values_of(vault.migrate_scopes([PERSON]))[0].custody == "ring"
        assert vault.open(vault.seal(b"x", [PERSON])) == b"x"
        ring_id = row_of(opened, PERSON).ring_id
        assert ring_id is not None
        assert opened.database.read(lambda c: rings.by_id(c, [ring_id]))[ring_id].closed_at is None


# --- crashes and restores -------------------------------------------------------------------------------------------


def test_killed_at_any_step_the_scope_is_usable_and_the_next_run_finishes(home: TestHome) -> None:
    """Steps are commits and calls to the engine: every one where they are quick, every third where they are HTTP requests."""
    fatal = runs = 0
    places = set()
    alive = False
    while not alive:
        fatal += 1 if "sqlite" in home.store_url else 3
        runs += 1
        name = f"consumer/acct-1/{fatal}"
        old = sealed(home, name)[name]
        alive = survives(home, "issuer", partial(_migrate, name=name), fatal)
        with home.vault() as vault:
            assert vault.open(old) == name.encode()
            assert vault.open(vault.seal(b"between", [name])) == b"between"
            assert values_of(vault.migrate_scopes([name]))[0].custody == "ring"
            assert vault.open(old) == name.encode()
            assert custody_in(vault.seal(b"new", [name])) == [CustodyCode.RING]
        with home.opened() as opened:
            places.add((row_of(opened, name).ring_id, row_of(opened, name).slot))
    assert runs > 3
    with home.opened() as opened:
        assert len(events(opened, "scope.migrated")) == len(places) == runs


def _migrate(opened: Home, name: str) -> None:
    values_of(KeyVault(opened).migrate_scopes([name]))


def test_killed_during_a_shred_the_next_run_takes_both_keys(home: TestHome) -> None:
    """A sample of the steps: each protocol by itself is killed at every one in `tests/faults`."""
    migrated(home, OTHER)
    fatal = 0
    alive = False
    while not alive:
        fatal += 2 if "sqlite" in home.store_url else 7
        name = f"consumer/acct-1/{fatal}"
        migrated(home, name)
        alive = survives(home, "shredder", partial(_shred, name=name), fatal)
        with home.opened() as opened:
            destroyer = Destroyer(opened)
            assert all(outcome.error is None for outcome in destroyer.finish_pending())
            _shred(opened, name)
            assert_both_keys_gone(opened, name)
            commitment = b64(row_of(opened, name).commitment)
            assert [event["scopes"] for event in events(opened, "key.destroyed")].count([commitment]) == 1


def _shred(opened: Home, name: str) -> None:
    outcomes = Destroyer(opened).destroy([name], ticket="T-1", requested_by="tester")
    assert [outcome.error for outcome in outcomes] == [None]


@pytest.mark.parametrize("call", ["get_state", "put_state", "create_keys", "decrypt"])
def test_an_engine_that_fails_moves_nothing(home: TestHome, call: str) -> None:
    old = sealed(home, PERSON)[PERSON]

    down: set[str] = set()

    def fail(step: str) -> None:
        if step in down:
            raise Unavailable("the engine is down")

    with home.opened(role="issuer") as opened:
        engine = faulty_engine(opened.engine, fail)
        vault = KeyVault(assemble(opened.settings, opened.database, engine, path=opened.path))
        down.add(f"before {call}")
        with pytest.raises(Unavailable):
            values_of(vault.migrate_scopes([PERSON]))
        assert row_of(opened, PERSON).custody == CustodyCode.DEDICATED
        whole = KeyVault(opened)
        assert whole.open(old) == PERSON.encode()
        assert values_of(whole.migrate_scopes([PERSON]))[0].custody == "ring"


def test_an_older_database_opens_what_was_sealed_before_and_uses_no_slot_twice(
    home: TestHome, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    old = sealed(home, PERSON, OTHER)
    with restorable(home, tmp_path, request) as restore:
        with home.vault() as vault:
            values_of(vault.migrate_scopes([PERSON]))
            new = vault.seal(b"new", [PERSON])
        with home.opened() as opened:
            place = row_of(opened, PERSON)
        restored = restore()
        with restored.vault() as vault:
            assert vault.open(old[PERSON]) == PERSON.encode()
            with pytest.raises(DecryptionFailedError):
                vault.open(new)  # the row that says where its key is was lost with the restore
            values_of(vault.migrate_scopes([OTHER, PERSON]))
            assert vault.open(old[PERSON]) == PERSON.encode()
            with pytest.raises(Unavailable, match="restored from"):
                vault.seal(b"again", [PERSON])  # the log has another move
        with restored.opened() as opened:
            rows = [row_of(opened, name) for name in (PERSON, OTHER)]
        assert (place.ring_id, place.slot) not in {(row.ring_id, row.slot) for row in rows}
        with home.vault() as vault:
            assert [vault.open(old[PERSON]), vault.open(new)] == [PERSON.encode(), b"new"]


@contextmanager
def restorable(home: TestHome, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Back the store up; yield what restores it beside the same engine."""
    if "sqlite" in home.store_url:
        backup = tmp_path / "backup.db"
        shutil.copyfile(home.path / "store.db", backup)
        yield lambda: home.copy(tmp_path / "restored", f"sqlite:///{backup}")
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    server.dump(home.store_url, tmp_path / "dump.sql")
    url = server.restore(tmp_path / "dump.sql")
    try:
        yield lambda: home.copy(tmp_path / "restored", url)
    finally:
        server.drop_database(url)
