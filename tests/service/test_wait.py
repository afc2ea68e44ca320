"""`shred --wait`: it returns when no process can still hold the keys, and what was done stands when the waiting is broken off."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyvault import KeyRequest, open_vault
from keyvault.results import values_of
from tests.homes import embedded_home

ADA, MONTH = "consumer/acct-1/ada", "communications/acct-1/2026-10"
TTL, SKEW = 1.0, 0.5


@pytest.fixture
def path(tmp_path: Path) -> Path:
    home = embedded_home(tmp_path, custody="ring")
    shorten(home.path, TTL)
    with home.vault() as vault:
        values_of(vault.ensure_scopes([ADA, MONTH]))
    return home.path


def shorten(path: Path, ttl: float) -> None:
    file = path / "keyvault.toml"
    text = file.read_text().replace("lease_ttl = 60.0", f"lease_ttl = {ttl}")
    file.write_text(text.replace("clock_skew = 5.0", f"clock_skew = {SKEW}"))


def run(path: Path, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cli", "--home", str(path), *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))


def bounds(path: Path) -> set[str]:
    """Return what evidence states."""
    log = subprocess.run(
        [sys.executable, "-m", "cli", "--home", str(path), "log", "tail", "--json"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    events = [json.loads(line)["entry"] for line in log.splitlines()]
    return {event["lease_bound"] for event in events if "lease_bound" in event}


@pytest.mark.parametrize("named", [[ADA], [MONTH, "--record", "r-1", "--record", "r-2"]], ids=["scope", "records"])
def test_it_returns_when_the_bound_in_the_evidence_has_passed_and_no_answer_comes_from_memory_any_more(
    path: Path, named: list[str]
) -> None:
    request = KeyRequest(scopes=(named[0],), record="r-1" if len(named) > 1 else None)
    with open_vault(path, leased=True) as vault:
        values_of(vault.generate_data_keys([request]))
        shred = run(path, "shred", *named, "--ticket", "T-1", "--yes", "--wait", "--json")
        out, err = shred.communicate(timeout=60)
        assert shred.returncode == 0, err
        assert isinstance(vault.generate_data_keys([request])[0], Exception)
    answer = json.loads(out)
    bound, until = (datetime.fromisoformat(answer[name]) for name in ("lease_bound", "held_until"))
    assert {datetime.fromisoformat(text) for text in bounds(path)} == {bound}
    assert bound <= until <= datetime.now(UTC)
    assert "from then on no process can hold the keys" in err


def test_what_was_destroyed_long_ago_is_not_waited_for(path: Path) -> None:
    for _ in range(2):
        shred = run(path, "shred", ADA, "--ticket", "T-1", "--yes", "--wait")
        out, err = shred.communicate(timeout=60)
        assert shred.returncode == 0, err
    assert "already destroyed" in out
    assert "Waiting" not in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_waiting_can_be_broken_off_and_the_destruction_stands(
    path: Path, number: signal.Signals, code: int
) -> None:
    (path / "keyvault.toml").write_text(
        (path / "keyvault.toml").read_text().replace(f"lease_ttl = {TTL}", "lease_ttl = 60.0")
    )
    shred = run(path, "shred", ADA, "--ticket", "T-1", "--yes", "--wait", "--json")
    assert shred.stdout is not None
    answer = json.loads(shred.stdout.readline())
    assert answer["scopes"][0]["outcome"] == "destroyed"
    assert shred.stderr is not None
    while "Waiting" not in (line := shred.stderr.readline()):
        assert line, "it did not wait"
    time.sleep(0.2)
    shred.send_signal(number)
    out, err = shred.communicate(timeout=30)
    assert shred.returncode == code
    assert out == "", "one answer in JSON"
    assert "What was destroyed stays destroyed; only the waiting ended early." in err


def test_a_plan_says_what_it_would_wait_for_and_a_sweep_waits_too(path: Path) -> None:
    plan, _ = run(path, "shred", ADA, "--ticket", "T-1", "--plan", "--wait", "--json").communicate(timeout=60)
    assert json.loads(plan)["wait_seconds"] == TTL + SKEW
    sweep = run(path, "sweep", "--wait")
    _, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 0
    assert "Waiting 2 s" in err
    refused = run(path, "sweep", "--plan", "--wait")
    refused.communicate(timeout=60)
    assert refused.returncode == 2
