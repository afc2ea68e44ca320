"""The documents' examples run as they stand: Python, and `console` blocks with the real program.

A block that begins with `python` or `console` is run; one that only shows something begins with `sh`, `text` or nothing.
`console vault` blocks are run beside a Vault and a PostgreSQL, `python service` blocks beside a service.
"""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

import keyvault
from keyvault.tokens import Role
from tests.docs import console
from tests.docs.documents import DOCUMENTS, ROOT, blocks, name_of
from tests.homes import embedded_home
from tests.servers import VaultServer
from tests.serving import issue_token, served

PYTHON = [document for document in DOCUMENTS if blocks(document, "python")]
CONSOLE = [document for document in DOCUMENTS if blocks(document, "console")]
OPERATIONS = ROOT / "docs" / "operations.md"
SERVICE = ROOT / "docs" / "service.md"


def assert_shown(steps: list[console.Step], outputs: list[list[str]], directory: Path) -> None:
    for step, output in zip(steps, outputs, strict=True):
        expected, actual = console.plain(step.expected, directory), console.plain(output, directory)
        assert console.matches(expected, actual), f"$ {step.command}\n" + "\n".join(output)


@pytest.mark.parametrize("document", PYTHON, ids=name_of)
def test_python_examples_run(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded_home(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(document, "python"):
        exec(compile(block.text, name_of(document), "exec"), names)  # noqa: S102 - the documents are ours


def test_the_packages_own_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedded_home(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert keyvault.__doc__ is not None
    example = textwrap.dedent("\n".join(line for line in keyvault.__doc__.splitlines() if line.startswith("    ")))
    assert "vault.seal(" in example
    exec(compile(example, "keyvault", "exec"), {})  # noqa: S102 - our own docstring


@pytest.mark.parametrize("document", CONSOLE, ids=name_of)
def test_console_examples_answer_what_is_shown(document: Path, tmp_path: Path) -> None:
    steps = console.steps(blocks(document, "console"))
    assert_shown(steps, console.run(steps, tmp_path), tmp_path)


def test_setting_up_vault_goes_as_shown(
    tmp_path: Path, new_vault: Callable[..., VaultServer], postgres_url: str
) -> None:
    server = new_vault()
    env = {
        "VAULT_ADDR": server.addr,
        "VAULT_CACERT": str(server.ca_file),
        "VAULT_TOKEN": server.root_token,
        "KEYVAULT_STORE": postgres_url,
        "AUDIT_FILE": str(server.audit_file),
    }
    steps = console.steps(blocks(OPERATIONS, "console", "vault"))
    assert_shown(steps, console.run(steps, tmp_path, env), tmp_path)


def test_the_services_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = embedded_home(tmp_path)
    for role in Role:
        monkeypatch.setenv(f"{role.upper()}_TOKEN", issue_token(home.path, role))
    examples = "\n".join(block.text for block in blocks(SERVICE, "python", "service"))
    assert examples.count("service.post(") > len(Role)
    with served(home.path, log=tmp_path / "log") as running:
        monkeypatch.setenv("SERVICE_URL", running.url)
        exec(compile(examples, name_of(SERVICE), "exec"), {})  # noqa: S102 - the documents are ours


def test_the_readme_shows_both_kinds() -> None:
    assert {ROOT / "README.md", OPERATIONS} <= set(CONSOLE)
    assert ROOT / "README.md" in PYTHON


@pytest.mark.parametrize(
    ("expected", "actual", "same"),
    [
        ([], [], True),
        (["a"], ["a"], True),
        (["a"], [], False),
        ([], ["a"], False),
        (["..."], [], True),
        (["a", "...", "d"], ["a", "b", "c", "d"], True),
        (["a", "...", "d"], ["a", "b", "c"], False),
        (["a", "..."], ["b", "a"], False),
    ],
)
def test_dots_stand_for_any_lines(expected: list[str], actual: list[str], same: bool) -> None:
    assert console.matches(expected, actual) is same


def test_the_clients_example_runs_against_a_service(tmp_path: Path) -> None:
    home = embedded_home(tmp_path)
    token = tmp_path / "token"
    token.write_text(issue_token(home.path))
    names: dict[str, object] = {}
    for block in blocks(ROOT / "docs" / "client.md", "python"):
        exec(compile(block.text, "docs/client.md", "exec"), names)  # noqa: S102 - the documents are ours
    with served(home.path, log=tmp_path / "log") as service:
        assert names["store_and_read"](service.url, token) == b"..."  # type: ignore[operator]
        with keyvault.connect(service.url, token=token) as vault:
            vault.ensure_scopes(["user/1"])
            envelope = vault.seal(b"....", ["user/1"], associated_data=b"calls/17")
        assert asyncio.run(names["read"](service.url, token, envelope)) == b"...."  # type: ignore[operator]
