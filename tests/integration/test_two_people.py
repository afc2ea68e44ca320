"""Two people on a real Vault: who somebody is, is what Vault says of the token in use."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.main import run as run_command
from keyvault.errors import PermissionDeniedError
from keyvault.persons import Duty, identify
from keyvault.results import values_of
from keyvault.settings import load_settings
from keyvault.store import tokens
from tests.cli.conftest import Result
from tests.homes import TestHome, vault_home
from tests.servers import VaultServer

NAME, OTHER = "consumer/acct-001/+15550100001", "consumer/acct-001/+15550100002"
PASSWORD = secrets.token_hex(16)


@dataclass(frozen=True, kw_only=True)
class People:
    """Logins of people, at a userpass mount of the test's own."""

    server: VaultServer
    mount: str
    prefix: str

    def add(self, name: str, *duties: str) -> str:
        """Make a person with some duties, and return a token of a login."""
        policies = [f"{self.prefix}-{duty}" for duty in duties]
        body = {"password": PASSWORD, "token_policies": policies, "token_no_default_policy": True}
        self.server.request("POST", f"auth/{self.mount}/users/{name}", body)
        return self.login(name)

    def login(self, name: str) -> str:
        """Log a person in once more: another token of the same entity."""
        answer = self.server.request("POST", f"auth/{self.mount}/login/{name}", {"password": PASSWORD}, token="")
        return str(answer["auth"]["client_token"])


@pytest.fixture
def real(tmp_path: Path, vault_server: VaultServer, store_url: str) -> TestHome:
    home = vault_home(tmp_path, vault_server, store_url, custody="dedicated")
    with home.vault() as vault:
        values_of(vault.ensure_scopes([NAME, OTHER]))
    return home


@pytest.fixture
def people(real: TestHome, vault_server: VaultServer) -> Iterator[People]:
    mount = f"userpass-{secrets.token_hex(4)}"
    vault_server.request("POST", f"sys/auth/{mount}", {"type": "userpass"})
    settings = load_settings(real.path).vault
    assert settings is not None
    yield People(server=vault_server, mount=mount, prefix=settings.prefix)
    vault_server.request("DELETE", f"sys/auth/{mount}")


@pytest.fixture
def by(
    real: TestHome, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Result]:
    """Run a command with a person's token."""
    monkeypatch.setenv("HOME", str(tmp_path))

    def run(token: str, *args: str) -> Result:
        monkeypatch.setenv("KEYVAULT_PERSON_TOKEN", token)
        capsys.readouterr()
        code = run_command(["--home", str(real.path), *args])
        out, err = capsys.readouterr()
        return Result(code=code, out=out, err=err)

    return run


def submitted(result: Result) -> str:
    assert result.code == 0, result.err
    return str(result.json["id"])


SUBMIT = ("request", "submit", "--from", "customer", "--kind", "anonymize", "--scope", NAME, "--json")


def test_nobody_approves_their_own_request(people: People, by: Callable[..., Result]) -> None:
    ada = people.add("ada", "requester", "approver")
    grace = people.add("grace", "approver")
    request = submitted(by(ada, *SUBMIT, "--ticket", "T-1"))
    approve = ("request", "approve", request, "--yes", "--json")
    for token in (ada, people.login("ada"), ada):
        refused = by(token, *approve)
        assert (refused.code, refused.json["error"]["type"]) == (1, "SamePersonError")
    assert by(ada, "scope", "show", NAME, "--json").json["state"] == "active"
    done = by(grace, *approve)
    assert (done.code, done.json["state"]) == (0, "done")
    assert by(ada, "scope", "show", NAME, "--json").json["state"] == "destroyed"
    assert by(ada, "scope", "show", OTHER, "--json").json["state"] == "active"


def test_each_duty_takes_its_own_policy(people: People, by: Callable[..., Result]) -> None:
    ada, grace = people.add("ada", "requester"), people.add("grace", "approver")
    assert "lacks the Vault policy" in by(grace, *SUBMIT, "--ticket", "T-1").err
    request = submitted(by(ada, *SUBMIT, "--ticket", "T-1"))
    refused = by(ada, "request", "approve", request, "--yes")
    assert (refused.code, f"{people.prefix}-approver" in refused.err) == (1, True)
    broken = by(ada, "shred", NAME, "--ticket", "T-2", "--yes", "--break-glass")
    assert (broken.code, f"{people.prefix}-break-glass" in broken.err) == (1, True)


def test_shred_submits_and_says_who_must_approve(people: People, by: Callable[..., Result]) -> None:
    ada, grace = people.add("ada", "requester"), people.add("grace", "approver")
    waits = by(ada, "shred", NAME, "--ticket", "T-1", "--yes", "--json")
    assert (waits.code, waits.json["approvals"], waits.json["state"]) == (1, 2, "awaiting-approval")
    assert by(ada, "scope", "show", NAME, "--json").json["state"] == "active"
    assert by(grace, "request", "approve", waits.json["request"], "--yes").code == 0
    assert by(ada, "scope", "show", NAME, "--json").json["state"] == "destroyed"


def test_break_glass_is_signed_afterwards_by_somebody_else(people: People, by: Callable[..., Result]) -> None:
    ada, grace = people.add("ada", "break-glass", "approver"), people.add("grace", "approver")
    done = by(ada, "shred", NAME, "--ticket", "T-1", "--yes", "--break-glass", "--json")
    assert (done.code, done.json["scopes"][0]["outcome"]) == (0, "destroyed")
    owed = by(ada, "destroy", "status", "--json").json["approvals_owed"]
    assert [entry["request"] for entry in owed] == [done.json["request"]]
    sign = ("request", "approve", done.json["request"], "--yes", "--json")
    assert by(ada, *sign).json["error"]["type"] == "SamePersonError"
    assert by(grace, *sign).json["owes_approval"] is False
    assert by(ada, "destroy", "status", "--json").json["approvals_owed"] == []


def test_who_vault_does_not_know_is_nobody(people: People, real: TestHome, vault_server: VaultServer) -> None:
    settings = load_settings(real.path)
    root = {"KEYVAULT_PERSON_TOKEN": vault_server.root_token}
    with pytest.raises(PermissionDeniedError, match="no person behind this token"):
        identify(settings, Duty.APPROVE, root)
    with pytest.raises(PermissionDeniedError, match="does not accept"):
        identify(settings, Duty.APPROVE, {"VAULT_TOKEN": "hvs.wrong"})
    with pytest.raises(PermissionDeniedError, match="log in with `vault login`"):
        identify(settings, Duty.APPROVE, {"HOME": str(real.path)})
    token = people.add("ada", "approver")
    (real.path / ".vault-token").write_text(token + "\n")
    found = identify(settings, Duty.APPROVE, {"HOME": str(real.path)})
    assert found.display == f"{people.mount}-ada"
    assert found.identity == identify(settings, Duty.APPROVE, {"VAULT_TOKEN": people.login("ada")}).identity


def test_an_approver_issues_tokens_and_whoever_has_a_duty_revokes_them(
    people: People, by: Callable[..., Result], real: TestHome
) -> None:
    ada, grace, eve = people.add("ada", "requester"), people.add("grace", "approver"), people.add("eve")
    issue = ("token", "issue", "--role", "issuer", "--account", "acct-001", "importer", "--json")
    refused = by(ada, *issue)
    assert (refused.code, f"{people.prefix}-approver" in refused.err) == (1, True)
    made = by(grace, *issue)
    assert (made.code, made.json["accounts"]) == (0, 1)
    with real.opened("issuer") as home:
        (row,) = home.database.read(tokens.every)
        identity = identify(home.settings, Duty.APPROVE, {"VAULT_TOKEN": grace}).identity
        assert row.owner == home.keys.pseudonym_of("person", identity)
    revoke = ("token", "revoke", made.json["id"])
    assert by(eve, *revoke).code == 1
    assert by(ada, *revoke).code == 0
    assert by(ada, "token", "list", "--json").json["tokens"][0]["revoked_at"] is not None
