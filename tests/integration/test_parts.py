"""The suite's own runner: a part that fails is seen, none is forgotten, and an interrupt ends them all cleanly."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import parts

PROGRAM = """
import sys
from pathlib import Path
from tests import parts
parts.TESTS = Path(sys.argv[1])
sys.exit(parts.main(sys.argv[2:]))
"""
PASSING = "def test_fine():\n    assert True\n"
FAILING = "def test_bad():\n    assert 'what was' == 'what should be'\n"
WAITING = """
import os, pathlib, signal, pytest

@pytest.fixture
def own_server():
    yield
    pathlib.Path(__file__).with_name("cleaned").touch()

def test_waits(own_server):
    pathlib.Path(__file__).with_name("waiting").touch()
    others = list(pathlib.Path(__file__).parents[1].glob("*/waiting"))
    if len(others) == 2:
        os.kill(os.getppid(), signal.SIGINT)
    signal.pause()
"""


def test_every_file_with_tests_is_in_exactly_one_part() -> None:
    found = parts.parts()

    for path in parts.TESTS.rglob("test_*.py"):
        assert sum(part == path or part in path.parents for part in found) == 1, path


def test_every_part_that_is_started_first_exists() -> None:
    assert {part.name for part in parts.parts()} >= set(parts.LONGEST_FIRST)


def test_passes_when_every_part_passes(tmp_path: Path) -> None:
    done = _run(tmp_path, {"one": PASSING, "two": PASSING})

    assert done.returncode == 0, done.stdout
    assert done.stdout.count("1 passed") == 2
    assert "all of 2 parts passed" in done.stderr


@pytest.mark.parametrize("failing", ["one", "two"])
def test_a_part_that_fails_fails_the_run_and_shows_why(tmp_path: Path, failing: str) -> None:
    done = _run(tmp_path, {"one": PASSING, "two": PASSING, failing: FAILING})

    assert done.returncode == 1
    assert "what should be" in done.stdout
    assert "1 passed" in done.stdout
    assert f"failed in tests/{failing};" in done.stderr


def test_a_part_that_cannot_be_read_fails_the_run(tmp_path: Path) -> None:
    assert _run(tmp_path, {"one": PASSING, "two": "import nothing_of_this_name\n"}).returncode == 1


def test_a_selection_may_leave_a_part_empty_but_not_all(tmp_path: Path) -> None:
    files = {"one": PASSING, "two": FAILING}

    assert _run(tmp_path, files, "-k", "fine").returncode == 0
    assert _run(tmp_path, files, "-k", "nothing").returncode == 1


def test_each_part_writes_a_report_of_its_own(tmp_path: Path) -> None:
    done = _run(tmp_path, {"one": PASSING, "two": PASSING}, f"--junitxml={tmp_path}/{{part}}.xml")

    assert done.returncode == 0
    assert {path.name for path in tmp_path.glob("*.xml")} == {"one.xml", "two.xml"}


def test_an_interrupt_ends_every_part_after_its_clean_up(tmp_path: Path) -> None:
    done = _run(tmp_path, {"one": WAITING, "two": WAITING})

    assert done.returncode == 128 + signal.SIGINT
    assert {path.parent.name for path in tmp_path.rglob("cleaned")} == {"one", "two"}
    assert done.stdout.count("KeyboardInterrupt") >= 2


def _run(directory: Path, files: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the parts over a suite made of one test file a folder."""
    for folder, text in files.items():
        (directory / "suite" / folder).mkdir(parents=True, exist_ok=True)
        (directory / "suite" / folder / f"test_{folder}.py").write_text(text)
    command = [sys.executable, "-c", PROGRAM, str(directory / "suite"), *arguments]
    # The plugins of the real suite make most of a pytest's start, and these tests use none.
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=False)
