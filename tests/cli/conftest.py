"""Running the command line: in this process where that does, as a program of its own where signals and pipes matter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest

from cli.main import run
from tests.homes import TestHome, embedded_home

ROOT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "cli")
VARIABLES = ("KEYVAULT_", "VAULT_", "PG")


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one run answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.out)
        return answer

    @property
    def error(self) -> str:
        """The one line on stderr that says what is wrong."""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("keyvault: error: "), self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("keyvault: error: ")


class Command(Protocol):
    def __call__(self, *args: str | Path) -> Result: ...


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the caller's reaches the commands, and nothing is written into the caller's directories."""
    for name in [name for name in os.environ if name.startswith(VARIABLES) and not name.startswith("KEYVAULT_TEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def small(tmp_path: Path) -> TestHome:
    """An embedded home as `init` makes it, with a real clock: in ring custody."""
    return embedded_home(tmp_path)


@pytest.fixture
def dedicated(tmp_path: Path) -> TestHome:
    """An embedded home in dedicated custody, beside the small one."""
    directory = tmp_path / "dedicated"
    directory.mkdir()
    return embedded_home(directory, custody="dedicated")


@pytest.fixture
def keyvault(small: TestHome, command: Callable[[Path], Command]) -> Command:
    """Run a command on the embedded home."""
    return command(small.path)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[[Path], Command]:
    """Give the command for a home; the run takes place in this process."""

    def of(home: Path) -> Command:
        def call(*args: str | Path) -> Result:
            capsys.readouterr()
            code = run(["--home", str(home), *map(str, args)])
            out, err = capsys.readouterr()
            return Result(code=code, out=out, err=err)

        return call

    return of


def program(
    home: Path,
    *args: str | Path,
    stdin: bytes = b"",
    prefix: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Result:
    """Run the program itself."""
    done = subprocess.run(
        [*prefix, *PROGRAM, "--home", str(home), *map(str, args)],
        input=stdin,
        capture_output=True,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        preexec_fn=before,
        check=False,
    )
    return Result(code=done.returncode, out=done.stdout.decode(errors="replace"), err=done.stderr.decode())
