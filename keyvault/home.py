"""A home: the directory that says which engine, store and custody belong together, and what opens them."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from keyvault.clock import Clock, SimulatedClock, SystemClock
from keyvault.custody.base import Custody
from keyvault.custody.dedicated import DedicatedCustody
from keyvault.custody.ring import RingCustody
from keyvault.errors import ConfigurationError, EngineMismatchError
from keyvault.log import HomeLog, LogContext
from keyvault.scopes import REFUSED_PURPOSES, RefusedPurposes
from keyvault.settings import Settings, load_settings, write_private
from keyvault.store import system
from keyvault.store.database import Database
from keyvault.system_keys import SystemKeys, load_system_keys
from keyvault.transit.base import TransitEngine
from keyvault.transit.vault_settings import VaultSettings

ENGINE_FILE = "engine.db"
CREDENTIALS_DIR = "credentials"
LOG_DIR = "log"
AUDITOR = "auditor"
SEQUENCER = "sequencer"


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """An opened home. `path` is its directory; `custodies` by custody byte; `custody` is the one that new scopes get.

    `refused_purposes`: what the policy that was in force when the home was opened refuses keys for.
    """

    path: Path
    settings: Settings
    database: Database
    engine: TransitEngine
    keys: SystemKeys
    clock: Clock
    custodies: Mapping[int, Custody]
    custody: Custody
    refused_purposes: RefusedPurposes
    log: HomeLog
    node: str

    @property
    def log_directory(self) -> Path:
        """Return where the log's files are."""
        return self.log.context.directory

    def close(self) -> None:
        """Wipe what custodies keep in memory; release the log, the engine and the database."""
        for custody in self.custodies.values():
            custody.close()
        self.log.close()
        self.engine.close()
        self.database.close()


def open_home(path: Path | str, *, role: str = "issuer") -> Home:
    """Open a home as `role`, and verify that its engine, store and settings belong together.

    Raises `HomeNotFoundError`, `ConfigurationError`, `StoreVersionError`, `EngineMismatchError`, `Unavailable`.
    """
    directory = Path(path)
    settings = load_settings(directory)
    database = Database(settings.store)
    try:
        engine = open_engine(directory, settings, role=role)
    except BaseException:
        database.close()
        raise
    try:
        return assemble(settings, database, engine, path=directory)
    except BaseException:
        engine.close()
        database.close()
        raise


def assemble(settings: Settings, database: Database, engine: TransitEngine, *, path: Path) -> Home:
    """Put the opened store and engine of the home in `path` together, verified. Raises as `open_home`."""
    database.check_version()
    row = database.read(system.load)
    if row is None:
        raise ConfigurationError("the store is not finished: run `keyvault init` again")
    if row.home_id != settings.id:
        raise EngineMismatchError("the store belongs to another home: check the store's URL in keyvault.toml")
    keys = load_system_keys(engine)
    keys.verify(row.check_values)
    clock = make_clock(settings)
    dedicated = DedicatedCustody(database, engine, clock)
    ring = RingCustody(
        database,
        engine,
        clock,
        incarnation=row.incarnation,
        capacity=settings.ring_capacity,
        lease_ttl=settings.lease_ttl,
    )
    custodies: dict[int, Custody] = {dedicated.code: dedicated, ring.code: ring}
    return Home(
        path=path,
        settings=settings,
        database=database,
        engine=engine,
        keys=keys,
        clock=clock,
        custodies=custodies,
        custody=ring if settings.custody == ring.name else dedicated,
        refused_purposes=REFUSED_PURPOSES if row.policy is None else row.policy.refused_purposes,
        log=HomeLog(
            LogContext(
                directory=log_directory(path, settings),
                origin=row.log_origin,
                public_key=keys.log_public,
                incarnation=row.incarnation,
                database=database,
                clock=clock,
                open_engine=partial(_open_sequencer, path, settings),
            )
        ),
        node=socket.gethostname()[:64],
    )


def log_directory(directory: Path, settings: Settings) -> Path:
    """Return where the log's files are: its setting, or `log` in the home."""
    return Path(settings.log_dir) if settings.log_dir else directory.resolve() / LOG_DIR


def make_clock(settings: Settings) -> Clock:
    """Return the clock that the home was made with."""
    return SimulatedClock() if settings.clock == "simulated" else SystemClock()


def open_engine(directory: Path, settings: Settings, *, role: str) -> TransitEngine:
    """Open the home's transit engine with a role's credentials."""
    if settings.engine == "embedded":
        from keyvault.transit.embedded import EmbeddedEngine

        return EmbeddedEngine(Path(str(settings.engine_dir)) / ENGINE_FILE)
    from keyvault.transit.hashicorp import HashicorpEngine

    return HashicorpEngine(vault_settings(settings), read_credentials(directory, role))


def _open_sequencer(directory: Path, settings: Settings) -> TransitEngine | None:
    """Open the engine as the sequencer, or return None where others have its credentials."""
    if settings.engine == "vault" and not (directory / CREDENTIALS_DIR / f"{SEQUENCER}.json").exists():
        return None
    return open_engine(directory, settings, role=SEQUENCER)


def vault_settings(settings: Settings) -> VaultSettings:
    """Return where Vault is; `ConfigurationError` in a home whose engine is another."""
    if settings.vault is None:
        raise ConfigurationError("this home's engine is not Vault")
    return settings.vault


def read_credentials(directory: Path, role: str) -> Any:
    """Read `credentials/ROLE.json` in the home. `ConfigurationError` when it is missing or not readable."""
    from keyvault.transit.hashicorp import AppRoleCredentials

    path = directory / CREDENTIALS_DIR / f"{role}.json"
    try:
        stored = json.loads(path.read_text())
        return AppRoleCredentials(role_id=stored["role_id"], secret_id=stored["secret_id"], role=role)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"this home holds no credentials of the role {role} ({path}): have an administrator issue them with `keyvault init`"
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(f"{path} is not a credentials file: issue new ones with `keyvault init`") from error


def write_credentials(directory: Path, role: str, *, role_id: str, secret_id: str) -> Path:
    """Write a role's credentials, readable by the owner alone, and return the file's path."""
    folder = directory / CREDENTIALS_DIR
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{role}.json"
    write_private(path, json.dumps({"role_id": role_id, "secret_id": secret_id}) + "\n")
    return path
