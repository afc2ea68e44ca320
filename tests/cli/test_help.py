"""The help: of every command, quick, and the same in the documentation."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version

import click
import pytest

from cli.main import COMMANDS, run
from tests.cli.conftest import ROOT, Command
from tests.cli.help_pages import HEADING, PAGE, contexts, section
from tests.homes import TestHome

ALL = [context.command_path.split()[1:] for context in contexts()]


def test_the_page_shows_the_help_of_every_command() -> None:
    _, heading, rest = PAGE.read_text().partition(HEADING)
    assert heading + rest == section(), "run `python -m tests.cli.help_pages`"


@pytest.mark.parametrize("path", ALL, ids=" ".join)
def test_help(keyvault: Command, path: list[str]) -> None:
    result = keyvault(*path, "--help")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith(f"Usage: {' '.join(['keyvault', *path])}")
    assert keyvault(*path, "-h").out == result.out


def test_every_option_is_explained_and_every_command_answers_in_json() -> None:
    for context in contexts():
        options = [parameter for parameter in context.command.params if isinstance(parameter, click.Option)]
        assert all(option.help for option in options), context.command_path
        if not isinstance(context.command, click.Group):
            assert any("--json" in option.opts for option in options), context.command_path


def test_the_page_documents_every_command_and_exit_code() -> None:
    text = PAGE.read_text().partition(HEADING)[0]
    for name in COMMANDS:
        assert f"`{name}" in text, name
    for code in (0, 1, 2, 3, 130, 143):
        assert f"\n| {code} |" in text


def test_version(keyvault: Command) -> None:
    assert keyvault("--version").out == f"keyvault, version {version('keyvault-shredder')}\n"


@pytest.mark.parametrize("args", [[], ["scope"], ["destroy"]])
def test_no_command_is_usage(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    assert run(args) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"Usage: {' '.join(['keyvault', *args])} [OPTIONS] COMMAND")


@pytest.mark.parametrize("args", [["--help"], ["shred", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys; from cli.main import run; run(sys.argv[1:]); "
        "print(sorted({'sqlalchemy', 'cryptography', 'hvac', 'rich', 'alembic'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr == "[]\n"


def test_status_loads_neither_engine_nor_migrations(small: TestHome) -> None:
    code = (
        "import sys; from cli.main import run; run(sys.argv[1:]); "
        "print(sorted({'hvac', 'rich', 'alembic', 'keyvault.transit.base'} & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "--home", str(small.path), "status"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr == "[]\n"
