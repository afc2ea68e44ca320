"""`keyvault log rebuild`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from keyvault import KeyVault
from keyvault.results import values_of
from shredder.destroy import Destroyer
from shredder.log.sequencer import Sequencer
from tests.cli.conftest import Command, program
from tests.homes import TestHome
from tests.rebuilding import without_database

ANN, BOB = "consumer/acct-1/ann", "consumer/acct-1/bob"


@pytest.fixture
def lost(small: TestHome) -> TestHome:
    """A home whose log has three scopes' lives, one of them ended, and whose database is gone."""
    with small.opened() as opened:
        values_of(KeyVault(opened).ensure_scopes([ANN, BOB, "user/u-1"]))
        Destroyer(opened).destroy([BOB], ticket="T", requested_by="tester")
    path = small.path.parent / "rebuilt"
    return without_database(small, path, f"sqlite:///{path / 'store.db'}")


def test_it_says_what_came_back_and_that_destructions_are_paused(
    lost: TestHome, command: Callable[[Path], Command]
) -> None:
    keyvault = command(lost.path)
    done = keyvault("log", "rebuild", "--json")
    assert done.code == 0
    entries = done.json.pop("entries")
    assert done.json == {"entries": entries, "live": 2, "unheld_keys": 0, "paused": True, "gaps": {}}
    assert done.err.startswith("keyvault: events that were committed and never reached the log are lost")
    assert keyvault("destroy", "status", "--json").json["paused"] is True
    refused = keyvault("shred", ANN, "--ticket", "T-2", "--yes")
    assert (refused.code, "paused" in refused.error) == (1, True)
    assert keyvault("destroy", "resume").code == 0
    assert keyvault("shred", ANN, "--ticket", "T-2", "--yes").code == 0
    again = keyvault("log", "rebuild")
    assert (again.code, "needs an empty database" in again.error) == (1, True)


def test_an_altered_log_is_exit_code_3(lost: TestHome, command: Callable[[Path], Command]) -> None:
    (bundle,) = (path for path in (lost.path / "log" / "tile" / "entries").rglob("*") if path.name.isdecimal())
    data = bytearray(bundle.read_bytes())
    data[100] ^= 1
    bundle.write_bytes(data)
    done = command(lost.path)("log", "rebuild")
    assert (done.code, done.out) == (3, ""), done.err
    assert "are not those of its checkpoint: nothing was rebuilt" in done.error


def test_what_the_engine_knows_better_is_said_with_its_scope(
    small: TestHome, monkeypatch: pytest.MonkeyPatch, lost: TestHome
) -> None:
    with small.opened() as opened, monkeypatch.context() as patch:
        patch.setattr(Sequencer, "advance", _raise)
        scope_id = values_of(KeyVault(opened).describe([ANN]))[0].id
        with pytest.raises(Exception, match="not acknowledged"):
            Destroyer(opened).destroy([ANN], ticket="T", requested_by="tester")
    done = program(lost.path, "log", "rebuild", "--json")
    assert (done.code, done.json["live"]) == (0, 1)
    assert done.json["gaps"] == {"fence-lost": {"count": 1, "first": [scope_id.hex()]}}
    assert f"keyvault: warning: fence-lost: 1 ({scope_id.hex()}): a live scope's key is not in the engine" in done.err
    assert json.loads(program(lost.path, "destroy", "status", "--json").out)["pending"] == 1


def _raise(*_: object) -> None:
    from keyvault.errors import LogError

    raise LogError("the test says so")
