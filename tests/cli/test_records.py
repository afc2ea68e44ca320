"""Importing records: what goes under which key, what is refused, and interruptions at any moment."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyvault.errors import InvalidInputError, KeyVaultError, ScopeDestroyedError, Unavailable
from keyvault.records import OpenedRecord, open_records, parse_record, read_sealed
from keyvault.transit.embedded import EmbeddedEngine
from tests.cli.conftest import PROGRAM, ROOT, Command, program
from tests.homes import TestHome

NOW = datetime.now(UTC)


def record(number: int, *, days_ago: int = 3, **others: Any) -> dict[str, Any]:
    return {
        "record": f"msg-{number:06d}",
        "account": f"acct-{number % 7:03d}",
        "consumer": f"+1555010{number % 31:04d}",
        "recorded_at": (NOW - timedelta(days=days_ago)).isoformat(),
        "channel": "text",
        "body": f"Grüße {number} \U0001f600 \x00 &lt;#&gt;",
        **others,
    }


def write(path: Path, records: Sequence[dict[str, Any] | str]) -> Path:
    lines = [item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in records]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def opened(home: TestHome, folder: Path) -> dict[str, OpenedRecord]:
    with home.vault() as vault:
        found = list(open_records(vault, read_sealed(folder / "records.jsonl"), batch=7))
    assert len({item.record for item in found}) == len(found)
    return {item.record: item for item in found}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "records"


def test_records_come_back_as_they_were(keyvault: Command, small: TestHome, tmp_path: Path, folder: Path) -> None:
    records = [record(number, extra={"list": [1, 2.5, None, True]}) for number in range(25)]
    result = keyvault("import-records", "--batch", "10", "--json", write(tmp_path / "in", records), folder)
    assert result.code == 0
    assert result.json == {
        "file": str(folder / "records.jsonl"),
        "sealed": 25,
        "already_there": 0,
        "past_due": 0,
        "future": 0,
        "malformed": 0,
        "refused": {},
    }
    found = opened(small, folder)
    assert [found[item["record"]].fields() for item in records] == records


def test_the_sealed_file_tells_nothing_and_is_private(keyvault: Command, tmp_path: Path, folder: Path) -> None:
    keyvault("import-records", write(tmp_path / "in", [record(1)]), folder)
    path = folder / "records.jsonl"
    header, line = path.read_text().splitlines()
    assert json.loads(header) == {"format": "keyvault-records/1", "pii_fields": ["consumer"]}
    assert set(json.loads(line)) == {"record", "identity", "content"}
    for word in ("acct-001", "+1555010", "Grü"):
        assert word not in line
    assert (path.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)


def test_each_part_is_under_its_own_keys(keyvault: Command, small: TestHome, tmp_path: Path, folder: Path) -> None:
    records = [
        record(1, account="a", consumer="x"),
        record(2, account="a", consumer="y"),
        record(3, account="b", consumer="x"),
    ]
    keyvault("import-records", write(tmp_path / "in", records), folder)
    month = datetime.fromisoformat(records[2]["recorded_at"]).strftime("%Y-%m")
    assert keyvault("shred", "consumer/a/x", f"communications/b/{month}", "--ticket", "T", "--yes").code == 0
    found = opened(small, folder)
    kinds = {name: (type(item.identity), type(item.content)) for name, item in found.items()}
    assert kinds == {
        "msg-000001": (ScopeDestroyedError, bytes),
        "msg-000002": (bytes, bytes),
        "msg-000003": (ScopeDestroyedError, ScopeDestroyedError),
    }
    assert b"consumer" not in found["msg-000001"].content  # type: ignore[operator]
    with pytest.raises(ScopeDestroyedError):
        found["msg-000001"].fields()


def test_each_record_of_a_ring_is_under_a_key_of_its_own(
    keyvault: Command, small: TestHome, tmp_path: Path, folder: Path
) -> None:
    records = [record(number, account="a", consumer="x") for number in (1, 2, 3)]
    keyvault("import-records", write(tmp_path / "in", records), folder)
    month = f"communications/a/{datetime.fromisoformat(records[0]['recorded_at']):%Y-%m}"
    assert keyvault("shred", month, "--record", "msg-000002", "--ticket", "T", "--yes").code == 0
    found = opened(small, folder)
    assert [type(part) for part in (found["msg-000002"].identity, found["msg-000002"].content)] == [
        ScopeDestroyedError,
        ScopeDestroyedError,
    ]
    assert [found[item["record"]].fields() for item in (records[0], records[2])] == [records[0], records[2]]
    # The same file again brings nothing back.
    again = keyvault("import-records", "--json", tmp_path / "in", tmp_path / "another")
    assert (again.code, again.json["sealed"], again.json["refused"]) == (1, 2, {"ScopeDestroyedError": 1})


def test_records_of_a_dedicated_home_are_under_their_months_key(
    dedicated: TestHome, command: Callable[[Path], Command], tmp_path: Path, folder: Path
) -> None:
    records = [record(number, account="a", consumer="x") for number in (1, 2)]
    keyvault = command(dedicated.path)
    assert keyvault("import-records", write(tmp_path / "in", records), folder).code == 0
    found = opened(dedicated, folder)
    assert [found[item["record"]].fields() for item in records] == records
    month = f"communications/a/{datetime.fromisoformat(records[0]['recorded_at']):%Y-%m}"
    refused = keyvault("shred", month, "--record", "msg-000001", "--ticket", "T", "--yes")
    assert (refused.code, "scope migrate" in refused.error) == (1, True)


def test_other_identifying_fields(keyvault: Command, small: TestHome, tmp_path: Path, folder: Path) -> None:
    source = write(tmp_path / "in", [record(1, caller="Ada")])
    assert keyvault("import-records", "--pii-fields", "consumer,caller", source, folder).code == 0
    identity = opened(small, folder)["msg-000001"].identity
    assert isinstance(identity, bytes)
    assert set(json.loads(identity)) == {"consumer", "caller"}
    other = keyvault("import-records", source, folder)
    assert (other.code, "--pii-fields consumer,caller" in other.error) == (1, True)
    for names in ("", "consumer,", "consumer,consumer", "record"):
        assert keyvault("import-records", "--pii-fields", names, source, folder).code == 2


def test_envelopes_cannot_be_exchanged(keyvault: Command, small: TestHome, tmp_path: Path, folder: Path) -> None:
    keyvault("import-records", write(tmp_path / "in", [record(1), record(1, record="msg-other")]), folder)
    path = folder / "records.jsonl"
    header, first, second = (json.loads(line) for line in path.read_text().splitlines())
    first["content"], second["content"] = second["content"], first["content"]
    second["identity"] = second["content"]
    path.write_text("".join(json.dumps(item) + "\n" for item in (header, first, second)))
    parts = [part for item in opened(small, folder).values() for part in (item.identity, item.content)]
    assert [type(part).__name__ for part in parts] == ["bytes", *["DecryptionFailedError"] * 3]


def test_past_due_is_refused_and_counted(keyvault: Command, tmp_path: Path, folder: Path) -> None:
    records = [record(1), record(2, days_ago=900, consumer="long gone"), record(3, days_ago=9000)]
    result = keyvault("import-records", "--json", write(tmp_path / "in", records), folder)
    assert (result.code, result.json["sealed"], result.json["past_due"]) == (0, 1, 2)
    # A consumer gets no scope for a record that has no place.
    assert len(keyvault("scope", "list", "--json").json["scopes"]) == 2


def test_records_of_a_closed_account_are_refused_with_a_reason_of_their_own(
    keyvault: Command, tmp_path: Path, folder: Path
) -> None:
    closed = {"type": "account.closed", "at": (NOW - timedelta(days=1)).isoformat(), "account": "acct-001"}
    assert keyvault("facts", "import", write(tmp_path / "facts", [closed])).code == 0
    result = keyvault("import-records", "--json", write(tmp_path / "in", [record(1), record(2), record(8)]), folder)
    assert (result.code, result.json["sealed"], result.json["past_due"]) == (1, 1, 0)
    assert result.json["refused"] == {"SubjectEndedError": 2}
    assert "2 records could not be imported" in result.error


def test_the_future_is_refused_and_counted(keyvault: Command, tmp_path: Path, folder: Path) -> None:
    result = keyvault("import-records", "--json", write(tmp_path / "in", [record(1), record(2, days_ago=-90)]), folder)
    assert (result.code, result.json["sealed"], result.json["future"]) == (1, 1, 1)
    assert "1 records could not be imported" in result.error


def test_malformed_lines_are_reported_without_their_contents(keyvault: Command, tmp_path: Path, folder: Path) -> None:
    good = [record(number) for number in range(3)]
    missing = record(10)
    del missing["account"]
    lines: list[dict[str, Any] | str] = [
        good[0],
        "{secret",
        '["secret"]',
        missing,
        record(11, consumer=["secret"]),
        record(12, recorded_at="secret"),
        record(13, recorded_at="2026-01-02T03:04:05"),
        record(14, account="secret\u200b"),
        record(15, record="secret" * 100),
        '{"record": "secret", "record": "secret"}',
        record(16, body=float("nan")),
        record(0, body="secret"),
        "",
        good[1],
        good[2],
    ]
    result = keyvault("import-records", "--json", write(tmp_path / "in", lines), folder)
    assert (result.code, result.json["sealed"], result.json["malformed"]) == (1, 3, 11)
    reasons = result.err.splitlines()
    assert [line.split(":")[0] for line in reasons] == [f"line {number}" for number in range(2, 13)] + ["keyvault"]
    assert "line 3: not a JSON object" in reasons
    assert "line 4: the field account is missing, empty or not text" in reasons
    assert "line 12: the record's id stands in an earlier line, too" in reasons
    assert "secret" not in result.err


@pytest.mark.parametrize(
    "line",
    [
        b"\xff",
        b"[" * 100_000,
        b"9" * 5000,
        json.dumps(record(1, body="\ud800")).encode(),
        json.dumps(record(1, body=1)).encode().replace(b'"body": 1', b'"body": 1e999'),
        json.dumps(record(1, recorded_at="0001-01-01T00:00:00+14:00")).encode(),
        json.dumps(record(1, account="a" * 600)).encode(),
    ],
)
def test_odd_lines_are_malformed_and_nothing_worse(line: bytes) -> None:
    with pytest.raises(InvalidInputError):
        parse_record(line, ["consumer"])


def test_months_are_counted_in_utc() -> None:
    line = json.dumps(record(1, account="a", recorded_at="2026-03-01T00:30:00+02:00")).encode()
    assert parse_record(line, ["consumer"]).month == "communications/a/2026-02"


def test_what_a_scope_forbids_is_counted(keyvault: Command, small: TestHome, tmp_path: Path, folder: Path) -> None:
    with small.vault() as vault:
        vault.ensure_scopes(["consumer/a/x", "consumer/a/y"])
    keyvault("shred", "consumer/a/x", "--ticket", "T", "--yes")
    keyvault("scope", "suspend", "consumer/a/y")
    records = [record(number, account="a", consumer=name) for number, name in enumerate("xyz")]
    result = keyvault("import-records", "--json", write(tmp_path / "in", records), folder)
    assert (result.code, result.json["sealed"]) == (1, 1)
    assert result.json["refused"] == {"ScopeDestroyedError": 1, "ScopeSuspendedError": 1}


# --- interruptions -----------------------------------------------------------------------------------------------------


def test_a_second_run_seals_nothing_twice(keyvault: Command, tmp_path: Path, folder: Path) -> None:
    source = write(tmp_path / "in", [record(number) for number in range(5)])
    keyvault("import-records", source, folder)
    before = (folder / "records.jsonl").read_bytes()
    write(source, [record(number) for number in range(7)])
    result = keyvault("import-records", "--json", source, folder)
    assert (result.json["sealed"], result.json["already_there"]) == (2, 5)
    assert (folder / "records.jsonl").read_bytes().startswith(before)


@pytest.mark.parametrize("cut", [1, 2, 40, 500])
def test_a_torn_end_is_cut_off(keyvault: Command, small: TestHome, tmp_path: Path, folder: Path, cut: int) -> None:
    records = [record(number) for number in range(5)]
    source = write(tmp_path / "in", records)
    keyvault("import-records", source, folder)
    path = folder / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-cut])
    assert len(opened(small, folder)) == 4
    result = keyvault("import-records", "--json", source, folder)
    assert (result.json["sealed"], result.json["already_there"]) == (1, 4)
    found = opened(small, folder)
    assert [found[item["record"]].fields() for item in records] == records


def test_a_torn_header_is_written_again(keyvault: Command, tmp_path: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "records.jsonl").write_bytes(b'{"format"')
    assert keyvault("import-records", write(tmp_path / "in", [record(1)]), folder).code == 0


@pytest.mark.parametrize("text", ["hello\n", '{"format":"keyvault-records/2","pii_fields":["consumer"]}\n'])
def test_a_file_of_another_kind_is_left_alone(keyvault: Command, tmp_path: Path, folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "records.jsonl").write_text(text)
    result = keyvault("import-records", write(tmp_path / "in", [record(1)]), folder)
    assert (result.code, "keyvault-records/1" in result.error) == (3, True)
    assert (folder / "records.jsonl").read_text() == text


def test_one_import_at_a_time(keyvault: Command, tmp_path: Path, folder: Path) -> None:
    source = write(tmp_path / "in", [record(1)])
    keyvault("import-records", source, folder)
    with (folder / "records.jsonl").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        result = keyvault("import-records", source, folder)
    assert (result.code, "another import" in result.error) == (1, True)


def test_killed_at_any_moment_the_next_run_goes_on(small: TestHome, tmp_path: Path, folder: Path) -> None:
    records = [record(number) for number in range(600)]
    source = write(tmp_path / "in", records)
    command = [*PROGRAM, "--home", str(small.path), "import-records", "--batch", "5", str(source), str(folder)]
    path = folder / "records.jsonl"
    for step in (1, 60_000, 200_000):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT) as process:
            wait_until_larger(path, step, process)
            process.kill()
    assert program(small.path, "import-records", "--batch", "100", source, folder).code == 0
    found = opened(small, folder)
    assert [found[item["record"]].fields() for item in records] == records


def wait_until_larger(path: Path, size: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < size:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_interrupted_it_says_so_and_goes_on_later(small: TestHome, tmp_path: Path, folder: Path) -> None:
    source = write(tmp_path / "in", [record(number) for number in range(600)])
    command = [*PROGRAM, "--home", str(small.path), "import-records", "--batch", "5", str(source), str(folder)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, cwd=ROOT) as process:
        wait_until_larger(folder / "records.jsonl", 50_000, process)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b"keyvault: error: interrupted\n"
    assert program(small.path, "import-records", source, folder).code == 0
    assert len(opened(small, folder)) == 600


def test_an_engine_that_fails_stops_the_import_and_keeps_what_is_in(
    dedicated: TestHome,
    command: Callable[[Path], Command],
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = write(tmp_path / "in", [record(number) for number in range(10)])
    real, calls = EmbeddedEngine.generate_data_keys, iter([True, False])

    def failing(self: EmbeddedEngine, names: Sequence[str]) -> Sequence[Any]:
        return real(self, names) if next(calls) else [Unavailable("the engine is down") for _ in names]

    monkeypatch.setattr(EmbeddedEngine, "generate_data_keys", failing)
    result = command(dedicated.path)("import-records", "--batch", "5", source, folder)
    assert (result.code, "the engine is down" in result.error) == (1, True)
    monkeypatch.undo()
    assert len(opened(dedicated, folder)) == 5


def test_an_engine_that_cannot_give_a_ring_stops_the_import_and_keeps_what_is_in(
    keyvault: Command, small: TestHome, tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    months = [3, 3, 3, 70, 70]  # days ago: the second batch needs a ring that was not opened yet
    source = write(tmp_path / "in", [record(number, days_ago=days) for number, days in enumerate(months)])
    real = EmbeddedEngine.create_keys
    calls: list[Sequence[str]] = []

    def failing(self: EmbeddedEngine, names: Sequence[str]) -> Sequence[Any]:
        calls.append(names)
        return real(self, names) if len(calls) <= 2 else [Unavailable("the engine is down") for _ in names]

    monkeypatch.setattr(EmbeddedEngine, "create_keys", failing)
    result = keyvault("import-records", "--batch", "3", source, folder)
    assert (result.code, "the engine is down" in result.error) == (1, True)
    monkeypatch.undo()
    assert len(opened(small, folder)) == 3
    again = keyvault("import-records", "--json", source, folder)
    assert (again.code, again.json["sealed"], again.json["already_there"]) == (0, 2, 3)


def test_a_pipe_can_be_imported(small: TestHome, folder: Path) -> None:
    lines = "".join(json.dumps(record(number)) + "\n" for number in range(10)).encode()
    result = program(small.path, "import-records", "--json", "-", folder, stdin=lines)
    assert (result.code, result.json["sealed"]) == (0, 10)
    assert [path.name for path in folder.iterdir()] == ["records.jsonl"]


def test_errors_are_values(keyvault: Command, small: TestHome, tmp_path: Path, folder: Path) -> None:
    keyvault("import-records", write(tmp_path / "in", [record(1)]), folder)
    keyvault("scope", "suspend", "consumer/acct-001/+15550100001")
    part = opened(small, folder)["msg-000001"].identity
    assert isinstance(part, KeyVaultError)
