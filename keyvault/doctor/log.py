"""The log, as far as it can be seen without reading it: whether database, engine and directory are at the same checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from keyvault.doctor.check import Check
from keyvault.errors import KeyVaultError
from keyvault.home import log_directory
from keyvault.log_head import read_head
from keyvault.settings import Settings
from keyvault.store import log as log_store
from keyvault.store import system
from keyvault.store.database import Database
from keyvault.transit.base import TransitEngine

_HEAD = "log: database and engine are at the same checkpoint"
_DIRECTORY = "log: its directory has that checkpoint"
NAMES = (_HEAD, _DIRECTORY)


def check_log(directory: Path, settings: Settings, database: Database, engine: TransitEngine) -> Iterator[Check]:
    """Compare the three. What waits for the log is told, and is no fault: the next command that needs it takes it there."""
    known = database.read(log_store.recorded)
    row = database.read(system.load)
    try:
        head = read_head(engine, 1 if row is None else row.incarnation)
    except KeyVaultError as error:
        yield Check(name=_HEAD, ok=False, detail=str(error), remedy="see what the message says; then run this again")
    else:
        yield Check(
            name=_HEAD,
            ok=head.size == known.size,
            detail=f"{known.size} entries in the database, {head.size} in the engine; {_waiting(database)}",
            remedy="run `keyvault log checkpoint`, which finishes what was interrupted; if this stays, one of the two is an older copy",
        )
    path = log_directory(directory, settings) / "checkpoint"
    note = path.read_bytes() if path.exists() else None
    yield Check(
        name=_DIRECTORY,
        ok=note == (None if known.note is None else known.note.encode()),
        detail=str(path) if note else f"{path} is not there{'' if known.note else ', and nothing is logged yet'}",
        remedy="run `keyvault log checkpoint`; if this stays, restore the log's directory",
    )


def _waiting(database: Database) -> str:
    return "nothing waits" if database.read(log_store.last_unlogged) is None else "events wait to be logged"
