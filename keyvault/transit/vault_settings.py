"""Where Vault is, without a line of what talks to it: settings are read by commands that never open a connection."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from keyvault.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, slots=True)
class VaultSettings:
    """Where Vault is and what is what in it. `timeout` is in seconds, `pool_size` in concurrent calls.

    `ca_file` is a PEM file of accepted authorities; None means the system's. Policies and AppRoles are named PREFIX-ROLE.
    `ConfigurationError` for an address that is not https, a number out of range or an empty name.
    """

    addr: str
    ca_file: Path | None = None
    namespace: str | None = None
    transit_mount: str = "transit"
    log_mount: str = "log"
    kv_mount: str = "kv"
    approle_mount: str = "approle"
    prefix: str = "keyvault"
    timeout: float = 10.0
    pool_size: int = 16

    def __post_init__(self) -> None:
        if "@" in self.addr:
            raise ConfigurationError("Vault's address must not carry a user name or password; roles log in by AppRole")
        if not self.addr.startswith("https://") or not _host(self.addr):
            raise ConfigurationError(f"Vault's address must be https://HOST[:PORT], not {self.addr!r}")
        if self.timeout <= 0 or self.pool_size < 1:
            raise ConfigurationError("Vault's timeout must be above 0 seconds, its pool at least 1")
        mounts = [self.transit_mount, self.log_mount, self.kv_mount]
        if len(set(mounts)) < len(mounts):
            raise ConfigurationError("the transit, log and key-value mounts of Vault must be three different ones")
        if any(not name or name != name.strip("/") for name in [*mounts, self.approle_mount, self.prefix]):
            raise ConfigurationError("mounts and prefix in Vault must be named, without slashes at their ends")


def _host(addr: str) -> str | None:
    try:
        return urlsplit(addr).hostname
    except ValueError:
        return None
