from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.seeds import CORPUS, seeds
from tests.fuzz.targets import TARGETS


def test_the_corpus_is_that_of_the_vectors() -> None:
    for target, name, data in seeds():
        assert (CORPUS / target / name).read_bytes() == data


@pytest.mark.parametrize("target", TARGETS)
def test_every_seed_holds(target: str) -> None:
    seed_files = sorted((CORPUS / target).iterdir())
    assert seed_files
    for file in seed_files:
        TARGETS[target](file.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_a_short_campaign_finds_no_crash(target: str, tmp_path: Path) -> None:
    found = tmp_path / "found"
    found.mkdir()
    command = [sys.executable, "-m", "tests.fuzz.run", target, "-runs=20000", "-max_total_time=10", "-max_len=2048"]
    run = subprocess.run(
        [*command, f"-artifact_prefix={tmp_path}/", str(found), str(CORPUS / target)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert "Done" in run.stderr
