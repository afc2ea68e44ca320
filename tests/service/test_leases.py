"""Leases in the service: what is in use is admitted anew before they end, and nothing rests on a reading for longer than one (G3)."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyvault import DataKey, KeyRequest, KeyVault, UnwrapRequest, WrapRequest
from keyvault.errors import KeyVaultError, ScopeDestroyedError, ScopeSuspendedError, Unavailable
from keyvault.home import assemble
from keyvault.leased_keys import LeasedKeys
from keyvault.leased_refresh import EARLIEST, LATEST, Refresher, is_due
from keyvault.leases import AnswerLease
from keyvault.results import values_of
from keyvault.store.database import Database
from keyvault.testing import ManualClock
from keyvault.values import RewrapRequest
from tests.homes import TestHome, embedded_home
from tests.unit.test_leased_keys import is_wiped, key

ADA, BOB = "consumer/acct-1/ada", "consumer/acct-1/bob"
TTL = 60.0


class Watched(Database):
    """A database that counts its reads, can be down, and can be slow by way of `before_read`."""

    reads, down = 0, False

    def before_read(self) -> None:
        """Nothing, until a test sets it."""

    def read(self, work: Any) -> Any:
        self.reads += 1
        self.before_read()
        if self.down:
            raise Unavailable("the database is down")
        return super().read(work)


class Leased:
    """A vault that keeps keys, its clock that stands still, and its database."""

    def __init__(self, home: TestHome) -> None:
        self.home = home
        self._context = home.opened("issuer")
        opened = self._context.__enter__()
        self.clock = ManualClock(datetime.now(UTC))
        self.database = Watched(opened.settings.store)
        made = replace(assemble(opened.settings, self.database, opened.engine, path=opened.path), clock=self.clock)
        self.vault = KeyVault(made, leased=True)
        self.issuer: Any = self.vault._issuer
        values_of(self.vault.ensure_scopes([ADA, BOB]))

    def close(self) -> None:
        self.issuer.close()
        self.database.close()
        self._context.__exit__(None, None, None)

    def generate(self, *names: str, lease: AnswerLease | None = None) -> list[DataKey | KeyVaultError]:
        return self.vault.generate_data_keys([KeyRequest(scopes=(name,)) for name in names], lease)

    def shred(self, name: str) -> None:
        with self.home.destroyer() as destroyer:
            assert destroyer.destroy([name], ticket="T-1", requested_by="tester")[0].error is None

    def refreshed(self) -> None:
        """Wait until what is being refreshed is."""
        if (thread := self.issuer._refresher._thread) is not None:
            thread.join()


@pytest.fixture
def leased(tmp_path: Path) -> Iterator[Leased]:
    made = Leased(embedded_home(tmp_path, custody="ring"))
    yield made
    made.close()


def test_what_is_in_use_is_admitted_anew_before_its_lease_ends(leased: Leased) -> None:
    (made,) = values_of(leased.generate(ADA))
    opening = [UnwrapRequest(wrapped=made.wrapped)]
    values_of(leased.vault.unwrap_data_keys(opening))
    for _ in range(3):
        leased.clock.advance(timedelta(seconds=TTL * (1 - LATEST) + 0.1))
        values_of(leased.generate(ADA))
        values_of(leased.vault.unwrap_data_keys(opening))
        leased.refreshed()
        reads = leased.database.reads
        leases = [AnswerLease(), AnswerLease()]
        values_of(leased.generate(ADA, lease=leases[0]))
        values_of(leased.vault.unwrap_data_keys(opening, leases[1]))
        assert leased.database.reads == reads
        assert [leased.vault.lease_left(lease) for lease in leases] == pytest.approx([TTL, TTL])


def test_what_is_not_in_use_is_not_admitted_anew(leased: Leased) -> None:
    values_of(leased.generate(ADA))
    leased.clock.advance(timedelta(seconds=TTL * EARLIEST - 0.1))
    reads = leased.database.reads
    values_of(leased.generate(ADA))
    leased.refreshed()
    assert leased.database.reads == reads
    leased.clock.advance(timedelta(seconds=TTL))
    assert not leased.issuer._kept.usable()


def test_a_scope_that_was_suspended_meanwhile_is_dropped_when_it_is_refreshed(leased: Leased) -> None:
    (made,) = values_of(leased.generate(ADA))
    values_of(leased.vault.unwrap_data_keys([UnwrapRequest(wrapped=made.wrapped)]))
    leased.vault.suspend([ADA])
    leased.clock.advance(timedelta(seconds=TTL * (1 - LATEST) + 0.1))
    values_of(leased.generate(ADA))
    values_of(leased.vault.unwrap_data_keys([UnwrapRequest(wrapped=made.wrapped)]))
    leased.refreshed()
    assert isinstance(leased.generate(ADA)[0], ScopeSuspendedError)
    assert isinstance(leased.vault.unwrap_data_keys([UnwrapRequest(wrapped=made.wrapped)])[0], ScopeSuspendedError)


def test_while_the_database_is_down_what_is_under_lease_is_answered_to_its_end_and_nothing_else(leased: Leased) -> None:
    values_of(leased.generate(ADA))
    leased.database.down = True
    for seconds in (45, 10, 4.9):
        leased.clock.advance(timedelta(seconds=seconds))
        values_of(leased.generate(ADA))
        leased.refreshed()
        kept, other = leased.generate(ADA, BOB)
        assert isinstance(kept, DataKey)
        assert isinstance(other, Unavailable)
        leased.refreshed()
    with pytest.raises(Unavailable):
        leased.generate(BOB)
    leased.clock.advance(timedelta(seconds=0.1))
    with pytest.raises(Unavailable):
        leased.generate(ADA)
    leased.database.down = False
    values_of(leased.generate(ADA))


def test_a_refresh_is_asked_for_once_however_many_ask() -> None:
    clock, started, go, asked = ManualClock(datetime.now(UTC)), threading.Event(), threading.Event(), []

    def admit(wanted: Any) -> bool:
        asked.append(sorted(wanted))
        started.set()
        return go.wait(20)

    refresher = Refresher(admit, clock, ttl=TTL)
    refresher.ask({"a": 1})
    assert started.wait(20)
    for _ in range(50):
        refresher.ask({"a": 1, "b": 2})
    thread = refresher._thread
    go.set()
    assert thread is not None
    thread.join()
    assert asked == [["a"], ["b"]]
    refresher.close()


def test_after_a_failed_refresh_nothing_is_asked_for_a_while() -> None:
    clock, asked = ManualClock(datetime.now(UTC)), []

    def admit(wanted: Any) -> bool:
        asked.append(sorted(wanted))
        raise Unavailable("down")

    refresher = Refresher(admit, clock, ttl=TTL)

    def ask() -> None:
        refresher.ask({"a": 1})
        if (thread := refresher._thread) is not None:
            thread.join()

    ask()
    ask()
    assert len(asked) == 1
    clock.advance(timedelta(seconds=TTL / 30))
    ask()
    assert len(asked) == 2
    refresher.close()
    clock.advance(timedelta(seconds=TTL))
    ask()
    assert len(asked) == 2


def test_leases_that_began_together_are_refreshed_at_different_times_and_all_in_time() -> None:
    names = [(f"consumer/acct-1/{number}",) for number in range(1000)]
    for left, least, most in ((EARLIEST, 0, 0), ((EARLIEST + LATEST) / 2, 400, 600), (LATEST - 1e-9, 1000, 1000)):
        assert least <= sum(is_due(name, left=TTL * left, ttl=TTL) for name in names) <= most


def test_what_was_kept_is_not_given_out_when_the_rest_of_the_batch_took_longer_than_its_lease(leased: Leased) -> None:
    (made,) = values_of(leased.generate(ADA))
    (other,) = values_of(leased.vault.generate_data_keys([KeyRequest(scopes=(BOB,), record=None)]))
    values_of(leased.vault.unwrap_data_keys([UnwrapRequest(wrapped=made.wrapped)]))
    leased.shred(ADA)
    leased.clock.advance(timedelta(seconds=1))

    def slow() -> None:
        leased.clock.advance(timedelta(seconds=59.5))
        leased.database.before_read = lambda: None  # type: ignore[method-assign]

    leased.database.before_read = slow  # type: ignore[method-assign]
    opened = leased.vault.unwrap_data_keys([UnwrapRequest(wrapped=item.wrapped) for item in (made, other)])
    assert isinstance(opened[0], ScopeDestroyedError)
    assert opened[1] == other.plaintext


def test_keys_under_a_kept_key_are_not_given_out_either(leased: Leased) -> None:
    values_of(leased.generate(ADA))
    leased.shred(ADA)
    leased.clock.advance(timedelta(seconds=1))

    def slow() -> None:
        leased.clock.advance(timedelta(seconds=59.5))
        leased.database.before_read = lambda: None  # type: ignore[method-assign]

    leased.database.before_read = slow  # type: ignore[method-assign]
    gone, made = leased.generate(ADA, BOB)
    assert isinstance(gone, ScopeDestroyedError)
    assert isinstance(made, DataKey)


def test_a_data_key_is_moved_from_what_the_primary_says_now_and_never_from_memory(leased: Leased) -> None:
    (made,) = values_of(leased.generate(ADA))
    values_of(leased.vault.unwrap_data_keys([UnwrapRequest(wrapped=made.wrapped)]))
    leased.shred(ADA)
    values_of(leased.vault.unwrap_data_keys([UnwrapRequest(wrapped=made.wrapped)]))
    (moved,) = leased.vault.rewrap_data_keys([RewrapRequest(scopes=(BOB,), wrapped=made.wrapped)])
    assert isinstance(moved, ScopeDestroyedError)


def test_a_data_key_that_took_longer_than_a_lease_to_move_is_not_moved(leased: Leased) -> None:
    (made,) = values_of(leased.generate(ADA))
    leased.database.before_read = lambda: leased.clock.advance(timedelta(seconds=31))  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="longer than a lease"):
        leased.vault.rewrap_data_keys([RewrapRequest(scopes=(BOB,), wrapped=made.wrapped)])


def test_every_answer_says_until_when_and_none_says_longer_than_what_it_rests_on(leased: Leased) -> None:
    started = leased.clock.monotonic()
    lease = AnswerLease()
    (made,) = values_of(leased.generate(ADA, lease=lease))
    assert lease.expires == started + TTL
    leased.clock.advance(timedelta(seconds=10))
    opening, answers = UnwrapRequest(wrapped=made.wrapped), [AnswerLease() for _ in range(6)]
    values_of(leased.generate(ADA, lease=answers[0]))
    values_of(leased.generate(ADA, BOB, lease=answers[1]))
    values_of(leased.vault.unwrap_data_keys([opening], answers[2]))
    values_of(leased.vault.wrap_data_keys([WrapRequest(scopes=(ADA,), data_key=bytes(32))], answers[3]))
    assert isinstance(leased.vault.unwrap_data_keys([UnwrapRequest(wrapped=b"KVW")], answers[4])[0], KeyVaultError)
    kept, asked = started + TTL, started + 10 + TTL
    assert [answer.expires for answer in answers] == [kept, kept, asked, asked, math.inf, math.inf]
    assert leased.vault.lease_left(answers[4]) == 0.0, "where nothing is known nothing may be kept"
    leased.clock.advance(timedelta(seconds=50))
    assert leased.vault.lease_left(answers[0]) == 0.0


def test_a_key_that_is_kept_after_one_whose_call_began_later_is_wiped_in_time() -> None:
    clock = ManualClock(datetime.now(UTC))
    kept = LeasedKeys(clock, ttl=TTL)
    keys = [key() for _ in range(4)]
    for name, anchor in ((0, 0.0), (1, 20.0), (2, 30.0), (3, 10.0)):
        kept.keep(name, keys[name], anchor=anchor)
    assert list(kept.usable()) == [0, 3, 1, 2]
    clock.advance(timedelta(seconds=TTL + 10))
    kept.usable()
    assert [is_wiped(made) for made in keys] == [True, False, False, True]
    kept.close()
