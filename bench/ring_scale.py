"""A million scopes: what they cost in PostgreSQL, in Vault, in memory and in time."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import sqlalchemy as sa

from bench.progress import consumers, create, peak_memory, say
from bench.rows import Row, at_least, at_most
from keyvault import KeyVault, open_vault
from keyvault.results import values_of
from tests.homes import TestHome
from tests.servers import PostgresServer, VaultServer

COMMAND = "make bench ARGS=ring"
SCOPES = 1_000_000
SMALL = 10_000
LOOKUPS = 500


def run(home: TestHome, server: VaultServer, _postgres: PostgresServer, scale: float) -> list[Row]:
    """Return the rows of this file."""
    count = int(SCOPES * scale)
    before = stored_in_vault(server, home.path)
    command = [sys.executable, "-m", "bench.ring_scale", str(home.path), str(count)]
    made = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    grown = stored_in_vault(server, home.path) - before
    bytes_of = {table: table_bytes(home, table) for table in ("scopes", "rings", "outbox")}
    say(f"{bytes_of}, Vault {grown:,} bytes, {made}")
    what = f"{count:,} scopes in rings"
    return [
        at_least(f"{what}: creation", "/s", made["rate"], 10_000, command=COMMAND),
        at_most(
            f"{what}: tables scopes and rings with indexes, a scope",
            "bytes",
            (bytes_of["scopes"] + bytes_of["rings"]) / count,
            500,
            command=COMMAND,
        ),
        Row(
            name=f"{what}: outbox with indexes, a scope",
            value=bytes_of["outbox"] / count,
            unit="bytes",
            command=COMMAND,
        ),
        at_most(f"{what}: growth of a raft snapshot of Vault", "MB", grown / 1e6, 2, command=COMMAND),
        at_most(f"{what}: resident memory of the creating process", "MB", made["memory"], 300, command=COMMAND),
        at_most(
            f"{what}: look-up by name, against {SMALL:,} scopes",
            "×",
            made["large"] / made["small"],
            1.5,
            command=COMMAND,
        ),
    ]


def stored_in_vault(server: VaultServer, folder: Path) -> int:
    """Return the bytes of a raft snapshot: all that Vault stores, encrypted, so that compressing it gains nothing."""
    path = folder / "vault.snapshot"
    server.snapshot(path)
    size = path.stat().st_size
    path.unlink()
    return size


def table_bytes(home: TestHome, table: str) -> int:
    """Return the bytes of a table with its indexes."""
    with home.opened() as opened:
        query = sa.text("SELECT pg_total_relation_size(CAST(:name AS regclass))")
        return int(opened.database.read(lambda connection: connection.execute(query, {"name": table}).scalar_one()))


def look_up(vault: KeyVault, names: list[str]) -> float:
    """Return the median seconds of looking one scope up."""
    times = []
    for name in names[:: max(len(names) // LOOKUPS, 1)]:
        started = time.perf_counter()
        values_of(vault.describe([name]))
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def main(path: str, count: int) -> None:
    """Create scopes, and print what it took as JSON."""
    names = consumers(count)
    with open_vault(Path(path)) as vault:
        seconds = create(vault, names[:SMALL], "scopes")
        look_up(vault, names[:SMALL])
        small = look_up(vault, names[:SMALL])
        seconds += create(vault, names[SMALL:], "scopes")
        large = look_up(vault, names)
    print(json.dumps({"rate": count / seconds, "small": small, "large": large, "memory": peak_memory()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
