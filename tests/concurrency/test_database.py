"""Transactions that lose against others are run again, a bounded number of times; databases that refuse are told apart."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Event
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.errors import StoreError, Unavailable
from keyvault.store import database as module
from keyvault.store.database import ATTEMPTS, Database
from tests.servers import PostgresServer
from tests.servers.postgres import libpq_url

ADD = sa.text("UPDATE t SET n = n + 1 WHERE id = :id")
LOCK = sa.text("SELECT n FROM t WHERE id = 1 FOR UPDATE NOWAIT")
LONGEST = 15.0
"""Seconds that all attempts together may take."""


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[Database]:
    database = Database(postgres_url)
    database.write(prepare)
    yield database
    database.close()


def prepare(connection: Connection) -> None:
    connection.execute(sa.text("CREATE TABLE t (id INTEGER PRIMARY KEY, n INTEGER NOT NULL)"))
    connection.execute(sa.text("INSERT INTO t VALUES (1, 0), (2, 0)"))


def numbers(database: Database) -> list[int]:
    return database.read(lambda connection: list(connection.execute(sa.text("SELECT n FROM t ORDER BY id")).scalars()))


def test_of_two_transactions_in_a_deadlock_both_commit(postgres: Database) -> None:
    both_hold_one = Barrier(2)
    attempts: list[int] = []

    def cross(first: int, second: int) -> None:
        def work(connection: Connection) -> None:
            attempts.append(first)
            connection.execute(ADD, {"id": first})
            if len(attempts) <= 2:  # the one that is run again finds nobody to meet
                both_hold_one.wait(timeout=10)
            connection.execute(ADD, {"id": second})

        postgres.write(work)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(cross, (1, 2), (2, 1)))
    assert len(attempts) > 2, (
        "PostgreSQL ends a deadlock by aborting one of the two, which may overtake the other's waiting and meet it again"
    )
    assert numbers(postgres) == [2, 2]


def test_a_serialization_failure_is_run_again(postgres: Database) -> None:
    attempts: list[int] = []

    def work(connection: Connection) -> None:
        connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE"))
        seen = connection.execute(sa.text("SELECT n FROM t WHERE id = 1")).scalar_one()
        attempts.append(seen)
        if len(attempts) < 3:
            postgres.write(lambda other: other.execute(ADD, {"id": 1}))
        connection.execute(sa.text("UPDATE t SET n = :n WHERE id = 1"), {"n": seen + 10})

    postgres.write(work)
    assert attempts == [0, 1, 2]
    assert numbers(postgres) == [12, 0]


def test_a_transaction_that_always_collides_ends_as_unavailable(postgres: Database) -> None:
    attempts: list[int] = []

    def work(connection: Connection) -> None:
        connection.execute(sa.text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"))
        attempts.append(connection.execute(sa.text("SELECT n FROM t WHERE id = 1")).scalar_one())
        postgres.write(lambda other: other.execute(ADD, {"id": 1}))
        connection.execute(sa.text("UPDATE t SET n = 1000 WHERE id = 1"))

    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"^the database is too busy: transactions keep colliding$") as raised:
        postgres.write(work)
    assert raised.value.retry_after > 0
    assert len(attempts) == ATTEMPTS
    assert time.monotonic() - started < LONGEST
    assert numbers(postgres) == [ATTEMPTS, 0], "nothing of the losing transaction is left"


def test_a_lock_that_is_not_available_is_waited_for(postgres: Database) -> None:
    tried, held = Event(), Event()

    def hold(connection: Connection) -> None:
        connection.execute(LOCK)
        held.set()
        assert tried.wait(10)

    def work(connection: Connection) -> None:
        tries.append(1)
        try:
            connection.execute(LOCK)
        finally:
            tried.set()
        connection.execute(ADD, {"id": 1})

    tries: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(postgres.write, hold)
        assert held.wait(10)
        postgres.write(work)
        holder.result()
    assert len(tries) > 1
    assert numbers(postgres) == [1, 0]


def test_a_lost_connection_is_unavailable_and_the_next_call_works(
    postgres: Database, postgres_url: str, postgres_server: PostgresServer
) -> None:
    assert postgres_url.startswith(postgres_server.url.rpartition("/")[0])

    def work(connection: Connection) -> None:
        pid = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
        with psycopg.connect(libpq_url(postgres_url), autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", (pid,))
        connection.execute(ADD, {"id": 1})

    with pytest.raises(Unavailable, match="the database cannot be reached"):
        postgres.write(work)
    assert numbers(postgres) == [0, 0]


def test_a_connection_that_rested_is_replaced_when_it_is_dead_and_one_in_use_is_not_tested(
    postgres: Database, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = postgres.read(backend)
    tests: list[object] = []
    ping = postgres.engine.dialect.do_ping

    def counted(connection: Any) -> bool:
        tests.append(connection)
        return ping(connection)

    monkeypatch.setattr(postgres.engine.dialect, "do_ping", counted)
    monkeypatch.setattr(module, "TEST_AFTER_SECONDS", 3600.0)
    assert postgres.read(backend) == pid
    assert not tests
    monkeypatch.setattr(module, "TEST_AFTER_SECONDS", 0.0)
    assert postgres.read(backend) == pid
    assert len(tests) == 1
    with psycopg.connect(libpq_url(postgres_url), autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
    assert postgres.read(backend) != pid
    assert len(tests) == 2


def backend(connection: Connection) -> int:
    pid: int = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
    return pid


def test_a_refused_statement_is_not_run_again(postgres: Database) -> None:
    attempts: list[int] = []

    def work(connection: Connection) -> None:
        attempts.append(1)
        connection.execute(sa.text("INSERT INTO t VALUES (1, 0)"))

    with pytest.raises(StoreError, match="the database refused"):
        postgres.write(work)
    assert attempts == [1]


# --- SQLite ------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setattr(module, "BUSY_SECONDS", 0.01)
    database = Database(f"sqlite:///{tmp_path / 'store.db'}", create=True)
    database.write(prepare)
    yield database
    database.close()


@pytest.fixture
def rival(tmp_path: Path, file: Database) -> Iterator[sqlite3.Connection]:
    assert file.dialect == "sqlite"
    connection = sqlite3.connect(tmp_path / "store.db", isolation_level=None, check_same_thread=False)
    yield connection
    connection.close()


def test_a_busy_file_is_waited_for(file: Database, rival: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[int] = []
    plain = module._translate_sqlite

    def counted(error: sqlite3.Error) -> Exception:
        tries.append(1)
        if len(tries) == 3:
            rival.execute("COMMIT")
        return plain(error)

    monkeypatch.setattr(module, "_translate_sqlite", counted)
    rival.execute("BEGIN IMMEDIATE")
    file.write(lambda connection: connection.execute(ADD, {"id": 1}))
    assert len(tries) == 3
    assert numbers(file) == [1, 0]


def test_a_file_that_stays_busy_ends_as_unavailable(file: Database, rival: sqlite3.Connection) -> None:
    rival.execute("BEGIN IMMEDIATE")
    started = time.monotonic()
    with pytest.raises(Unavailable, match=r"^the database is too busy: transactions keep colliding$"):
        file.write(lambda connection: connection.execute(ADD, {"id": 1}))
    assert time.monotonic() - started < LONGEST
    assert numbers(file) == [0, 0], "reading goes on meanwhile"
    rival.execute("ROLLBACK")
