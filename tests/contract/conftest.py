"""Every engine, each test on one of its own or in mounts of its own; a case that passes on one only is a fault."""

import secrets
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from keyvault.transit.base import TransitEngine
from keyvault.transit.embedded import EmbeddedEngine
from keyvault.transit.hashicorp import HashicorpEngine, TokenCredentials, VaultSettings
from keyvault.vault_setup import set_up_vault
from tests.homes import own_mounts
from tests.servers import VaultServer


@pytest.fixture(scope="module")
def vault_settings(vault_server: VaultServer) -> VaultSettings:
    """Mounts, policies and roles of the module's own, set up in the shared Vault."""
    settings = own_mounts(vault_server)
    set_up_vault(settings, vault_server.root_token, vault_server.audit_file)
    return settings


@pytest.fixture(params=["embedded", "hashicorp"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TransitEngine]:
    """An engine with a log key, and all rights in it."""
    made: TransitEngine
    if request.param == "embedded":
        made = EmbeddedEngine(tmp_path / "engine" / "keys.db", create=True)
        made.create_log_key()
    else:
        server: VaultServer = request.getfixturevalue("vault_server")
        settings: VaultSettings = request.getfixturevalue("vault_settings")
        made = HashicorpEngine(settings, TokenCredentials(token=server.root_token))
    with closing(made):
        yield made


@pytest.fixture(params=["embedded", "hashicorp"])
def bare_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TransitEngine]:
    """An engine in which nothing was made yet: no key at all, and no state."""
    made: TransitEngine
    if request.param == "embedded":
        made = EmbeddedEngine(tmp_path / "engine" / "keys.db", create=True)
    else:
        server: VaultServer = request.getfixturevalue("vault_server")
        mark = secrets.token_hex(4)
        mounts = {f"{kind}_mount": f"bare-{kind}-{mark}" for kind in ("transit", "log", "kv")}
        for kind, mount in mounts.items():
            body = {"type": "kv", "options": {"version": "2"}} if kind == "kv_mount" else {"type": "transit"}
            server.request("POST", f"sys/mounts/{mount}", body)
        settings = VaultSettings(addr=server.addr, ca_file=server.ca_file, **mounts)  # type: ignore[arg-type]
        made = HashicorpEngine(settings, TokenCredentials(token=server.root_token))
    with closing(made):
        yield made
