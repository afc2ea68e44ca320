"""What it means that a key is not there although the database calls it alive: an alarm, unless it was destroyed meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy.engine import Connection

from keyvault.admission import check_record
from keyvault.custody.base import Target
from keyvault.errors import KeyMissingError, KeyVaultError, PuncturedError, ScopeDestroyedError, ScopeFencedError
from keyvault.results import caught
from keyvault.states import check_issuable
from keyvault.store import fenced_records
from keyvault.store import scopes as scope_store
from keyvault.store.database import Database

T = TypeVar("T")

MISSING = (KeyMissingError, PuncturedError)


def explain_missing(
    database: Database, targets: Sequence[Target], results: Sequence[T | KeyVaultError]
) -> list[T | KeyVaultError]:
    """Say of each missing key whose it is, and that it was destroyed where the database says so by now."""
    missing = [target for target, result in zip(targets, results, strict=True) if isinstance(result, MISSING)]
    if not missing:
        return list(results)

    def work(connection: Connection) -> dict[tuple[bytes, bytes], KeyVaultError]:
        rows = scope_store.by_id(connection, [target.row.id for target in missing])
        marks = fenced_records.by_key(connection, [(row.id, tag) for row, tag in missing if tag])
        return {target.key: _explained(target, rows, marks) for target in missing}

    explained = database.read(work)
    return [
        explained[target.key] if isinstance(result, MISSING) else result
        for target, result in zip(targets, results, strict=True)
    ]


def _explained(
    target: Target,
    rows: dict[bytes, scope_store.ScopeRow],
    marks: dict[fenced_records.RecordKey, fenced_records.RecordRow],
) -> KeyVaultError:
    row = rows.get(target.row.id, target.row)
    if isinstance(ended := caught(check_issuable, row.state, row.id), ScopeFencedError | ScopeDestroyedError):
        return ended
    mark = marks.get((row.id, target.record_tag))
    if mark and isinstance(ended := caught(check_record, mark), ScopeFencedError | ScopeDestroyedError):
        return ended
    what = "the key of one of its records" if target.record_tag else "its key"
    return KeyMissingError(
        f"scope {row.id.hex()}: {what} is missing from the engine although the database calls it {row.state}: either it was "
        "destroyed and this database is an older copy, or the engine is not this store's. Nothing can be read; run `keyvault doctor`"
    )
