"""A Vault snapshot from before some punctures: the destroyed come back in Vault, nothing else is lost, and nothing is served."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from keyvault.errors import RestoreDetected
from keyvault.results import values_of
from keyvault.states import KeyState
from keyvault.store import tables
from shredder.fence import Cause, fence
from tests.homes import TestHome, vault_home
from tests.ring_homes import (
    CAUSE,
    OLD_MONTH,
    Ledger,
    Sealed,
    assert_open,
    consumer,
    filled,
    month,
    opened,
    row_of,
    scope_share,
)
from tests.servers import VaultServer

RECORDS = [f"rec-{number}" for number in range(3)]
VICTIMS = (consumer(1), month("b"))
PENDING = consumer(2)
KEPT = (consumer(0), month("a"), consumer("since"), month("since"), consumer("next"), month("next"))


@dataclass(frozen=True, kw_only=True)
class Restored:
    """A home whose Vault went back to before VICTIMS and a record were destroyed; `shares` are those of all scopes then."""

    home: TestHome
    ledger: Ledger
    shares: dict[str, bytes]


@pytest.fixture(scope="module")
def restored(tmp_path_factory: pytest.TempPathFactory, raw_vault: VaultServer) -> Restored:
    tmp_path, server = tmp_path_factory.mktemp("restored"), raw_vault
    home = vault_home(tmp_path, server, f"sqlite:///{tmp_path / 'store.db'}", custody="ring")
    ledger = Ledger(home=home)
    ledger.create(month("untouched", OLD_MONTH))
    with home.vault() as vault:
        ledger.items += filled(vault, [*map(consumer, range(3)), month("a"), month("b")], RECORDS)
        server.snapshot(tmp_path / "before.snap")
        ledger.items += filled(vault, [consumer("since"), month("since")], RECORDS)
    ledger.create(consumer("next"), month("next"), records=RECORDS)  # in slots that were reserved since
    with home.opened() as looking:
        shares = {name: scope_share(looking, name) for name in (*VICTIMS, *KEPT)}
    ledger.shred(*VICTIMS)
    ledger.shred_records(month("a"), RECORDS[0])
    with home.opened() as shredding:
        fence(shredding, [row_of(shredding, PENDING)], Cause(reason="customer-request", **CAUSE))
    server.restore(tmp_path / "before.snap")
    return Restored(home=home, ledger=ledger, shares=shares)


def left(restored: Restored) -> list[Sealed]:
    return [item for item in restored.ledger.left if item.scope != PENDING]


def test_the_destroyed_are_back_in_vault_and_no_other_scope_of_the_ring_is_lost_also_those_created_since(
    tmp_path: Path, restored: Restored
) -> None:
    with restored.home.opened() as looking:
        for name, share in restored.shares.items():
            assert scope_share(looking, name) == share
    store = tmp_path / "replayed.db"
    shutil.copyfile(restored.home.store_url.removeprefix("sqlite:///"), store)
    replayed = restored.home.copy(tmp_path / "replayed", f"sqlite:///{store}")
    with replayed.opened() as copy:
        copy.database.write(lambda c: c.execute(sa.update(tables.rings).values(epoch=0)))
    assert_open(replayed, left(restored))


def test_nothing_is_served_from_a_restored_vault(restored: Restored) -> None:
    ledger = restored.ledger
    (untouched,) = [item for item in ledger.items if OLD_MONTH in item.scope]
    with restored.home.vault() as vault:
        for name in KEPT:
            with pytest.raises(RestoreDetected, match="the engine is an older copy"):
                vault.seal(b"x", [name])
    touched = [item for item in left(restored) if item is not untouched]
    assert {type(result) for result in opened(restored.home, touched)} == {RestoreDetected}
    with restored.home.vault() as vault:
        for name in (consumer("new"), month("new")):
            with pytest.raises(RestoreDetected, match="No scope is created"):
                vault.ensure_scopes([name])
        assert vault.open(untouched.envelope) == untouched.content, "its ring is what it was"


def test_nothing_is_destroyed_in_a_restored_vault(restored: Restored) -> None:
    with restored.home.destroyer() as destroyer:
        with pytest.raises(RestoreDetected):
            destroyer.destroy([consumer(0), month("a")], **CAUSE)
        with pytest.raises(RestoreDetected, match="not acknowledged"):
            destroyer.finish_pending()
    with restored.home.vault() as vault:
        found = values_of(vault.describe([consumer(0), month("a"), PENDING, *VICTIMS]))
    expected = [KeyState.ACTIVE] * 2 + [KeyState.DEACTIVATED] + [KeyState.DESTROYED] * 2
    assert [info.state for info in found] == expected
    with restored.home.opened() as looking:
        assert scope_share(looking, consumer(0)) == restored.shares[consumer(0)]


def test_nothing_is_created_where_the_slots_are_as_far_as_the_database_but_the_state_is_not(
    tmp_path: Path, raw_vault: VaultServer
) -> None:
    server = raw_vault
    home = vault_home(tmp_path, server, f"sqlite:///{tmp_path / 'store.db'}", custody="ring")
    ledger = Ledger(home=home)
    ledger.create(consumer(0), consumer(1))
    server.snapshot(tmp_path / "before.snap")
    ledger.shred(consumer(1))
    server.restore(tmp_path / "before.snap")
    with home.vault() as vault, pytest.raises(RestoreDetected, match="No scope is created"):
        vault.ensure_scopes([consumer("new")])
