"""Setting a real Vault up, and finding out what somebody changed in it since."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyvault.errors import (
    EngineMismatchError,
    InvalidInputError,
    KeyMissingError,
    PermissionDeniedError,
    Unavailable,
)
from keyvault.transit.hashicorp import AppRoleCredentials, HashicorpEngine, VaultSettings
from keyvault.vault_setup import ROLES, Check, check_vault, issue_credentials, policy_text, set_up_vault
from tests.homes import own_mounts
from tests.servers import VaultServer, running_vault
from tests.servers.certificates import make_certificates
from tests.servers.process import free_port

Mangle = Callable[[VaultServer, VaultSettings], object]


@pytest.fixture(scope="module")
def server() -> Iterator[VaultServer]:
    """A Vault of this module's own: audit devices and audited headers are the whole server's."""
    with running_vault() as running:
        yield running


@pytest.fixture
def settings(server: VaultServer) -> VaultSettings:
    return own_mounts(server)


def set_up(server: VaultServer, settings: VaultSettings) -> dict[str, str]:
    return {step.item: step.outcome for step in set_up_vault(settings, server.root_token, server.audit_file)}


def credentials_of_all(server: VaultServer, settings: VaultSettings) -> dict[str, AppRoleCredentials]:
    return {role: issue_credentials(settings, server.root_token, role) for role in ROLES}


def failing(checks: list[Check]) -> list[Check]:
    return [check for check in checks if not check.ok]


# --- set-up ----------------------------------------------------------------------------------------------------------------


def test_the_second_run_changes_nothing(server: VaultServer, settings: VaultSettings) -> None:
    first = set_up(server, settings)
    second = set_up(server, settings)
    assert second.keys() == first.keys()
    assert set(second.values()) == {"already there"}
    for item in (f"mount {settings.kv_mount}", f"key system in {settings.transit_mount}"):
        assert first[item] == "created"
    assert {first[f"policy {settings.prefix}-{role}"] for role in ROLES} == {"created"}
    assert {first[f"AppRole {settings.prefix}-{role}"] for role in ROLES} == {"created"}


def test_everything_is_found_in_order_after_set_up(server: VaultServer, settings: VaultSettings) -> None:
    set_up(server, settings)
    checks = check_vault(settings, server.root_token, credentials_of_all(server, settings))
    assert failing(checks) == []
    assert len(checks) == 2 + 10 + 3 * len(ROLES)
    assert len({check.name for check in checks}) == len(checks)


def test_without_an_administrator_only_logins_are_checked(server: VaultServer, settings: VaultSettings) -> None:
    set_up(server, settings)
    checks = check_vault(settings, None, credentials_of_all(server, settings))
    unchecked = [check for check in checks if check.ok is None]
    assert len(unchecked) == 10 + 2 * len(ROLES)
    assert {check.detail for check in unchecked} == {"not checked: needs an administrator's token in VAULT_TOKEN"}
    assert [check for check in checks if check.ok is False] == []
    assert sum(check.name.startswith("login of role") for check in checks) == len(ROLES)


def test_no_audit_device_is_made_without_a_file(server: VaultServer, settings: VaultSettings) -> None:
    set_up(server, settings)
    server.request("DELETE", "sys/audit/file")
    assert "audit device" not in {step.item for step in set_up_vault(settings, server.root_token)}
    (check,) = failing(check_vault(settings, server.root_token, {}))
    assert (check.name, check.detail) == ("audit device", "no audit device")
    assert "naming an audit file" in check.remedy
    assert set_up(server, settings)["audit device"] == "created"


def test_another_audit_device_is_left_alone(server: VaultServer, settings: VaultSettings, tmp_path: Path) -> None:
    set_up(server, settings)
    set_up_vault(settings, server.root_token, tmp_path / "another.log")
    assert list(server.request("GET", "sys/audit")["data"]) == ["file/"]


def test_the_policies_and_roles_are_what_this_version_says(server: VaultServer, settings: VaultSettings) -> None:
    set_up(server, settings)
    for role in ROLES:
        name = f"{settings.prefix}-{role}"
        assert server.request("GET", f"sys/policies/acl/{name}")["data"]["policy"] == policy_text(settings, role)
        given = server.request("GET", f"auth/{settings.approle_mount}/role/{name}")["data"]
        assert (given["token_policies"], given["token_no_default_policy"]) == ([name], True)
        assert (given["token_ttl"], given["token_max_ttl"], given["token_type"]) == (3600, 86400, "service")


# --- what somebody changed ---------------------------------------------------------------------------------------------------


def role_path(settings: VaultSettings, role: str) -> str:
    return f"auth/{settings.approle_mount}/role/{settings.prefix}-{role}"


MANGLED: dict[str, tuple[Mangle, str, str]] = {
    "audit device removed": (lambda v, _: v.request("DELETE", "sys/audit/file"), "audit device", "no audit device"),
    "header not audited": (
        lambda v, _: v.request("DELETE", "sys/config/auditing/request-headers/X-Keyvault-Event"),
        "audited header X-Keyvault-Event",
        "not there",
    ),
    "header hashed": (
        lambda v, _: v.request("PUT", "sys/config/auditing/request-headers/X-Keyvault-Event", {"hmac": True}),
        "audited header X-Keyvault-Event",
        "hmac is True, not False",
    ),
    "upsert allowed": (
        lambda v, s: v.request("POST", f"{s.transit_mount}/config/keys", {"disable_upsert": False}),
        "no key made by encrypting in {transit}",
        "disable_upsert is False, not True",
    ),
    "check-and-set off": (
        lambda v, s: v.request("POST", f"{s.kv_mount}/config", {"cas_required": False, "max_versions": 1}),
        "one version and check-and-set in {kv}",
        "cas_required is False, not True",
    ),
    "history kept": (
        lambda v, s: v.request("POST", f"{s.kv_mount}/config", {"cas_required": True, "max_versions": 10}),
        "one version and check-and-set in {kv}",
        "max_versions is 10, not 1",
    ),
    "policy widened": (
        lambda v, s: v.request("PUT", f"sys/policies/acl/{s.prefix}-issuer", {"policy": 'path "*" { policy="sudo" }'}),
        "policy {prefix}-issuer",
        "its text is not this version's",
    ),
    "policy deleted": (
        lambda v, s: v.request("DELETE", f"sys/policies/acl/{s.prefix}-auditor"),
        "policy {prefix}-auditor",
        "no such policy",
    ),
    "role deleted": (
        lambda v, s: v.request("DELETE", role_path(s, "operator")),
        "AppRole {prefix}-operator",
        "no such role",
    ),
    "role with another policy": (
        lambda v, s: v.request("POST", role_path(s, "issuer"), {"token_policies": ["default", f"{s.prefix}-issuer"]}),
        "AppRole {prefix}-issuer",
        "token_policies is",
    ),
    "role with the default policy": (
        lambda v, s: v.request("POST", role_path(s, "issuer"), {"token_no_default_policy": False}),
        "AppRole {prefix}-issuer",
        "token_no_default_policy is False, not True",
    ),
    "role with a longer life": (
        lambda v, s: v.request("POST", role_path(s, "shredder"), {"token_max_ttl": 864_000}),
        "AppRole {prefix}-shredder",
        "token_max_ttl is 864000, not 86400",
    ),
    "login mount removed": (
        lambda v, s: v.request("DELETE", f"sys/auth/{s.approle_mount}"),
        "auth mount {approle}",
        "not mounted",
    ),
    "log mount removed": (
        lambda v, s: v.request("DELETE", f"sys/mounts/{s.log_mount}"),
        "mount {log}",
        "not mounted",
    ),
    "system key deleted": (
        lambda v, s: (
            v.request("POST", f"{s.transit_mount}/keys/system/config", {"deletion_allowed": True}),
            v.request("DELETE", f"{s.transit_mount}/keys/system"),
        ),
        "key system in {transit}",
        "no such key",
    ),
}


@pytest.mark.parametrize(("mangle", "item", "detail"), MANGLED.values(), ids=MANGLED)
def test_a_mangled_item_is_found_and_mended(
    server: VaultServer, settings: VaultSettings, mangle: Mangle, item: str, detail: str
) -> None:
    set_up(server, settings)
    mangle(server, settings)
    names = {"transit": settings.transit_mount, "log": settings.log_mount, "kv": settings.kv_mount}
    item = item.format(**names, approle=settings.approle_mount, prefix=settings.prefix)

    found = {check.name: check for check in failing(check_vault(settings, server.root_token, {}))}
    assert detail in found[item].detail
    assert "keyvault init" in found[item].remedy
    assert set_up(server, settings)[item] in ("created", "updated")
    assert failing(check_vault(settings, server.root_token, {})) == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("sys/mounts/{s.transit_mount}", {"type": "kv"}),
        ("sys/mounts/{s.log_mount}", {"type": "kv", "options": {"version": "2"}}),
        ("sys/mounts/{s.kv_mount}", {"type": "transit"}),
        ("sys/mounts/{s.kv_mount}", {"type": "kv", "options": {"version": "1"}}),
        ("sys/auth/{s.approle_mount}", {"type": "userpass"}),
    ],
)
def test_a_foreign_mount_is_not_touched_nor_anything_else(
    server: VaultServer, settings: VaultSettings, path: str, body: dict[str, Any]
) -> None:
    server.request("POST", path.format(s=settings), body)
    before = server.request("GET", "sys/mounts")["data"]
    with pytest.raises(EngineMismatchError, match="mount name"):
        set_up(server, settings)
    assert server.request("GET", "sys/mounts")["data"] == before
    policies = server.request("GET", "sys/policies/acl?list=true")["data"]["keys"]
    assert [name for name in policies if name.startswith(settings.prefix)] == []
    mount = path.format(s=settings).rpartition("/")[2]
    (check,) = (
        check for check in check_vault(settings, server.root_token, {}) if check.name.endswith(f"mount {mount}")
    )
    assert check.ok is False
    assert "another mount name" in check.remedy


@pytest.mark.parametrize(
    "body", [{"exportable": True}, {"allow_plaintext_backup": True}, {"type": "chacha20-poly1305"}]
)
def test_a_system_key_that_may_have_got_out_is_refused(
    server: VaultServer, settings: VaultSettings, body: dict[str, Any]
) -> None:
    server.request("POST", f"sys/mounts/{settings.transit_mount}", {"type": "transit"})
    server.request("POST", f"{settings.transit_mount}/keys/system", {"type": "aes256-gcm96", **body})
    with pytest.raises(EngineMismatchError, match="cannot be mended"):
        set_up(server, settings)
    checks = check_vault(settings, server.root_token, {})
    (check,) = (check for check in checks if check.name == f"key system in {settings.transit_mount}")
    assert check.ok is False


# --- credentials ---------------------------------------------------------------------------------------------------------------


def test_new_credentials_leave_the_old_ones_valid(server: VaultServer, settings: VaultSettings) -> None:
    set_up(server, settings)
    one, other = (issue_credentials(settings, server.root_token, "auditor") for _ in range(2))
    assert one.role_id == other.role_id
    assert one.secret_id != other.secret_id
    for given in (one, other):
        with closing(HashicorpEngine(settings, given)) as engine:
            assert engine.list_keys() == ["system"]


def test_credentials_are_for_known_roles_of_a_vault_set_up(server: VaultServer, settings: VaultSettings) -> None:
    with pytest.raises(InvalidInputError, match="no role janitor"):
        issue_credentials(settings, server.root_token, "janitor")
    server.request("POST", f"sys/auth/{settings.approle_mount}", {"type": "approle"})
    with pytest.raises(KeyMissingError):
        issue_credentials(settings, server.root_token, "auditor")


def test_a_roles_token_cannot_set_vault_up(server: VaultServer, settings: VaultSettings) -> None:
    set_up(server, settings)
    given = issue_credentials(settings, server.root_token, "shredder")
    login = server.request(
        "POST", f"auth/{settings.approle_mount}/login", {"role_id": given.role_id, "secret_id": given.secret_id}
    )
    token = login["auth"]["client_token"]
    with pytest.raises(PermissionDeniedError):
        set_up_vault(settings, token)
    checks = failing(check_vault(settings, token, {}))
    assert len(checks) >= 9
    assert all(check.remedy for check in checks)


def test_credentials_that_do_not_log_in_are_found(server: VaultServer, settings: VaultSettings) -> None:
    set_up(server, settings)
    given = issue_credentials(settings, server.root_token, "issuer")
    wrong = replace(given, secret_id="wrong")
    right, refused = check_vault(settings, None, {"issuer": given, "shredder": wrong})[-2:]
    assert right.ok is True
    assert refused.ok is False
    assert "refuses the login" in refused.detail
    assert "it issues new ones" in refused.remedy


def test_credentials_of_another_role_are_found(server: VaultServer, settings: VaultSettings) -> None:
    set_up(server, settings)
    given = issue_credentials(settings, server.root_token, "issuer")
    (check,) = failing(check_vault(settings, server.root_token, {"shredder": given}))
    assert check.name == "login of role shredder"
    assert f"{settings.prefix}-issuer, not just {settings.prefix}-shredder" in check.detail


# --- no Vault -------------------------------------------------------------------------------------------------------------------


def test_a_sealed_vault_is_reported_and_nothing_else_tried(new_vault: Callable[..., VaultServer]) -> None:
    sealed = new_vault()
    sealed.seal()
    where = VaultSettings(addr=sealed.addr, ca_file=sealed.ca_file)
    answers, unsealed = check_vault(where, sealed.root_token, {})
    assert (answers.ok, unsealed.ok) == (True, False)
    assert unsealed.remedy == "run `vault operator unseal`"
    with pytest.raises(Unavailable, match="is sealed"):
        set_up_vault(where, sealed.root_token)


def test_a_vault_that_is_down_or_not_trusted_is_reported(server: VaultServer, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    down = VaultSettings(addr=f"https://127.0.0.1:{free_port()}", ca_file=server.ca_file)
    not_trusted = VaultSettings(addr=server.addr, ca_file=tmp_path / "ca.pem")
    for where, said in ((down, "no connection"), (not_trusted, "certificate was not accepted")):
        (check,) = check_vault(where, server.root_token, {})
        assert check.ok is False
        assert said in check.detail
        assert "the CA file" in check.remedy
