"""The embedded engine's one SQLite file, opened so that what is removed from it leaves no copy in any file.

Secrets live only in `slot`, 32 bytes each. A row of `slot` is never deleted and never changes its size: it is appended,
overwritten with zeros where it lies, and used again. SQLite's secure deletion promises zeros in place of deleted
content, but nothing about copies made when live rows move between pages; rows that never move need no promise. State
values are longer, so each is sealed under a key of its own in a slot, and goes with it.

The journal is a rollback journal, truncated and synced at each commit: when a commit returns, nothing before it is in any
file, and a crash leaves either the whole change or a journal that the next opening rolls back and truncates.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import stat
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keyvault.errors import ConfigurationError, KeyVaultError, TransitError, Unavailable

MATERIAL_BYTES = 32
BUSY_SECONDS = 10.0

_APPLICATION_ID = 0x4B565452  # "KVTR"
_SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE slot (id INTEGER PRIMARY KEY, material BLOB NOT NULL CHECK (length(material) = 32));
CREATE TABLE free_slot (id INTEGER PRIMARY KEY REFERENCES slot);
CREATE TABLE named_key (
  name TEXT PRIMARY KEY, latest INTEGER NOT NULL, min_available INTEGER NOT NULL,
  min_decryption INTEGER NOT NULL, min_encryption INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE key_version (
  name TEXT NOT NULL REFERENCES named_key, version INTEGER NOT NULL, slot INTEGER NOT NULL REFERENCES slot,
  PRIMARY KEY (name, version)
) WITHOUT ROWID;
CREATE TABLE log_key (id INTEGER PRIMARY KEY CHECK (id = 1), slot INTEGER NOT NULL REFERENCES slot);
CREATE TABLE state (
  path TEXT PRIMARY KEY, version INTEGER NOT NULL, slot INTEGER NOT NULL REFERENCES slot, sealed BLOB NOT NULL
);
"""
_RETRYABLE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


class KeyFile:
    """One connection to the file under one lock: transactions, and the slots that hold key material.

    `ConfigurationError` when the file is missing (and `create` is false), truncated, foreign or readable by others.
    """

    def __init__(self, path: Path, *, create: bool) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._closed = False
        _prepare(path, create=create)
        with self._errors():
            self._connection = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=64
            )
        try:
            self._configure(create=create)
        except KeyVaultError:
            self._connection.close()
            raise

    def _configure(self, *, create: bool) -> None:
        with self._errors():
            # FULL syncs the truncated journal too; else a power loss could bring it back and undo a removal.
            for pragma in ("secure_delete=ON", "journal_mode=TRUNCATE", "synchronous=FULL", "temp_store=MEMORY"):
                self._connection.execute(f"PRAGMA {pragma}").fetchall()
        if create:
            with self.write() as connection:
                if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                    _lay_out(connection)
        with self.read() as connection:
            marks = [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
        if marks != [_APPLICATION_ID, _SCHEMA_VERSION]:
            raise ConfigurationError(f"{self._path} is not a key file that this version reads; check the engine's path")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """Run a block on one consistent view. `Unavailable` if another process holds the file for 10 seconds."""
        yield from self._transaction("BEGIN")

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Run a block as one transaction: on disk when the block ends, undone when it raises. Errors as for `read`."""
        yield from self._transaction("BEGIN IMMEDIATE")

    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            if self._closed:
                raise TransitError("the embedded engine is closed")
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite has rolled back by itself after some errors, and refuses to do it twice.
                with suppress(sqlite3.OperationalError):
                    self._connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            # Extended result codes carry the primary one in their low byte (sqlite.org/rescode.html).
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            if code in _RETRYABLE:
                raise Unavailable(f"the key file {self._path} cannot be used now: {error}") from error
            raise ConfigurationError(
                f"the key file {self._path} cannot be used: {error}; check the engine's path and the file's permissions, "
                "or put back a whole copy of the file"
            ) from error

    def close(self) -> None:
        """Close the connection; may be called twice."""
        with self._lock:
            self._closed = True
            self._connection.close()


def new_slots(connection: sqlite3.Connection, count: int) -> list[int]:
    """Put fresh random 32-byte secrets into `count` slots, used ones first, and return the slots' ids."""
    free = [row[0] for row in connection.execute("SELECT id FROM free_slot LIMIT ?", (count,))]
    connection.executemany("DELETE FROM free_slot WHERE id = ?", ((slot,) for slot in free))
    connection.executemany(
        "UPDATE slot SET material = ? WHERE id = ?", ((secrets.token_bytes(MATERIAL_BYTES), slot) for slot in free)
    )
    insert = "INSERT INTO slot (material) VALUES (?) RETURNING id"
    fresh = [
        connection.execute(insert, (secrets.token_bytes(MATERIAL_BYTES),)).fetchone()[0]
        for _ in range(count - len(free))
    ]
    return free + fresh


def wipe_slots(connection: sqlite3.Connection, slots: Iterable[int]) -> None:
    """Overwrite slots with zeros where they lie, and free them."""
    ids = [(slot,) for slot in slots]
    connection.executemany("UPDATE slot SET material = zeroblob(32) WHERE id = ?", ids)
    connection.executemany("INSERT INTO free_slot (id) VALUES (?)", ids)


def _lay_out(connection: sqlite3.Connection) -> None:
    for statement in _SCHEMA.split(";")[:-1]:
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id={_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")


def _prepare(path: Path, *, create: bool) -> None:
    try:
        if create:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        status = path.stat()
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"there is no key file {path}; `keyvault init` makes one, or correct the path"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"the key file {path} cannot be made or read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(f"the key file {path} is not a regular file; correct the engine's path")
    if status.st_mode & 0o077:
        raise ConfigurationError(f"the key file {path} is open to other users; run `chmod 600` on it")
    if not create and status.st_size == 0:
        raise ConfigurationError(f"the key file {path} is empty; put back a whole copy of the file")
