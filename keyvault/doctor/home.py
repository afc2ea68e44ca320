"""Checking a home without changing it: what is not as it should be, and how to mend it.

Every check answers for itself; one that cannot be made because another failed, or because the role in use may not look, says so
and is never counted as good.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from functools import partial
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.doctor.check import Check
from keyvault.doctor.keys import TOGETHER, check_together
from keyvault.errors import KeyMissingError, KeyVaultError
from keyvault.home import CREDENTIALS_DIR, ENGINE_FILE, make_clock, open_engine, read_credentials, vault_settings
from keyvault.settings import FILE_NAME, Settings, load_settings
from keyvault.store import system, tables
from keyvault.store.database import Database

PAGE = 1_000
OTHERS = stat.S_IRWXG | stat.S_IRWXO


def check_home(directory: Path, *, admin_token: str | None = None) -> list[Check]:
    """Check everything about a home; nothing is changed.

    `admin_token` is a Vault administrator's, for what no role may read. Never raises for what it finds; `ConfigurationError` (or
    `HomeNotFoundError`) when there are no settings to begin with.
    """
    settings = load_settings(directory)
    checks = [*_check_files(directory, settings), *_check_store(settings)]
    store_is_good = all(check.ok for check in checks if check.name.startswith("store"))
    checks += _check_engine_itself(directory, settings, admin_token)
    if not store_is_good:
        reason = "not checked: the store has to be mended first"
        return [*checks, *(Check(name=name, ok=None, detail=reason) for name in TOGETHER)]
    return [*checks, *check_together(directory, settings, admin_token)]


# --- files -----------------------------------------------------------------------------------------------------------


def _check_files(directory: Path, settings: Settings) -> Iterator[Check]:
    yield _private("home directory", directory, "chmod 700")
    yield _private(f"settings {FILE_NAME}", directory / FILE_NAME, "chmod 600")
    if settings.engine == "vault":
        folder = directory / CREDENTIALS_DIR
        yield _private("credentials directory", folder, "chmod 700")
        for path in sorted(folder.glob("*.json")):
            yield _private(f"credentials {path.name}", path, "chmod 600")
    else:
        yield _outside(directory, Path(str(settings.engine_dir)))
        yield _private("engine file", Path(str(settings.engine_dir)) / ENGINE_FILE, "chmod 600")
    store = settings.store.removeprefix("sqlite:///")
    if store != settings.store:
        yield _private("store file", Path(store), "chmod 600")


def _private(name: str, path: Path, command: str) -> Check:
    try:
        status = path.stat()
    except FileNotFoundError:
        return Check(name=name, ok=False, detail=f"{path} is missing", remedy="run `keyvault init`, or put it back")
    except OSError as error:
        return Check(name=name, ok=False, detail=f"{path}: {error.strerror}", remedy="run this as the home's owner")
    if status.st_mode & OTHERS:
        return Check(name=name, ok=False, detail=f"{path} is open to other users", remedy=f"run `{command} {path}`")
    if status.st_uid != os.geteuid():
        return Check(
            name=name, ok=False, detail=f"{path} belongs to another user", remedy="run this as the home's owner"
        )
    return Check(name=name, ok=True, detail=f"{path} is its owner's alone")


def _outside(directory: Path, engine_dir: Path) -> Check:
    name = "engine file outside the home"
    if engine_dir.resolve().is_relative_to(directory.resolve()):
        remedy = f"move {engine_dir} elsewhere and set engine_dir in {FILE_NAME}"
        return Check(name=name, ok=False, detail="a copy of the home would copy the keys", remedy=remedy)
    return Check(name=name, ok=True, detail="a copy of the home copies no keys")


# --- the store ---------------------------------------------------------------------------------------------------------


def _check_store(settings: Settings) -> Iterator[Check]:
    try:
        database = Database(settings.store)
    except KeyVaultError as error:
        yield Check(
            name="store reachable", ok=False, detail=str(error), remedy="correct the store's URL, or restore the file"
        )
        return
    with closing(database):
        reached = _asked("store reachable and at this program's migration", database.check_version, tables.REVISION)
        yield reached
        if not reached.ok:
            return
        yield _asked("store bound to this home", lambda: _check_bound(database, settings), settings.id)
        yield from _check_sqlite(database) if database.dialect == "sqlite" else _check_postgresql(database, settings)


def _asked(name: str, work: Callable[[], object], detail: str) -> Check:
    try:
        work()
    except KeyVaultError as error:
        return Check(name=name, ok=False, detail=str(error), remedy="see what the message says; then run this again")
    return Check(name=name, ok=True, detail=detail)


def _check_bound(database: Database, settings: Settings) -> None:
    row = database.read(system.load)
    if row is None:
        raise KeyMissingError("the store is not finished: run `keyvault init` again")
    if row.home_id != settings.id:
        raise KeyMissingError(f"it belongs to the home {row.home_id}: check the store's URL")


def _check_sqlite(database: Database) -> Iterator[Check]:
    for pragma, wanted in (("secure_delete", "1"), ("journal_mode", "wal"), ("synchronous", "2")):
        found = database.read(partial(_pragma, name=pragma))
        remedy = (
            f"SQLite {sqlite3.sqlite_version} on this file system ignores the setting: move the store to a local disk"
        )
        yield Check(name=f"store: SQLite's {pragma}", ok=found == wanted, detail=found, remedy=remedy)


def _pragma(connection: Connection, name: str) -> str:
    return str(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())


def _check_postgresql(database: Database, settings: Settings) -> Iterator[Check]:
    commit = database.read(lambda c: str(c.execute(sa.text("SHOW synchronous_commit")).scalar_one()))
    remedy = "set synchronous_commit = on for this database: a fence that a crash forgets is no fence"
    yield Check(name="store: synchronous_commit", ok=commit in {"on", "remote_apply"}, detail=commit, remedy=remedy)
    clock = make_clock(settings)
    before = clock.now()
    there = database.read(database.now)
    apart = _apart(there, before, clock.now())
    yield Check(
        name="store: clock",
        ok=apart <= settings.clock_skew,
        detail=f"{apart:.1f} s apart from this machine's; {settings.clock_skew:g} s are allowed",
        remedy="synchronize both machines' clocks (NTP)",
    )


def _apart(there: datetime, before: datetime, after: datetime) -> float:
    """Return by how many seconds a time read between two others must differ from this machine's clock."""
    return max((before - there).total_seconds(), (there - after).total_seconds(), 0.0)


# --- the engine --------------------------------------------------------------------------------------------------------


def _check_engine_itself(directory: Path, settings: Settings, admin_token: str | None) -> Iterator[Check]:
    if settings.engine == "embedded":
        yield _asked(
            "engine opens", lambda: open_engine(directory, settings, role="issuer").close(), str(settings.engine_dir)
        )
        return
    from keyvault.vault_setup.checks import check_vault

    credentials = {}
    for path in sorted((directory / CREDENTIALS_DIR).glob("*.json")):
        try:
            credentials[path.stem] = read_credentials(directory, path.stem)
        except KeyVaultError as error:
            remedy = "remove the file and run `keyvault init` with an administrator's token in VAULT_TOKEN"
            yield Check(name=f"credentials {path.name} readable", ok=False, detail=str(error), remedy=remedy)
    try:
        found = check_vault(vault_settings(settings), admin_token, credentials)
    except KeyVaultError as error:
        yield Check(name="engine: Vault's settings", ok=False, detail=str(error), remedy=f"correct {FILE_NAME}")
        return
    yield from (Check(name=f"engine: {c.name}", ok=c.ok, detail=c.detail, remedy=c.remedy) for c in found)
