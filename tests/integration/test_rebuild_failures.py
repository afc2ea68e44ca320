"""What a rebuild refuses, what an interrupted one leaves, and what the engine knows that the log does not."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyvault import KeyVault
from keyvault.custody import ring_slots
from keyvault.custody.base import Placement
from keyvault.errors import (
    ConfigurationError,
    KeyVaultError,
    LogError,
    RestoreDetected,
    StoreError,
    StoreVersionError,
    UnknownScopeError,
    VerificationError,
)
from keyvault.home import Home
from keyvault.initialize import FIRST_INCARNATION, LOG_ORIGIN_PREFIX
from keyvault.log_head import head_path, read_head
from keyvault.results import values_of
from keyvault.scopes import Scope
from keyvault.store import log as log_store
from keyvault.store import outbox, tables
from keyvault.store.database import Database
from shredder.destroy import Destroyer
from shredder.log.checkpoint import Checkpoint
from shredder.log.directory import CHECKPOINT, LogDirectory
from shredder.log.note import ED25519, VerifierKey, sign_note
from shredder.log.sequencer import Sequencer
from shredder.rebuild import run
from shredder.rebuild.gaps import GapCode
from shredder.rebuild.run import rebuild
from shredder.unused_slots import destroy_unused_slots
from tests.cli.conftest import ROOT
from tests.homes import TestHome, embedded_home
from tests.logs import write_log
from tests.rebuilding import after_rebuild, dump, row_of, without_database
from tests.ring_homes import month, with_capacity

ANN, BOB, ACCOUNT = "consumer/acct-1/ann", "consumer/acct-1/bob", month("acct-1")
CAUSE: dict[str, Any] = {"ticket": "T-1", "requested_by": "tester"}


@pytest.fixture(params=["ring", "dedicated"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> TestHome:
    """A home with a person, another that is destroyed, and an account-month; all of it is in the log."""
    home = embedded_home(tmp_path, custody=request.param)
    _live(home)
    return home


def _live(home: TestHome) -> None:
    with home.opened() as opened:
        vault = KeyVault(opened)
        values_of(vault.ensure_scopes([ANN, BOB, ACCOUNT]))
        _shred(opened, BOB)


def _shred(home: Home, *names: str) -> None:
    assert [outcome.error for outcome in Destroyer(home).destroy(names, **CAUSE)] == [None] * len(names)


def _lost(home: TestHome, name: str = "rebuilt") -> TestHome:
    path = home.path.parent / name
    return without_database(home, path, f"sqlite:///{path / 'store.db'}")


# --- refusals ---------------------------------------------------------------------------------------------------------


def _flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def _forge(path: Path) -> None:
    signer = Ed25519PrivateKey.generate()
    note = (path / CHECKPOINT).read_text()
    text = note.partition("\n\n")[0] + "\n"
    key = VerifierKey(name=text.split("\n")[0], type=ED25519, public=signer.public_key().public_bytes_raw())
    (path / CHECKPOINT).write_bytes(sign_note(text, key, signer.sign))


ALTERED: dict[str, tuple[type[KeyVaultError], Callable[[Path], None]]] = {
    "an entry was altered": (VerificationError, lambda log: _flip(max(_files(log)), 40)),
    "the last entry is cut short": (KeyVaultError, lambda log: _cut(max(_files(log)))),
    "the entries are gone": (LogError, lambda log: max(_files(log)).unlink()),
    "somebody else signed": (VerificationError, _forge),
    "the checkpoint was altered": (VerificationError, lambda log: _flip(log / CHECKPOINT, 60)),
}


def _files(log: Path) -> list[Path]:
    found = [path for path in (log / "tile" / "entries").rglob("*") if path.is_file()]
    return sorted(found, key=lambda path: int(path.name))[-1:]


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize("small", ["ring"], indirect=True)
@pytest.mark.parametrize("case", ALTERED)
def test_a_log_that_is_not_the_engines_is_refused_before_anything_is_written(small: TestHome, case: str) -> None:
    lost = _lost(small)
    error, alter = ALTERED[case]
    alter(lost.path / "log")
    with pytest.raises(error):
        rebuild(lost.path)
    assert {name: rows for name, rows in dump(lost.store_url).items() if rows} == {}
    _right_log(small, lost)
    assert rebuild(lost.path).live == 2, "the same database is taken with the right log"


def _right_log(home: TestHome, lost: TestHome) -> None:
    shutil.rmtree(lost.path / "log")
    shutil.copytree(home.path / "log", lost.path / "log")


@pytest.mark.parametrize("small", ["ring"], indirect=True)
def test_an_older_log_directory_and_an_older_engine_are_refused(small: TestHome) -> None:
    older = _lost(small, "older")
    with small.opened() as opened:
        before = read_head(opened.engine, FIRST_INCARNATION)
        values_of(KeyVault(opened).ensure_scopes(["consumer/acct-1/new"]))
        opened.log.settle()
        after = read_head(opened.engine, FIRST_INCARNATION)
        assert after.size > before.size
        with pytest.raises(LogError, match="missing"):
            rebuild(older.path)
        value = json.dumps({"size": before.size, "root": b64encode(before.root).decode()})
        opened.engine.put_state(head_path(FIRST_INCARNATION), value, expected_version=after.version)
    with pytest.raises(RestoreDetected, match="older copy"):
        rebuild(_lost(small).path)


@pytest.mark.parametrize("small", ["ring"], indirect=True)
def test_a_database_that_has_rows_is_refused(small: TestHome) -> None:
    with pytest.raises(StoreError, match="empty database"):
        rebuild(small.path)
    lost = _lost(small)
    rebuild(lost.path)
    kept = dump(lost.store_url)
    with pytest.raises(StoreError, match="empty database"):
        rebuild(lost.path)
    assert dump(lost.store_url) == kept


def test_an_empty_log_has_nothing_to_rebuild_from(tmp_path: Path) -> None:
    home = embedded_home(tmp_path)
    (home.path / "log").mkdir(exist_ok=True)
    with pytest.raises(LogError, match="nothing to rebuild from"):
        rebuild(_lost(home).path)


# --- crashes ----------------------------------------------------------------------------------------------------------


class _Killed(BaseException):
    pass


def test_killed_at_any_commit_it_serves_nothing_and_is_done_again(
    small: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shredder.rebuild.batch.BATCH_BYTES", 1_500)
    expected = after_rebuild(dump(small.store_url))
    lost = _lost(small)
    total = _commits(monkeypatch, lost, kill_at=None)
    assert dump(lost.store_url) == expected
    for number in range(total):
        _remove(lost)
        assert _commits(monkeypatch, lost, kill_at=number) == number
        with (
            pytest.raises((ConfigurationError, StoreVersionError), match=r"not finished|no keyvault tables"),
            lost.opened(),
        ):
            pass
        _remove(lost)
        rebuild(lost.path)
        assert dump(lost.store_url) == expected


def _commits(monkeypatch: pytest.MonkeyPatch, home: TestHome, *, kill_at: int | None) -> int:
    """Rebuild, and return how many transactions were committed; die instead of the commit of that number."""
    done = 0

    class Counting(Database):
        def write(self, work: Any) -> Any:
            nonlocal done

            def counted(connection: Any) -> Any:
                result = work(connection)
                if done == kill_at:
                    raise _Killed
                return result

            result = super().write(counted)
            done += 1
            return result

    with monkeypatch.context() as patch:
        patch.setattr(run, "Database", Counting)
        if kill_at is None:
            rebuild(home.path)
        else:
            with pytest.raises(_Killed):
                rebuild(home.path)
    return done


def _remove(home: TestHome) -> None:
    for path in home.path.glob("store.db*"):
        path.unlink()


@pytest.mark.parametrize("small", ["ring"], indirect=True)
def test_sigkill_in_the_middle_leaves_nothing_that_is_served(small: TestHome) -> None:
    lost = _lost(small)
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from shredder.rebuild import batch, keys, run\n"
        "batch.BATCH_BYTES = 1_500\n"
        "keys.EngineReader.complete_lookups = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "run.rebuild(Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(lost.path)], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert dump(lost.store_url)["scopes"], "it was in the middle"
    with pytest.raises(ConfigurationError, match="not finished"), lost.opened():
        pass
    with pytest.raises(StoreError, match="empty database"):
        rebuild(lost.path)
    _remove(lost)
    assert rebuild(lost.path).live == 2


# --- what the engine knows ----------------------------------------------------------------------------------------------


def test_a_head_that_was_never_signed_is_taken_and_its_creations_are_held(
    small: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small.opened() as opened, monkeypatch.context() as patch:
        patch.setattr(Sequencer, "_sign", _raise)
        values_of(KeyVault(opened).ensure_scopes(["consumer/acct-1/late"]))
        with pytest.raises(LogError, match="the test"):
            opened.log.settle()
    lost = _lost(small)
    done = rebuild(lost.path)
    with lost.opened("issuer") as opened:
        head = read_head(opened.engine, FIRST_INCARNATION)
        assert done.entries == head.size
        assert opened.database.read(log_store.recorded).size < head.size
        held = opened.database.read(lambda c: c.execute(sa.select(tables.unlogged_creations)).all())
        assert len(held) == 1
        vault = KeyVault(opened)
        assert vault.open(vault.seal(b"x", ["consumer/acct-1/late"])) == b"x"
        assert opened.database.read(log_store.recorded).size == head.size
        assert opened.database.read(lambda c: c.execute(sa.select(tables.unlogged_creations)).all()) == []


def _raise(*_: object) -> None:
    raise LogError("the test says so")


def test_keys_that_no_scope_holds_are_deleted_afterwards(tmp_path: Path) -> None:
    home = embedded_home(tmp_path, custody="dedicated")
    _live(home)
    with home.opened() as opened:
        lost_key = values_of(opened.custody.prepare([Scope.parse(BOB)]))[0]
    assert isinstance(lost_key, Placement)
    lost = _lost(home)
    assert rebuild(lost.path).unheld == 1
    with lost.opened() as opened:
        assert lost_key.key_ref in opened.engine.list_keys()
        Destroyer(opened).unpause()
        Destroyer(opened).finish_pending()
        assert lost_key.key_ref not in opened.engine.list_keys()
        assert row_of(opened, ANN).key_ref in opened.engine.list_keys()


def test_what_was_erased_before_its_fence_was_logged_is_fenced_anew_and_proven(
    small: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small.opened() as opened, monkeypatch.context() as patch:
        patch.setattr(Sequencer, "advance", _raise)
        with pytest.raises(LogError, match="not acknowledged"):
            Destroyer(opened).destroy([ANN], **CAUSE)
    lost = _lost(small)
    done = rebuild(lost.path)
    assert done.gaps.counts == {GapCode.FENCE: 1}
    with lost.opened() as opened:
        destroyer = Destroyer(opened)
        assert destroyer.status().pending == 1
        destroyer.unpause()
        assert [outcome.error for outcome in destroyer.finish_pending()] == [None]
        _shred(opened, ACCOUNT)
        told = [json.loads(body) for _, body in opened.database.read(outbox.bodies)]
        assert [event["reason"] for event in told if event["type"] == "destroy.fenced"] == [
            "customer-request",
            "database-lost",
            "customer-request",
        ]


def test_a_scope_whose_creation_was_not_logged_is_unknown_and_its_slot_is_not_given_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = embedded_home(tmp_path, custody="ring")
    _live(home)
    with home.opened("issuer") as opened, monkeypatch.context() as patch:
        patch.setattr(Sequencer, "advance", _raise)
        values_of(KeyVault(opened).ensure_scopes(["consumer/acct-1/late"]))
        late = row_of(opened, "consumer/acct-1/late")
    lost = _lost(home)
    assert rebuild(lost.path).gaps.counts == {}
    with lost.opened("issuer") as opened:
        vault = KeyVault(opened)
        assert isinstance(vault.describe(["consumer/acct-1/late"])[0], UnknownScopeError)
        values_of(vault.ensure_scopes(["consumer/acct-1/late"]))
        again = row_of(opened, "consumer/acct-1/late")
        assert (again.ring_id, again.slot) != (late.ring_id, late.slot)
        assert again.id != late.id


# --- rings --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("months_are_due")
def test_rings_come_back_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opened, spare, closed because of its age, punctured, without its unused slots, and destroyed as a whole."""
    home = with_capacity(embedded_home(tmp_path, custody="ring"), 4)
    with home.opened() as opened:
        vault = KeyVault(opened)
        values_of(vault.ensure_scopes([f"consumer/acct-1/{number}" for number in range(10)]))
        values_of(vault.ensure_scopes([month("a"), month("b")]))
        _shred(opened, "consumer/acct-1/3")
        _shred(opened, month("a"), month("b"))
    monkeypatch.setattr(ring_slots, "TAKES_SCOPES_FOR", timedelta())
    with home.opened("issuer") as opened:
        values_of(KeyVault(opened).ensure_scopes(["user/u"]))
    with home.opened() as opened:
        destroy_unused_slots(opened, opened.clock.now())
    rings = dump(home.store_url)["rings"]
    assert {bool(ring["destroyed_at"]) for ring in rings} == {True, False}
    assert {bool(ring["opened_at"]) for ring in rings} == {True, False}
    assert any(ring["closed_at"] and not ring["destroyed_at"] for ring in rings)
    assert any(ring["epoch"] and not ring["destroyed_at"] for ring in rings)
    assert any(ring["slots_destroyed_at"] for ring in rings)
    assert any(ring["slots_fenced_at"] and ring["destroyed_at"] for ring in rings)
    lost = _lost(home)
    assert rebuild(lost.path).gaps.counts == {}
    assert dump(lost.store_url) == after_rebuild(dump(home.store_url))


# --- older logs ---------------------------------------------------------------------------------------------------------

NEW_TYPES = ("ring.changed", "slots.fenced", "slots.destroyed", "request.listed", "request.moved")
NEW_FIELDS = ("cause", "waits_for", "content")


def test_an_older_log_is_rebuilt_as_far_as_it_goes_and_says_what_is_missing(small: TestHome) -> None:
    with small.opened() as opened:
        values_of(KeyVault(opened).suspend([ANN]))
        opened.log.settle()
        bodies = [body for _, body in opened.database.read(outbox.bodies)]
        events = [json.loads(body) for body in bodies if json.loads(body)["type"] not in NEW_TYPES]
        older = [{name: value for name, value in event.items() if name not in NEW_FIELDS} for event in events]
        lost = _lost(small)
        entries = [json.dumps(event, sort_keys=True, separators=(",", ":")).encode() for event in older]
        _put_log(opened, lost.path / "log", entries)
    done = rebuild(lost.path)
    rings = {ring["id"] for ring in dump(lost.store_url)["rings"]}
    assert done.gaps.counts == {GapCode.SUSPENSION: 1} | ({GapCode.RING: len(rings)} if rings else {})
    with lost.opened("issuer") as opened:
        vault = KeyVault(opened)
        assert vault.open(vault.seal(b"x", [ACCOUNT])) == b"x"
        values_of(vault.ensure_scopes(["consumer/acct-1/new"]))
        assert row_of(opened, "consumer/acct-1/new").ring_id not in rings - {None}


def _put_log(home: Home, path: Path, entries: Sequence[bytes]) -> None:
    """Write a log of these entries, and move the engine's head to it."""
    shutil.rmtree(path)
    checkpoint = write_log(path, entries)
    origin = LOG_ORIGIN_PREFIX + home.settings.id
    key = VerifierKey(name=origin, type=ED25519, public=home.keys.log_public)
    signed = Checkpoint(origin=origin, size=checkpoint.size, root=checkpoint.root)
    LogDirectory(path).write({CHECKPOINT: sign_note(signed.text, key, home.engine.sign)})
    head = read_head(home.engine, FIRST_INCARNATION)
    value = json.dumps({"size": checkpoint.size, "root": b64encode(checkpoint.root).decode()})
    home.engine.put_state(head_path(FIRST_INCARNATION), value, expected_version=head.version)


BROKEN = {
    "is not JSON": b"{",
    "is no event": b"[]",
    "schema is not version 1": b'{"at":"2026-11-24T00:00:00.000000Z","id":"x","policy":"p","type":"t","v":2}',
    "names a scope that was not created before it": (
        b'{"at":"2026-11-24T00:00:00.000000Z","id":"x","policy":"p","scope":"AA","scope_id":"AA","type":"scope.resumed","v":1}'
    ),
    "is not base64url": (
        b'{"at":"2026-11-24T00:00:00.000000Z","id":"x","policy":"p","scope_id":"?","type":"scope.resumed","v":1}'
    ),
}


@pytest.mark.parametrize("small", ["ring"], indirect=True)
@pytest.mark.parametrize("what", BROKEN)
def test_an_entry_that_cannot_be_taken_up_is_named(small: TestHome, what: str) -> None:
    with small.opened() as opened:
        bodies = [body for _, body in opened.database.read(outbox.bodies)]
        lost = _lost(small)
        _put_log(opened, lost.path / "log", [*bodies, BROKEN[what]])
    with pytest.raises(LogError, match=f"entry {len(bodies)} of the log: .*{what}"):
        rebuild(lost.path)
