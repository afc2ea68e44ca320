"""G2 and G3 by the histories of real clients: four processes over TLS, two nodes, PostgreSQL and Vault, and shredding in the middle."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from keyvault import connect
from keyvault.client.remote import RemoteKeyVault
from keyvault.errors import ScopeDestroyedError
from keyvault.home import Home
from keyvault.results import values_of
from keyvault.store.tables import destructions
from keyvault.values import OpenRequest
from shredder.destroy import Destroyer
from shredder.erase import Outcome
from tests.homes import vault_home
from tests.integration.test_main_job import is_past_due, messages
from tests.servers import VaultServer
from tests.service import history
from tests.service.history import Fence, History, Suspension
from tests.service.nodes import new_certificates, shorten_leases, two_nodes
from tests.service.storage_client import UNKNOWN, Thing, Work, now, things_of
from tests.serving import issue_token

TTL, SKEW = 3.0, 0.5
CLIENTS = 4
PATIENCE = 300.0


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """What ends in the middle: months, consumers and a record (with its month, which stays) for good, other consumers for a while."""

    months: list[str]
    consumers: list[str]
    record: tuple[str, str]
    resting: list[str]

    def watched(self) -> list[str]:
        return [*self.months, *self.consumers, self.record[0], *self.resting]


def victims(given: list[dict[str, Any]]) -> Chosen:
    """Choose what has many messages."""
    kept = [things_of(message) for message in given if not is_past_due(message)]
    months = [name for name, _ in Counter(identity.scopes[0] for identity, _ in kept).most_common(5)]
    consumers = [name for name, _ in Counter(identity.scopes[1] for identity, _ in kept).most_common(5)]
    record = next(content.record for _, content in kept if content.scopes[0] == months[4])
    return Chosen(months=months[:4], consumers=consumers[:4], record=(months[4], record), resting=consumers[4:])


def fenced(home: Home, destroy: Callable[[], list[Outcome]], scope: str, record: str | None = None) -> Fence:
    """Destroy something, and return when its fence was committed at the latest, by the clock of the histories."""
    start = now()
    assert [outcome.error for outcome in destroy()] == [None]
    stamped = home.database.read(
        lambda connection: connection.execute(sa.func.max(destructions.c.fenced_at)).scalar_one()
    )
    return Fence(scope=scope, record=record, start=start, fenced_at=stamped.timestamp() - (time.time() - now()))


def test_no_key_is_used_after_the_fence_and_the_last_lease_and_everything_else_opens_byte_for_byte(
    vault_server: VaultServer, store_url: str, tmp_path: Path
) -> None:
    given = messages()
    chosen = victims(given)
    due = {things_of(message)[0].scopes[0] for message in given if is_past_due(message)}
    things = {thing.of: thing for message in given for thing in things_of(message)}
    names = sorted({name for thing in things.values() for name in thing.scopes})
    random.Random(8).shuffle(given)  # what is shredded has messages at every time

    home = vault_home(tmp_path, vault_server, store_url, custody="ring")
    shorten_leases(home.path, ttl=TTL, skew=SKEW)
    certificates, token = new_certificates(tmp_path), issue_token(home.path)
    with two_nodes(home.path, tmp_path, certificates) as nodes:
        urls = [node.url for node in nodes]
        connected = partial(connect, urls, token=token, ca_file=certificates.ca_file, timeout=60)
        with connected() as vault:
            made = vault.ensure_scopes(names)
            assert {name for name, info in zip(names, made, strict=True) if isinstance(info, Exception)} == due
            works = [
                Work(
                    who=f"client-{number}",
                    urls=urls[number % 2 :] + urls[: number % 2],
                    ca_file=str(certificates.ca_file),
                    token=token,
                    messages=given[number::CLIENTS],
                    watched=chosen.watched(),
                    history=str(tmp_path / f"history-{number}"),
                    sealed=str(tmp_path / f"sealed-{number}"),
                    stop=str(tmp_path / "stop"),
                )
                for number in range(CLIENTS)
            ]
            with at_work(works, tmp_path) as processes:
                a_third = len(things) // 3
                wait_for(lambda: answered_so_far(works) > a_third, processes)
                with home.opened() as opened:
                    fences, suspensions = end_some(opened, vault, chosen)
                answered_then = answered_so_far(works)
                time.sleep(TTL + SKEW + 1)
                suspensions = [resumed(vault, each) for each in suspensions]
                (tmp_path / "stop").touch()
                assert [process.wait(PATIENCE) for process in processes] == [0] * CLIENTS

        calls = [history.parse(text) for work in works for text in Path(work.history).read_text().splitlines()]
        judged = History(calls=calls, fences=fences, suspensions=suspensions, bound=TTL + SKEW, unknown={UNKNOWN, *due})
        assert history.faults(judged) == []
        assert history.unanswered(calls, "seal", things) == []
        assert 0 < answered_then < len(things)
        assert_it_tells_something(judged)
        with connected() as fresh:
            assert_readable(fresh, works, things, fences)


def end_some(home: Home, vault: RemoteKeyVault, chosen: Chosen) -> tuple[list[Fence], list[Suspension]]:
    """Suspend and shred what was chosen, one after the other."""
    suspensions = []
    for name in chosen.resting:
        start = now()
        values_of(vault.suspend([name]))
        suspensions.append(Suspension(scope=name, start=start, end=now(), resume_start=math.inf, resume_end=math.inf))
    destroyer = Destroyer(home)
    fences = [fenced(home, partial(shred, destroyer, name), name) for name in chosen.months + chosen.consumers]
    month, record = chosen.record
    fences.append(fenced(home, partial(shred_record, destroyer, month, record), month, record))
    return fences, suspensions


def resumed(vault: RemoteKeyVault, suspension: Suspension) -> Suspension:
    start = now()
    values_of(vault.resume([suspension.scope]))
    return replace(suspension, resume_start=start, resume_end=now())


@contextmanager
def at_work(works: list[Work], directory: Path) -> Iterator[list[subprocess.Popen[bytes]]]:
    processes = []
    try:
        for work in works:
            file = directory / f"{work.who}.json"
            work.save(file)
            processes.append(subprocess.Popen([sys.executable, "-m", "tests.service.storage_client", str(file)]))
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def batched(requests: list[OpenRequest], count: int) -> Iterator[list[OpenRequest]]:
    return (requests[first : first + count] for first in range(0, len(requests), count))


def assert_readable(vault: RemoteKeyVault, works: list[Work], things: Mapping[str, Thing], fences: list[Fence]) -> None:
    """Everything that was sealed is as it was, but what was destroyed, of which nothing opens."""
    gone = {(fence.scope, fence.record) for fence in fences}
    sealed = [json.loads(text) for work in works for text in Path(work.sealed).read_text().splitlines()]
    requests = [OpenRequest(envelope=bytes.fromhex(envelope), associated_data=of.encode()) for of, envelope in sealed]
    # In parts: what is not answered within a lease is answered by nobody, and leases are short here.
    results = [result for part in batched(requests, 500) for result in vault.open_many(part)]
    for (of, _), result in zip(sealed, results, strict=True):
        thing = things[of]
        if any((scope, None) in gone or (scope, thing.record) in gone for scope in thing.scopes):
            assert isinstance(result, ScopeDestroyedError)
        else:
            assert result == thing.plaintext


def shred(destroyer: Destroyer, name: str) -> list[Outcome]:
    return destroyer.destroy([name], ticket="T-1", requested_by="tester")


def shred_record(destroyer: Destroyer, month: str, record: str) -> list[Outcome]:
    return destroyer.destroy_records(month, [record], ticket="T-2", requested_by="tester")


def assert_it_tells_something(judged: History) -> None:
    """The clients were at it before, during and after: a history in which nobody asked would be without fault, too."""
    refused = {(call.op, call.error) for call in judged.calls if call.outcome == "refused"}
    assert {op for op, error in refused if error in history.GONE} == {"seal", "open", "rewrap"}
    assert {error for _, error in refused} >= {"ScopeSuspendedError", "UnknownScopeError"}
    concerned = [(call, fence) for call in judged.calls for fence in judged.fences_of(call)]
    before = {fence for call, fence in concerned if call.outcome == "ok" and call.end < fence.start}
    while_kept = {fence for call, fence in concerned if 0 < call.start - fence.fenced_at < judged.bound}
    after = {fence for call, fence in concerned if call.start > fence.fenced_at + judged.bound}
    # Not of each scope: on a busy machine a client may come to it in one of the three only.
    assert min(map(len, (before, while_kept, after))) > len(judged.fences) / 2


def answered_so_far(works: list[Work]) -> int:
    return sum(Path(work.history).read_text().count('"op":"seal"') for work in works if Path(work.history).exists())


def wait_for(done: Callable[[], bool], processes: list[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + PATIENCE
    while not done():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < until
        time.sleep(0.05)
