"""A home's settings: options over `KEYVAULT_*` in the environment over `keyvault.toml`.

No secret is among them: Vault credentials are files under `credentials/`, and a database password comes from libpq's own places
(`~/.pgpass`, `PGPASSWORD`) or from `KEYVAULT_STORE`.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from keyvault.errors import ConfigurationError, HomeNotFoundError
from keyvault.oidc_settings import OidcSettings
from keyvault.ring_sizes import DEFAULT_CAPACITY, MAX_CAPACITY
from keyvault.transit.vault_settings import VaultSettings

FILE_NAME = "keyvault.toml"
ENGINES = ("embedded", "vault")
CUSTODIES = ("ring", "dedicated")
CLOCKS = ("real", "simulated")
DEFAULT_APPROVALS = {"embedded": 1, "vault": 2}
MAX_APPROVALS = 2
ENVIRONMENT = {"store": "KEYVAULT_STORE", "engine_dir": "KEYVAULT_ENGINE_DIR", "log_dir": "KEYVAULT_LOG_DIR"}
VAULT_ENVIRONMENT = {"addr": "KEYVAULT_VAULT_ADDR", "ca_file": "KEYVAULT_VAULT_CA_FILE"}


@dataclass(frozen=True, kw_only=True, slots=True)
class NoticeSettings:
    """How destructions are told to the storage layer: lines on a command's standard input, or appended to a file (an absolute path)."""

    command: list[str] | None = None
    file: str | None = None

    def __post_init__(self) -> None:
        """Raise `ConfigurationError` unless exactly one of the two is there, and usable."""
        if (self.command is None) == (self.file is None):
            raise ConfigurationError(f"[notices] in {FILE_NAME} needs either command or file")
        if self.command is not None and not self.command:
            raise ConfigurationError(f"[notices] in {FILE_NAME}: command is empty")
        if self.file is not None and not Path(self.file).is_absolute():
            raise ConfigurationError(f"[notices] in {FILE_NAME}: file must be an absolute path")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """What `init` decided.

    `lease_ttl` and `clock_skew` in seconds: how long an answer may be used, how far clocks may differ. `ring_capacity` is how many scopes
    a new ring takes. `log_dir`: where the log is, an absolute path; None for `log` in the home. `approvals`: how many people stand behind a destruction, 1 or 2; 0 stands for the engine's
    default, 1 on the embedded one and 2 on Vault.
    """

    id: str
    engine: str
    store: str
    custody: str = "dedicated"
    clock: str = "real"
    engine_dir: str | None = None
    log_dir: str | None = None
    lease_ttl: float = 60.0
    clock_skew: float = 5.0
    ring_capacity: int = DEFAULT_CAPACITY
    approvals: int = 0
    vault: VaultSettings | None = field(default=None)
    notices: NoticeSettings | None = field(default=None)
    oidc: OidcSettings | None = field(default=None)

    def __post_init__(self) -> None:
        """Raise `ConfigurationError` when settings contradict each other."""
        _one_of("engine", self.engine, ENGINES)
        _one_of("custody", self.custody, CUSTODIES)
        _one_of("clock", self.clock, CLOCKS)
        if self.engine == "vault" and self.vault is None:
            raise ConfigurationError(f'engine "vault" needs a [vault] table with addr in {FILE_NAME}')
        if self.engine == "embedded" and self.engine_dir is None:
            raise ConfigurationError(f'engine "embedded" needs engine_dir in {FILE_NAME}')
        if self.clock == "simulated" and self.engine != "embedded":
            raise ConfigurationError(
                "a simulated clock is for embedded homes only: Vault's own clock cannot be simulated"
            )
        if not 0 < self.lease_ttl <= 3600 or not 0 <= self.clock_skew <= 60:  # noqa: PLR2004 - an hour, a minute
            raise ConfigurationError("lease_ttl must be above 0 and at most 3600 seconds, clock_skew 0 to 60")
        if not 1 <= self.ring_capacity <= MAX_CAPACITY:
            raise ConfigurationError(f"ring_capacity must be 1 to {MAX_CAPACITY} scopes")
        if self.log_dir is not None and not Path(self.log_dir).is_absolute():
            raise ConfigurationError("log_dir must be an absolute path")
        if not 0 <= self.approvals <= MAX_APPROVALS:
            raise ConfigurationError("approvals is how many people stand behind a destruction: 1 or 2")
        if self.approvals == 0:  # as in homes from before there were requests
            object.__setattr__(self, "approvals", DEFAULT_APPROVALS[self.engine])


def load_settings(home: Path, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read a home's settings. `HomeNotFoundError` without the file, `ConfigurationError` naming the key at fault."""
    path = home / FILE_NAME
    try:
        table = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise HomeNotFoundError(f"there is no home in {home}: make one with `keyvault --home {home} init`") from error
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    vault = table.pop("vault", None)
    if vault is not None:
        if not isinstance(vault, dict):
            raise ConfigurationError(f"{path}: vault must be a table")
        table["vault"] = _build(
            VaultSettings, vault | _from_environment(VAULT_ENVIRONMENT, environment), f"{path} [vault]"
        )
    notices = table.pop("notices", None)
    if notices is not None:
        if not isinstance(notices, dict):
            raise ConfigurationError(f"{path}: notices must be a table")
        table["notices"] = _build(NoticeSettings, notices, f"{path} [notices]")
    oidc = table.pop("oidc", None)
    if oidc is not None:
        if not isinstance(oidc, dict):
            raise ConfigurationError(f"{path}: oidc must be a table")
        table["oidc"] = _build(OidcSettings, oidc, f"{path} [oidc]")
    settings: Settings = _build(Settings, table | _from_environment(ENVIRONMENT, environment), str(path))
    return settings


def write_settings(home: Path, settings: Settings) -> None:
    """Write `keyvault.toml`, readable by its owner alone, whole or not at all."""
    lines = _lines(asdict(settings))
    if settings.vault is not None:
        lines += ["", "[vault]", *_lines(asdict(settings.vault))]
    if settings.notices is not None:
        lines += ["", "[notices]", *_lines(asdict(settings.notices))]
    if settings.oidc is not None:
        lines += ["", "[oidc]", *_lines(asdict(settings.oidc))]
    write_private(home / FILE_NAME, "\n".join(lines) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 durably, replacing what was there in one step."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def _lines(values: Mapping[str, Any]) -> list[str]:
    """Return TOML lines; a JSON string is a TOML basic string."""
    return [
        f"{key} = {json.dumps(value, default=str)}"
        for key, value in values.items()
        if value is not None and not isinstance(value, dict)
    ]


def _from_environment(names: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, Any]:
    return {key: environment[name] for key, name in names.items() if environment.get(name)}


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigurationError(f"{name} is {value!r}; it can be {' or '.join(allowed)}")


def _build(kind: type[Any], table: Mapping[str, Any], where: str) -> Any:
    known = {item.name: item.type for item in fields(kind)}
    for key, value in table.items():
        if key not in known:
            raise ConfigurationError(f"{where}: {key} is not a setting")
        if not _fits(value, str(known[key])):
            raise ConfigurationError(f"{where}: {key} must be {known[key]}")
    values = {key: Path(value) if str(known[key]).startswith("Path") else value for key, value in table.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigurationError(f"{where}: a required setting is missing: {error}") from error


def _fits(value: object, annotation: str) -> bool:
    if annotation.startswith(("str", "Path")):
        return isinstance(value, str)
    if annotation.startswith("list"):
        return isinstance(value, list) and all(isinstance(item, str) for item in value)
    if annotation.startswith(("VaultSettings", "NoticeSettings", "OidcSettings")):
        return isinstance(value, VaultSettings | NoticeSettings | OidcSettings)
    if annotation == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, int | float) and not isinstance(value, bool)
