"""Homes for tests: the two pairs of engine and store that the product is run with."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from keyvault import KeyVault, open_vault
from keyvault.home import Home, open_home
from keyvault.initialize import InitOptions, init_home
from keyvault.store.database import Database
from keyvault.store.migrate import migrate
from keyvault.transit.vault_settings import VaultSettings
from shredder.destroy import Destroyer
from tests.servers import VaultServer

MOUNTS = ("transit_mount", "log_mount", "kv_mount", "approle_mount")
PAIRS = ("embedded+sqlite", "vault+postgresql")
CUSTODIES = ("ring", "dedicated")
in_ring_custody = pytest.mark.parametrize("custody", ["ring"], indirect=True)
"""For tests of what only rings have."""
in_dedicated_custody = pytest.mark.parametrize("custody", ["dedicated"], indirect=True)
"""For tests of what only keys of their own have, or that are costly and have nothing to do with custody."""


@dataclass(frozen=True, kw_only=True)
class TestHome:
    """A home on disk. `copy` is how a restored store is looked at beside the same engine."""

    __test__ = False

    path: Path
    store_url: str

    @contextlib.contextmanager
    def vault(self) -> Iterator[KeyVault]:
        with open_vault(self.path) as vault:
            yield vault

    @contextlib.contextmanager
    def opened(self, role: str = "shredder") -> Iterator[Home]:
        home = open_home(self.path, role=role)
        try:
            yield home
        finally:
            home.close()

    @contextlib.contextmanager
    def destroyer(self) -> Iterator[Destroyer]:
        with self.opened() as home:
            yield Destroyer(home)

    def copy(self, path: Path, store_url: str) -> TestHome:
        """Return a second home on the same engine, whose store is another one."""
        path.mkdir(mode=0o700)
        text = (self.path / "keyvault.toml").read_text().replace(self.store_url, store_url)
        (path / "keyvault.toml").write_text(text)
        if (self.path / "credentials").exists():
            shutil.copytree(self.path / "credentials", path / "credentials")
        return TestHome(path=path, store_url=store_url)


@cache
def _migrated_file() -> bytes:
    """Return a SQLite file that has the store's tables already, as `store_url` has them on PostgreSQL."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "store.db"
        with contextlib.closing(Database(f"sqlite:///{file}", create=True)) as database:
            migrate(database)
        return file.read_bytes()


def embedded_home(
    directory: Path, *, clock: str = "real", store_url: str | None = None, custody: str | None = None
) -> TestHome:
    """Make a home on the embedded engine; its store is SQLite unless a URL is given."""
    path = directory / "home"
    url = store_url or f"sqlite:///{path / 'store.db'}"
    if store_url is None and not path.exists():
        path.mkdir(mode=0o700)
        (path / "store.db").touch(mode=0o600)
        (path / "store.db").write_bytes(_migrated_file())
    init_home(path, InitOptions(engine_dir=str(directory / "engine"), clock=clock, store=url, custody=custody))
    return TestHome(path=path, store_url=url)


def own_mounts(server: VaultServer, **changes: Any) -> VaultSettings:
    """Return settings with mounts and names of their own, so that tests share a server and nothing else."""
    mark = secrets.token_hex(4)
    mounts = {kind: f"{kind.removesuffix('_mount')}-{mark}" for kind in MOUNTS}
    return VaultSettings(
        addr=server.addr, ca_file=server.ca_file, **{**mounts, "prefix": f"keyvault-{mark}", **changes}
    )


def vault_home(directory: Path, server: VaultServer, store_url: str, *, custody: str | None = None) -> TestHome:
    """Make a home on a real Vault, under mounts of its own."""
    path = directory / "home"
    options = InitOptions(
        engine="vault",
        custody=custody,
        store=store_url,
        vault=own_mounts(server),
        admin_token=server.root_token,
        audit_file=str(server.audit_file),
    )
    init_home(path, options)
    return TestHome(path=path, store_url=store_url)
