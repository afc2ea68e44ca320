"""Dedicated custody on a real Vault, against plain calls to that Vault with the same concurrency."""

from __future__ import annotations

import base64
import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hvac
import urllib3

from bench.rows import Row, best_of_both, compared
from keyvault import KeyRequest
from keyvault.results import values_of
from tests.homes import TestHome, vault_home
from tests.servers import PostgresServer, VaultServer

CONCURRENCY = 16
KEYS = 2_000
DESTROYS = 500
ROUNDS = 3
COMMAND = "make bench ARGS=custody"


def run(vault: VaultServer, postgres: PostgresServer) -> list[Row]:
    """Return the rows of this file."""
    url = postgres.create_database()
    try:
        with tempfile.TemporaryDirectory() as folder:
            home = vault_home(Path(folder), vault, url, custody="dedicated")
            return [*data_key_rows(home, vault), destroy_row(home, vault)]
    finally:
        postgres.drop_database(url)


class PlainVault:
    """Vault over a plain urllib3 pool: what a Python program does that wants nothing but speed."""

    def __init__(self, home: TestHome, server: VaultServer) -> None:
        with home.opened() as opened:
            assert opened.settings.vault is not None
            self.mount = opened.settings.vault.transit_mount
        where = urllib3.util.parse_url(server.addr)
        self._pool = urllib3.HTTPSConnectionPool(
            str(where.host), where.port, maxsize=CONCURRENCY, block=True, ca_certs=str(server.ca_file)
        )
        self._headers = {"X-Vault-Token": server.root_token}

    def call(self, method: str, path: str, body: dict[str, Any] | None = None) -> urllib3.BaseHTTPResponse:
        """Make one call."""
        return self._pool.request(method, f"/v1/{self.mount}/{path}", headers=self._headers, json=body)

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


@contextmanager
def plain(home: TestHome, server: VaultServer) -> Iterator[PlainVault]:
    """Open and close a `PlainVault`."""
    vault = PlainVault(home, server)
    try:
        yield vault
    finally:
        vault.close()


def data_key_rows(home: TestHome, server: VaultServer) -> list[Row]:
    """Ask for one data key of each of many scopes."""
    names = [f"consumer/bench/{index}" for index in range(KEYS)]
    requests = [KeyRequest(scopes=(name,)) for name in names]
    with home.vault() as vault, plain(home, server) as rival, ThreadPoolExecutor(CONCURRENCY) as pool:
        values_of(vault.ensure_scopes(names))
        with home.opened() as opened:
            keys = [name for name in opened.engine.list_keys() if name != "system"][:KEYS]

        def ours() -> None:
            values_of(vault.generate_data_keys(requests))

        def concurrent() -> None:
            for response in pool.map(lambda key: rival.call("POST", f"datakey/plaintext/{key}"), keys):
                base64.b64decode(response.json()["data"]["plaintext"])

        mine, theirs = best_of_both(ours, concurrent, ROUNDS)
        loop = sequential(server, rival.mount, keys)
    rate = KEYS / mine
    name = "data keys, dedicated custody on Vault"
    return [
        compared(name, "/s", rate, rival=("concurrent HTTP to datakey", KEYS / theirs), bar=0.5, command=COMMAND),
        compared(
            f"{name}, against a loop",
            "/s",
            rate,
            rival=("sequential loop over hvac", len(keys) / loop),
            bar=2,
            command=COMMAND,
        ),
    ]


def sequential(server: VaultServer, mount: str, keys: Sequence[str]) -> float:
    """Return the seconds of a plain hvac loop."""
    client: Any = hvac.Client(url=server.addr, token=server.root_token, verify=str(server.ca_file))

    def loop() -> None:
        for key in keys:
            client.secrets.transit.generate_data_key(key, "plaintext", mount_point=mount)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        seconds, _ = best_of_both(loop, lambda: None, 1)
    client.adapter.close()
    return seconds


def destroy_row(home: TestHome, server: VaultServer) -> Row:
    """Destroy scopes with fence, proof and events, against the bare calls that erase and prove."""
    numbers = itertools.count()
    with plain(home, server) as rival, ThreadPoolExecutor(CONCURRENCY) as pool, home.destroyer() as destroyer:

        def prepared() -> list[str]:
            names = [f"consumer/bench/destroy-{next(numbers)}" for _ in range(DESTROYS)]
            with home.vault() as vault:
                values_of(vault.ensure_scopes(names))
            return names

        batches = [prepared() for _ in range(ROUNDS)]
        bare_batches = [prepare_bare(rival, pool, index) for index in range(ROUNDS)]

        def ours() -> None:
            outcomes = destroyer.destroy(batches.pop(), ticket="bench", requested_by="bench")
            assert all(outcome.error is None for outcome in outcomes)

        def bare() -> None:
            list(pool.map(lambda item: destroy_bare(rival, *item), bare_batches.pop()))

        mine, theirs = best_of_both(ours, bare, ROUNDS)
    plain_calls = ("concurrent config + delete + read + decrypt", DESTROYS / theirs)
    return compared("destroys, dedicated custody", "/s", DESTROYS / mine, rival=plain_calls, bar=0.6, command=COMMAND)


def prepare_bare(rival: PlainVault, pool: ThreadPoolExecutor, batch: int) -> list[tuple[str, str]]:
    """Make keys and a ciphertext under each."""

    def make(name: str) -> tuple[str, str]:
        rival.call("POST", f"keys/{name}")
        answer = rival.call("POST", f"encrypt/{name}", {"plaintext": base64.b64encode(b"name").decode()})
        return name, answer.json()["data"]["ciphertext"]

    return list(pool.map(make, [f"bare-{batch}-{index}" for index in range(DESTROYS)]))


def destroy_bare(rival: PlainVault, name: str, ciphertext: str) -> None:
    """Erase a key and see that it is gone."""
    expected: list[tuple[Callable[[], urllib3.BaseHTTPResponse], int]] = [
        (lambda: rival.call("POST", f"keys/{name}/config", {"deletion_allowed": True}), 200),
        (lambda: rival.call("DELETE", f"keys/{name}"), 204),
        (lambda: rival.call("GET", f"keys/{name}"), 404),
        (lambda: rival.call("POST", f"decrypt/{name}", {"ciphertext": ciphertext}), 400),
    ]
    for call, status in expected:
        assert call().status == status
