"""Issuing from memory under a lease: the same answers, and a hard end (G3)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from keyvault import DataKey, KeyRequest, KeyVault, UnwrapRequest
from keyvault.errors import (
    AlreadyDueError,
    DecryptionFailedError,
    InvalidFormatError,
    InvalidInputError,
    KeyVaultError,
    PurposeNotAllowedError,
    ScopeDestroyedError,
    ScopeFencedError,
    ScopeSuspendedError,
    UnknownScopeError,
)
from keyvault.home import assemble
from keyvault.results import values_of
from keyvault.store.database import Database
from keyvault.testing import ManualClock
from tests.homes import TestHome

PERSON, OTHER = "consumer/acct-1/a", "consumer/acct-1/b"
BUSINESS = "business/acct-1/2026"


class Counted(Database):
    """A database that counts what is read of it."""

    reads = 0

    def read(self, work):  # type: ignore[no-untyped-def]
        self.reads += 1
        return super().read(work)


@contextmanager
def leased(home: TestHome) -> Iterator[tuple[KeyVault, ManualClock, Counted]]:
    """A vault that keeps keys, whose clock stands still; and the database it asks."""
    with home.opened("issuer") as opened:
        clock = ManualClock(datetime.now(UTC))
        database = Counted(opened.settings.store)
        made = replace(assemble(opened.settings, database, opened.engine, path=opened.path), clock=clock)
        vault = KeyVault(made, leased=True)
        vault._issuer._refresher.close()  # type: ignore[attr-defined] # these are about leases that nothing refreshes
        yield vault, clock, database
        vault._issuer.close()
        database.close()


def shred(home: TestHome, name: str) -> None:
    with home.destroyer() as destroyer:
        assert destroyer.destroy([name], ticket="T-1", requested_by="tester")[0].error is None


def test_kept_keys_are_answered_with_from_memory_and_open_anywhere(home: TestHome) -> None:
    with leased(home) as (vault, _, database):
        values_of(vault.ensure_scopes([PERSON, OTHER]))
        requests = [
            KeyRequest(scopes=(PERSON,)),
            KeyRequest(scopes=(PERSON, OTHER), associated_data=b"a"),
            KeyRequest(scopes=(PERSON,)),
        ]
        values_of(vault.generate_data_keys(requests))
        before = database.reads
        keys = values_of(vault.generate_data_keys(requests * 50))
        assert database.reads == before
        assert len({bytes(key.plaintext) for key in keys}) == len({key.wrapped for key in keys}) == 150
        asked = [
            UnwrapRequest(wrapped=key.wrapped, associated_data=request.associated_data)
            for key, request in zip(keys, requests * 50, strict=True)
        ]
        assert values_of(vault.unwrap_data_keys(asked)) == [key.plaintext for key in keys]
        before = database.reads
        assert values_of(vault.unwrap_data_keys(asked)) == [key.plaintext for key in keys]
        assert database.reads == before
    with home.vault() as plain:
        assert values_of(plain.unwrap_data_keys(asked)) == [key.plaintext for key in keys]


def test_a_kept_key_ends_with_its_lease_and_not_before(home: TestHome) -> None:
    with leased(home) as (vault, clock, _):
        values_of(vault.ensure_scopes([PERSON]))
        key = values_of(vault.generate_data_keys([KeyRequest(scopes=(PERSON,))]))[0]
        values_of(vault.unwrap_data_keys([UnwrapRequest(wrapped=key.wrapped)]))
        shred(home, PERSON)
        clock.advance(timedelta(seconds=59))
        assert isinstance(vault.generate_data_keys([KeyRequest(scopes=(PERSON,))])[0], DataKey)
        assert vault.unwrap_data_keys([UnwrapRequest(wrapped=key.wrapped)]) == [key.plaintext]
        clock.advance(timedelta(seconds=1))
        ended = (ScopeDestroyedError, ScopeFencedError)
        assert isinstance(vault.generate_data_keys([KeyRequest(scopes=(PERSON,))])[0], ended)
        assert isinstance(vault.unwrap_data_keys([UnwrapRequest(wrapped=key.wrapped)])[0], ended)


def test_using_a_key_does_not_renew_its_lease(home: TestHome) -> None:
    with leased(home) as (vault, clock, _):
        values_of(vault.ensure_scopes([PERSON]))
        values_of(vault.generate_data_keys([KeyRequest(scopes=(PERSON,))]))
        vault.suspend([PERSON])
        for _ in range(5):
            clock.advance(timedelta(seconds=11.9))
            assert isinstance(vault.generate_data_keys([KeyRequest(scopes=(PERSON,))])[0], DataKey)
        clock.advance(timedelta(seconds=0.5))
        assert isinstance(vault.generate_data_keys([KeyRequest(scopes=(PERSON,))])[0], ScopeSuspendedError)


def test_a_lease_that_ends_while_a_batch_is_made_gives_nothing_out(
    home: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with leased(home) as (vault, clock, _):
        values_of(vault.ensure_scopes([PERSON]))
        key = values_of(vault.generate_data_keys([KeyRequest(scopes=(PERSON,))]))[0]
        values_of(vault.unwrap_data_keys([UnwrapRequest(wrapped=key.wrapped)]))
        shred(home, PERSON)
        kept = vault._issuer._kept  # type: ignore[attr-defined]
        usable = kept.usable

        def slow() -> object:
            found = dict(usable())
            clock.advance(timedelta(seconds=31))
            return found

        clock.advance(timedelta(seconds=30))
        monkeypatch.setattr(kept, "usable", slow)
        ended = (ScopeDestroyedError, ScopeFencedError)
        assert isinstance(vault.generate_data_keys([KeyRequest(scopes=(PERSON,))])[0], ended)
        clock.advance(timedelta(seconds=-31))
        assert isinstance(vault.unwrap_data_keys([UnwrapRequest(wrapped=key.wrapped)])[0], ended)


def test_a_month_that_falls_due_under_a_lease_gives_no_new_key(home: TestHome) -> None:
    with leased(home) as (vault, clock, _):
        month = f"communications/acct-1/{clock.now():%Y-%m}"
        (info,) = values_of(vault.ensure_scopes([month]))
        values_of(vault.generate_data_keys([KeyRequest(scopes=(month,))]))
        assert info.due_at is not None
        clock.jump(info.due_at)
        assert isinstance(vault.generate_data_keys([KeyRequest(scopes=(month,))])[0], AlreadyDueError)


def test_each_item_is_its_value_or_its_own_error(home: TestHome) -> None:
    with leased(home) as (vault, _, _):
        values_of(vault.ensure_scopes([PERSON, OTHER, BUSINESS]))
        vault.suspend([OTHER])
        requests = [
            KeyRequest(scopes=(PERSON,)),
            KeyRequest(scopes=("consumer/acct-1/nobody",)),
            KeyRequest(scopes=(PERSON, OTHER)),
            KeyRequest(scopes=(PERSON,), associated_data=bytes(64 * 1024 + 1)),
            KeyRequest(scopes=(BUSINESS,), purpose="audit"),
            KeyRequest(scopes=(BUSINESS,), purpose="marketing"),
        ]
        expected: list[type[DataKey | KeyVaultError]] = [DataKey, UnknownScopeError, ScopeSuspendedError]
        expected += [InvalidInputError, DataKey, PurposeNotAllowedError]
        for _ in range(2):
            results = vault.generate_data_keys(requests)
            assert [type(result) for result in results] == expected
        key = results[0]
        assert isinstance(key, DataKey)
        for _ in range(2):
            opened = vault.unwrap_data_keys(
                [
                    UnwrapRequest(wrapped=key.wrapped),
                    UnwrapRequest(wrapped=key.wrapped, associated_data=b"x"),
                    UnwrapRequest(wrapped=b"KVW"),
                ]
            )
            assert [type(item) for item in opened] == [bytearray, DecryptionFailedError, InvalidFormatError]
