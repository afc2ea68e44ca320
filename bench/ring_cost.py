"""What scopes cost in either custody: bytes in Vault, and seconds to create and to destroy them, by their number."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from bench.progress import consumers, create, say
from bench.ring_scale import stored_in_vault
from bench.rows import Row
from tests.homes import TestHome, vault_home
from tests.servers import PostgresServer, VaultServer

COMMAND = "make bench ARGS=ring"
COUNTS = {"dedicated": (10, 100, 1_000, 10_000), "ring": (10, 100, 1_000, 10_000, 100_000)}


def run(_home: TestHome, server: VaultServer, postgres: PostgresServer, scale: float) -> list[Row]:
    """Return the rows of this file, each number of scopes in a home of its own."""
    rows: list[Row] = []
    for custody, counts in COUNTS.items():
        for count in counts:
            if count > counts[-1] * scale:
                continue
            url = postgres.create_database()
            try:
                with tempfile.TemporaryDirectory() as folder:
                    rows += cost_rows(vault_home(Path(folder), server, url, custody=custody), server, custody, count)
            finally:
                postgres.drop_database(url)
    return rows


def cost_rows(home: TestHome, server: VaultServer, custody: str, count: int) -> list[Row]:
    """Create scopes, see what Vault keeps of them, and destroy them all."""
    names = consumers(count)
    before = stored_in_vault(server, home.path)
    with home.vault() as vault:
        created = create(vault, names, f"{custody} custody")
    grown = stored_in_vault(server, home.path) - before
    with home.destroyer() as destroyer:
        started = time.perf_counter()
        outcomes = destroyer.destroy(names, ticket="bench", requested_by="bench")
        destroyed = time.perf_counter() - started
    assert all(outcome.error is None for outcome in outcomes)
    say(
        f"{custody}, {count:,} scopes: {grown:,} bytes in Vault, created in {created:.1f} s, destroyed in {destroyed:.1f} s"
    )
    what = f"{custody} custody, {count:,} scopes"
    return [
        Row(name=f"{what}: bytes in Vault", value=max(grown, 0) / 1_000, unit="kB", command=COMMAND),
        Row(name=f"{what}: created in", value=created, unit="s", command=COMMAND),
        Row(name=f"{what}: destroyed in", value=destroyed, unit="s", command=COMMAND),
    ]
