"""`audit pack` and `audit verify`: what they say, answer as JSON and exit with."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, Command
from tests.homes import TestHome
from tests.sweeping import create

MONTH = f"{datetime.now(UTC):%Y-%m}"
PERSON = "consumer/acct-001/+15551000862"


@pytest.fixture
def pack(keyvault: Command, small: TestHome, tmp_path: Path) -> Path:
    """A pack of a home with two account-months and a person who was destroyed."""
    create(small, f"communications/acct-001/{MONTH}", f"communications/acct-002/{MONTH}", PERSON)
    assert keyvault("shred", PERSON, "--ticket", "T-1", "--yes").code == 0
    assert keyvault("audit", "pack", tmp_path / "pack").code == 0
    return tmp_path / "pack"


def billing(folder: Path, *accounts: str) -> Path:
    path = folder / "billing.csv"
    path.write_text("account,month\n" + "".join(f"{account},{MONTH}\n" for account in accounts))
    return path


def damaged(pack: Path) -> str:
    """Change an entry's bundle; return its path in the pack."""
    (bundle,) = (pack / "tile" / "entries" / "000.p").iterdir()
    bundle.write_bytes(bundle.read_bytes().replace(b'"v":1', b'"v":2', 1))
    return bundle.relative_to(pack).as_posix()


def test_what_pack_says(keyvault: Command, pack: Path) -> None:
    result = keyvault("audit", "pack", pack, "--json")
    assert (result.code, result.json["account_months"], result.json["proofs"]) == (0, 2, 1)
    assert result.json["directory"] == str(pack)
    assert f"entries         {result.json['size']}" in keyvault("audit", "pack", pack).out


def test_pack_leaves_other_things_alone(keyvault: Command, small: TestHome) -> None:
    result = keyvault("audit", "pack", small.path)
    assert result.code == 1
    assert "is no pack of this log: nothing was written; name another directory" in result.error


def test_without_a_key_it_is_consistent_with_itself_only(keyvault: Command, pack: Path) -> None:
    result = keyvault("audit", "verify", pack)
    assert (result.code, result.err) == (0, "")
    assert (
        "signature       by the pack's own key: consistent with itself only; give the key with --log-key" in result.out
    )
    assert "previous        none given" in result.out
    assert result.out.splitlines()[-1] == "Everything in this pack was verified, and nothing is wrong."


def test_with_all_that_an_auditor_brings(keyvault: Command, pack: Path, tmp_path: Path) -> None:
    key, previous = tmp_path / "key", tmp_path / "previous"
    shutil.copy(pack / "log-key", key)
    shutil.copy(pack / "checkpoint", previous)
    keyvault("audit", "pack", pack)
    rows = billing(tmp_path, "acct-001", "acct-002")
    args = ("--log-key", key, "--previous", previous, "--population", rows)
    result = keyvault("audit", "verify", pack, *args, "--json")
    assert (result.code, result.json["findings"], result.json["verified"]) == (0, [], True)
    assert (result.json["created"], result.json["destroyed"], result.json["live"]) == (3, 1, 2)
    assert result.json["trusted_key"] is True
    assert [item["row"] for item in result.json["population"]["matched"]] == [2, 3]
    shown = keyvault("audit", "verify", pack, *args)
    assert "by the key that you gave" in shown.out
    assert "population      2 matched, 0 missing, 0 extra" in shown.out


def test_billing_with_the_scopes_beside(keyvault: Command, pack: Path, tmp_path: Path) -> None:
    rows, out = billing(tmp_path, "acct-001", "acct-002", "acct-009"), tmp_path / "located.csv"
    rows.write_text(rows.read_text() + "\nacct-004,2026-13\n")
    result = keyvault("audit", "population", rows, out, "--json")
    assert (result.code, result.json) == (0, {"rows": 3, "found": 2})
    lines = out.read_text().splitlines()
    assert lines[0] == "account,month,scope"
    assert [len(line.split(",")[2]) for line in lines[1:]] == [43, 43, 0, 0]
    assert [line.rpartition(",")[0] for line in lines] == [line for line in rows.read_text().splitlines() if line]
    shown = keyvault("audit", "verify", pack, "--population", out)
    assert "population      2 matched, 1 missing, 0 extra" in shown.out
    again = keyvault("audit", "population", out, "-")
    assert again.out.splitlines() == lines, "the column is replaced"
    assert "2 of 3 rows have a scope" in again.err


def test_billing_is_not_overwritten(keyvault: Command, pack: Path, tmp_path: Path) -> None:
    rows = billing(tmp_path, "acct-001")
    assert pack.exists()
    before = rows.read_text()
    (tmp_path / "there").touch()
    assert keyvault("audit", "population", rows, rows, "--force").code == 2
    assert keyvault("audit", "population", rows, "-", "--json").code == 2
    assert keyvault("audit", "population", rows, tmp_path / "there").code == 1
    assert (rows.read_text(), (tmp_path / "there").read_text()) == (before, "")


def test_one_line_a_finding_and_exit_code_3(keyvault: Command, pack: Path) -> None:
    name = damaged(pack)
    result = keyvault("audit", "verify", pack)
    assert result.code == 3
    assert f"{name}: manifest-mismatch: its SHA-256 is not the manifest's: it was changed" in result.out.splitlines()
    assert "verification failed" in result.error
    assert "nothing is wrong" not in result.out
    answer = keyvault("audit", "verify", pack, "--json")
    assert (answer.code, answer.json["verified"]) == (3, False)
    assert {finding["where"] for finding in answer.json["findings"]} >= {name, "checkpoint"}


def test_what_billing_and_log_do_not_both_have(keyvault: Command, pack: Path, tmp_path: Path) -> None:
    rows = billing(tmp_path, "acct-001", "acct-003")
    rows.write_text(rows.read_text() + "acct-004,2026-13\n")
    result = keyvault("audit", "verify", pack, "--population", rows)
    assert result.code == 3
    assert "population      1 matched, 1 missing, 1 extra" in result.out
    assert "billing.csv row 3: population-missing" in result.out
    assert "population.jsonl: population-extra" in result.out
    assert "billing.csv row 4: malformed-row" in result.out
    assert "acct-0" not in result.out + result.err


def test_a_sample_shows_its_entries_and_says_that_it_is_one(keyvault: Command, pack: Path) -> None:
    args = ("--sample", "3", "--seed", "2026-11-24")
    result = keyvault("audit", "verify", pack, *args)
    assert result.code == 0
    assert len([line for line in result.out.splitlines() if line.startswith("entry ")]) == 3
    assert "These 3 entries were verified, and nothing else" in result.out
    answer = keyvault("audit", "verify", pack, *args, "--json").json
    assert keyvault("audit", "verify", pack, *args, "--json").json == answer
    assert all(json.loads(item["entry"])["v"] == 1 and item["proof"] for item in answer["sample"])


def test_a_sample_that_was_changed_is_named(keyvault: Command, pack: Path) -> None:
    damaged(pack)
    result = keyvault("audit", "verify", pack, "--sample", "100", "--seed", "x")
    assert result.code == 3
    assert "sample-unproven: the inclusion proof of leaf" in result.out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--sample", "3"], "--sample and --seed go together"),
        (["--seed", "3"], "--sample and --seed go together"),
        (["--sample", "3", "--seed", "x", "--population", "b.csv"], "a sample says nothing of all"),
        (["--at", "yesterday"], "--at is not an ISO 8601 time"),
        (["--at", "2026-11-24"], "--at needs a time zone"),
        (["--log-key", "README.txt"], "is not the key of a log"),
        (["--previous", "README.txt"], "the previous checkpoint cannot be read"),
        (["--population", "README.txt"], "has no column account"),
    ],
)
def test_usage(keyvault: Command, pack: Path, args: list[str], message: str) -> None:
    result = keyvault("audit", "verify", pack, *[str(pack / arg) if arg == "README.txt" else arg for arg in args])
    assert (result.code, result.out) == (2, "")
    assert message in result.error


def test_a_previous_checkpoint_of_size_0_is_refused(keyvault: Command, pack: Path, tmp_path: Path) -> None:
    origin = (pack / "checkpoint").read_text().splitlines()[0]
    empty = f"{origin}\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— {origin} AAAAAAAA\n"
    (tmp_path / "empty").write_text(empty)
    result = keyvault("audit", "verify", pack, "--previous", tmp_path / "empty")
    assert result.code == 2
    assert "of size 0, which every log continues" in result.error


def test_another_key_and_another_logs_checkpoint(keyvault: Command, pack: Path, tmp_path: Path) -> None:
    from tests.logs import LOG_KEY, write_log

    write_log(tmp_path / "other", [b"{}"])
    (tmp_path / "key").write_text(str(LOG_KEY))
    result = keyvault("audit", "verify", pack, "--log-key", tmp_path / "key")
    assert result.code == 3
    assert "log-key: other-log-key" in result.out
    assert "signature       does not hold" in result.out
    result = keyvault("audit", "verify", pack, "--previous", tmp_path / "other" / "checkpoint")
    assert result.code == 3
    assert "checkpoint: previous-checkpoint" in result.out
    assert "this pack does not continue it" in result.out


def test_no_pack(keyvault: Command, tmp_path: Path) -> None:
    assert "is no directory" in keyvault("audit", "verify", tmp_path / "nothing").error
    (tmp_path / "empty").mkdir()
    result = keyvault("audit", "verify", tmp_path / "empty")
    assert result.code == 3
    assert "checkpoint: checkpoint-unreadable: No such file or directory: nothing was verified" in result.out


def test_verifying_needs_no_home_and_loads_neither_database_nor_engine(pack: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from cli.main import run; code = run(sys.argv[1:]); heavy = {'sqlalchemy', 'alembic', 'hvac', 'urllib3', 'psycopg'}; "
        "print(code, sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, "--home", str(tmp_path / "none"), "audit", "verify", str(pack)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stderr == "0 []\n"
