"""Push: what another process ends is dropped from the service's memory, and told to connected clients, long before leases end."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from keyvault import KeyRequest, connect
from keyvault.ending_watch import AGAIN_SECONDS, ROWS, EndingReader
from keyvault.errors import KeyVaultError, ScopeDestroyedError, ScopeFencedError, ScopeSuspendedError
from keyvault.events import EventType, b64, make_event
from keyvault.results import values_of
from keyvault.service.push import MAX_ITEMS, encode
from keyvault.store.endings import Endings
from keyvault.store.tables import outbox
from keyvault.testing import ManualClock
from tests.homes import TestHome, embedded_home, in_ring_custody
from tests.serving import Served, issue_token, keyvault, served

ADA, BOB, MONTH = "consumer/acct-1/ada", "consumer/acct-1/bob", "communications/acct-1/2026-10"
PATIENCE = 30.0
"""Half of a lease: what happens before that, no lease has done."""


@pytest.fixture
def small(tmp_path: Path) -> TestHome:
    return embedded_home(tmp_path, custody="ring")


def soon(what: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not what():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def listening(service: Served, token: str) -> Iterator[Iterator[str]]:
    headers = {"authorization": f"Bearer {token}"}
    with httpx2.stream("GET", f"{service.url}/v1/push", headers=headers, timeout=PATIENCE) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.iter_lines()
        assert next(lines) == ": alive"
        yield lines


def drops(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line == "event: drop":
            yield json.loads(next(lines).removeprefix("data: "))


def shown(data: bytes) -> str:
    return base64.b64encode(data).decode()


@in_ring_custody
def test_endings_of_all_kinds_are_found_by_what_the_store_says_of_them(home: TestHome) -> None:
    with home.opened("issuer") as opened, home.vault() as vault:
        ada, bob, month = (info.id for info in values_of(vault.ensure_scopes([ADA, BOB, MONTH])))
        reader = EndingReader(opened.database, opened.clock)
        assert not reader.read()
        vault.suspend([BOB])
        vault.suspend_records(MONTH, ["r-1"])
        found = reader.read()
        assert found.scopes == {bob}
        assert [scope for scope, _ in found.records] == [month]
        with home.destroyer() as destroyer:
            destroyer.destroy([ADA], ticket="T-1", requested_by="tester")
            found = reader.read()
            assert found.scopes == {ada}
            assert len(found.rings) == 1
            destroyer.destroy_records(MONTH, ["r-2", "r-3"], ticket="T-2", requested_by="tester")
            found = reader.read()
            assert [scope for scope, _ in found.records] == [month, month]
            assert not found.scopes
            assert len(found.rings) == 1
        assert not reader.read()


def test_what_another_process_ends_is_told_and_dropped_before_its_lease_is_over(
    small: TestHome, tmp_path: Path
) -> None:
    home = small
    token = issue_token(home.path)
    with served(home.path, log=tmp_path / "log") as service, connect(service.url, token=token) as vault:
        ids = {
            info.id: name
            for info, name in zip(values_of(vault.ensure_scopes([ADA, BOB, MONTH])), (ADA, BOB, MONTH), strict=True)
        }
        id_of = {name: scope for scope, name in ids.items()}
        requests = [KeyRequest(scopes=(ADA,)), KeyRequest(scopes=(BOB,)), KeyRequest(scopes=(MONTH,), record="r-1")]
        values_of(vault.generate_data_keys(requests))

        def refused(index: int, kind: type[KeyVaultError] | tuple[type[KeyVaultError], ...]) -> bool:
            return isinstance(vault.generate_data_keys([requests[index]])[0], kind)

        with listening(service, token) as lines:
            told = drops(lines)
            with home.destroyer() as destroyer:
                destroyer.destroy([ADA], ticket="T-1", requested_by="tester")
            assert next(told) == {"scopes": [shown(id_of[ADA])], "records": [], "all": False}
            assert refused(0, (ScopeFencedError, ScopeDestroyedError))
            with home.vault() as other:
                other.suspend([BOB])
            # Until then that the first was fenced, and then destroyed, is told: before it, or in the same event.
            event = next(event for event in told if shown(id_of[BOB]) in event["scopes"])
            assert set(event["scopes"]) <= {shown(id_of[ADA]), shown(id_of[BOB])}
            assert not event["all"]
            assert refused(1, ScopeSuspendedError)
            with home.vault() as other:
                other.suspend_records(MONTH, ["r-1"])
            ((scope, tag),) = next(told)["records"]
            assert scope == shown(id_of[MONTH])
            assert len(base64.b64decode(tag)) == 8
            assert refused(2, ScopeSuspendedError)
            assert not any(name in service.log.read_text() for name in (ADA, BOB, MONTH))


def test_without_a_listener_the_service_drops_what_it_keeps_as_well(small: TestHome, tmp_path: Path) -> None:
    token = issue_token(small.path)
    with served(small.path, log=tmp_path / "log") as service, connect(service.url, token=token) as vault:
        values_of(vault.ensure_scopes([MONTH]))
        request = KeyRequest(scopes=(MONTH,), record="r-1")
        values_of(vault.generate_data_keys([request]))
        keyvault(small.path, "shred", MONTH, "--record", "r-1", "--ticket", "T-1", "--yes")
        assert soon(lambda: isinstance(vault.generate_data_keys([request])[0], KeyVaultError))
        values_of(vault.generate_data_keys([KeyRequest(scopes=(MONTH,), record="r-2")]))


def test_a_stream_needs_an_issuers_token_and_ends_when_that_is_revoked(small: TestHome, tmp_path: Path) -> None:
    token, platform = issue_token(small.path), issue_token(small.path, "platform")
    with served(small.path, log=tmp_path / "log") as service:
        for given, status in ((None, 401), ("kv1_" + "0" * 32 + "_" + "0" * 64, 401), (platform, 403)):
            headers = {} if given is None else {"authorization": f"Bearer {given}"}
            assert httpx2.get(f"{service.url}/v1/push", headers=headers).status_code == status
        with listening(service, token) as lines:
            (listed,) = [one for one in keyvault(small.path, "token", "list")["tokens"] if one["role"] == "issuer"]
            keyvault(small.path, "token", "revoke", listed["id"])
            assert [line for line in lines if line not in {"", ": alive"}] == []


def test_a_service_that_is_told_to_stop_does_not_wait_for_its_listeners(small: TestHome, tmp_path: Path) -> None:
    token = issue_token(small.path)
    with served(small.path, log=tmp_path / "log") as service, listening(service, token) as lines:
        service.process.terminate()
        assert [line for line in lines if line not in {"", ": alive"}] == []
        assert service.process.wait(PATIENCE) in {0, 143}, "by itself, and not killed"


# --- where a process stands in the outbox -------------------------------------------------------------------------------


class Outbox:
    """A home's outbox, whose rows can be written under any id; and a reader that stands in it."""

    def __init__(self, home: TestHome) -> None:
        with home.vault() as vault:
            values_of(vault.ensure_scopes([ADA]))
        self._context = home.opened("issuer")
        self.database = self._context.__enter__().database
        self.clock = ManualClock(datetime.now(UTC))
        self.reader = EndingReader(self.database, self.clock)
        assert not self.reader.read()
        newest = self.database.read(lambda connection: connection.execute(sa.select(sa.func.max(outbox.c.id))).scalar())
        assert newest is not None
        self.newest = newest

    def close(self) -> None:
        self._context.__exit__(None, None, None)

    def suspended(self, *ids: int) -> None:
        """Write that scopes were suspended, a row for each of these numbers behind the newest, whose scope has that number for an id."""
        rows = []
        for number in ids:
            payload = {"scope": b64(bytes(32)), "scope_id": b64(number.to_bytes(16, "big"))}
            event = make_event(EventType.SCOPE_SUSPENDED, payload, at=self.clock.now())
            rows.append(
                {
                    "id": self.newest + number,
                    "event_id": event.id,
                    "schema_version": 1,
                    "type": event.type,
                    "body": event.body,
                }
            )
        self.database.write(lambda connection: connection.execute(sa.insert(outbox), rows))

    def read(self) -> list[int]:
        return sorted(int.from_bytes(scope, "big") for scope in self.reader.read().scopes)


@pytest.fixture
def rows(small: TestHome) -> Iterator[Outbox]:
    made = Outbox(small)
    yield made
    made.close()


def test_each_ending_is_told_once(rows: Outbox) -> None:
    assert rows.read() == []
    rows.suspended(1)
    rows.suspended(2)
    assert rows.read() == [1, 2]
    assert rows.read() == []
    rows.clock.advance(timedelta(seconds=AGAIN_SECONDS * 3))
    rows.suspended(3)
    assert rows.read() == [3]
    assert rows.read() == []


def test_a_row_that_is_committed_after_a_later_one_is_told_as_well(rows: Outbox) -> None:
    rows.suspended(5)
    assert rows.read() == [5]
    for seconds in (0.25, AGAIN_SECONDS - 1):
        rows.clock.advance(timedelta(seconds=seconds))
        assert rows.read() == []
    rows.suspended(2, 4)
    assert rows.read() == [2, 4]
    assert rows.read() == []


def test_in_another_database_everything_may_have_ended(rows: Outbox) -> None:
    rows.suspended(1, 2)
    assert rows.read() == [1, 2]
    rows.database.write(lambda connection: connection.execute(sa.delete(outbox).where(outbox.c.id > rows.newest + 1)))
    assert rows.reader.read().everything
    rows.suspended(2)
    assert rows.read() == [2]


def test_of_more_endings_than_can_be_told_everything_is_dropped(rows: Outbox) -> None:
    rows.suspended(*range(1, ROWS + 1))
    assert rows.reader.read().everything
    rows.suspended(ROWS + 1)
    assert rows.read() == [ROWS + 1]


def test_a_destruction_that_cannot_be_found_may_be_of_anything(rows: Outbox) -> None:
    payload = {"destroy_id": b64(bytes(16)), "scopes": [b64(bytes(32))], "records": []}
    event = make_event(EventType.DESTROY_FENCED, payload, at=rows.clock.now())
    row = {"event_id": event.id, "schema_version": 1, "type": event.type, "body": event.body}
    rows.database.write(lambda connection: connection.execute(sa.insert(outbox), row))
    assert rows.reader.read().everything


def test_large_endings_are_told_in_several_events() -> None:
    scopes = {number.to_bytes(16, "big") for number in range(MAX_ITEMS + 1)}
    events = encode(Endings(scopes=scopes, records={(bytes(16), bytes(8))}))
    data = [json.loads(event.decode().split("data: ")[1]) for event in events]
    assert [len(one["scopes"]) for one in data] == [MAX_ITEMS, 1, 0]
    assert data[2] == {"scopes": [], "records": [[shown(bytes(16)), shown(bytes(8))]], "all": False}
    assert {base64.b64decode(scope) for one in data for scope in one["scopes"]} == scopes
    assert json.loads(encode(Endings(everything=True))[0].decode().split("data: ")[1])["all"] is True
