"""Data keys from ring custody: cached scopes over two processes, scopes that are not cached, and single records."""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from bench.custody import CONCURRENCY, plain
from bench.progress import consumers, create
from bench.rows import Row, at_least
from keyvault import KeyRequest, KeyVault, open_vault
from keyvault.results import values_of
from tests.homes import TestHome
from tests.servers import PostgresServer, VaultServer

COMMAND = "make bench ARGS=ring"
PROCESSES = 2
HOT_SCOPES = 1_000
HOT_BATCH = 10_000
HOT_KEYS = 1_000_000
COLD_SCOPES = 30_000
RECORDS = 20_000
ROUNDS = 5
RIVAL_CALLS = 2_000


def run(home: TestHome, server: VaultServer, _postgres: PostgresServer, scale: float) -> list[Row]:
    """Return the rows of this file."""
    cold = consumers(max(int(COLD_SCOPES * scale), HOT_SCOPES))
    with home.vault() as vault:
        create(vault, cold, "scopes to issue keys of")
        values_of(vault.ensure_scopes([month()]))
    rival = ("concurrent HTTP to datakey", vault_rate(home, server))
    hot = hot_rate(home, int(HOT_KEYS * scale))
    records = [KeyRequest(scopes=(month(),), record=f"record-{index}") for index in range(int(RECORDS * scale))]
    fresh = fresh_rate(home, [KeyRequest(scopes=(name,)) for name in cold])
    name = "data keys, ring custody"
    return [
        at_least(f"{name}, cached scopes, {PROCESSES} processes", "/s", hot, 1_000_000, rival=rival, command=COMMAND),
        at_least(f"{name}, scopes not cached, one process", "/s", fresh, 60_000, rival=rival, command=COMMAND),
        at_least(f"{name}, of single records", "/s", fresh_rate(home, records), 15_000, rival=rival, command=COMMAND),
    ]


def month() -> str:
    """Return the name of an account-month of now."""
    return f"communications/bench/{datetime.now(UTC):%Y-%m}"


def leased(path: Path) -> KeyVault:
    """Open a home whose vault keeps admitted scopes for its lease."""
    return open_vault(path, leased=True)


def vault_rate(home: TestHome, server: VaultServer) -> float:
    """Return the data keys a second that Vault gives over plain HTTP, under one key."""
    with plain(home, server) as rival, ThreadPoolExecutor(CONCURRENCY) as pool:
        rival.call("POST", "keys/rival")
        started = time.perf_counter()
        list(pool.map(lambda _: rival.call("POST", "datakey/plaintext/rival"), range(RIVAL_CALLS)))
        return RIVAL_CALLS / (time.perf_counter() - started)


def fresh_rate(home: TestHome, requests: list[KeyRequest]) -> float:
    """Return the rate of one batch in which each scope or record is asked for once, by a vault that has nothing cached."""
    times = []
    for _ in range(ROUNDS):
        with leased(home.path) as vault:
            started = time.perf_counter()
            values_of(vault.generate_data_keys(requests))
            times.append(time.perf_counter() - started)
    return len(requests) / min(times)


def hot_rate(home: TestHome, keys: int) -> float:
    """Return the rate of all processes together, until the last of them has its keys."""
    command = [sys.executable, "-m", "bench.ring_issuing", str(home.path), str(keys)]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    started = time.perf_counter()
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()  # all are told before any is waited for
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "done\n"
    elapsed = time.perf_counter() - started
    for worker in workers:
        worker.communicate()
        assert worker.returncode == 0
    return PROCESSES * keys / elapsed


def main(path: str, keys: int) -> None:
    """Warm up, say so, wait for the word, make keys, and say so."""
    names = consumers(HOT_SCOPES)
    requests = [KeyRequest(scopes=(names[index % HOT_SCOPES],)) for index in range(HOT_BATCH)]
    with leased(Path(path)) as vault:
        values_of(vault.generate_data_keys(requests))
        gc.collect()
        gc.freeze()  # as services do once they are up: the collector need not walk through their modules any more
        print("ready", flush=True)
        sys.stdin.readline()
        for _ in range(max(keys // HOT_BATCH, 1)):
            vault.generate_data_keys(requests)
        print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
