"""A Vault snapshot taken before a shred brings the key back: the exception to G5 that ends with the backup horizon."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from keyvault.errors import ScopeDestroyedError
from keyvault.results import values_of
from keyvault.states import KeyState
from shredder.destroy import PlanItem, PlannedAction
from tests.forensics.entries import paths_holding
from tests.forensics.raw_storage import RawStorage
from tests.forensics.scopes import NEIGHBOUR, VICTIM, home_with, shred, transit_key_of, transit_mount_of
from tests.servers import VaultServer
from tests.servers.vault import VaultError


def test_the_key_is_back_in_vault_and_the_product_still_refuses_it(
    tmp_path: Path, raw_vault: VaultServer, raw: RawStorage
) -> None:
    home = home_with(tmp_path, raw_vault)
    with home.vault() as vault:
        sealed = {name: vault.seal(b"Ada", [name]) for name in (VICTIM, NEIGHBOUR)}
    with home.opened() as opened:
        key = transit_key_of(opened, VICTIM)
        mount = transit_mount_of(opened)
        where = set(raw.paths_of(key).values())
        (material,) = raw.material_of(key).values()
        kept = raw_vault.request("POST", f"{mount}/encrypt/{key}", {"plaintext": base64.b64encode(b"Ada").decode()})
        attempt = {"ciphertext": kept["data"]["ciphertext"]}
        raw_vault.snapshot(tmp_path / "before.snap")

        shred(opened, VICTIM)
        assert paths_holding(raw.entries(), material) == set()
        with pytest.raises(VaultError):
            raw_vault.request("POST", f"{mount}/decrypt/{key}", attempt)

        raw_vault.restore(tmp_path / "before.snap")
        assert paths_holding(raw.entries(), material) == where
        answer = raw_vault.request("POST", f"{mount}/decrypt/{key}", attempt)
        assert base64.b64decode(answer["data"]["plaintext"]) == b"Ada"

    with home.vault() as vault:
        with pytest.raises(ScopeDestroyedError):
            vault.open(sealed[VICTIM])
        with pytest.raises(ScopeDestroyedError):
            vault.seal(b"more", [VICTIM])
        assert values_of(vault.describe([VICTIM]))[0].state is KeyState.DESTROYED
        assert vault.open(sealed[NEIGHBOUR]) == b"Ada"
    with home.destroyer() as destroyer:
        (planned,) = destroyer.plan([VICTIM])
        assert isinstance(planned, PlanItem)
        assert planned.action is PlannedAction.NOTHING
