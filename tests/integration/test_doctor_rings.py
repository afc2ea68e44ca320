"""`keyvault doctor` on rings: what is lost, behind, or back."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from keyvault.custody.ring_sealing import key_name, pointer_path
from keyvault.doctor import check_home
from keyvault.doctor.rings import CURRENT, KEPT, NAMES, PUNCTURED, WHOLE
from keyvault.home import open_home
from keyvault.results import values_of
from keyvault.states import KeyState
from keyvault.store import tables
from tests.homes import TestHome, embedded_home, vault_home
from tests.servers import VaultServer

PEOPLE = [f"consumer/acct-1/{index}" for index in range(3)]


def findings(home: TestHome) -> dict[str, tuple[bool | None, str]]:
    return {check.name: (check.ok, check.detail) for check in check_home(home.path) if check.name in NAMES}


def shred(home: TestHome, name: str) -> None:
    with home.destroyer() as destroyer:
        assert destroyer.destroy([name], ticket="T-1", requested_by="tester")[0].error is None


def test_a_sound_home_says_how_much_was_looked_at(tmp_path: Path, vault_server: VaultServer, store_url: str) -> None:
    home = vault_home(tmp_path, vault_server, store_url)
    with home.vault() as vault:
        values_of(vault.ensure_scopes(PEOPLE))
    shred(home, PEOPLE[0])
    assert findings(home) == {
        WHOLE: (True, "1 rings"),
        CURRENT: (True, "epochs and slots agree"),
        KEPT: (True, "2 scopes"),
        PUNCTURED: (True, "1 destroyed scopes"),
    }
    assert all(check.ok is not False for check in check_home(home.path))


def test_a_lost_state_and_one_that_is_behind_are_alarms(tmp_path: Path) -> None:
    home = embedded_home(tmp_path)
    with home.vault() as vault:
        values_of(vault.ensure_scopes(PEOPLE))
    with home.opened() as opened:
        (ring,) = opened.database.read(lambda c: c.execute(sa.select(tables.rings.c.id)).scalars().all())
        opened.database.write(lambda c: c.execute(sa.update(tables.rings).values(epoch=7)))
    ok, detail = findings(home)[CURRENT]
    assert (ok, key_name(ring) in detail) == (False, True)
    with home.opened() as opened:
        opened.engine.delete_state(pointer_path(ring, 1))
    ok, detail = findings(home)[WHOLE]
    assert (ok, detail.startswith(f"ALARM: 1 of 1: {key_name(ring)}: ")) == (False, True)


def test_a_destroyed_scope_whose_node_is_back_is_an_alarm(tmp_path: Path) -> None:
    home = embedded_home(tmp_path)
    with home.vault() as vault:
        values_of(vault.ensure_scopes(PEOPLE))
    opened = open_home(home.path, role="shredder")
    opened.database.write(
        lambda c: c.execute(
            sa.update(tables.scopes).where(tables.scopes.c.slot == 1).values(state=str(KeyState.DESTROYED))
        )
    )
    opened.close()
    assert findings(home)[PUNCTURED] == (False, "ALARM: 1 are back")


def test_an_unused_slot_whose_node_is_back_is_an_alarm(tmp_path: Path) -> None:
    home = embedded_home(tmp_path)
    with home.vault() as vault:
        values_of(vault.ensure_scopes(PEOPLE))
    with home.opened() as opened:
        opened.database.write(lambda c: c.execute(sa.update(tables.rings).values(slots_destroyed_at=sa.func.now())))
    assert findings(home)[PUNCTURED] == (False, "ALARM: 4093 are back")
