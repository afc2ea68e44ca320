"""How long an answer may rest on what the database said, with a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault import KeyRequest, KeyVault, UnwrapRequest
from keyvault.errors import Unavailable
from keyvault.home import Home, assemble
from keyvault.leases import LeaseAnchor
from keyvault.results import values_of
from keyvault.store.database import Database
from keyvault.store.tables import heartbeats, metadata
from keyvault.testing import ManualClock, faulty_engine
from tests.homes import embedded_home

T = TypeVar("T")
START = datetime(2026, 1, 1, tzinfo=UTC)
TTL = 60.0
NAME = "consumer/acct-1/one"


class Replicated(Database):
    """Stands for a server with a standby, over a file: heartbeats are committed, and can be made to fail."""

    down = False

    def __init__(self, url: str) -> None:
        super().__init__(url, create=True)
        self.dialect = "a server"
        with self.engine.begin() as connection:
            metadata.create_all(connection, tables=[heartbeats])

    def write(self, work: Callable[[Connection], T]) -> T:
        if self.down:
            raise Unavailable("the standby did not confirm the commit")
        return super().write(work)

    def now(self, connection: Connection) -> datetime:
        del connection
        return START

    def beats(self) -> list[str]:
        return self.read(lambda connection: list(connection.execute(sa.select(heartbeats.c.node)).scalars()))


@pytest.fixture
def replicated(tmp_path: Path) -> Iterator[Replicated]:
    database = Replicated(f"sqlite:///{tmp_path / 'store.db'}")
    yield database
    database.close()


def test_an_answer_within_the_lease_is_good_and_a_slower_one_is_not(replicated: Replicated) -> None:
    clock = ManualClock(START)
    leases = LeaseAnchor(replicated, clock, node="n-1", ttl=TTL)
    anchor = leases.take()
    clock.advance(timedelta(seconds=TTL))
    leases.check(anchor)
    clock.advance(timedelta(microseconds=1))
    with pytest.raises(Unavailable, match=r"^the answer took longer than a lease, .*: ask again$"):
        leases.check(anchor)
    leases.check(leases.take())


def test_a_jump_of_the_calendar_neither_lengthens_nor_ends_a_lease(replicated: Replicated) -> None:
    clock = ManualClock(START)
    leases = LeaseAnchor(replicated, clock, node="n-1", ttl=TTL)
    anchor = leases.take()
    clock.jump(START + timedelta(days=300))
    leases.check(anchor)
    clock.jump(START - timedelta(days=300))
    clock.advance(timedelta(seconds=TTL + 1))
    with pytest.raises(Unavailable):
        leases.check(anchor)


def test_a_heartbeat_is_committed_before_the_anchor_and_again_after_half_a_lease(replicated: Replicated) -> None:
    clock = ManualClock(START)
    leases = LeaseAnchor(replicated, clock, node="n-1", ttl=TTL)
    leases.take()
    assert replicated.beats() == ["n-1"]
    replicated.down = True
    clock.advance(timedelta(seconds=TTL / 2))
    leases.take()
    clock.advance(timedelta(seconds=1))
    for _ in range(2):
        with pytest.raises(Unavailable):
            leases.take()
    replicated.down = False
    assert leases.take() == clock.monotonic()


def test_an_anchor_is_taken_after_a_slow_heartbeat(replicated: Replicated, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock(START)
    leases = LeaseAnchor(replicated, clock, node="n-1", ttl=TTL)

    confirm = replicated.confirm

    def slow(node: str) -> None:
        clock.advance(timedelta(seconds=20))
        confirm(node)

    monkeypatch.setattr(replicated, "confirm", slow)
    assert leases.take() == 20.0
    clock.advance(timedelta(seconds=11))
    assert leases.take() == 51.0, "the heartbeat counts from before its commit"


def test_a_file_that_is_its_own_primary_needs_no_heartbeat(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'store.db'}", create=True)
    assert LeaseAnchor(database, ManualClock(START), node="n-1", ttl=TTL).take() == 0.0
    database.close()


def slow_home(opened: Home, clock: ManualClock, at: str) -> Home:
    """Return the home with an engine that takes longer than a lease when it comes to `at`."""

    def hook(step: str) -> None:
        if step == at:
            clock.advance(timedelta(seconds=opened.settings.lease_ttl + 1))

    slow = assemble(opened.settings, opened.database, faulty_engine(opened.engine, hook), path=opened.path)
    return replace(slow, clock=clock)


@pytest.mark.parametrize(
    ("custody", "slow_to_issue", "slow_to_give_back"),
    [("dedicated", "before generate_data_keys", "after decrypt"), ("ring", "before get_state", "after decrypt")],
)
def test_keys_that_come_after_the_lease_are_not_given_out(
    tmp_path: Path, custody: str, slow_to_issue: str, slow_to_give_back: str
) -> None:
    home = embedded_home(tmp_path, custody=custody)
    with home.opened() as opened:
        vault = KeyVault(opened)
        values_of(vault.ensure_scopes([NAME]))
        request = KeyRequest(scopes=(NAME,))
        key = values_of(vault.generate_data_keys([request]))[0]
        with pytest.raises(Unavailable):
            KeyVault(slow_home(opened, ManualClock(START), slow_to_issue)).generate_data_keys([request])
        with pytest.raises(Unavailable):
            KeyVault(slow_home(opened, ManualClock(START), slow_to_issue)).seal(b"x", [NAME])
        slow = KeyVault(slow_home(opened, ManualClock(START), slow_to_give_back))
        with pytest.raises(Unavailable):
            slow.unwrap_data_keys([UnwrapRequest(wrapped=key.wrapped)])
        assert values_of(vault.unwrap_data_keys([UnwrapRequest(wrapped=key.wrapped)])) == [key.plaintext]
