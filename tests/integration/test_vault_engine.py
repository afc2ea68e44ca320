"""What only the engine over Vault has: its audit log, its mounts and its limits."""

import json
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from keyvault.errors import ConfigurationError, InvalidInputError, NotProvenError, TransitError
from keyvault.transit.base import Ciphertext, EngineDataKey, Plaintext, audit_event
from keyvault.transit.hashicorp import HashicorpEngine, TokenCredentials, VaultSettings
from keyvault.vault_setup import set_up_vault
from tests.homes import own_mounts
from tests.servers import VaultServer


@pytest.fixture(scope="module")
def settings(vault_server: VaultServer) -> VaultSettings:
    made = own_mounts(vault_server, transit_mount=f"nested/transit-{secrets.token_hex(4)}", pool_size=4)
    set_up_vault(made, vault_server.root_token, vault_server.audit_file)
    return made


@pytest.fixture
def engine(vault_server: VaultServer, settings: VaultSettings) -> Iterator[HashicorpEngine]:
    with closing(HashicorpEngine(settings, TokenCredentials(token=vault_server.root_token))) as made:
        yield made


def audited(server: VaultServer, mount: str) -> list[tuple[str, str]]:
    """Paths under a mount, in Vault's audit log, each with its event id; a shared log is too long to be read at once."""
    entries = [json.loads(line) for line in server.audited() if mount.encode() in line]
    requests: list[dict[str, Any]] = [
        entry["request"]
        for entry in entries
        if entry["type"] == "request" and entry["request"]["path"].startswith(mount)
    ]
    return [(one["path"], one.get("headers", {}).get("x-keyvault-event", [""])[0]) for one in requests]


def test_the_event_reaches_vaults_audit_log_from_every_thread_of_a_batch(
    vault_server: VaultServer, settings: VaultSettings, engine: HashicorpEngine
) -> None:
    names = [f"k{secrets.token_hex(6)}" for _ in range(20)]
    engine.create_keys(names)
    event = f"event-{secrets.token_hex(6)}"
    with audit_event(event):
        engine.delete_keys(names)
    engine.read_keys(names)
    seen = audited(vault_server, f"{settings.transit_mount}/keys/k")
    deletions = [f"{settings.transit_mount}/keys/{name}{end}" for name in names for end in ("", "/config")]
    assert sorted(path for path, of in seen if of == event) == sorted(deletions)
    assert sorted(path for path, of in seen if not of) == sorted(
        f"{settings.transit_mount}/keys/{name}" for name in names * 2
    )


def test_a_missing_mount_is_never_taken_for_an_absent_key(vault_server: VaultServer, settings: VaultSettings) -> None:
    elsewhere = replace(settings, transit_mount="nowhere", kv_mount="nowhere-kv")
    with closing(HashicorpEngine(elsewhere, TokenCredentials(token=vault_server.root_token))) as engine:
        for results in (engine.read_keys(["k"]), engine.read_keys(["k", "l"]), engine.delete_keys(["k"])):
            assert {type(result) for result in results} == {ConfigurationError}
        for ask in (engine.list_keys, lambda: engine.get_state("a/b"), lambda: engine.list_state("a")):
            with pytest.raises(ConfigurationError, match="no handler for route"):
                ask()


def test_a_value_that_grows_over_vaults_limit_in_json_is_refused(engine: HashicorpEngine) -> None:
    with pytest.raises(InvalidInputError, match="too large"):
        engine.put_state("state/r/0", "\x01" * 400_000, expected_version=0)
    assert engine.get_state("state/r/0") is None


def test_a_state_that_something_else_wrote_is_refused(
    vault_server: VaultServer, settings: VaultSettings, engine: HashicorpEngine
) -> None:
    body = {"options": {"cas": 0}, "data": {"other": "x"}}
    vault_server.request("POST", f"{settings.kv_mount}/data/state/s/0", body)
    with pytest.raises(TransitError, match="not written by this program"):
        engine.get_state("state/s/0")


def test_batches_are_larger_than_the_pool(engine: HashicorpEngine) -> None:
    names = [f"k{secrets.token_hex(6)}" for _ in range(60)]
    assert engine.create_keys(names) == [None] * 60
    keys = engine.generate_data_keys(names)
    good = [key for key in keys if isinstance(key, EngineDataKey)]
    items = [Ciphertext(name=name, text=key.text) for name, key in zip(names, good, strict=True)]
    assert engine.decrypt(items) == [key.plaintext for key in good]


def test_keys_are_neither_exportable_nor_open_to_backup(
    vault_server: VaultServer, settings: VaultSettings, engine: HashicorpEngine
) -> None:
    name = f"k{secrets.token_hex(6)}"
    engine.create_keys([name])
    engine.encrypt([Plaintext(name=name, data=b"data")])
    key = vault_server.request("GET", f"{settings.transit_mount}/keys/{name}")["data"]
    assert (key["type"], key["exportable"], key["allow_plaintext_backup"]) == ("aes256-gcm96", False, False)
    assert key["derived"] is False


def test_a_key_that_another_run_made_anew_meanwhile_is_not_proven_gone(
    engine: HashicorpEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs at one key: one deletes it and makes it anew, to delete what may be left, after the other was allowed to delete."""
    name = f"k{secrets.token_hex(6)}"
    engine.create_keys([name])
    allow = engine._transit.update_key_configuration

    def overtaken(**arguments: Any) -> Any:
        answer = allow(**arguments)
        engine._transit.delete_key(name=arguments["name"], mount_point=arguments["mount_point"])
        engine.create_keys([name])
        return answer

    monkeypatch.setattr(engine._transit, "update_key_configuration", overtaken)
    assert [type(result) for result in engine.delete_keys([name])] == [NotProvenError]
    monkeypatch.undo()
    assert engine.delete_keys([name]) == [None]


def test_deleting_again_removes_what_an_interrupted_deletion_left(new_vault: Callable[..., VaultServer]) -> None:
    server = new_vault(raw_storage=True)
    settings = VaultSettings(addr=server.addr, ca_file=server.ca_file)
    set_up_vault(settings, server.root_token)
    mount = server.request("GET", "sys/mounts/transit")["data"]["uuid"]

    def archived() -> list[str]:
        return list(server.request("LIST", f"sys/raw/logical/{mount}/archive")["data"]["keys"])

    with closing(HashicorpEngine(settings, TokenCredentials(token=server.root_token))) as engine:
        engine.create_keys(["doomed"])
        engine.rotate("doomed")
        # Vault removes the key and then its archive: this is where a crash comes between. The restart empties its cache.
        server.request("DELETE", f"sys/raw/logical/{mount}/policy/doomed")
        server.restart()
        assert engine.read_keys(["doomed"]) == [None]
        assert archived() == ["doomed", "system"]
        assert engine.delete_keys(["doomed"]) == [None]
        assert engine.read_keys(["doomed"]) == [None]
        assert archived() == ["system"]
