"""Making a home. Every step can be repeated: after a crash, `keyvault init` again finishes what it began.

Order: the settings (they name everything else), the store's tables, the engine and its system keys, and last the row in the store
that binds the two. Until that row is written nothing is served.
"""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from pathlib import Path

from keyvault.errors import ConfigurationError, EngineMismatchError, HomeNotFoundError
from keyvault.home import AUDITOR, ENGINE_FILE, SEQUENCER, open_engine, vault_settings, write_credentials
from keyvault.log_head import Head, create_head
from keyvault.settings import FILE_NAME, Settings, load_settings, write_settings
from keyvault.store import system
from keyvault.store.database import Database
from keyvault.store.migrate import migrate
from keyvault.system_keys import SYSTEM_KEY, SystemKeys, create_system_keys, load_system_keys
from keyvault.transit.base import TransitEngine
from keyvault.transit.vault_settings import VaultSettings

STORE_FILE = "store.db"
CREATED, UPDATED, ALREADY = "created", "updated", "already there"
LOG_ORIGIN_PREFIX = "keyvault-shredder/"
FIRST_INCARNATION = 1
CREDENTIALED_ROLES = ("issuer", "shredder", SEQUENCER, AUDITOR)
"""Roles whose credentials `init` puts into the home; an administrator issues the others where they are used."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InitOptions:
    """What the caller decides; None leaves the default, or what the home already has."""

    engine: str | None = None
    custody: str | None = None
    store: str | None = None
    clock: str | None = None
    engine_dir: str | None = None
    vault: VaultSettings | None = None
    admin_token: str | None = None
    audit_file: str | None = None
    approvals: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One thing that `init` looked after: `created`, `updated` or `already there`."""

    item: str
    outcome: str


def init_home(directory: Path, options: InitOptions) -> list[Step]:
    """Make the home, or finish one that was begun; return what was done.

    Raises `ConfigurationError` when options contradict an existing home, `EngineMismatchError` when the engine belongs to
    another store, and what engine and store raise.
    """
    settings, steps = _settings(directory, options)
    database = Database(settings.store, create=True)
    try:
        before = database.revision()
        migrate(database)
        steps.append(Step(item="store tables", outcome=_migration_outcome(before, database.revision())))
        steps += _engine(directory, settings, options, new=steps[0].outcome == CREATED)
        engine = _admin_engine(directory, settings, options)
        try:
            create_system_keys(engine)
            steps.append(_bind(database, engine, settings))
        finally:
            engine.close()
    finally:
        database.close()
    return steps


def _settings(directory: Path, options: InitOptions) -> tuple[Settings, list[Step]]:
    try:
        found = load_settings(directory, environment={})
    except HomeNotFoundError:
        found = None
    if found is not None:
        _refuse_changes(found, options)
        return found, [Step(item=FILE_NAME, outcome=ALREADY)]
    settings = _new_settings(directory, options)
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_settings(directory, settings)
    except OSError as error:
        raise ConfigurationError(f"the home {directory} cannot be made: {error.strerror}") from error
    return settings, [Step(item=FILE_NAME, outcome=CREATED)]


def _new_settings(directory: Path, options: InitOptions) -> Settings:
    identity = str(uuid.uuid4())
    engine = options.engine or "embedded"
    engine_dir = options.engine_dir or str(default_engine_dir(identity))
    store = options.store or f"sqlite:///{directory.resolve() / STORE_FILE}"
    return Settings(
        id=identity,
        engine=engine,
        store=store,
        custody=options.custody or "ring",
        clock=options.clock or "real",
        engine_dir=str(Path(engine_dir).resolve()) if engine == "embedded" else None,
        approvals=options.approvals or 0,
        vault=options.vault if engine == "vault" else None,
    )


def default_engine_dir(home_id: str) -> Path:
    """Return where an embedded engine lives by default: the state directory, so that copying the home copies no keys."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "keyvault" / home_id


def _refuse_changes(found: Settings, options: InitOptions) -> None:
    asked = {
        "engine": options.engine,
        "custody": options.custody,
        "clock": options.clock,
        "store": options.store,
        "approvals": options.approvals,
    }
    for name, value in asked.items():
        if value is not None and value != getattr(found, name):
            raise ConfigurationError(
                f"this home has {name} = {getattr(found, name)!r} already; it cannot become {value!r}"
            )
    if options.vault is not None and options.vault != found.vault:
        raise ConfigurationError(
            f"this home is set to another Vault, or other mounts, already: edit {FILE_NAME} instead"
        )
    if options.engine_dir is not None and str(Path(options.engine_dir).resolve()) != found.engine_dir:
        raise ConfigurationError(
            f"this home's engine is in {found.engine_dir}; move the file and edit {FILE_NAME} instead"
        )


def _migration_outcome(before: str | None, after: str | None) -> str:
    if before is None:
        return CREATED
    return ALREADY if before == after else UPDATED


def _engine(directory: Path, settings: Settings, options: InitOptions, *, new: bool) -> list[Step]:
    if settings.engine == "embedded":
        return [_embedded_engine(Path(str(settings.engine_dir)))]
    return _vault_engine(directory, settings, options, new=new)


def _embedded_engine(folder: Path) -> Step:
    from keyvault.transit.embedded import EmbeddedEngine

    there = (folder / ENGINE_FILE).exists()
    EmbeddedEngine(folder / ENGINE_FILE, create=not there).close()
    return Step(item=f"engine file {folder / ENGINE_FILE}", outcome=ALREADY if there else CREATED)


def _vault_engine(directory: Path, settings: Settings, options: InitOptions, *, new: bool) -> list[Step]:
    """Set Vault up. A new home takes no credentials that an earlier, failed `init` left for another Vault."""
    from keyvault.vault_setup.setup import issue_credentials, set_up_vault

    token = _required_token(options)
    audit_file = None if options.audit_file is None else Path(options.audit_file)
    done = set_up_vault(vault_settings(settings), token, audit_file)
    steps = [Step(item=step.item, outcome=step.outcome) for step in done]
    for role in CREDENTIALED_ROLES:
        path = directory / "credentials" / f"{role}.json"
        if path.exists() and not new:
            steps.append(Step(item=f"credentials of {role}", outcome=ALREADY))
            continue
        issued = issue_credentials(vault_settings(settings), token, role)
        write_credentials(directory, role, role_id=issued.role_id, secret_id=issued.secret_id)
        steps.append(Step(item=f"credentials of {role} in {path}", outcome=CREATED))
    return steps


def _required_token(options: InitOptions) -> str:
    if not options.admin_token:
        raise ConfigurationError(
            "setting Vault up needs an administrator's token: put it into VAULT_TOKEN for this one command"
        )
    return options.admin_token


def _admin_engine(directory: Path, settings: Settings, options: InitOptions) -> TransitEngine:
    if settings.engine == "embedded":
        return open_engine(directory, settings, role="administrator")
    from keyvault.transit.hashicorp import HashicorpEngine, TokenCredentials

    return HashicorpEngine(vault_settings(settings), TokenCredentials(token=_required_token(options)))


def _bind(database: Database, engine: TransitEngine, settings: Settings) -> Step:
    """Write the store's system row, or verify it."""
    keys = load_system_keys(engine)
    row = database.read(system.load)
    head = create_head(engine, FIRST_INCARNATION if row is None else row.incarnation)
    if row is None:
        _refuse_used_engine(engine, head)
        database.write(lambda connection: system.create(connection, _system_row(settings, keys)))
        return Step(item="store bound to the engine", outcome=CREATED)
    if row.home_id != settings.id:
        raise EngineMismatchError("the store belongs to another home: give this one a database of its own")
    keys.verify(row.check_values)
    return Step(item="store bound to the engine", outcome=ALREADY)


def _refuse_used_engine(engine: TransitEngine, head: Head) -> None:
    others = [name for name in engine.list_keys() if name != SYSTEM_KEY]
    if others or head.size:
        raise EngineMismatchError(
            f"the engine holds {len(others)} keys, and the head of a log of {head.size} entries, of a deployment that this store knows nothing of: "
            "restore that deployment's database, rebuild it with `keyvault log rebuild`, or use other mounts"
        )


def _system_row(settings: Settings, keys: SystemKeys) -> system.SystemRow:
    return system.SystemRow(
        home_id=settings.id,
        incarnation=FIRST_INCARNATION,
        check_values=keys.check_values(),
        log_origin=LOG_ORIGIN_PREFIX + settings.id,
    )
