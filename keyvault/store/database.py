"""The connection to the database: one engine, transactions that are retried, errors wrapped at this boundary."""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, make_url

from keyvault.clock import Clock
from keyvault.errors import ConfigurationError, StoreError, StoreVersionError, Unavailable
from keyvault.store import system
from keyvault.store.dialects import Moment
from keyvault.store.tables import REVISION

T = TypeVar("T")

BUSY_SECONDS = 10.0
BUSY_POLL = 0.02
TEST_AFTER_SECONDS = 1.0
ATTEMPTS = 12
LET_PASS = (0.005, 0.02)
"""Seconds after which a transaction that lost is run again for the first time."""
RETRYABLE_SQLSTATES = frozenset({"40001", "40P01", "55P03"})
"""Serialization failure, deadlock, lock not available (PostgreSQL, appendix A)."""
PATIENCE = {
    "connect_timeout": 10,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
}
"""After which a PostgreSQL that a network has silently cut off counts as gone (libpq; in seconds, `tcp_user_timeout` in milliseconds)."""
SYNC_CANCELLED = "canceling wait for synchronous replication"


class _RetryTransactionError(Exception):
    """A transaction lost against another one and left nothing behind; run it again."""


class Database:
    """A SQLite file or a PostgreSQL server. Thread-safe; every transaction is a function, so that it can be run again."""

    def __init__(self, url: str, *, create: bool = False) -> None:
        """Prepare a pool; nothing is connected yet. `create` lets a SQLite file come to be.

        `ConfigurationError` for a URL of another kind of database, or a SQLite file that is not there.
        """
        self.engine = _create_engine(url, create=create)
        self.dialect = self.engine.dialect.name

    def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a read transaction on the primary."""
        return self._run(work, write=False)

    def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one transaction and commit; run it again when it lost a deadlock or a serialization conflict."""
        return self._run(work, write=True)

    def now(self, connection: Connection) -> datetime:
        """Return the database's clock, aware, in UTC."""
        if self.dialect == "sqlite":
            return datetime.now(UTC)
        moment: datetime = connection.execute(sa.text("SELECT clock_timestamp()")).scalar_one()
        return moment.astimezone(UTC)

    def own_now(self, connection: Connection, clock: Clock) -> datetime | None:
        """Return the same, or None where it tells no more than `clock`: in a file on the same machine, and when time is simulated."""
        return None if clock.simulated or self.dialect == "sqlite" else self.now(connection)

    def clock(self) -> Moment:
        """Return the same for use in a statement, which spares asking for it."""
        return (
            datetime.now(UTC) if self.dialect == "sqlite" else sa.func.clock_timestamp(type_=sa.DateTime(timezone=True))
        )

    def transaction_clock(self) -> Moment:
        """Return when a transaction began, by the database's clock, for use in its statements: the same in all of them."""
        return datetime.now(UTC) if self.dialect == "sqlite" else sa.func.now(type_=sa.DateTime(timezone=True))

    def confirm(self, node: str) -> None:
        """Commit something now, so that a standby that confirms it has confirmed every commit before it.

        Whoever reports what another run committed calls this first: that run may never have heard from the standby. Raises
        `Unavailable` when the standby does not answer. SQLite has none.
        """
        if self.dialect != "sqlite":
            self.write(lambda connection: system.beat(connection, node, self.transaction_clock()))

    def check_version(self) -> None:
        """Raise `StoreVersionError` unless the schema is exactly the one this program knows."""
        found = self.revision()
        if found is None:
            raise StoreVersionError("the database holds no keyvault tables: run `keyvault init`")
        if found != REVISION:
            raise StoreVersionError(
                f"the database is at migration {found}, this program knows {REVISION}: "
                "install the version that made it, or run `keyvault init` to migrate an older one"
            )

    def revision(self) -> str | None:
        """Return the Alembic revision that the database is at, or None."""

        def work(connection: Connection) -> str | None:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()

        return self.read(work)

    def forget_deleted(self) -> None:
        """Leave no deleted content in SQLite's journal: move it into the file and cut the journal to nothing.

        Raises `Unavailable` while another process reads an older state; PostgreSQL needs none of this, as its pages hold
        nothing that reads without a key.
        """
        if self.dialect != "sqlite":
            return
        patience = time.monotonic() + BUSY_SECONDS
        while not self._journal_emptied():
            if time.monotonic() > patience:
                raise Unavailable(
                    "the database's journal is in use by another process and still holds deleted rows: nothing destroyed comes back by that; "
                    "run the command again to empty it"
                )
            time.sleep(BUSY_POLL)

    def _journal_emptied(self) -> bool:
        """Try once. SQLite waits for readers by itself, but not for another process that is emptying the journal, too."""
        with _wrapped_errors(), self.engine.connect() as connection:
            return bool(connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0] == 0)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def _run(self, work: Callable[[Connection], T], *, write: bool) -> T:
        try:
            return self._once(work, write=write)
        except _RetryTransactionError:
            # At once, it would overtake those that wait for what it has let go, and meet them in the next deadlock.
            time.sleep(random.uniform(*LET_PASS))
            return self._again(work, write=write)

    def _again(self, work: Callable[[Connection], T], *, write: bool) -> T:
        import stamina  # here, because its import takes longer than a transaction and is seldom needed

        try:
            for attempt in stamina.retry_context(
                on=_RetryTransactionError,
                attempts=ATTEMPTS - 1,
                timeout=None,
                wait_initial=0.01,
                wait_max=0.5,
                wait_jitter=0.1,
            ):
                with attempt:
                    return self._once(work, write=write)
        except _RetryTransactionError as error:
            raise Unavailable("the database is too busy: transactions keep colliding") from error
        raise AssertionError("unreachable: the retry context returns or raises")

    def _once(self, work: Callable[[Connection], T], *, write: bool) -> T:
        with _wrapped_errors(), self.engine.connect() as plain:
            connection = plain.execution_options(keyvault_write=write)
            with connection.begin():
                result = work(connection)
            if write:
                _check_replicated(connection)
            return result


def _create_engine(url: str, *, create: bool) -> Engine:
    try:
        parsed = make_url(url)
    except sa.exc.ArgumentError as error:
        raise ConfigurationError(
            "the store's URL does not parse: expected sqlite:///PATH or postgresql://HOST/NAME"
        ) from error
    if parsed.drivername == "sqlite":
        _require_file(parsed, create=create)
        return _sqlite_engine(parsed)
    if parsed.drivername in {"postgresql", "postgresql+psycopg"}:
        return _postgresql_engine(parsed.set(drivername="postgresql+psycopg"))
    raise ConfigurationError(f"no store for {parsed.drivername}: use sqlite:///PATH or postgresql://HOST/NAME")


def _sqlite_engine(url: sa.URL) -> Engine:
    engine = sa.create_engine(
        url, hide_parameters=True, connect_args={"timeout": BUSY_SECONDS, "check_same_thread": False}
    )

    @sa.event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: Any) -> None:
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}").close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        write = connection.get_execution_options().get("keyvault_write", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


def _require_file(url: sa.URL, *, create: bool) -> None:
    if not url.database or url.database == ":memory:":
        raise ConfigurationError("the store needs a file: sqlite:///PATH")
    path = Path(url.database)
    if path.exists():
        return
    if not create:
        raise ConfigurationError(
            f"the database {path} is missing: restore it from a backup, or make a home with `keyvault init`"
        )
    try:
        path.touch(mode=0o600)  # its journals take the same mode
    except OSError as error:
        raise ConfigurationError(f"the database {path} cannot be made: {error.strerror}") from error


def _postgresql_engine(url: sa.URL) -> Engine:
    engine = sa.create_engine(url, hide_parameters=True, pool_size=16, connect_args=_patience(url))
    _test_rested(engine)

    @sa.event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: Any) -> None:
        from psycopg.types.array import ListBinaryDumper

        # As text, which is its choice otherwise, psycopg takes a hundred times as long over an array of random bytes.
        connection.adapters.register_dumper(list, ListBinaryDumper)
        notices: list[str] = []
        record.info["notices"] = notices
        connection.add_notice_handler(lambda diagnostic: notices.append(diagnostic.message_primary or ""))

    return engine


def _patience(url: sa.URL) -> dict[str, int]:
    """Return what of `PATIENCE` the URL does not say itself."""
    return {name: value for name, value in PATIENCE.items() if name not in url.query}


def _test_rested(engine: Engine) -> None:
    """Test connections that nobody has used for a while, before somebody does, and replace those that are dead.

    Not all of them, as SQLAlchemy can: one destruction takes a dozen transactions one after the other.
    """

    @sa.event.listens_for(engine, "checkin")
    def _note(_connection: Any, record: Any) -> None:
        record.info["used_at"] = time.monotonic()

    @sa.event.listens_for(engine, "checkout")
    def _test(connection: Any, record: Any, _proxy: Any) -> None:
        used_at = record.info.get("used_at")
        if used_at is None or time.monotonic() - used_at < TEST_AFTER_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as error:
            raise sa.exc.InvalidatePoolError from error


def _check_replicated(connection: Connection) -> None:
    """Raise when the commit was not confirmed by the standby that the server is configured to wait for.

    PostgreSQL commits locally and only warns when the wait is cancelled (manual, section 27.2.8.3).
    """
    notices: list[str] = connection.info.get("notices", [])
    cancelled = any(SYNC_CANCELLED in notice for notice in notices)
    notices.clear()
    if cancelled:
        raise Unavailable("the standby did not confirm the commit: nothing may rest on it yet; try again")


class _wrapped_errors:  # noqa: N801 - reads as the statement it is
    """Turn the database's errors into ours: retry, try later, or give up."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sa.exc.DBAPIError):
            raise _translate(error) from error
        if isinstance(error, sa.exc.TimeoutError):
            raise Unavailable("all database connections are in use") from error


def _translate(error: sa.exc.DBAPIError) -> Exception:
    origin = error.orig
    if getattr(origin, "sqlstate", None) in RETRYABLE_SQLSTATES:
        return _RetryTransactionError()
    if isinstance(origin, sqlite3.Error):
        return _translate_sqlite(origin)
    text = str(origin).strip().splitlines()[0] if str(origin).strip() else type(origin).__name__
    if isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError) or error.connection_invalidated:
        return Unavailable(f"the database cannot be reached: {text}")
    return StoreError(f"the database refused: {text}")


def _translate_sqlite(origin: sqlite3.Error) -> Exception:
    name = getattr(origin, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return _RetryTransactionError()
    if name in {"SQLITE_FULL", "SQLITE_IOERR_WRITE"}:
        return Unavailable("the disk that holds the database is full: free some space and try again")
    if name in {"SQLITE_NOTADB", "SQLITE_CORRUPT"}:
        return StoreError("the database file is damaged or is not a database: restore it from a backup")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return StoreError(f"the database file cannot be opened for writing: {origin}")
    return StoreError(f"the database refused: {origin}")
