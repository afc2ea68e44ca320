"""`sweep` and `forecast`: what they say, answer as JSON and exit with."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from keyvault.custody.ring import RingCustody
from keyvault.errors import NotProvenError
from keyvault.home import Home
from keyvault.transit.embedded import EmbeddedEngine
from tests.cli.conftest import Command
from tests.contract.test_notices import configure
from tests.homes import TestHome, embedded_home
from tests.sweeping import create, put_subject

START = "2024-05-10T12:00:00Z"
DUE = "2026-07-01T00:00:00Z"
MONTHS = ("communications/acct-1/2024-05", "communications/acct-2/2024-05")
PEOPLE = ("consumer/acct-1/ada", "consumer/acct-1/bob")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TestHome:
    """A home with a simulated clock, two account-months and two people of one account."""
    monkeypatch.setenv("KEYVAULT_NOW", START)
    made = embedded_home(tmp_path, clock="simulated")
    create(made, *MONTHS, *PEOPLE)
    return made


@pytest.fixture
def keyvault(home: TestHome, command: Callable[[Path], Command]) -> Command:
    return command(home.path)


@pytest.fixture
def due(monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the account-months be due; return what confirms the clock."""
    monkeypatch.setenv("KEYVAULT_NOW", DUE)
    return "2026-07-01"


def close_account(home: TestHome, **columns: Any) -> None:
    def now(opened: Home) -> datetime:
        return opened.clock.now() + timedelta(days=columns.pop("days", 0))

    with home.opened() as opened:
        put_subject(opened, "account", "acct-1", due_at=now(opened), **columns)


def test_a_sweep_with_nothing_due(keyvault: Command) -> None:
    result = keyvault("sweep", "--json")
    assert (result.code, result.json["clock"]) == (0, "simulated")
    assert (result.json["count"], result.json["destroyed"], result.json["due"]) == (0, 0, [])
    assert "simulated clock: 2024-05-10T12:00:00+00:00" in result.err
    assert keyvault("sweep").out.splitlines()[0] == "due at 2024-05-10T12:00:00+00:00: 0"


def test_a_plan_shows_what_is_due_then_and_changes_nothing(keyvault: Command, home: TestHome) -> None:
    close_account(home)
    now = keyvault("sweep", "--plan", "--json")
    later = keyvault("sweep", "--plan", "--at", "2026-07-01", "--json")
    assert (now.code, now.json["plan"], now.json["count"]) == (0, True, 2)
    assert later.json["due"] == [
        {"kind": "communications", "month": "2026-07", "reason": "retention-period", "scopes": 2, "records": 0},
        {"kind": "consumer", "month": "2024-05", "reason": "account-closed", "scopes": 2, "records": 0},
    ]
    text = keyvault("sweep", "--plan").out
    assert "consumer\t2024-05\taccount-closed\t2\t0" in text
    assert "nothing was changed" in text
    assert keyvault("sweep", "--plan", "--json").json["count"] == 2
    with home.opened() as opened:
        from keyvault.store import system

        assert opened.database.read(system.policy) is None
        assert opened.database.read(system.trusted_at) is None


def test_a_sweep_destroys_what_is_due(keyvault: Command, home: TestHome) -> None:
    close_account(home)
    result = keyvault("sweep")
    assert result.code == 0
    assert "destroyed 2, spared 0, failed 0" in result.out
    assert keyvault("scope", "show", PEOPLE[0], "--json").json["state"] == "destroyed"
    assert keyvault("scope", "show", MONTHS[0], "--json").json["state"] == "active"


def test_a_clock_far_ahead_needs_the_date(keyvault: Command, due: str) -> None:
    for extra in ([], ["--trust-clock", "2026-07-02"], ["--trust-clock", "2024-05-10"]):
        refused = keyvault("sweep", *extra, "--json")
        assert (refused.code, refused.json["error"]["type"]) == (1, "ClockAheadError")
        assert "--trust-clock" in refused.json["error"]["message"]
    assert keyvault("sweep", "--trust-clock", due, "--json").json["destroyed"] == 2
    assert keyvault("sweep", "--json").code == 0


def test_unused_slots_of_rings_that_have_closed_are_told(
    keyvault: Command, home: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYVAULT_NOW", "2024-06-10T12:00:00Z")
    result = keyvault("sweep", "--trust-clock", "2024-06-10")
    assert (result.code, "slots that no scope sits in are gone from 2 rings" in result.out) == (0, True)
    with monkeypatch.context() as patch:
        patch.setattr(
            RingCustody, "destroy_unused_slots", lambda _self, rings: dict.fromkeys(rings, NotProvenError("busy"))
        )
        monkeypatch.setenv("KEYVAULT_NOW", "2024-06-11T12:00:00Z")
        create(home, "user/eve")
        monkeypatch.setenv("KEYVAULT_NOW", "2024-07-20T12:00:00Z")
        failed = keyvault("sweep", "--trust-clock", "2024-07-20", "--json")
    (problem,) = failed.json["unused_slots"]["problems"]
    assert re.fullmatch(r"unused slots of ring [0-9a-f]{32} are not destroyed yet: busy", problem)
    assert (failed.code, problem in failed.err) == (1, True)
    assert keyvault("sweep", "--json").json["unused_slots"] == {"rings": 1, "problems": []}


def test_limits_need_the_count(keyvault: Command, home: TestHome) -> None:
    import shredder

    text = (Path(shredder.__file__).parent / "policy.toml").read_text()
    (home.path / "policy.toml").write_text(text.replace("scopes = 1000", "scopes = 1"))
    close_account(home)
    refused = keyvault("sweep", "--json")
    assert (refused.code, refused.json["error"]["type"]) == (1, "ConfirmationNeededError")
    assert "--confirm 2" in refused.json["error"]["message"]
    assert keyvault("sweep", "--confirm", "3", "--json").code == 1
    assert keyvault("sweep", "--confirm", "2", "--json").json["destroyed"] == 2


def test_a_paused_home_is_not_swept(keyvault: Command, home: TestHome) -> None:
    close_account(home)
    assert keyvault("destroy", "pause").code == 0
    refused = keyvault("sweep", "--json")
    assert (refused.code, refused.json["error"]["type"]) == (1, "DestructionPausedError")
    assert keyvault("scope", "show", PEOPLE[0], "--json").json["state"] == "active"


def test_what_fails_is_told_and_is_exit_code_1(keyvault: Command, monkeypatch: pytest.MonkeyPatch, due: str) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(EmbeddedEngine, "delete_keys", lambda _self, names: [None for _ in names])
        result = keyvault("sweep", "--trust-clock", due, "--json")
    assert (result.code, len(result.json["failed"]), result.json["destroyed"]) == (1, 2, 0)
    assert "is pending" in result.err
    again = keyvault("sweep", "--json")
    assert (again.code, len(again.json["finished_earlier"])) == (0, 2)


def test_a_problem_in_a_step_is_told_and_is_exit_code_1(
    keyvault: Command, home: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    problem = "request 17 is not carried out: it waits"
    monkeypatch.setattr("cli.sweep.STEPS", (lambda _home, _policy: [problem],))
    close_account(home)
    result = keyvault("sweep", "--json")
    assert (result.code, result.json["destroyed"], result.json["problems"]) == (1, 2, [problem])
    assert problem in result.err


def test_notices_that_cannot_be_given_are_exit_code_1(keyvault: Command, home: TestHome, tmp_path: Path) -> None:
    configure(home, file=str(tmp_path))
    close_account(home)
    result = keyvault("sweep", "--json")
    assert (result.code, result.json["destroyed"], result.json["notices"]["left"]) == (1, 2, 1)
    assert "1 notices of destructions are not given yet" in result.err
    assert keyvault("destroy", "status", "--json").json["notices"] == 1
    assert "notices       1" in keyvault("destroy", "status").out.splitlines()
    configure(home, file=str(tmp_path / "notices.jsonl"))
    assert keyvault("sweep", "--json").json["notices"] == {"given": 1, "left": 0, "error": None}
    assert keyvault("shred", MONTHS[0], "--ticket", "T-1", "--yes", "--json").code == 0
    assert len((tmp_path / "notices.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "args",
    [
        ["--at", "2026-07-01"],
        ["--plan", "--at", "soon"],
        ["--plan", "--at", "2026-07-01T00:00"],
        ["--plan", "--confirm", "1"],
        ["--plan", "--trust-clock", "2026-07-01"],
        ["--confirm", "-1"],
        ["--confirm", "many"],
        ["--trust-clock", "today"],
    ],
)
def test_usage(keyvault: Command, args: list[str]) -> None:
    assert keyvault("sweep", *args).code == 2


def test_a_forecast_of_25_months(keyvault: Command, home: TestHome, tmp_path: Path) -> None:
    close_account(home, days=40)
    answer = keyvault("forecast", "--json", "--svg", tmp_path / "due.svg").json
    assert answer["overdue"] == {}
    assert [month["month"] for month in (answer["months"][0], answer["months"][-1])] == ["2024-05", "2026-06"]
    assert len(answer["months"]) == 26
    assert [month for month in answer["months"] if month["due"]] == [{"month": "2024-06", "due": {"consumer": 2}}]
    picture = ET.parse(tmp_path / "due.svg").getroot()  # noqa: S314 - drawn a moment ago
    assert picture.tag.endswith("svg")
    assert "2024-06 consumer: 2" in (tmp_path / "due.svg").read_text()
    text = keyvault("forecast").out.splitlines()
    assert text[0] == "due already: 0"
    assert [line for line in text if "█" in line] == [f"2024-06         2 {'█' * 50}"]


def test_a_forecast_tells_what_is_due_already_from_what_will_be(
    keyvault: Command, home: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    close_account(home)
    monkeypatch.setenv("KEYVAULT_NOW", "2024-07-01T00:00:00Z")
    answer = keyvault("forecast", "--json").json
    assert answer["overdue"] == {"consumer": 2}
    assert [month for month in answer["months"] if month["due"]] == [{"month": "2026-07", "due": {"communications": 2}}]
    assert datetime.fromisoformat(answer["at"]) == datetime(2024, 7, 1, tzinfo=UTC)
