"""Creation and look-up of scopes on PostgreSQL, and how long the command line takes to start."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from bench.rows import Row, best
from keyvault.results import values_of
from tests.homes import embedded_home, vault_home
from tests.servers import PostgresServer, VaultServer

SCOPES = 10_000
LOOKUPS = 200
START_BAR = 0.4
COMMAND = "make bench ARGS=service"


def run(vault: VaultServer, postgres: PostgresServer) -> list[Row]:
    """Return the rows of this file."""
    rows = start_rows()
    for label, engine in (("embedded engine", None), ("Vault", vault)):
        url = postgres.create_database()
        try:
            rows += creation_rows(label, engine, url)
        finally:
            postgres.drop_database(url)
    return rows


def creation_rows(label: str, server: VaultServer | None, url: str) -> list[Row]:
    """Create 10,000 scopes in one call, and look single ones up."""
    names = [f"consumer/bench/{index}" for index in range(SCOPES)]
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        home = vault_home(directory, server, url) if server else embedded_home(directory, store_url=url)
        with home.vault() as vault:
            create = best(lambda: values_of(vault.ensure_scopes(names)), rounds=1)
            sample = names[:: SCOPES // LOOKUPS]
            look_up = best(lambda: [values_of(vault.describe([name])) for name in sample])
            batch = best(lambda: values_of(vault.describe(names)))
    where = f"PostgreSQL and {label}, ring custody"
    return [
        Row(name=f"creation of 10,000 scopes, {where}", value=SCOPES / create, unit="/s", command=COMMAND),
        Row(name=f"look-up by name, one a call, {where}", value=LOOKUPS / look_up, unit="/s", command=COMMAND),
        Row(name=f"look-up by name, 10,000 a call, {where}", value=SCOPES / batch, unit="/s", command=COMMAND),
    ]


def started(command: list[str]) -> None:
    """Run a command to its end."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def start_rows() -> list[Row]:
    """Time `keyvault --help` and `keyvault status` as a shell would."""
    program = str(Path(sys.executable).with_name("keyvault"))
    with tempfile.TemporaryDirectory() as folder:
        home = embedded_home(Path(folder))
        commands = {"--help": [program, "--help"], "status": [program, "--home", str(home.path), "status"]}
        times = {name: best(partial(started, command)) for name, command in commands.items()}
    return [
        Row(
            name=f"start of `keyvault {name}`",
            value=seconds,
            unit="s",
            bar=f"≤ {START_BAR} s",
            met=seconds <= START_BAR,
            command=COMMAND,
        )
        for name, seconds in times.items()
    ]
