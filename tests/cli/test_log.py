"""`log`: publish, checkpoint, prove, key, tail, attest, as operators and auditors type them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from keyvault.store.tables import outbox
from keyvault.transit.embedded import EmbeddedEngine
from shredder.log.checkpoint import open_checkpoint
from shredder.log.directory import CHECKPOINT, LogDirectory
from shredder.log.note import VerifierKey, parse_verifier_key
from shredder.log.proof import parse_proof, verify_proof
from tests.cli.conftest import PROGRAM, ROOT, Command
from tests.homes import TestHome
from tests.logs import check_log

PERSON = "consumer/acct-001/+15551000862"
OTHER = "consumer/acct-001/+15551000863"
MONTH = "communications/acct-001/2026-11"
LOGGED = 9
"""Entries of the home in these tests: three creations, two of a destruction, and four of the rings that they needed."""


@pytest.fixture(name="used")
def _used(small: TestHome) -> TestHome:
    """A home with three scopes, of which one was destroyed."""
    with small.vault() as vault:
        for result in vault.ensure_scopes([PERSON, OTHER, MONTH]):
            assert not isinstance(result, Exception)
    with small.destroyer() as destroyer:
        assert destroyer.destroy([PERSON], ticket="T-1", requested_by="ada")[0].error is None
    return small


@pytest.fixture
def log_key(used: TestHome, command: Callable[[Path], Command]) -> VerifierKey:
    return parse_verifier_key(command(used.path)("log", "key").out)


# --- key, checkpoint, tail ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("used")
def test_key_and_checkpoint_go_together(keyvault: Command) -> None:
    key = keyvault("log", "key")
    assert key.out.count("\n") == 1
    verifier = parse_verifier_key(key.out)
    assert keyvault("log", "key", "--json").json["key"] == str(verifier)
    note = keyvault("log", "checkpoint").out
    found = open_checkpoint(note.encode(), verifier)
    answer = keyvault("log", "checkpoint", "--json").json
    assert answer == {"origin": found.origin, "size": found.size, "root": found.root.hex(), "note": note}
    assert found.size == LOGGED


def test_a_new_home_has_no_checkpoint(keyvault: Command, tmp_path: Path) -> None:
    for args in (["checkpoint"], ["publish", str(tmp_path / "www")]):
        result = keyvault("log", *args)
        assert (result.code, result.out) == (1, "")
        assert "no checkpoint" in result.error
    assert keyvault("log", "tail").out == ""


def test_tail_shows_the_last_entries_as_they_are(used: TestHome, keyvault: Command) -> None:
    lines = keyvault("log", "tail", "-n", "2").out.splitlines()
    entries = list(LogDirectory(used.path / "log").entries(0, LOGGED))
    assert lines == [f"{index}\t{entries[index].decode()}" for index in (LOGGED - 2, LOGGED - 1)]
    shown = [json.loads(line) for line in keyvault("log", "tail", "--json").out.splitlines()]
    assert shown == [{"index": index, "entry": json.loads(entry)} for index, entry in enumerate(entries)]
    assert [line["entry"]["type"] for line in shown][-2:] == ["destroy.fenced", "key.destroyed"]


def test_tail_works_while_database_and_engine_are_gone(used: TestHome, keyvault: Command) -> None:
    for path in used.path.glob("store.db*"):
        path.unlink()
    assert len(keyvault("log", "tail").out.splitlines()) == LOGGED


def test_tail_follows_until_it_is_interrupted(used: TestHome) -> None:
    command = [*PROGRAM, "--home", str(used.path), "log", "tail", "-n", "1", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith(f"{LOGGED - 1}\t")
        with used.vault() as vault:
            vault.suspend([OTHER])
        with used.opened() as home:
            home.log.settle()
        assert '"type":"scope.suspended"' in running.stdout.readline()
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130


# --- publish ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("used")
def test_publish_twice(keyvault: Command, log_key: VerifierKey, tmp_path: Path) -> None:
    target = tmp_path / "www"
    first = keyvault("log", "publish", target)
    assert first.out == f"{target}: {LOGGED} entries, {LOGGED} of them new; 3 files written\n"
    again = keyvault("log", "publish", "--json", target)
    assert again.json == {"directory": str(target), "size": LOGGED, "before": LOGGED, "files": 0}
    assert open_checkpoint((target / CHECKPOINT).read_bytes(), log_key).size == LOGGED


def test_publish_takes_up_what_is_not_logged_yet(used: TestHome, keyvault: Command, tmp_path: Path) -> None:
    with used.vault() as vault:
        vault.suspend([OTHER])
    assert keyvault("log", "publish", "--json", tmp_path / "www").json["size"] == LOGGED + 1


@pytest.mark.usefixtures("used")
def test_publish_over_another_log_is_exit_code_3_or_1(
    keyvault: Command, dedicated: TestHome, command: Callable[[Path], Command], tmp_path: Path
) -> None:
    target = tmp_path / "www"
    assert keyvault("log", "publish", target).code == 0
    with dedicated.vault() as vault:
        vault.ensure_scopes([OTHER])
    result = command(dedicated.path)("log", "publish", target)
    assert (result.code, result.out) == (3, "")
    (target / CHECKPOINT).unlink()
    result = command(dedicated.path)("log", "publish", target)
    assert (result.code, "another log's" in result.error) == (1, True)


# --- prove ------------------------------------------------------------------------------------------------------------------


def proven(keyvault: Command, log_key: VerifierKey, out: Path, *args: str) -> dict[str, Any]:
    result = keyvault("log", "prove", "--json", *args, out)
    assert (result.code, result.err) == (0, "")
    answer = result.json
    proof = parse_proof(out.read_bytes())
    entry = Path(answer["entry"]).read_bytes()
    assert verify_proof(proof, entry, log_key).size == answer["size"]
    assert proof.index == answer["index"]
    event: dict[str, Any] = json.loads(entry)
    assert (event["id"], event["type"]) == (answer["event"], answer["type"])
    return event


@pytest.mark.usefixtures("used")
def test_prove_a_destruction_a_creation_and_any_event(keyvault: Command, log_key: VerifierKey, tmp_path: Path) -> None:
    assert proven(keyvault, log_key, tmp_path / "a", PERSON)["type"] == "key.destroyed"
    created = proven(keyvault, log_key, tmp_path / "b", OTHER)
    assert (created["type"], created["kind"]) == ("scope.created", "consumer")
    fence = json.loads(keyvault("log", "tail", "-n", "2", "--json").out.splitlines()[0])["entry"]["id"]
    assert proven(keyvault, log_key, tmp_path / "c", "--event", fence)["type"] == "destroy.fenced"


@pytest.mark.usefixtures("used")
def test_prove_says_where_it_wrote(keyvault: Command, tmp_path: Path) -> None:
    out = tmp_path / "p.tlog-proof"
    result = keyvault("log", "prove", PERSON, out)
    assert result.code == 0
    assert result.out.splitlines()[1:] == [f"proof         {out}", f"entry         {out}.entry"]
    assert "+15551000862" not in result.out + (out.read_text() + Path(f"{out}.entry").read_text())


@pytest.mark.usefixtures("used")
@pytest.mark.usefixtures("used")
@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        ([PERSON], 2, "name a scope and a file"),
        (["--event", "x", PERSON, "out"], 2, "name a scope and a file"),
        (["consumer/acct-001/nobody", "out"], 1, "no such scope"),
        (["consumer", "out"], 2, "scope"),
        (["--event", "00000000-0000-4000-8000-000000000000", "out"], 2, "no event of that id"),
    ],
)
def test_prove_what_is_not_there(  # noqa: PLR0917 - pytest passes by name
    keyvault: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    args: list[str],
    code: int,
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = keyvault("log", "prove", *args)
    assert (result.code, result.out) == (code, "")
    assert says in result.error
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.entry").exists()


@pytest.mark.usefixtures("used")
@pytest.mark.parametrize("name", ["out", "out.entry"])
def test_prove_replaces_nothing_unasked(keyvault: Command, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("theirs")
    assert keyvault("log", "prove", PERSON, tmp_path / "out").code == 1
    assert [path.name for path in tmp_path.glob("out*")] == [name]
    assert keyvault("log", "prove", "--force", PERSON, tmp_path / "out").code == 0


def test_an_altered_log_proves_nothing(used: TestHome, keyvault: Command, tmp_path: Path) -> None:
    keyvault("log", "checkpoint")
    bundle = used.path / "log" / "tile" / "entries" / "000.p" / str(LOGGED)
    bundle.write_bytes(bundle.read_bytes().replace(b"key.destroyed", b"key.destroyee"))
    result = keyvault("log", "prove", PERSON, tmp_path / "out")
    assert (result.code, result.out) == (3, "")
    assert not (tmp_path / "out").exists()


# --- mend -------------------------------------------------------------------------------------------------------------------


def test_a_lost_directory_is_written_again(used: TestHome, keyvault: Command) -> None:
    directory = used.path / "log"
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    shutil.rmtree(directory)
    assert keyvault("log", "mend").out == f"{LOGGED} entries; 3 files written\n"
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before
    assert keyvault("log", "mend", "--json").json == {"size": LOGGED, "files": 0}
    with used.opened() as home:
        assert check_log(home).size == LOGGED


def test_a_new_home_has_nothing_to_mend(keyvault: Command) -> None:
    assert keyvault("log", "mend", "--json").json == {"size": 0, "files": 0}


def test_nothing_is_mended_from_a_database_that_was_altered(used: TestHome, keyvault: Command) -> None:
    with used.opened() as home:
        home.database.write(
            lambda c: c.execute(sa.update(outbox).where(outbox.c.leaf_index == 2).values(body=b'{"type":"forged"}'))
        )
    directory = used.path / "log"
    before = {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}
    result = keyvault("log", "mend")
    assert (result.code, result.out) == (1, "")
    assert "do not lead to the root that was signed" in result.error
    assert {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()} == before


# --- attest -----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("used")
def test_attest(keyvault: Command) -> None:
    answer = keyvault("log", "attest", "--json").json
    event = json.loads(keyvault("log", "tail", "-n", "1", "--json").out)["entry"]
    assert event["id"] in answer["events"]
    assert (event["type"], event["missing"], event["unknown"]) == ("inventory.attested", 0, 0)
    text = keyvault("log", "attest")
    assert (text.code, text.err) == (0, "")
    assert answer["keys_digest"] in text.out


@pytest.mark.usefixtures("used")
def test_attest_says_what_differs(keyvault: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = EmbeddedEngine.list_keys
    monkeypatch.setattr(EmbeddedEngine, "list_keys", lambda self: [*listed(self)[1:], "z-stranger"])
    result = keyvault("log", "attest")
    assert result.code == 1
    assert "key z-stranger is in the engine and belongs to nothing" in result.err
    assert "is missing from the engine" in result.err
    assert result.out.endswith("differ; run `keyvault doctor`\n")
    event = json.loads(keyvault("log", "tail", "-n", "1", "--json").out)["entry"]
    assert (event["missing"], event["returned"], event["unknown"]) == (1, 0, 1)
