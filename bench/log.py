"""The log on Vault and PostgreSQL: events sequenced in batches, scopes created with the gate on, and what a destruction waits for."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from time import perf_counter

from bench.rows import Row
from keyvault.home import Home
from keyvault.log import HomeLog
from keyvault.results import values_of
from keyvault.store import log as log_store
from keyvault.vault import KeyVault
from shredder.destroy import Destroyer
from tests.homes import vault_home
from tests.servers import PostgresServer, VaultServer

SCALE = float(os.environ.get("BENCH_SCALE", "1"))
SCOPES = int(100_000 * SCALE)
GROUP = 10_000
DESTROYED = 20
SEQUENCED_BAR, CREATED_BAR, WAIT_BAR = 20_000, 8_000, 0.1
COMMAND = "make bench ARGS=log"


def run(vault: VaultServer, postgres: PostgresServer) -> list[Row]:
    """Return the rows of this file."""
    url = postgres.create_database()
    try:
        with tempfile.TemporaryDirectory() as folder:
            home = vault_home(Path(folder), vault, url)
            with home.opened("issuer") as opened:
                rows = [_sequenced(opened), _gated(opened)]
            with home.opened() as opened:
                return [*rows, _waited(opened)]
    finally:
        postgres.drop_database(url)


class NoLog(HomeLog):
    """A log that nobody waits for."""

    def settle(self) -> None:
        """Return at once."""


def _names(label: str, count: int) -> list[str]:
    return [f"consumer/bench-{label}/{number}" for number in range(count)]


def _sequenced(home: Home) -> Row:
    vault = KeyVault(home)
    names = _names("sequenced", SCOPES)
    for start in range(0, len(names), GROUP):
        values_of(vault.ensure_scopes(names[start : start + GROUP]))
    started = perf_counter()
    home.log.settle()
    rate = SCOPES / (perf_counter() - started)
    return Row(
        name=f"events sequenced, {SCOPES:,} that wait",
        value=rate,
        unit="/s",
        bar=f"≥ {SEQUENCED_BAR:,} /s",
        met=rate >= SEQUENCED_BAR,
        command=COMMAND,
    )


def _gated(home: Home) -> Row:
    """Create scopes until a key of each of them may be issued."""
    vault = KeyVault(home)
    names = _names("gated", SCOPES)
    started = perf_counter()
    with ThreadPoolExecutor(1) as pool:
        for start in range(0, len(names), GROUP):
            values_of(vault.ensure_scopes(names[start : start + GROUP]))
            logged = pool.submit(home.log.settle)
        logged.result()
    rate = SCOPES / (perf_counter() - started)
    return Row(
        name="scopes created, 10,000 a call, until the log has them (those of a call while the next are created)",
        value=rate,
        unit="/s",
        bar=f"≥ {CREATED_BAR:,} /s",
        met=rate >= CREATED_BAR,
        command=COMMAND,
    )


def _waited(home: Home) -> Row:
    """Destroy single scopes, and time the wait for the log at the end of each; the median counts."""
    waits = []
    not_waiting = Destroyer(replace(home, log=NoLog(home.log.context)))
    for name in _names("gated", DESTROYED):
        not_waiting.destroy([name], ticket="T-1", requested_by="bench")
        started = perf_counter()
        home.log.settle()
        waits.append(perf_counter() - started)
    assert home.database.read(log_store.last_unlogged) is None
    wait = sorted(waits)[len(waits) // 2]
    return Row(
        name="a single destruction: wait for its checkpoint",
        value=wait * 1_000,
        unit="ms",
        bar=f"≤ {WAIT_BAR * 1_000:g} ms",
        met=wait <= WAIT_BAR,
        command=COMMAND,
    )
