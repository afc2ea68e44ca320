"""Slow and broken networks on each of the ways: clients get keys or clear errors, nothing that is destroyed, and all recovers by itself."""

from __future__ import annotations

import contextlib
import json
import logging
import ssl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from urllib.parse import urlsplit

import httpx2
import pytest

from keyvault import connect
from keyvault.client.remote import RemoteKeyVault
from keyvault.results import values_of
from tests.homes import TestHome, vault_home
from tests.servers import PostgresServer, VaultServer
from tests.servers.certificates import Certificates
from tests.service.nodes import new_certificates, shorten_leases
from tests.service.rounds import ALIVE, DESTROYED, Rounds
from tests.service.running import Running, eventually, running
from tests.service.toxiproxy import Way, running_toxiproxy
from tests.serving import issue_token

log = logging.getLogger(__name__)

TTL, SKEW, TIMEOUT = 1.5, 0.5, 3.0
FAULT_SECONDS = 1.5


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """A node, every way to and from which goes through a proxy; `home` reaches the servers past it."""

    home: TestHome
    service: Running
    ways: dict[str, Way]
    certificates: Certificates
    token: str

    def connect(self) -> RemoteKeyVault:
        return connect(
            f"https://127.0.0.1:{self.ways['client'].port}",
            token=self.token,
            ca_file=self.certificates.ca_file,
            timeout=TIMEOUT,
            keep=0,
        )


@pytest.fixture(scope="module")
def surroundings(
    vault_server: VaultServer, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Surroundings]:
    directory = tmp_path_factory.mktemp("networks")
    url = postgres_server.create_database()
    # In dedicated custody every key is made in Vault, so that a round needs both servers once a lease is over.
    home = vault_home(directory, vault_server, url, custody="dedicated")
    shorten_leases(home.path, ttl=TTL, skew=SKEW)
    certificates, token = new_certificates(directory), issue_token(home.path)
    with home.vault() as vault:
        values_of(vault.ensure_scopes([*ALIVE, DESTROYED]))
    shred(home, DESTROYED)
    with running_toxiproxy(directory) as proxy:
        ways = {"database": proxy.way_to("database", url), "vault": proxy.way_to("vault", vault_server.addr)}
        behind = home.copy(directory / "behind", at_port(url, ways["database"].port))
        settings = behind.path / "keyvault.toml"
        settings.write_text(
            settings.read_text().replace(vault_server.addr, at_port(vault_server.addr, ways["vault"].port))
        )
        options = ["--tls-certificate", str(certificates.cert_file), "--tls-key", str(certificates.key_file)]
        with running(behind.path, directory / "log", *options) as service:
            ways["client"] = proxy.way_to("client", service.url)
            yield Surroundings(home=home, service=service, ways=ways, certificates=certificates, token=token)
    postgres_server.drop_database(url)


def at_port(url: str, port: int) -> str:
    return url.replace(f":{urlsplit(url).port}", f":{port}")


def shred(home: TestHome, name: str) -> None:
    with home.destroyer() as destroyer:
        (outcome,) = destroyer.destroy([name], ticket="T-1", requested_by="tester")
    assert outcome.error is None


Fault = Callable[[Way], AbstractContextManager[None]]

DELAYS: dict[str, Fault] = {
    "latency with jitter": lambda way: way.broken("latency", latency=20, jitter=15),
    "slicing": lambda way: way.broken("slicer", average_size=200, size_variation=100, delay=2_000),
    "little bandwidth": lambda way: way.broken("bandwidth", rate=30),
}
BREAKS: dict[str, Fault] = {
    "silence": lambda way: way.broken("timeout", timeout=0),
    "resets": lambda way: way.broken("reset_peer", timeout=10),
    "an end in the middle of an answer": lambda way: way.broken("limit_data", bytes=2_500),
}
WAYS = ("client", "database", "vault")


@pytest.fixture
def rounds(surroundings: Surroundings) -> Iterator[Rounds]:
    with surroundings.connect() as vault:
        made = Rounds(vault, TIMEOUT)
        made.recover()
        yield made
        made.prove()


def ready(surroundings: Surroundings) -> bool:
    """Ask the node itself, past the proxy."""
    context = ssl.create_default_context(cafile=surroundings.certificates.ca_file)
    answer = httpx2.get(f"{surroundings.service.url}/readyz", verify=context)
    return answer.status_code == 200 and bool(json.loads(answer.text)["ready"])


@pytest.mark.parametrize("fault", DELAYS)
def test_slow_networks_are_waited_for(surroundings: Surroundings, rounds: Rounds, fault: str) -> None:
    with contextlib.ExitStack() as stack:
        for way in surroundings.ways.values():
            stack.enter_context(DELAYS[fault](way))
        rounds.recover()
        rounds.going_on(FAULT_SECONDS / 3)
    assert rounds.answered > 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fault", BREAKS)
def test_a_broken_network_gives_clear_errors_and_no_destroyed_key_and_all_recovers_by_itself(
    surroundings: Surroundings,
    rounds: Rounds,
    way: str,
    fault: str,
) -> None:
    victim = f"consumer/acct-1/{way}-{fault.replace(' ', '-')}"
    values_of(rounds.vault.ensure_scopes([victim]))
    with BREAKS[fault](surroundings.ways[way]):
        rounds.going_on(FAULT_SECONDS / 3)
        shred(surroundings.home, victim)
        rounds.going_on(TTL + SKEW)
        rounds.destroyed.append(victim)
        rounds.going_on(FAULT_SECONDS / 3)
    log.info("recovered after %.2f s", rounds.recover())
    eventually(lambda: ready(surroundings))
    assert rounds.failures, "nothing was broken"
