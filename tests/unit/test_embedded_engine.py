"""The embedded engine's own promises: nothing removed stays in its files, whatever happens in between; clear errors."""

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from keyvault.errors import ConfigurationError, KeyVaultError, Unavailable
from keyvault.transit import _keyfile
from keyvault.transit.base import Ciphertext, Plaintext
from keyvault.transit.embedded import EmbeddedEngine

KILLED_WHILE_DELETING = """
import os, signal, sys
from pathlib import Path
from keyvault.transit.embedded import EmbeddedEngine

engine = EmbeddedEngine(Path(sys.argv[1]))
left = int(sys.argv[2])

def trace(statement):
    global left
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1

# With so small a cache, changed pages go to the file before the commit: a hot journal stays behind.
engine._file._connection.execute("PRAGMA cache_size=5").fetchall()
engine._file._connection.set_trace_callback(trace)
engine.delete_keys(sys.argv[3:])
engine._file._connection.set_trace_callback(None)
os.kill(os.getpid(), signal.SIGUSR1)
"""

BUSY_WORKER = """
import sys
from pathlib import Path
from keyvault.transit.embedded import EmbeddedEngine

engine = EmbeddedEngine(Path(sys.argv[1]), create=True)
for turn in range(20):
    names = [f"k{sys.argv[2]}-{turn}-{number}" for number in range(5)]
    assert engine.create_keys(names) == [None] * 5
    assert engine.delete_keys(names[1:]) == [None] * 4
    engine.rotate(names[0])
engine.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "keys.db"


@pytest.fixture
def engine(path: Path) -> Iterator[EmbeddedEngine]:
    with closing(EmbeddedEngine(path, create=True)) as made:
        yield made


def slots(path: Path, where: str, *arguments: str) -> list[bytes]:
    query = f"SELECT material FROM slot WHERE id IN (SELECT slot FROM {where})"  # noqa: S608 - the test's own
    with closing(sqlite3.connect(path)) as connection:
        return [bytes(row[0]) for row in connection.execute(query, arguments)]


def slots_of(path: Path, names: list[str]) -> list[bytes]:
    return [material for name in names for material in slots(path, "key_version WHERE name = ?", name)]


def found(path: Path, secrets: list[bytes]) -> list[bytes]:
    contents = [file.read_bytes() for file in path.parent.iterdir()]
    return [secret for secret in secrets if any(secret in content for content in contents)]


# --- nothing left behind -----------------------------------------------------------------------------------------------


def test_a_deleted_keys_material_is_in_no_file(engine: EmbeddedEngine, path: Path) -> None:
    names = [f"k{number}" for number in range(200)]
    engine.create_keys(names)
    engine.rotate("k7")
    doomed, kept = slots_of(path, ["k7", "k100"]), slots_of(path, ["k8"])
    assert len(doomed) == 3
    assert found(path, doomed + kept) == doomed + kept
    engine.delete_keys(["k7", "k100"])
    assert found(path, doomed) == []
    assert found(path, kept) == kept


def test_a_trimmed_versions_material_is_in_no_file(engine: EmbeddedEngine, path: Path) -> None:
    engine.create_keys(["k"])
    old = slots_of(path, ["k"])
    engine.rotate("k")
    (new,) = set(slots_of(path, ["k"])) - set(old)
    engine.set_min_versions("k", decryption=2, encryption=2)
    assert found(path, [*old, new]) == [*old, new]
    engine.trim("k", min_available=2)
    assert found(path, [*old, new]) == [new]


def test_an_overwritten_and_a_deleted_state_are_in_no_file(engine: EmbeddedEngine, path: Path) -> None:
    engine.put_state("a/b", "value one", expected_version=0)
    (first,) = slots(path, "state")
    engine.put_state("a/b", "value two", expected_version=1)
    (second,) = slots(path, "state")
    assert found(path, [first, second]) == [second]
    engine.delete_state("a/b")
    assert found(path, [second, b"value one", b"value two"]) == []


def test_nothing_removed_is_found_after_a_thousand_random_changes(engine: EmbeddedEngine, path: Path) -> None:
    chance = random.Random(20_261_123)
    removed: list[bytes] = []
    for turn in range(60):
        engine.create_keys([f"k{turn}-{chance.random()}" for _ in range(25)])
        names = engine.list_keys()
        doomed = chance.sample(names, 12)
        removed += slots_of(path, doomed)
        engine.delete_keys(doomed)
        state = f"s/{chance.randrange(9)}"
        entry = engine.get_state(state)
        removed += slots(path, "state WHERE path = ?", state)
        engine.put_state(state, "x" * chance.randrange(9_000), expected_version=entry.version if entry else 0)
    assert len(removed) > 700
    assert found(path, removed) == []


def test_a_deletion_killed_at_any_statement_is_finished_by_the_next(tmp_path: Path) -> None:
    names = [f"k{number}" for number in range(60)]
    ended, hot_journals = [], 0
    for statement in range(0, 400, 23):
        path = tmp_path / str(statement) / "keys.db"
        with closing(EmbeddedEngine(path, create=True)) as engine:
            engine.create_keys([*names, "kept"])
            kept = engine.encrypt([Plaintext(name="kept", data=b"data")])[0]
        secrets = slots_of(path, names)
        command = [sys.executable, "-c", KILLED_WHILE_DELETING, str(path), str(statement), *names]
        ended.append(subprocess.run(command, check=False).returncode)
        journal = path.with_name("keys.db-journal")
        hot_journals += journal.exists() and any(secret in journal.read_bytes() for secret in secrets)
        if ended[-1] == -signal.SIGUSR1:
            assert found(path, secrets) == []
        with closing(EmbeddedEngine(path)) as engine:
            assert engine.delete_keys(names) == [None] * len(names)
            assert found(path, secrets) == []
            assert engine.list_keys() == ["kept"]
            assert engine.decrypt([Ciphertext(name="kept", text=str(kept))]) == [bytearray(b"data")]
    assert set(ended) == {-signal.SIGKILL, -signal.SIGUSR1}
    assert hot_journals, "no kill came while old pages were in the journal"


# --- the file ----------------------------------------------------------------------------------------------------------


def test_the_file_is_its_owners_alone(engine: EmbeddedEngine, path: Path) -> None:
    engine.create_keys(["k"])
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}


def test_keys_outlive_the_process_that_made_them(path: Path) -> None:
    with closing(EmbeddedEngine(path, create=True)) as engine:
        engine.create_keys(["k"])
        engine.create_log_key()
        public = engine.log_public_key()
        text = engine.encrypt([Plaintext(name="k", data=b"data")])[0]
    for create in (False, True):
        with closing(EmbeddedEngine(path, create=create)) as engine:
            assert engine.decrypt([Ciphertext(name="k", text=str(text))]) == [bytearray(b"data")]
            assert engine.log_public_key() == public


def test_a_missing_file_is_not_made_unasked(path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no key file"):
        EmbeddedEngine(path)
    assert not path.exists()


@pytest.mark.parametrize("size", [0, 1, 99, 4096, 8192, 20_000])
def test_a_truncated_file_is_refused(path: Path, size: int) -> None:
    with closing(EmbeddedEngine(path, create=True)) as engine:
        engine.create_keys([f"k{number}" for number in range(100)])
    os.truncate(path, size)
    with pytest.raises(ConfigurationError, match=r"keys\.db"):
        EmbeddedEngine(path)


@pytest.mark.parametrize("content", [b"not a database, but long enough for a header" * 99, b"SQLite format 3\0" * 300])
@pytest.mark.parametrize("create", [False, True])
def test_a_foreign_file_is_refused_and_left_alone(path: Path, content: bytes, create: bool) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=r"keys\.db"):
        EmbeddedEngine(path, create=create)
    assert path.read_bytes() == content


@pytest.mark.parametrize("create", [False, True])
def test_another_programs_database_is_refused(path: Path, create: bool) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE slot (id)")
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match="not a key file"):
        EmbeddedEngine(path, create=create)


def test_a_file_open_to_others_is_refused(path: Path) -> None:
    EmbeddedEngine(path, create=True).close()
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        EmbeddedEngine(path)


def test_a_folder_in_place_of_the_file_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="not a regular file"):
        EmbeddedEngine(path, create=True)


def test_a_parent_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be made or read"):
        EmbeddedEngine(tmp_path / "file" / "keys.db", create=True)


# --- others at the same file -------------------------------------------------------------------------------------------


def test_a_file_held_by_another_process_is_unavailable(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_keyfile, "BUSY_SECONDS", 0.05)
    with closing(EmbeddedEngine(path, create=True)) as engine, closing(sqlite3.connect(path)) as other:
        engine.create_keys(["k"])
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unavailable, match="locked"):
            engine.delete_keys(["k"])
        with pytest.raises(Unavailable, match="locked"):
            engine.read_keys(["k"])
        other.rollback()
        assert engine.delete_keys(["k"]) == [None]


def test_a_reader_keeps_a_deletion_from_claiming_to_be_done(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_keyfile, "BUSY_SECONDS", 0.05)
    with closing(EmbeddedEngine(path, create=True)) as engine, closing(sqlite3.connect(path)) as other:
        engine.create_keys(["k"])
        secrets = slots_of(path, ["k"])
        other.execute("BEGIN")
        other.execute("SELECT * FROM slot").fetchall()
        with pytest.raises(Unavailable):
            engine.delete_keys(["k"])
        assert engine.list_keys() == ["k"]
        other.rollback()
        engine.delete_keys(["k"])
        assert found(path, secrets) == []


def test_processes_share_one_file(path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        command = [sys.executable, "-c", BUSY_WORKER, str(path)]
        done = list(threads.map(lambda number: subprocess.run([*command, str(number)], check=False), range(4)))
    assert [process.returncode for process in done] == [0, 0, 0, 0]
    with closing(EmbeddedEngine(path)) as engine:
        assert len(engine.list_keys()) == 80


def test_a_failed_batch_changes_nothing(engine: EmbeddedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.create_keys(["k"])

    def full(*_: object) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    monkeypatch.setattr("keyvault.transit.embedded.wipe_slots", full)
    with pytest.raises(Unavailable, match="full"):
        engine.delete_keys(["k"])
    assert engine.list_keys() == ["k"]


def test_errors_share_the_projects_root(path: Path) -> None:
    with pytest.raises(KeyVaultError):
        EmbeddedEngine(path)
