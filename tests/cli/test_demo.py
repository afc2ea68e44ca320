"""The demonstration: it shows what it says, and notices when it does not."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from cli.demo import _sample
from keyvault.scopes import Scope, ScopeKind, check_creatable
from shredder.destroy import Destroyer
from shredder.erase import Outcome
from tests.cli.conftest import Command, program


@pytest.fixture
def keyvault(command: Callable[[Path], Command], tmp_path: Path) -> Command:
    return command(tmp_path / "no home is needed")


def test_everything_is_as_it_should_be(keyvault: Command, tmp_path: Path) -> None:
    result = keyvault("demo", "--json")
    assert (result.code, result.err) == (0, "")
    answer = result.json
    assert answer["right"] is True
    assert (answer["sealed"], answer["past_due"], answer["malformed"], answer["future"]) == (57, 3, 0, 0)
    assert answer["shredded"][0].startswith("communications/")
    assert answer["shredded"][1].startswith("consumer/")
    assert len(answer["checks"]) == 5
    for check in answer["checks"]:
        assert check["expected"] == check["live"] == check["backup"] > 0, check
    before, month, identity, content, others = (check["expected"] for check in answer["checks"])
    assert before == 57 == month + content + others
    assert identity == content
    assert sorted(path.name for path in tmp_path.iterdir()) == []


def test_what_it_prints(keyvault: Command) -> None:
    out = keyvault("demo").out
    assert "Everything is as it should be." in out
    assert "A shredded consumer takes what identifies the consumer" in out
    assert "from the backup" in out


def test_it_keeps_what_it_made_if_asked(keyvault: Command, command: Callable[[Path], Command], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    result = keyvault("demo", "--keep", kept)
    assert result.code == 0
    assert f"keyvault --home {kept / 'home'} status" in result.out
    assert command(kept / "home")("status", "--json").json["scopes"]["destroyed"] == 2
    # The restored copy knows nothing of the destruction; the keys are gone all the same.
    restored = command(kept / "restored")
    assert restored("status", "--json").json["scopes"]["destroyed"] == 0
    checks = {check["name"]: check["detail"] for check in restored("doctor", "--json").json["checks"]}
    assert checks["every live scope is in its ring's state"].startswith("ALARM: 2 of")
    with sqlite3.connect(kept / "restored" / "store.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    again = keyvault("demo", "--keep", kept)
    assert (again.code, "not empty" in again.error) == (1, True)


def test_records_of_ones_own(keyvault: Command, tmp_path: Path) -> None:
    at = (datetime.now(UTC) - timedelta(days=2)).isoformat()
    lines = [
        json.dumps({"record": f"r-{number}", "account": "a", "consumer": f"c-{number % 3}", "recorded_at": at})
        for number in range(9)
    ]
    (tmp_path / "in").write_text("\n".join([*lines, "nonsense"]) + "\n")
    result = keyvault("demo", "--input", tmp_path / "in", "--json")
    assert (result.code, result.json["sealed"], result.json["malformed"]) == (0, 9, 1)
    assert result.err == "line 10: not JSON\n"


@pytest.mark.parametrize("text", ["", "nonsense\n"])
def test_nothing_to_show(keyvault: Command, tmp_path: Path, text: str) -> None:
    (tmp_path / "in").write_text(text)
    result = keyvault("demo", "--input", tmp_path / "in")
    assert (result.code, "no record could be sealed" in result.err) == (1, True)


def test_it_exits_1_when_a_line_is_wrong(keyvault: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(self: Destroyer, names: list[str], **_: object) -> list[Outcome]:
        return [
            Outcome(scope_id=item.row.id, at=datetime.now(UTC))  # type: ignore[union-attr]
            for item in self.plan(names)
        ]

    monkeypatch.setattr(Destroyer, "destroy", pretend)
    result = keyvault("demo")
    assert result.code == 1
    assert "WRONG" in result.out


@pytest.mark.parametrize("now", ["2026-01-01T00:00:00", "2028-02-29T23:59:59", "2027-03-31T12:00:00"])
def test_the_sample_fits_every_day(now: str) -> None:
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    due = 0
    for line in _sample(moment):
        values = json.loads(line)
        scope = Scope.of(ScopeKind.COMMUNICATIONS, values["account"], values["recorded_at"][:7])
        due += scope.due_at is not None and scope.due_at <= moment
        if scope.due_at is not None and scope.due_at > moment:
            check_creatable(scope, moment)
    assert due == 3


def test_it_is_quiet_and_plain_when_piped(tmp_path: Path) -> None:
    result = program(tmp_path / "none", "demo")
    assert (result.code, result.err) == (0, "")
    assert "\x1b" not in result.out
