"""A node killed, Vault sealed, the database crashed, with calls under way: each answer is right, and all recovers by itself."""

from __future__ import annotations

import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyvault import connect
from keyvault.client.remote import RemoteKeyVault
from keyvault.results import values_of
from tests.homes import vault_home
from tests.servers import PostgresServer, VaultServer
from tests.service.nodes import new_certificates, shorten_leases, two_nodes
from tests.service.rounds import ALIVE, DESTROYED, Rounds
from tests.service.running import Running
from tests.serving import issue_token

log = logging.getLogger(__name__)
TTL, SKEW, TIMEOUT = 1.0, 0.5, 5.0
CALLERS = 3


@dataclass(frozen=True, kw_only=True)
class Site:
    """Two nodes, and servers of their own behind them."""

    nodes: tuple[Running, Running]
    vault: VaultServer
    postgres: PostgresServer
    connect: Callable[[], RemoteKeyVault]


@pytest.fixture
def site(
    new_vault: Callable[..., VaultServer], new_postgres: Callable[..., PostgresServer], tmp_path: Path
) -> Iterator[Site]:
    vault_server, postgres = new_vault(), new_postgres()
    # In dedicated custody every key is made in Vault, so that a round needs both servers once a lease is over.
    home = vault_home(tmp_path, vault_server, postgres.create_database(), custody="dedicated")
    shorten_leases(home.path, ttl=TTL, skew=SKEW)
    certificates, token = new_certificates(tmp_path), issue_token(home.path)
    with home.vault() as vault:
        values_of(vault.ensure_scopes([*ALIVE, DESTROYED]))
    with home.destroyer() as destroyer:
        (outcome,) = destroyer.destroy([DESTROYED], ticket="T-1", requested_by="tester")
    assert outcome.error is None
    with two_nodes(home.path, tmp_path, certificates) as nodes:
        urls = [node.url for node in nodes]

        def connected() -> RemoteKeyVault:
            return connect(urls, token=token, ca_file=certificates.ca_file, timeout=TIMEOUT, keep=0)

        yield Site(nodes=nodes, vault=vault_server, postgres=postgres, connect=connected)


@contextmanager
def calls_under_way(site: Site) -> Iterator[list[Rounds]]:
    """Have some clients call all the time; what any of them finds wrong is raised at the end."""
    ended, wrong = threading.Event(), list[str]()
    callers = [Rounds(site.connect(), TIMEOUT) for _ in range(CALLERS)]

    def call(rounds: Rounds) -> None:
        try:
            while not ended.wait(0.01):
                rounds()
        except Exception:
            wrong.append(traceback.format_exc())
            raise

    threads = [threading.Thread(target=call, args=(rounds,)) for rounds in callers]
    for thread in threads:
        thread.start()
    try:
        yield callers
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    for rounds in callers:
        rounds.recover()
        rounds.prove()
        rounds.vault.close()


def kill(node: Running) -> None:
    """Kill a node's processes at once, as the machine's end would."""
    for process in (node.process.pid, *node.workers()):
        os.kill(process, signal.SIGKILL)
    node.process.wait()


def answer_again(callers: list[Rounds], probe: Rounds) -> None:
    """Wait until each of the callers has had two answers more, the second asked for after the first."""
    before = [rounds.answered for rounds in callers]
    while any(rounds.answered < then + 2 for rounds, then in zip(callers, before, strict=True)):
        probe.recover()


def test_clients_outlive_a_killed_node_a_sealed_vault_and_a_crashed_database(site: Site) -> None:
    with site.connect() as own:
        probe = Rounds(own, TIMEOUT)
        probe.recover()
        with calls_under_way(site) as callers:
            site.vault.seal()
            probe.going_on(TTL + SKEW)
            assert not probe()
            assert any("sealed" in failure for failure in probe.failures), probe.failures[-1]
            site.vault.unseal()
            log.info("recovered after %.2f s from a sealed Vault", probe.recover())

            site.postgres.stop("immediate")
            probe.going_on(TTL + SKEW)
            assert not probe()
            assert "database" in probe.failures[-1]
            site.postgres.start()
            log.info("recovered after %.2f s from a crashed database", probe.recover())

            answer_again(callers, probe)
            failed = [len(rounds.failures) for rounds in callers]
            kill(site.nodes[0])
            answer_again(callers, probe)
            assert [len(rounds.failures) for rounds in callers] == failed, "the other node was there all the time"
        probe.prove()
