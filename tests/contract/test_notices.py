"""Each destruction is told to the storage layer, at least once."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keyvault.home import Home
from keyvault.settings import NoticeSettings, load_settings, write_settings
from keyvault.store import notices as notice_store
from shredder import notices
from shredder.destroy import Destroyer
from shredder.notices import deliver
from tests.faults.killing import survives
from tests.homes import TestHome, in_ring_custody
from tests.sweeping import create

NAMES = ("consumer/acct-1/hypatia", "consumer/acct-1/sophie")
MONTH = "communications/acct-1/2026-10"


def configure(home: TestHome, **settings: Any) -> None:
    stored = load_settings(home.path, {})
    write_settings(home.path, replace(stored, notices=NoticeSettings(**settings) if settings else None))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in path.read_text().splitlines()] if path.exists() else []


def left(home: Home) -> int:
    return home.database.read(notice_store.count)


def destroy(home: Home) -> list[str]:
    """Destroy two people and a record; return the scopes' ids."""
    outcomes = Destroyer(home).destroy(NAMES, ticket="T-1", requested_by="tester")
    outcomes += Destroyer(home).destroy_records(MONTH, ["r-1"], ticket="T-2", requested_by="tester")
    assert [outcome.error for outcome in outcomes] == [None] * 3
    return [outcome.scope_id.hex() for outcome in outcomes]


@in_ring_custody
def test_lines_are_appended_to_a_file(home: TestHome, tmp_path: Path) -> None:
    path = tmp_path / "notices.jsonl"
    configure(home, file=str(path))
    create(home, *NAMES, MONTH)
    with home.opened() as opened:
        ids = destroy(opened)
        assert lines(path) == []
        assert deliver(opened).given == 2
        assert deliver(opened).given == 0
    scopes, records = lines(path)
    assert set(scopes["scopes"]) == set(ids[:2])
    assert (scopes["records"], records["scopes"], len(records["records"])) == ([], [ids[2]], 1)
    assert len(records["records"][0]) == 16
    assert scopes["destroyed_at"].endswith("Z")
    assert len({scopes["event"], records["event"]}) == 2
    assert not any(part in path.read_text() for part in ("acct-1", "hypatia", "sophie", "r-1"))
    assert path.stat().st_mode & 0o077 == 0


@in_ring_custody
def test_a_command_gets_a_line_on_its_standard_input_and_one_that_fails_gets_it_again(
    home: TestHome, tmp_path: Path
) -> None:
    path, gate = tmp_path / "got", tmp_path / "gate"
    script = f"import sys, pathlib; text = sys.stdin.read(); open({str(path)!r}, 'a').write(text); sys.exit(not pathlib.Path({str(gate)!r}).exists())"
    configure(home, command=[sys.executable, "-c", script])
    create(home, *NAMES, MONTH)
    with home.opened() as opened:
        destroy(opened)
        failed = deliver(opened)
        assert (failed.given, failed.left) == (0, 2)
        assert "ended with 1" in str(failed.error)
        gate.touch()
        assert deliver(opened).given == 2
        assert left(opened) == 0
    first, again, second = (line["event"] for line in lines(path))
    assert first == again != second


@in_ring_custody
def test_nothing_is_kept_unless_it_is_configured(home: TestHome) -> None:
    create(home, *NAMES, MONTH)
    with home.opened() as opened:
        destroy(opened)
        assert left(opened) == 0
        assert deliver(opened).given == 0


@in_ring_custody
def test_what_cannot_be_given_is_kept_and_said(home: TestHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(home, file=str(tmp_path))
    create(home, *NAMES, MONTH)
    with home.opened() as opened:
        destroy(opened)
        assert "cannot be written" in str(deliver(opened).error)
    monkeypatch.setattr(notices, "TIMEOUT", 0.2)
    for command, words in ((["/no/such/command"], "cannot be run"), (["sleep", "30"], "did not end")):
        configure(home, command=command)
        with home.opened() as opened:
            assert words in str(deliver(opened).error)
    configure(home)
    with home.opened() as opened:
        assert "not configured any more" in str(deliver(opened).error)
        assert left(opened) == 2


@in_ring_custody
def test_killed_between_giving_and_forgetting_it_is_given_again(
    home: TestHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "notices.jsonl"
    configure(home, file=str(path))
    create(home, *NAMES, MONTH)
    with home.opened() as opened:
        destroy(opened)
    with monkeypatch.context() as patch:
        patch.setattr(notice_store, "remove", lambda *_args, **_options: os.kill(os.getpid(), signal.SIGKILL))
        assert not survives(home, "shredder", deliver, 10_000)
    assert len(lines(path)) == 2
    with path.open("ab") as file:
        file.write(b'{"torn": ')
    with home.opened() as opened:
        assert deliver(opened).given == 2
    texts = path.read_text().splitlines()
    assert (texts[:2], texts[2]) == (texts[3:], '{"torn": ')
