"""Everything that Vault's API can give, its raw storage included, before and after a shred (G5)."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from keyvault.errors import Unavailable
from keyvault.home import Home
from keyvault.results import value_of, values_of
from shredder.destroy import Destroyer
from tests.forensics.entries import paths_holding, paths_naming
from tests.forensics.raw_storage import COMPRESSION_CANARIES, RawStorage
from tests.forensics.scopes import NEIGHBOUR, VICTIM, home_with, shred, transit_key_of, transit_mount_of
from tests.servers import VaultServer
from tests.servers.vault import VaultError


@pytest.fixture
def home(tmp_path: Path, raw_vault: VaultServer) -> Iterator[Home]:
    with home_with(tmp_path, raw_vault).opened() as opened:
        yield opened


def forget_caches(server: VaultServer) -> None:
    """Make Vault read its storage again."""
    server.seal()
    server.unseal()


@pytest.mark.parametrize("length", [0, 1, 31])
@pytest.mark.parametrize("canary", COMPRESSION_CANARIES)
def test_an_entry_that_only_looks_compressed_is_read_as_it_is(
    raw: RawStorage, raw_vault: VaultServer, canary: bytes, length: int
) -> None:
    path, value = "core/looks-compressed", canary + secrets.token_bytes(length)
    raw_vault.request("POST", f"sys/raw/{path}", {"value": base64.b64encode(value).decode(), "encoding": "base64"})
    assert [entry.value for entry in raw.entries() if entry.path == path] == [value]
    raw.delete(path)


def test_a_shredded_key_is_in_no_entry_of_raw_storage(raw: RawStorage, home: Home) -> None:
    victim, neighbour = transit_key_of(home, VICTIM), transit_key_of(home, NEIGHBOUR)
    (material,), (kept,) = raw.material_of(victim).values(), raw.material_of(neighbour).values()
    where = raw.paths_of(victim)
    assert set(where) == {"policy", "archive"}
    entries = raw.entries()
    assert paths_holding(entries, material) == paths_naming(entries, victim) == set(where.values())

    shred(home, VICTIM)

    entries = raw.entries()
    assert paths_holding(entries, material) == paths_naming(entries, victim) == set()
    assert paths_holding(entries, kept) == set(raw.paths_of(neighbour).values())


def test_trimming_removes_the_old_version_and_nothing_else(raw: RawStorage, home: Home) -> None:
    key = f"k-{secrets.token_hex(16)}"
    values_of(home.engine.create_keys([key]))
    where = raw.paths_of(key)
    home.engine.rotate(key)
    materials = raw.material_of(key)
    assert set(materials) == {1, 2}

    home.engine.set_min_versions(key, decryption=2, encryption=2)
    assert paths_holding(raw.entries(), materials[1]) == {where["archive"]}, "minimum versions remove nothing"

    home.engine.trim(key, min_available=2)
    entries = raw.entries()
    assert paths_holding(entries, materials[1]) == set()
    assert paths_holding(entries, materials[2]) == set(where.values())
    assert raw.material_of(key) == {2: materials[2]}


def test_a_deletion_that_vault_left_half_done_is_finished(
    raw_vault: VaultServer, raw: RawStorage, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = transit_key_of(home, VICTIM)
    path = f"{transit_mount_of(home)}/keys/{key}"
    where = raw.paths_of(key)
    (material,) = raw.material_of(key).values()

    def die_between_policy_and_archive(*_: object) -> None:
        raw_vault.request("POST", f"{path}/config", {"deletion_allowed": True})
        raw.delete(where["policy"])
        forget_caches(raw_vault)
        raise Unavailable("Vault went away")

    with monkeypatch.context() as patch:
        patch.setattr(type(home.engine), "delete_keys", die_between_policy_and_archive)
        with pytest.raises(Unavailable):
            shred(home, VICTIM)

    for method, status in (("GET", 404), ("DELETE", 400)):
        with pytest.raises(VaultError) as refused:
            raw_vault.request(method, path)
        assert refused.value.status == status
    assert value_of(home.engine.read_keys([key])[0]) is None
    assert paths_holding(raw.entries(), material) == {where["archive"]}, "what Vault calls absent is still there"

    assert [outcome.error for outcome in Destroyer(home).finish_pending()] == [None]
    entries = raw.entries()
    assert paths_holding(entries, material) == paths_naming(entries, key) == set()


def test_archives_without_their_keys_are_deleted_with_all_versions(
    raw_vault: VaultServer, raw: RawStorage, home: Home
) -> None:
    keys = [f"k-{secrets.token_hex(16)}" for _ in range(3)]
    values_of(home.engine.create_keys(keys))
    for rotations, key in enumerate(keys):
        for _ in range(rotations):
            home.engine.rotate(key)
    archives = {raw.paths_of(key)["archive"]: list(raw.material_of(key).values()) for key in keys}
    assert [len(materials) for materials in archives.values()] == [1, 2, 3]
    for key in keys:
        raw.delete(raw.paths_of(key)["policy"])
    forget_caches(raw_vault)
    entries = raw.entries()
    for archive, materials in archives.items():
        assert all(paths_holding(entries, material) == {archive} for material in materials)

    values_of(home.engine.delete_keys(keys))

    entries = raw.entries()
    assert not any(paths_naming(entries, key) for key in keys)
    assert not any(paths_holding(entries, material) for materials in archives.values() for material in materials)
