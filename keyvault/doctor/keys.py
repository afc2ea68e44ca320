"""Store and engine together: whether each key that should be there is, and none that should not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from keyvault.doctor import log as log_checks
from keyvault.doctor import rings as ring_checks
from keyvault.doctor.check import Check
from keyvault.errors import KeyVaultError, PermissionDeniedError
from keyvault.home import open_engine, vault_settings
from keyvault.inventory import compare_keys
from keyvault.settings import Settings
from keyvault.states import KeyState
from keyvault.store import fenced_records, intents, system
from keyvault.store import scopes as scope_store
from keyvault.store.database import Database
from keyvault.system_keys import load_system_keys
from keyvault.transit.base import TransitEngine

_SYSTEM_KEYS = "system keys are the ones this store was made with"
_MISSING = "every live scope has its key"
_RETURNED = "no destroyed scope has a key"
_STRAYS = "every key in the engine belongs to something"
TOGETHER = (_SYSTEM_KEYS, _MISSING, _RETURNED, _STRAYS, *ring_checks.NAMES, *log_checks.NAMES)


def check_together(directory: Path, settings: Settings, admin_token: str | None) -> Iterator[Check]:
    """Look at destructions, system keys, the scopes' keys and the rings."""
    with closing(Database(settings.store)) as database:
        yield from _check_destructions(database)
        try:
            engine = _listing_engine(directory, settings, admin_token)
        except KeyVaultError as error:
            yield from (Check(name=name, ok=None, detail=f"not checked: {error}") for name in TOGETHER)
            return
        with closing(engine):
            yield _check_system_keys(database, engine)
            yield from _check_keys(database, engine)
            yield from _check_rings(database, engine)
            yield from log_checks.check_log(directory, settings, database, engine)


def _listing_engine(directory: Path, settings: Settings, admin_token: str | None) -> TransitEngine:
    """Open the engine as somebody who may list keys: the administrator, or the shredder."""
    if settings.engine == "vault" and admin_token:
        from keyvault.transit.hashicorp import HashicorpEngine, TokenCredentials

        return HashicorpEngine(vault_settings(settings), TokenCredentials(token=admin_token))
    return open_engine(directory, settings, role="shredder")


def _check_destructions(database: Database) -> Iterator[Check]:
    paused, pending, unused = database.read(
        lambda c: (
            system.is_paused(c),
            scope_store.count_by_state(c)[KeyState.DEACTIVATED]
            + fenced_records.count_by_state(c)[KeyState.DEACTIVATED],
            intents.count(c),
        )
    )
    remedy = "run `keyvault destroy resume`"
    yield Check(name="destructions run", ok=not paused, detail="paused" if paused else "not paused", remedy=remedy)
    yield Check(name="no destruction is pending", ok=pending == 0, detail=f"{pending} pending", remedy=remedy)
    detail = f"{unused}; the next destruction deletes those that nobody is using"
    yield Check(name="unused keys", ok=True, detail=detail if unused else "0")


def _check_system_keys(database: Database, engine: TransitEngine) -> Check:
    remedy = "point the home to its own engine, or restore the engine and the store that belong together"
    try:
        row = database.read(system.load)
        load_system_keys(engine).verify({} if row is None else row.check_values)
    except KeyVaultError as error:
        return Check(name=_SYSTEM_KEYS, ok=False, detail=str(error), remedy=remedy)
    return Check(name=_SYSTEM_KEYS, ok=True, detail="their check values match")


def _check_keys(database: Database, engine: TransitEngine) -> Iterator[Check]:
    try:
        found = compare_keys(database, engine)
    except PermissionDeniedError as error:
        yield from (
            Check(name=name, ok=None, detail=f"not checked: {error}") for name in (_MISSING, _RETURNED, _STRAYS)
        )
        return
    except KeyVaultError as error:
        remedy = "see what the message says; then run this again"
        yield from (
            Check(name=name, ok=False, detail=str(error), remedy=remedy) for name in (_MISSING, _RETURNED, _STRAYS)
        )
        return
    older = "the database or the engine is an older copy, or the engine is another's: restore what belongs together"
    missing, returned, strays = len(found.missing), len(found.returned), len(found.unknown)
    yield Check(
        name=_MISSING,
        ok=missing == 0,
        detail=f"ALARM: {missing} of {found.live} keys are missing" if missing else f"{found.live} keys",
        remedy=older,
    )
    yield Check(
        name=_RETURNED,
        ok=returned == 0,
        detail=f"ALARM: {returned} destroyed keys are back" if returned else f"{found.gone} destroyed keys",
        remedy=older,
    )
    yield Check(
        name=_STRAYS,
        ok=strays == 0,
        detail=f"{strays} keys belong to nothing in this database" if strays else f"{len(found.names) - 1} keys",
        remedy="the database is probably older than the engine: restore the newer one; never delete such keys by hand",
    )


def _check_rings(database: Database, engine: TransitEngine) -> Iterator[Check]:
    try:
        yield from list(ring_checks.check_rings(database, engine))
    except PermissionDeniedError as error:
        yield from (Check(name=name, ok=None, detail=f"not checked: {error}") for name in ring_checks.NAMES)
    except KeyVaultError as error:
        remedy = "see what the message says; then run this again"
        yield from (Check(name=name, ok=False, detail=str(error), remedy=remedy) for name in ring_checks.NAMES)
