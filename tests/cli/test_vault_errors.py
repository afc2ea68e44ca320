"""The commands on a real Vault and a real PostgreSQL, and what they say when these are not as they should be."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.homes import TestHome, vault_home
from tests.servers import PostgresServer, VaultError, VaultServer
from tests.servers.certificates import make_certificates

NAME = "consumer/acct-001/+15550100001"
OTHER = "consumer/acct-001/+15550100002"


@pytest.fixture
def real(tmp_path: Path, vault_server: VaultServer, postgres_url: str) -> TestHome:
    """A home on the shared servers."""
    return vault_home(tmp_path, vault_server, postgres_url)


@pytest.fixture
def keyvault(real: TestHome, command: Callable[[Path], Command]) -> Command:
    return command(real.path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in"
    path.write_text("hello")
    return path


def init_options(server: VaultServer, tag: str, store: str) -> list[str]:
    """Options of `init` for mounts of the test's own."""
    names = {
        "transit-mount": "transit",
        "log-mount": "log",
        "kv-mount": "kv",
        "approle-mount": "approle",
        "prefix": "keyvault",
    }
    mounts = [part for option, name in names.items() for part in (f"--{option}", f"{name}-{tag}")]
    vault = ["--engine", "vault", "--vault-addr", server.addr, "--vault-ca-file", str(server.ca_file)]
    return ["init", *vault, *mounts, "--store", store]


# --- as it should be -----------------------------------------------------------------------------------------------------


def test_the_main_job(
    keyvault: Command, real: TestHome, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))  # where no token is
    sealed, out = tmp_path / "sealed", tmp_path / "out"
    assert keyvault("seal", "--scope", NAME, source, sealed).code == 0
    assert keyvault("seal", "--scope", OTHER, source, tmp_path / "other").code == 0
    assert keyvault("open", sealed, out).code == 0
    assert keyvault("scope", "list").out.splitlines() == [f"active\t-\t{NAME}", f"active\t-\t{OTHER}"]
    nobody = keyvault("shred", NAME, "--ticket", "T-1", "--yes")
    assert (nobody.code, "Vault must say who this is" in nobody.err) == (1, True)
    with real.destroyer() as destroyer:
        destroyer.destroy([NAME], ticket="T-1", requested_by="ada")
    gone = keyvault("open", "--force", sealed, out)
    assert (gone.code, "destroyed" in gone.error) == (1, True)
    assert out.read_text() == "hello"
    assert keyvault("open", "--force", tmp_path / "other", out).code == 0
    status = keyvault("status", "--json").json
    assert (status["engine"], status["store"]) == ("vault", "postgresql")
    assert status["scopes"] == {"active": 1, "suspended": 0, "deactivated": 0, "destroyed": 1}


def test_doctor_with_and_without_an_administrators_token(
    keyvault: Command, vault_server: VaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    without = keyvault("doctor", "--json")
    assert (without.code, without.json["failed"]) == (0, 0)
    assert without.json["not_checked"] > 0
    monkeypatch.setenv("VAULT_TOKEN", vault_server.root_token)
    with_token = keyvault("doctor", "--json")
    assert (with_token.code, with_token.json["failed"], with_token.json["not_checked"]) == (0, 0, 0)
    names = {check["name"] for check in with_token.json["checks"]}
    assert {"store: synchronous_commit", "store: clock", "every live scope has its key"} <= names


def test_init_from_the_environment(
    command: Callable[[Path], Command],
    tmp_path: Path,
    vault_server: VaultServer,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, password = postgres_url.replace("+psycopg", ""), postgres_url.split(":")[2].split("@", maxsplit=1)[0]
    monkeypatch.setenv("PGPASSWORD", password)
    monkeypatch.setenv("VAULT_TOKEN", vault_server.root_token)
    keyvault = command(tmp_path / "new")
    options = init_options(vault_server, "cli-init", url.replace(f":{password}", ""))
    first, again = keyvault(*options), keyvault("init", "--json")
    assert first.code == again.code == 0
    assert "credentials of issuer" in first.out
    assert {step["outcome"] for step in again.json["steps"]} == {"already there"}
    texts = [path.read_text() for path in (tmp_path / "new").rglob("*") if path.is_file()]
    assert not any(secret in text for text in texts for secret in (password, vault_server.root_token))
    assert keyvault("doctor").code == 0


# --- Vault is not as it should be ------------------------------------------------------------------------------------------


def test_vault_sealed_and_down(
    new_vault: Callable[..., VaultServer],
    command: Callable[[Path], Command],
    tmp_path: Path,
    postgres_url: str,
    source: Path,
) -> None:
    server = new_vault()
    keyvault = command(vault_home(tmp_path, server, postgres_url).path)
    sealed, out = tmp_path / "sealed", tmp_path / "out"
    assert keyvault("seal", "--scope", NAME, source, sealed).code == 0

    def check(word: str) -> None:
        before = keyvault("status", "--json").json
        commands: list[list[str | Path]] = [
            ["seal", "--scope", OTHER, source, out],
            ["open", sealed, out],
            ["scope", "list"],
            ["shred", NAME, "--ticket", "T-1", "--yes"],
            ["destroy", "resume"],
        ]
        for args in commands:
            result = keyvault(*args)
            assert (result.code, word in result.error) == (1, True), args
        doctor = keyvault("doctor")
        assert (doctor.code, "FAILED" in doctor.out) == (1, True)
        assert not out.exists()
        assert keyvault("status", "--json").json == before
        # The brake works without the engine.
        assert keyvault("destroy", "pause").code == 0

    server.seal()
    check("sealed")
    server.unseal()
    assert keyvault("open", sealed, out).code == 0
    out.unlink()
    assert keyvault("destroy", "resume").code == 0
    server.kill()
    check("cannot be reached")


def test_wrong_credentials(keyvault: Command, real: TestHome, source: Path, tmp_path: Path) -> None:
    cases: list[tuple[str, list[str | Path]]] = [
        ("issuer", ["seal", "--scope", NAME, source, tmp_path / "out"]),
        ("shredder", ["shred", NAME, "--ticket", "T-1", "--plan"]),
    ]
    for role, args in cases:
        path = real.path / "credentials" / f"{role}.json"
        good = path.read_text()
        path.write_text(json.dumps({**json.loads(good), "secret_id": "wrong"}))
        result = keyvault(*args)
        assert (result.code, "refuses the login" in result.error) == (1, True)
        assert keyvault("doctor").code == 1
        path.write_text("{}")
        assert (keyvault(*args).code, keyvault("doctor").code) == (1, 1)
        path.unlink()
        missing = keyvault(*args)
        assert (missing.code, f"no credentials of the role {role}" in missing.error) == (1, True)
        path.write_text(good)
    assert not (tmp_path / "out").exists()
    assert keyvault("status", "--json").json["scopes"]["active"] == 0


def expired_token(server: VaultServer) -> str:
    auth = server.request("POST", "auth/token/create", {"ttl": "1s", "policies": ["root"]})["auth"]
    token = str(auth["client_token"])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            server.request("GET", "auth/token/lookup-self", token=token)
        except VaultError:
            return token
        time.sleep(0.1)
    raise AssertionError("the token does not expire")


def token_without_rights(server: VaultServer) -> str:
    auth = server.request("POST", "auth/token/create", {"ttl": "1h", "policies": ["default"]})["auth"]
    return str(auth["client_token"])


@pytest.mark.parametrize(
    "token", [lambda _: "wrong", expired_token, token_without_rights], ids=["wrong", "expired", "without rights"]
)
def test_an_administrators_token_that_is_none(
    *,
    keyvault: Command,
    command: Callable[[Path], Command],
    tmp_path: Path,
    vault_server: VaultServer,
    monkeypatch: pytest.MonkeyPatch,
    token: Callable[[VaultServer], str],
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", token(vault_server))
    made = command(tmp_path / "new")(*init_options(vault_server, "cli-none", f"sqlite:///{tmp_path / 'new.db'}"))
    assert (made.code, "token" in made.error or "may not" in made.error) == (1, True)
    assert not (tmp_path / "new" / "keyvault.toml").exists()
    mounts = vault_server.request("GET", "sys/mounts")["data"]
    assert "transit-cli-none/" not in mounts
    doctor = keyvault("doctor")
    assert (doctor.code, "FAILED" in doctor.out) == (1, True)


def test_a_role_without_rights(keyvault: Command, real: TestHome, vault_server: VaultServer, source: Path) -> None:
    prefix = next(line for line in (real.path / "keyvault.toml").read_text().splitlines() if line.startswith("prefix"))
    role = prefix.split('"')[1] + "-issuer"
    policies = vault_server.request("GET", "sys/policies/acl?list=true")["data"]["keys"]
    policy = next(name for name in policies if name == role)
    good = vault_server.request("GET", f"sys/policies/acl/{policy}")["data"]["policy"]
    assert "/decrypt/+" in good
    lost = "\n".join(line for line in good.splitlines() if "/decrypt/+" not in line)
    vault_server.request("PUT", f"sys/policies/acl/{policy}", {"policy": lost})
    result = keyvault("seal", "--scope", NAME, source, source.with_name("out"))
    assert (result.code, "may not" in result.error, "keyvault init" in result.error) == (1, True, True)
    assert not source.with_name("out").exists()


def test_wrong_certificate_authority(
    keyvault: Command, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    make_certificates(tmp_path / "other")
    for file, word in [
        (tmp_path / "other" / "ca.pem", "certificate"),
        (tmp_path / "missing.pem", "missing.pem"),
        (source, "in"),
    ]:
        monkeypatch.setenv("KEYVAULT_VAULT_CA_FILE", str(file))
        result = keyvault("seal", "--scope", NAME, source, tmp_path / "out")
        assert (result.code, word in result.error) == (1, True)
        assert keyvault("doctor").code == 1
    assert not (tmp_path / "out").exists()


def test_an_address_that_is_no_vault(keyvault: Command, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for addr in ("https://127.0.0.1:1", "https://no.such.host.invalid:8200", "not an address"):
        monkeypatch.setenv("KEYVAULT_VAULT_ADDR", addr)
        result = keyvault("seal", "--scope", NAME, source, source.with_name("out"))
        assert (result.code, len(result.error) > 20) == (1, True), addr
        assert keyvault("doctor").code == 1


def test_mounts_of_another_deployment(
    *,
    keyvault: Command,
    command: Callable[[Path], Command],
    real: TestHome,
    vault_server: VaultServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: Path,
) -> None:
    assert keyvault("seal", "--scope", NAME, source, tmp_path / "sealed").code == 0
    transit = next(line for line in (real.path / "keyvault.toml").read_text().splitlines() if "transit_mount" in line)
    tag = transit.split('"')[1].removeprefix("transit-")
    monkeypatch.setenv("VAULT_TOKEN", vault_server.root_token)
    options = init_options(vault_server, tag, f"sqlite:///{tmp_path / 'new.db'}")
    result = command(tmp_path / "new")(*options)
    assert (result.code, "other mounts" in result.error) == (1, True)


# --- PostgreSQL is not as it should be -------------------------------------------------------------------------------------


def test_the_database_is_down(
    new_postgres: Callable[..., PostgresServer],
    command: Callable[[Path], Command],
    tmp_path: Path,
    vault_server: VaultServer,
    source: Path,
) -> None:
    server = new_postgres()
    keyvault = command(vault_home(tmp_path, vault_server, server.create_database()).path)
    assert keyvault("seal", "--scope", NAME, source, tmp_path / "sealed").code == 0
    server.stop()
    for args in (["status"], ["open", tmp_path / "sealed", tmp_path / "out"], ["destroy", "pause"]):
        result = keyvault(*args)
        assert (result.code, "database cannot be reached" in result.error) == (1, True)
    assert keyvault("doctor").code == 1
    server.start()
    assert keyvault("open", tmp_path / "sealed", tmp_path / "out").code == 0


def test_a_wrong_password_and_a_wrong_database(
    keyvault: Command, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, _, rest = postgres_url.rpartition("@")
    wrong = f"{user.rpartition(':')[0]}:no-such-password@{rest}"
    for url in (wrong, f"{postgres_url}_missing"):
        monkeypatch.setenv("KEYVAULT_STORE", url)
        result = keyvault("status")
        assert (result.code, "database" in result.error) == (1, True)
        assert "no-such-password" not in result.err
