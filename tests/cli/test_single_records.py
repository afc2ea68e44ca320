"""`--record`: one record of an account-month is sealed, suspended and shredded by itself, and the rest stays readable."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from tests.homes import TestHome

MONTH = f"communications/acct-001/{datetime.now(UTC):%Y-%m}"
CONSUMER = "consumer/acct-001/+15550100001"
SHRED = ("--ticket", "T-1", "--yes")


class Drawer:
    """Seals each of some records into a file of its own, and opens them again."""

    def __init__(self, keyvault: Command, folder: Path) -> None:
        self.keyvault = keyvault
        self.folder = folder

    def seal(self, *records: str, scopes: tuple[str, ...] = (MONTH,)) -> None:
        names = [part for scope in scopes for part in ("--scope", scope)]
        for record in records:
            (self.folder / "in").write_text(f"content of {record}")
            sealed = self.keyvault("seal", *names, "--record", record, self.folder / "in", self.folder / record)
            assert sealed.code == 0, sealed.err

    def open(self, record: str) -> str | None:
        """Return the content, or None where opening is refused."""
        out = self.folder / "out"
        result = self.keyvault("open", "--force", self.folder / record, out)
        if result.code == 0:
            return out.read_text()
        assert result.code == 1
        return None

    def readable(self, *records: str) -> list[str]:
        return [record for record in records if self.open(record) == f"content of {record}"]


@pytest.fixture
def drawer(keyvault: Command, tmp_path: Path) -> Drawer:
    folder = tmp_path / "drawer"
    folder.mkdir()
    return Drawer(keyvault, folder)


def test_a_shredded_record_is_gone_and_the_rest_of_the_month_is_not(keyvault: Command, drawer: Drawer) -> None:
    drawer.seal("r-1", "r-2", "r-3")
    (drawer.folder / "in").write_text("content of whole")
    assert keyvault("seal", "--scope", MONTH, drawer.folder / "in", drawer.folder / "whole").code == 0
    result = keyvault("shred", MONTH, "--record", "r-2", *SHRED)
    assert result.code == 0
    assert "r-2: destroyed at " in result.out
    assert drawer.readable("r-1", "r-2", "r-3", "whole") == ["r-1", "r-3", "whole"]
    assert keyvault("scope", "show", MONTH, "--json").json["state"] == "active"
    refused = keyvault("seal", "--scope", MONTH, "--record", "r-2", drawer.folder / "in", drawer.folder / "again")
    assert (refused.code, "a record of scope" in refused.error, "destroyed" in refused.error) == (1, True, True)
    assert not (drawer.folder / "again").exists()
    again = keyvault("shred", MONTH, "--record", "r-2", "--record", "r-3", *SHRED, "--json")
    assert [row["outcome"] for row in again.json["scopes"]] == ["already destroyed", "destroyed"]
    assert drawer.readable("r-1", "r-2", "r-3", "whole") == ["r-1", "whole"]


def test_a_record_under_a_consumer_too_goes_with_either(keyvault: Command, drawer: Drawer) -> None:
    other = "consumer/acct-001/+15550100002"
    drawer.seal("r-1", "r-2", scopes=(MONTH, CONSUMER))
    drawer.seal("r-3", scopes=(MONTH, other))
    assert keyvault("shred", MONTH, "--record", "r-1", *SHRED).code == 0
    assert drawer.readable("r-1", "r-2", "r-3") == ["r-2", "r-3"]
    assert keyvault("shred", CONSUMER, *SHRED).code == 0
    assert drawer.readable("r-1", "r-2", "r-3") == ["r-3"]


def test_erased_records_go_with_their_month(keyvault: Command, drawer: Drawer) -> None:
    drawer.seal("r-1", "r-2")
    assert keyvault("shred", MONTH, "--record", "r-1", *SHRED).code == 0
    assert keyvault("shred", MONTH, *SHRED).code == 0
    assert drawer.readable("r-1", "r-2") == []
    late = keyvault("shred", MONTH, "--record", "r-2", *SHRED)
    assert (late.code, "destroyed" in late.error) == (1, True)


def test_a_suspended_record_rests_until_it_is_resumed(keyvault: Command, drawer: Drawer) -> None:
    drawer.seal("r-1", "r-2")
    assert keyvault("scope", "suspend", MONTH, "--record", "r-1").out == "r-1: suspended\n"
    assert drawer.readable("r-1", "r-2") == ["r-2"]
    answer = keyvault("scope", "suspend", MONTH, "--record", "r-1", "--record", "r-2", "--json")
    assert answer.json == {
        "name": MONTH,
        "records": [{"record": "r-1", "state": "suspended"}, {"record": "r-2", "state": "suspended"}],
    }
    assert drawer.readable("r-1", "r-2") == []
    assert keyvault("scope", "resume", MONTH, "--record", "r-1", "--json").json["records"][0]["state"] == "active"
    assert drawer.readable("r-1", "r-2") == ["r-1"]
    assert keyvault("shred", MONTH, "--record", "r-2", *SHRED).code == 0, "a suspended record can be shredded"
    refused = keyvault("scope", "resume", MONTH, "--record", "r-1", "--record", "r-2", "--json")
    assert (refused.code, "1 of 2 records could not be moved" in refused.err) == (1, True)
    assert [row.get("state") for row in refused.json["records"]] == ["active", None]
    assert refused.json["records"][1]["error"]["type"] == "ScopeDestroyedError"
    assert drawer.readable("r-1", "r-2") == ["r-1"]


def test_a_plan_for_records_changes_nothing(keyvault: Command, drawer: Drawer) -> None:
    drawer.seal("r-1", "r-2")
    keyvault("shred", MONTH, "--record", "r-2", *SHRED)
    plan = keyvault("shred", MONTH, "--record", "r-1", "--record", "r-2", "--ticket", "T-1", "--plan", "--json")
    assert (plan.code, plan.json["plan"]) == (0, True)
    assert [(row["name"], row["action"]) for row in plan.json["scopes"]] == [
        ("r-1", "destroy"),
        ("r-2", "already destroyed"),
    ]
    assert "nothing was changed" in keyvault("shred", MONTH, "--record", "r-1", "--ticket", "T-1", "--plan").out
    assert drawer.readable("r-1", "r-2") == ["r-1"]


def test_shredding_records_asks_for_their_count(keyvault: Command, drawer: Drawer) -> None:
    drawer.seal("r-1")
    refused = keyvault("shred", MONTH, "--record", "r-1", "--ticket", "T-1")
    assert (refused.code, "no terminal to confirm on" in refused.err) == (1, True)
    assert "r-1: destroy\n" in refused.err
    assert drawer.readable("r-1") == ["r-1"]


def test_paused_destructions_are_those_of_records_too(keyvault: Command, drawer: Drawer) -> None:
    drawer.seal("r-1")
    keyvault("destroy", "pause")
    refused = keyvault("shred", MONTH, "--record", "r-1", *SHRED)
    assert (refused.code, "destroy resume" in refused.error) == (1, True)
    assert drawer.readable("r-1") == ["r-1"]
    keyvault("destroy", "resume")
    assert keyvault("shred", MONTH, "--record", "r-1", *SHRED).code == 0


def test_a_record_whose_erasure_failed_stays_pending(
    keyvault: Command, drawer: Drawer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from keyvault.errors import Unavailable
    from keyvault.transit.embedded import EmbeddedEngine

    def down(_engine: EmbeddedEngine, _name: str) -> None:
        raise Unavailable("down")

    drawer.seal("r-1", "r-2")
    monkeypatch.setattr(EmbeddedEngine, "rotate", down)
    result = keyvault("shred", MONTH, "--record", "r-1", *SHRED)
    assert (result.code, "r-1: pending: " in result.out, "destroy resume" in result.err) == (1, True, True)
    assert drawer.readable("r-1", "r-2") == ["r-2"], "what is fenced is refused, erased or not"
    status = keyvault("destroy", "status", "--json").json
    assert (status["pending"], status["pending_records"]) == (0, 1)
    monkeypatch.undo()
    resumed = keyvault("destroy", "resume", "--json")
    assert (resumed.code, [entry["error"] for entry in resumed.json["finished"]]) == (0, [None])
    assert keyvault("destroy", "status", "--json").json["pending_records"] == 0


# --- what is refused -----------------------------------------------------------------------------------------------------


def test_dedicated_custody_says_the_way_out(
    dedicated: TestHome, command: Callable[[Path], Command], tmp_path: Path
) -> None:
    keyvault = command(dedicated.path)
    (tmp_path / "in").write_text("hello")
    assert keyvault("seal", "--scope", MONTH, tmp_path / "in", tmp_path / "sealed").code == 0
    sealed = keyvault("seal", "--scope", MONTH, "--record", "r-1", tmp_path / "in", tmp_path / "out")
    assert (sealed.code, "under the account-month alone" in sealed.error) == (1, True)
    assert not (tmp_path / "out").exists()
    for args in (["shred", *SHRED], ["shred", "--ticket", "T-1", "--plan"], ["scope", "suspend"], ["scope", "resume"]):
        refused = keyvault(*args, MONTH, "--record", "r-1", "--json")
        assert (refused.code, refused.json["error"]["type"]) == (1, "RecordsNotSupportedError"), args
        assert "scope migrate" in refused.json["error"]["message"]
    assert keyvault("open", tmp_path / "sealed", tmp_path / "out").code == 0


def test_only_account_months_have_records(keyvault: Command, drawer: Drawer, tmp_path: Path) -> None:
    (tmp_path / "in").write_text("hello")
    assert keyvault("seal", "--scope", CONSUMER, tmp_path / "in", tmp_path / "sealed").code == 0
    commands: list[list[str | Path]] = [
        ["seal", "--scope", CONSUMER, "--record", "r-1", tmp_path / "in", tmp_path / "out"],
        ["shred", CONSUMER, "--record", "r-1", *SHRED],
        ["scope", "suspend", CONSUMER, "--record", "r-1"],
        ["scope", "resume", CONSUMER, "--record", "r-1"],
    ]
    for args in commands:
        refused = keyvault(*args)
        assert (refused.code, "record" in refused.error) == (1, True), args
    assert not (tmp_path / "out").exists()
    assert drawer.folder.exists()


@pytest.mark.parametrize("args", [["shred", *SHRED], ["scope", "suspend"], ["scope", "resume"]], ids=" ".join)
def test_records_of_several_months_at_once_are_usage(keyvault: Command, args: list[str]) -> None:
    result = keyvault(*args, MONTH, "communications/acct-002/2026-01", "--record", "r-1")
    assert (result.code, "one account-month" in result.error) == (2, True)


@pytest.mark.parametrize("args", [["shred", *SHRED], ["scope", "suspend"], ["scope", "resume"]], ids=" ".join)
def test_records_of_an_unknown_month_are_refused(keyvault: Command, args: list[str]) -> None:
    result = keyvault(*args, MONTH, "--record", "r-1")
    assert result.code == 1
    assert MONTH not in result.err


MALFORMED = {
    "empty": "",
    "513 bytes": "x" * 513,
    "513 bytes of two each": "\u00e9" * 256 + "x",
    "lone surrogate": "r-\ud800",
    "byte that is not UTF-8": "r-\udcff",
}


@pytest.mark.parametrize("record", MALFORMED.values(), ids=MALFORMED)
def test_malformed_record_ids(keyvault: Command, drawer: Drawer, record: str) -> None:
    drawer.seal("r-1")
    out = drawer.folder / "out"
    commands: list[list[str | Path]] = [
        ["seal", "--scope", MONTH, "--record", record, drawer.folder / "in", out],
        ["shred", MONTH, "--record", record, *SHRED],
        ["shred", MONTH, "--record", "r-1", "--record", record, *SHRED],
        ["scope", "suspend", MONTH, "--record", "r-1", "--record", record],
        ["scope", "resume", MONTH, "--record", record],
    ]
    for args in commands:
        result = keyvault(*args)
        assert (result.code, len(result.error) > 20) == (2, True), args
        assert record not in result.err or len(record) < 2
    fresh = keyvault(
        "seal", "--scope", "communications/acct-002/2026-10", "--record", record, drawer.folder / "in", out
    )
    assert fresh.code == 2
    assert not out.exists()
    assert drawer.readable("r-1") == ["r-1"]
    assert keyvault("destroy", "status", "--json").json["pending_records"] == 0
    assert len(keyvault("scope", "list", "--json").json["scopes"]) == 1, "no scope was made for what is refused"


@pytest.mark.parametrize("record", ["x" * 512, " ", "line\nfeed\x07", "\u200b", "../../etc", "\U0001f600"])
def test_odd_record_ids_are_ids_like_any_other(keyvault: Command, tmp_path: Path, record: str) -> None:
    """They never leave the process but as an HMAC, so nothing in them does harm; nor are two of them taken for one."""
    (tmp_path / "in").write_text("hello")
    for name in (record, f"{record[1:]}-"):
        sealed = keyvault("seal", "--force", "--scope", MONTH, "--record", name, tmp_path / "in", tmp_path / name[-1:])
        assert sealed.code == 0, sealed.err
    assert keyvault("shred", MONTH, "--record", record, *SHRED).code == 0
    assert keyvault("open", "--force", tmp_path / record[-1:], tmp_path / "out").code == 1
    assert keyvault("open", "--force", tmp_path / "-", tmp_path / "out").code == 0
