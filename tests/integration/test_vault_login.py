"""Tokens of a real Vault: renewed, replaced, revoked, refused; and a Vault that is sealed, down or not trusted."""

import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from keyvault.errors import KeyVaultError, PermissionDeniedError, Unavailable
from keyvault.transit.base import EngineDataKey
from keyvault.transit.hashicorp import AppRoleCredentials, HashicorpEngine, TokenCredentials, VaultSettings
from keyvault.vault_setup import set_up_vault
from tests.homes import own_mounts
from tests.servers import VaultServer
from tests.servers.certificates import make_certificates
from tests.servers.process import free_port

THREADS = 8
PATIENCE_SECONDS = 30.0


@dataclass(kw_only=True)
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, kw_only=True)
class Role:
    """A role made for one test, and what Vault's audit log says of it, from byte `since` on: the log holds every test's calls."""

    server: VaultServer
    credentials: AppRoleCredentials
    since: int

    def count(self, path: str) -> int:
        """How often Vault answered the role, without an error, at `path`."""
        return sum(
            entry["type"] == "response"
            and entry["request"]["path"] == path
            and "error" not in entry
            and entry["auth"].get("metadata", {}).get("role_name") == self.credentials.role
            for entry in map(json.loads, self.server.audited(self.since))
        )

    @property
    def logins(self) -> int:
        return self.count("auth/approle/login")

    @property
    def renewals(self) -> int:
        return self.count("auth/token/renew-self")


def settings_for(server: VaultServer) -> VaultSettings:
    return own_mounts(server, approle_mount="approle")


@pytest.fixture(scope="module")
def settings(vault_server: VaultServer) -> VaultSettings:
    made = settings_for(vault_server)
    set_up_vault(made, vault_server.root_token, vault_server.audit_file)
    return made


@pytest.fixture
def make_role(vault_server: VaultServer, settings: VaultSettings) -> Callable[..., Role]:
    def make(*, ttl: int = 60, max_ttl: int = 3600, policy: str = "shredder") -> Role:
        name = f"test-{secrets.token_hex(4)}"
        since = vault_server.audit_file.stat().st_size
        role = f"auth/approle/role/{name}"
        body = {"token_policies": f"{settings.prefix}-{policy}", "token_ttl": ttl, "token_max_ttl": max_ttl}
        vault_server.request("POST", role, {**body, "token_no_default_policy": True})
        role_id = vault_server.request("GET", f"{role}/role-id")["data"]["role_id"]
        secret_id = vault_server.request("POST", f"{role}/secret-id")["data"]["secret_id"]
        return Role(
            server=vault_server,
            credentials=AppRoleCredentials(role_id=role_id, secret_id=secret_id, role=name),
            since=since,
        )

    return make


@contextmanager
def engine_of(
    settings: VaultSettings, role: Role, clock: Callable[[], float] = time.monotonic
) -> Iterator[HashicorpEngine]:
    with closing(HashicorpEngine(settings, role.credentials, clock=clock)) as engine:
        yield engine


def at_once(work: Callable[[], object]) -> list[object]:
    """Run `work` on eight threads that start together; each result, or its error."""
    barrier = threading.Barrier(THREADS)

    def run(_: int) -> object:
        barrier.wait()
        try:
            return work()
        except KeyVaultError as error:
            return error

    with ThreadPoolExecutor(THREADS) as threads:
        return list(threads.map(run, range(THREADS)))


# --- renewal --------------------------------------------------------------------------------------------------------------


def test_nothing_is_sent_before_the_first_call(settings: VaultSettings, make_role: Callable[..., Role]) -> None:
    role = make_role()
    with engine_of(settings, role):
        assert role.logins == 0


def test_a_token_is_renewed_at_two_thirds_of_its_lifetime(
    settings: VaultSettings, make_role: Callable[..., Role]
) -> None:
    role, clock = make_role(ttl=60), Clock()
    with engine_of(settings, role, clock) as engine:
        seen = []
        for now in (1000.0, 1039.9, 1040.1, 1079.9, 1080.3):
            clock.now = now
            engine.list_keys()
            seen.append((role.logins, role.renewals))
    assert seen == [(1, 0), (1, 0), (1, 1), (1, 1), (1, 2)]


def test_a_token_whose_time_has_passed_is_replaced_without_asking(
    settings: VaultSettings, make_role: Callable[..., Role]
) -> None:
    role, clock = make_role(ttl=60), Clock()
    with engine_of(settings, role, clock) as engine:
        engine.list_keys()
        clock.now += 60
        engine.list_keys()
    assert (role.logins, role.renewals) == (2, 0)


def test_only_one_of_eight_threads_renews(settings: VaultSettings, make_role: Callable[..., Role]) -> None:
    role, clock = make_role(ttl=60), Clock()
    with engine_of(settings, role, clock) as engine:
        engine.list_keys()
        clock.now += 41
        assert at_once(lambda: type(engine.list_keys())) == [list] * THREADS
    assert (role.logins, role.renewals) == (1, 1)


def test_only_one_of_eight_threads_logs_in_first(settings: VaultSettings, make_role: Callable[..., Role]) -> None:
    role = make_role()
    with engine_of(settings, role) as engine:
        assert at_once(lambda: type(engine.list_keys())) == [list] * THREADS
    assert role.logins == 1


def test_a_new_login_comes_before_the_maximum_lifetime(settings: VaultSettings, make_role: Callable[..., Role]) -> None:
    role = make_role(ttl=2, max_ttl=3)
    patience = time.monotonic() + PATIENCE_SECONDS
    with engine_of(settings, role) as engine:
        while role.logins < 3 or not role.renewals:
            engine.list_keys()
            assert time.monotonic() < patience
    # A 403 would have shown as a question to lookup-self.
    assert role.count("auth/token/lookup-self") == 0


# --- refusals --------------------------------------------------------------------------------------------------------------


def test_a_revoked_token_costs_eight_threads_one_login(
    vault_server: VaultServer, settings: VaultSettings, make_role: Callable[..., Role]
) -> None:
    role = make_role()
    with engine_of(settings, role) as engine:
        engine.list_keys()
        vault_server.request("POST", "auth/token/revoke", {"token": engine._client.token})
        assert at_once(lambda: type(engine.list_keys())) == [list] * THREADS
    assert role.logins == 2


def test_a_token_revoked_before_its_renewal_is_replaced(
    vault_server: VaultServer, settings: VaultSettings, make_role: Callable[..., Role]
) -> None:
    role, clock = make_role(ttl=60), Clock()
    with engine_of(settings, role, clock) as engine:
        engine.list_keys()
        vault_server.request("POST", "auth/token/revoke", {"token": engine._client.token})
        clock.now += 41
        engine.list_keys()
    assert role.logins == 2


def test_a_forbidden_path_is_no_reason_to_log_in(settings: VaultSettings, make_role: Callable[..., Role]) -> None:
    role = make_role(policy="platform")
    with engine_of(settings, role) as engine:
        results = at_once(engine.list_keys)
        with pytest.raises(PermissionDeniedError, match=rf"role {role.credentials.role} may not rotate keys"):
            engine.rotate("k")
    assert [type(result) for result in results] == [PermissionDeniedError] * THREADS
    assert role.logins == 1


def test_refused_credentials_are_reported_without_the_secret(
    settings: VaultSettings, make_role: Callable[..., Role]
) -> None:
    right = make_role().credentials
    wrong = replace(right, secret_id=secrets.token_hex(16))
    with closing(HashicorpEngine(settings, wrong)) as engine, pytest.raises(PermissionDeniedError) as caught:
        engine.list_keys()
    assert "refuses the login" in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
    assert wrong.secret_id not in f"{caught.value!r} {wrong!r}"


def test_a_missing_login_mount_is_reported(settings: VaultSettings, make_role: Callable[..., Role]) -> None:
    elsewhere = replace(settings, approle_mount="nowhere")
    with (
        closing(HashicorpEngine(elsewhere, make_role().credentials)) as engine,
        pytest.raises(PermissionDeniedError, match="AppRole mount nowhere"),
    ):
        engine.list_keys()


def test_a_given_token_is_used_as_it_is(vault_server: VaultServer, settings: VaultSettings) -> None:
    with closing(HashicorpEngine(settings, TokenCredentials(token=vault_server.root_token))) as engine:
        assert engine.list_keys() == ["system"]
    with (
        closing(HashicorpEngine(settings, TokenCredentials(token="hvs.wrong"))) as engine,
        pytest.raises(PermissionDeniedError, match="does not accept the administrator's token") as caught,
    ):
        engine.list_keys()
    assert "hvs.wrong" not in str(caught.value)


# --- no Vault ---------------------------------------------------------------------------------------------------------------


def test_a_certificate_of_another_authority_is_not_accepted(
    settings: VaultSettings, make_role: Callable[..., Role], tmp_path: Path
) -> None:
    make_certificates(tmp_path)
    for ca_file in (tmp_path / "ca.pem", None):
        with (
            engine_of(replace(settings, ca_file=ca_file), make_role()) as engine,
            pytest.raises(Unavailable, match=r"TLS certificate was not accepted.*set the CA file") as caught,
        ):
            engine.list_keys()
        assert settings.addr in str(caught.value)


def test_nobody_listening_is_reported_with_the_address(settings: VaultSettings, make_role: Callable[..., Role]) -> None:
    nowhere = replace(settings, addr=f"https://127.0.0.1:{free_port()}")
    with engine_of(nowhere, make_role()) as engine, pytest.raises(Unavailable, match="no connection") as caught:
        engine.list_keys()
    assert nowhere.addr in str(caught.value)
    assert caught.value.retry_after > 0


def test_a_sealed_vault_fails_a_whole_batch_at_once_and_serves_again_when_unsealed(
    new_vault: Callable[..., VaultServer],
) -> None:
    server = new_vault()
    settings = settings_for(server)
    set_up_vault(settings, server.root_token, server.audit_file)
    with closing(HashicorpEngine(settings, TokenCredentials(token=server.root_token))) as engine:
        names = [f"k{number}" for number in range(1000)]
        engine.create_keys(names[:3])
        server.seal()
        with pytest.raises(Unavailable, match="is sealed; unseal it"):
            engine.list_keys()
        results = engine.read_keys(names)
        assert {type(result) for result in results} == {Unavailable}
        assert len({id(result) for result in results}) <= settings.pool_size
        server.unseal()
        assert [type(key) for key in engine.generate_data_keys(names[:3])] == [EngineDataKey] * 3


def test_a_vault_that_was_down_serves_again_without_a_new_engine(new_vault: Callable[..., VaultServer]) -> None:
    server = new_vault()
    settings = settings_for(server)
    set_up_vault(settings, server.root_token)
    with closing(HashicorpEngine(settings, TokenCredentials(token=server.root_token))) as engine:
        assert engine.list_keys() == ["system"]
        server.stop()
        with pytest.raises(Unavailable):
            engine.list_keys()
        server.start()
        server.unseal()
        assert engine.list_keys() == ["system"]
