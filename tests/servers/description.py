"""How the owner of the servers tells a command about them: one JSON file, named by KEYVAULT_TEST_SERVERS."""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.servers.postgres import PostgresServer, running_postgres
from tests.servers.process import ServerError
from tests.servers.vault import VaultServer, running_vault

VARIABLE = "KEYVAULT_TEST_SERVERS"


@dataclass(frozen=True, kw_only=True)
class Servers:
    """Both servers, whoever owns them."""

    vault: VaultServer
    postgres: PostgresServer

    def save(self, path: Path) -> None:
        """Write the file that `load` reads; it holds a root token and a password, so only its owner may read it."""
        path.touch(mode=0o600)
        path.write_text(json.dumps({"vault": _fields(self.vault), "postgres": _fields(self.postgres)}, indent=2))

    @classmethod
    def load(cls, path: Path) -> "Servers":
        """Attach to the servers that a file describes: they can be used and sealed, not stopped or started."""
        try:
            described = json.loads(path.read_text())
        except OSError as error:
            raise ServerError(f"{VARIABLE}={path} cannot be read: unset it, or run the tests by `make test`") from error
        return cls(
            vault=VaultServer(**_typed(VaultServer, described["vault"])),
            postgres=PostgresServer(**_typed(PostgresServer, described["postgres"])),
        )


def shared() -> Servers | None:
    """Return the servers that this process was started beside, or None if there are none."""
    path = os.environ.get(VARIABLE)
    return Servers.load(Path(path)) if path else None


@contextlib.contextmanager
def running_servers(*, fsync: bool = False) -> Iterator[Servers]:
    """Run both servers until the block ends; with `fsync` what they store is on disk, as in production."""
    with running_postgres(fsync=fsync) as postgres, running_vault(durable=fsync) as vault:
        yield Servers(vault=vault, postgres=postgres)


def _fields(server: VaultServer | PostgresServer) -> dict[str, Any]:
    values = {item.name: getattr(server, item.name) for item in dataclasses.fields(server) if item.name != "process"}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _typed(kind: type[VaultServer | PostgresServer], values: dict[str, Any]) -> dict[str, Any]:
    paths = {item.name for item in dataclasses.fields(kind) if item.type is Path}
    return {name: Path(value) if name in paths else value for name, value in values.items()}
