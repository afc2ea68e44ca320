"""The service over HTTP against Vault's own `transit/datakey`: rates, tail latencies under a steady load, and a client's cached opens.

One load tool asks both (`bench/load`), over TLS with HTTP/1.1 and connections that stay open, on the machine that the servers run on.
Vault has its audit device on; the service writes a line of its log for each request. Both are given every core that there is.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import keyvault
from bench.rows import Row, at_least, at_most, compared
from keyvault import OpenRequest, SealRequest
from keyvault.results import values_of
from keyvault.settings import load_settings
from tests.homes import TestHome, vault_home
from tests.servers import PostgresServer, VaultServer
from tests.servers.certificates import Certificates, make_certificates
from tests.servers.go_programs import built
from tests.service.running import running
from tests.serving import issue_token

PATH = "/v1/keys/generate"
RIVAL = "transit/datakey of Vault"
COMMAND = "make bench ARGS=http"
LEASE_SECONDS = 20.0
SCOPES = 1_000
"""In use at once; each request takes the next."""
BATCH = 100
CONNECTIONS = 16
ROUNDS = 3
SECONDS = 5
STEADY_CONNECTIONS = 128
"""More than ever wait, so that a request of the steady load is sent when it is due."""
STEADY_SECONDS = 2 * int(LEASE_SECONDS)
SHREDDED = 1_000
SHRED_SECONDS = 20
MESSAGE_BYTES = 1024
OPENS = 200_000
WORKERS = os.cpu_count() or 1

_LOAD = tuple(Path(__file__).parent / "load" / name for name in ("go.mod", "main.go"))


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is asked."""

    url: str
    headers: dict[str, str]
    bodies: Sequence[str]
    authority: Path
    forbidden: str = ""

    def of(self, bodies: Sequence[str]) -> Target:
        """Return the same with other bodies."""
        return replace(self, bodies=bodies)


@dataclass(frozen=True, kw_only=True)
class Second:
    """A second's latencies, in milliseconds."""

    p99: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a load came to: answers a second, latencies in milliseconds, and those of each second."""

    rate: float
    p50: float
    p99: float
    seconds: Sequence[Second]


def run(vault: VaultServer, postgres: PostgresServer) -> list[Row]:
    """Return the rows of this file."""
    url = postgres.create_database()
    try:
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            home = vault_home(directory, vault, url)
            settings = home.path / "keyvault.toml"
            settings.write_text(settings.read_text().replace("lease_ttl = 60.0", f"lease_ttl = {LEASE_SECONDS}"))
            with served(home, directory) as ours:
                rival = datakey(home, vault)
                rows, rates = rate_rows(ours, rival)
                return [*rows, *steady_rows(home, (ours, rival), (rates[0] / 2, rates[1] / 2)), opens_row(ours)]
    finally:
        postgres.drop_database(url)


@contextmanager
def served(home: TestHome, directory: Path) -> Iterator[Target]:
    """Serve the home with a worker a core, and have the scopes created and in the log."""
    with home.vault() as vault:
        values_of(vault.ensure_scopes([*names(), *shredded_names()]))
        values_of(vault.generate_data_keys(requests(names())))
    certificates = make_certificates(directory)
    options = ("--workers", str(WORKERS), *tls_options(certificates))
    with running(home.path, directory / "service.log", *options) as service:
        yield Target(
            url=service.url + PATH,
            headers={"Authorization": f"Bearer {issue_token(home.path)}", "Content-Type": "application/json"},
            bodies=[asked([name]) for name in names()],
            authority=certificates.ca_file,
            forbidden='"error"',
        )


def tls_options(certificates: Certificates) -> tuple[str, ...]:
    """Return what `keyvault serve` is told of its certificate."""
    return ("--tls-certificate", str(certificates.cert_file), "--tls-key", str(certificates.key_file))


def datakey(home: TestHome, server: VaultServer) -> Target:
    """Return Vault's own route for a data key, under a key made for it. Its audit device must be on."""
    settings = load_settings(home.path).vault
    assert settings is not None
    assert server.request("GET", "sys/audit")["data"], "Vault has no audit device"
    server.request("POST", f"{settings.transit_mount}/keys/rival")
    return Target(
        url=f"{server.addr}/v1/{settings.transit_mount}/datakey/plaintext/rival",
        headers={"X-Vault-Token": server.root_token},
        bodies=["{}"],
        authority=server.ca_file,
    )


# --- rates ---------------------------------------------------------------------------------------------------------------


def rate_rows(ours: Target, rival: Target) -> tuple[list[Row], tuple[float, float]]:
    """Ask for single keys and for batches as fast as answers come, each in turn; return the rows, and both rates of single keys."""
    batches = ours.of([asked(names()[at : at + BATCH]) for at in range(0, SCOPES, BATCH)])
    rounds = [(load(ours), load(rival), load(batches)) for _ in range(ROUNDS)]
    mine, theirs, batched = (max(one, key=lambda measured: measured.rate) for one in zip(*rounds, strict=True))
    name = f"service, {WORKERS} workers, {CONNECTIONS} connections, cached scopes"
    against = RIVAL
    return [
        compared(f"{name}: one key a request", "/s", mine.rate, rival=(against, theirs.rate), bar=2, command=COMMAND),
        no_worse(f"{name}: one key a request, p99", mine.p99, rival=(against, theirs.p99)),
        compared(
            f"{name}: keys, {BATCH} a request",
            "/s",
            batched.rate * BATCH,
            rival=(against, theirs.rate),
            bar=20,
            command=COMMAND,
        ),
        Row(name=f"{name}: {BATCH} keys a request, p99", value=batched.p99, unit="ms", command=COMMAND),
    ], (mine.rate, theirs.rate)


def no_worse(name: str, value: float, *, rival: tuple[str, float]) -> Row:
    """Return a row of milliseconds that must not exceed the rival's; more is better in its ratio."""
    return Row(
        name=name,
        value=value,
        unit="ms",
        rival=rival[0],
        rival_value=rival[1],
        ratio=rival[1] / value,
        bar="≥ 1 ×",
        met=value <= rival[1],
        command=COMMAND,
    )


# --- steady load -----------------------------------------------------------------------------------------------------------


def steady_rows(home: TestHome, targets: tuple[Target, Target], rates: tuple[float, float]) -> list[Row]:
    """Keep up half the highest rate through two leases, and again while scopes that the service keeps keys of are shredded.

    The rival has half of its own rate, for some seconds: it has no leases.
    """
    ours, rival = targets
    rate = rates[0]
    theirs = load(rival, rate=rates[1], seconds=SHRED_SECONDS)
    load(
        ours, seconds=1
    )  # the rival's turn was longer than a lease: what the service kept has ended, and comes back before it is measured
    calm = load(ours, rate=rate, seconds=STEADY_SECONDS)
    shredding = shredding_load(home, ours, rate)
    worst = max(second.p99 for second in calm.seconds)
    median = statistics.median(second.p99 for second in calm.seconds)
    name = "service under a steady half load"
    return [
        Row(name=f"{name}: requests", value=rate, unit="/s", command=COMMAND),
        Row(
            name=f"{name}: p50",
            value=calm.p50,
            unit="ms",
            rival=RIVAL,
            rival_value=theirs.p50,
            ratio=theirs.p50 / calm.p50,
            command=COMMAND,
        ),
        at_most(
            f"{name}: p99", "ms", calm.p99, 15, rival=(f"{RIVAL}, half of its own rate", theirs.p99), command=COMMAND
        ),
        at_most(
            f"{name}: p99 of the worst second of two leases, by the median second's",
            "×",
            worst / median,
            2,
            command=COMMAND,
        ),
        at_most(f"{name}: p99 while {SHREDDED:,} scopes are shredded", "ms", shredding.p99, 15, command=COMMAND),
    ]


def shredding_load(home: TestHome, ours: Target, rate: float) -> Measured:
    """Shred scopes under the load, and measure the seconds of the load until the last of them is destroyed."""
    with client(ours) as vault:
        values_of(vault.generate_data_keys(requests(shredded_names())))
    outcomes: list[Any] = []

    def shred() -> None:
        time.sleep(SHRED_SECONDS / 4)
        with home.destroyer() as destroyer:
            outcomes.extend(destroyer.destroy(shredded_names(), ticket="bench", requested_by="bench"))

    shredder = threading.Thread(target=shred)
    shredder.start()
    measured = load(ours, rate=rate, seconds=SHRED_SECONDS)
    shredder.join()
    assert len(outcomes) == SHREDDED
    assert all(outcome.error is None for outcome in outcomes)
    return measured


# --- a client's cache ------------------------------------------------------------------------------------------------------


def opens_row(ours: Target) -> Row:
    """Open messages all of whose keys the client keeps, by its process's time on a processor: what one core does."""
    message = os.urandom(MESSAGE_BYTES)
    times = []
    with client(ours) as vault:
        sealed = values_of(vault.seal_many([SealRequest(plaintext=message, scopes=(name,)) for name in names()]))
        wanted = [OpenRequest(envelope=envelope) for envelope in sealed]
        assert values_of(vault.open_many(wanted)) == [message] * SCOPES
        gc.collect()
        gc.freeze()  # as services do once they are up
        for _ in range(ROUNDS):
            started = time.process_time()
            for _ in range(OPENS // SCOPES):
                results = vault.open_many(wanted)
            times.append(time.process_time() - started)
            assert values_of(results) == [message] * SCOPES
        gc.unfreeze()
    name = f"client, cached opens of {MESSAGE_BYTES:,} bytes, {SCOPES:,} a call, one core"
    return at_least(name, "/s", OPENS / min(times), 200_000, command=COMMAND)


# --- within ----------------------------------------------------------------------------------------------------------------


def names() -> list[str]:
    """Return the scopes in use."""
    return [f"consumer/bench/{index}" for index in range(SCOPES)]


def shredded_names() -> list[str]:
    """Return the scopes that are shredded."""
    return [f"consumer/bench/shredded-{index}" for index in range(SHREDDED)]


def requests(scopes: Sequence[str]) -> list[keyvault.KeyRequest]:
    """Ask for a key of each."""
    return [keyvault.KeyRequest(scopes=(name,)) for name in scopes]


def asked(scopes: Sequence[str]) -> str:
    """Return the body that asks for a key of each."""
    return json.dumps({"keys": [{"scopes": [name]} for name in scopes]})


@contextmanager
def client(target: Target) -> Iterator[keyvault.RemoteKeyVault]:
    """Open a client of the service that is asked."""
    token = target.headers["Authorization"].removeprefix("Bearer ")
    with keyvault.connect(target.url.removesuffix(PATH), token=token, ca_file=target.authority) as vault:
        yield vault


def load(target: Target, *, rate: float = 0.0, seconds: int = SECONDS) -> Measured:
    """Run the load tool; no request may fail. `rate` 0: as fast as answers come."""
    plan = {
        "url": target.url,
        "headers": target.headers,
        "bodies": target.bodies,
        "authority": str(target.authority),
        "connections": STEADY_CONNECTIONS if rate else CONNECTIONS,
        "rate": rate,
        "warm_up": 2,
        "seconds": seconds,
        "forbidden": target.forbidden,
    }
    done = subprocess.run([program()], input=json.dumps(plan), capture_output=True, text=True, check=True)
    made = json.loads(done.stdout)
    assert made["failures"] == 0, made["example"]
    return Measured(
        rate=made["rate"],
        p50=made["p50_ms"],
        p99=made["p99_ms"],
        seconds=[Second(p99=one["p99_ms"]) for one in made["seconds"]],
    )


@cache
def program() -> Path:
    """Return the load tool, built if need be."""
    return built("load", _LOAD, what="the load tool of the benchmarks") / "load"
