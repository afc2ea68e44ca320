"""The main job on real input: 5,574 messages sealed, one account-month and one consumer shredded, backups from before restored."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from keyvault.errors import KeyMissingError, ScopeDestroyedError
from keyvault.records import RecordFile, RecordImporter, open_records, read_sealed
from keyvault.scopes import Scope, ScopeKind
from tests.homes import TestHome, in_ring_custody
from tests.servers import PostgresServer

SHARED = Path(__file__).parents[2].parent / "shared" / "data" / "communications.jsonl"


@dataclass(frozen=True, kw_only=True)
class Pair:
    home: TestHome
    request: pytest.FixtureRequest
    tmp_path: Path

    @contextmanager
    def backup(self) -> Iterator[Any]:
        """Take a backup of the database now; call what is yielded to restore it beside the current engine."""
        if self.home.store_url.startswith("sqlite"):
            copy = self.tmp_path / "backup.db"
            shutil.copyfile(self.home.path / "store.db", copy)
            yield lambda: self.home.copy(self.tmp_path / "restored", f"sqlite:///{copy}")
            return
        server: PostgresServer = self.request.getfixturevalue("postgres_server")
        dump = self.tmp_path / "dump.sql"
        server.dump(self.home.store_url, dump)
        url = server.restore(dump)
        try:
            yield lambda: self.home.copy(self.tmp_path / "restored", url)
        finally:
            server.drop_database(url)


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path, home: TestHome) -> Pair:
    return Pair(home=home, request=request, tmp_path=tmp_path)


def messages() -> list[dict[str, Any]]:
    """The shared messages where they are at hand, else the demonstration's sample, dated from today."""
    if SHARED.exists():
        return [json.loads(line) for line in SHARED.read_text().splitlines()]
    from cli.demo import _sample

    return [json.loads(line) for line in _sample(datetime.now(UTC))]


def month_of(message: dict[str, Any]) -> str:
    return Scope.of(ScopeKind.COMMUNICATIONS, message["account"], message["recorded_at"][:7]).name


def consumer_of(message: dict[str, Any]) -> str:
    return Scope.of(ScopeKind.CONSUMER, message["account"], message["consumer"]).name


def is_past_due(message: dict[str, Any]) -> bool:
    due = Scope.parse(month_of(message)).due_at
    assert due is not None
    return due <= datetime.now(UTC)


def most_common(names: Iterator[str]) -> str:
    return Counter(names).most_common(1)[0][0]


def assert_readable(
    home: TestHome, sealed: Path, kept: dict[str, dict[str, Any]], shredded: set[str], error: type[Exception]
) -> None:
    """Everything equals its input, but what was under a shredded key, which answers with `error`."""
    count = 0
    with home.vault() as vault:
        for record in open_records(vault, read_sealed(sealed)):
            message = kept[record.record]
            month_gone, consumer_gone = month_of(message) in shredded, consumer_of(message) in shredded
            expected_content = {name: value for name, value in message.items() if name != "consumer"}
            if month_gone:
                assert isinstance(record.content, error)
            else:
                assert isinstance(record.content, bytes)
                assert json.loads(record.content) == expected_content
            if month_gone or consumer_gone:
                assert isinstance(record.identity, error)
            else:
                assert isinstance(record.identity, bytes)
                assert record.fields() == message
            count += 1
    assert count == len(kept)


def test_seal_shred_and_prove_it_unreadable_live_and_from_the_backup(pair: Pair) -> None:
    given = messages()
    kept = {message["record"]: message for message in given if not is_past_due(message)}
    lines = [json.dumps(message).encode() + b"\n" for message in given]
    folder = pair.tmp_path / "sealed"
    with pair.home.vault() as vault, RecordFile(folder, ["consumer"]) as target:
        summary = RecordImporter(vault, target).run(lines)
    assert (summary.sealed, summary.past_due) == (len(kept), len(given) - len(kept))
    assert summary.complete
    assert summary.past_due > 0, "the input has messages whose time is over"
    sealed = folder / "records.jsonl"
    shredded = {most_common(map(month_of, kept.values())), most_common(map(consumer_of, kept.values()))}
    with pair.backup() as restore:
        assert_readable(pair.home, sealed, kept, set(), ScopeDestroyedError)
        with pair.home.destroyer() as destroyer:
            outcomes = destroyer.destroy(sorted(shredded), ticket="T-1", requested_by="tester")
        assert all(outcome.error is None for outcome in outcomes)
        assert_readable(pair.home, sealed, kept, shredded, ScopeDestroyedError)
        assert_readable(restore(), sealed, kept, shredded, KeyMissingError)


@in_ring_custody
def test_a_single_record_is_unreadable_live_and_from_the_backup_and_nothing_else_is(pair: Pair) -> None:
    given = [message for message in messages() if not is_past_due(message)][:400]
    kept = {message["record"]: message for message in given}
    victim = given[0]["record"]
    folder = pair.tmp_path / "sealed"
    with pair.home.vault() as vault, RecordFile(folder, ["consumer"]) as target:
        RecordImporter(vault, target).run([json.dumps(message).encode() + b"\n" for message in given])
    with pair.backup() as restore:
        with pair.home.destroyer() as destroyer:
            outcomes = destroyer.destroy_records(month_of(given[0]), [victim], ticket="T-1", requested_by="tester")
        assert [outcome.error for outcome in outcomes] == [None]
        for home, error in ((pair.home, ScopeDestroyedError), (restore(), KeyMissingError)):
            with home.vault() as vault:
                for record in open_records(vault, read_sealed(folder / "records.jsonl")):
                    if record.record == victim:
                        assert isinstance(record.content, error)
                        assert isinstance(record.identity, error)
                    else:
                        assert record.fields() == kept[record.record]


def test_names_of_the_input_stay_out_of_the_database(pair: Pair) -> None:
    given = [message for message in messages() if not is_past_due(message)][:300]
    lines = [json.dumps(message).encode() + b"\n" for message in given]
    with pair.home.vault() as vault, RecordFile(pair.tmp_path / "sealed", ["consumer"]) as target:
        RecordImporter(vault, target).run(lines)
    if pair.home.store_url.startswith("sqlite"):
        content = b"".join(path.read_bytes() for path in pair.home.path.glob("store.db*"))
    else:
        dump = pair.tmp_path / "names.sql"
        server: PostgresServer = pair.request.getfixturevalue("postgres_server")
        server.dump(pair.home.store_url, dump)
        content = dump.read_bytes()
    for name in {message[field] for message in given for field in ("account", "consumer")}:
        assert name.encode() not in content
