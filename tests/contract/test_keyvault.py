"""KeyVault on every pair of engine and store."""

from __future__ import annotations

import io
import secrets
from concurrent.futures import ThreadPoolExecutor

import pytest

from keyvault import (
    DataKey,
    KeyRequest,
    KeyState,
    OpenRequest,
    RewrapRequest,
    ScopeInfo,
    SealRequest,
    UnwrapRequest,
    WrapRequest,
)
from keyvault.custody.ring_sealing import key_name
from keyvault.errors import (
    AlreadyDueError,
    DecryptionFailedError,
    InvalidFormatError,
    InvalidInputError,
    InvalidScopeError,
    NotYetOpenError,
    PurposeNotAllowedError,
    RecordsNotSupportedError,
    ScopeDestroyedError,
    ScopeSuspendedError,
    UnknownScopeError,
)
from keyvault.home import Home
from keyvault.results import values_of
from keyvault.store import rings
from keyvault.store import scopes as scope_store
from keyvault.store.scopes import ScopeRow
from keyvault.system_keys import SYSTEM_KEY
from tests.homes import TestHome, in_dedicated_custody, in_ring_custody

MONTH = "communications/acct-1/2026-10"
PERSON = "consumer/acct-1/+15551000862"
OTHER = "consumer/acct-1/+15551000863"


def shred(home: TestHome, *names: str) -> None:
    with home.destroyer() as destroyer:
        outcomes = destroyer.destroy(names, ticket="T-1", requested_by="tester")
        assert all(outcome.error is None and outcome.at is not None for outcome in outcomes)


def test_ensure_creates_once_and_answers_each_name_with_its_value_or_its_own_error(home: TestHome) -> None:
    names = [MONTH, "bogus/x", PERSON, "communications/acct-1/2024-05", "communications/acct-1/2099-01", MONTH]
    with home.vault() as vault:
        first = vault.ensure_scopes(names)
        again = vault.ensure_scopes(names)
    kinds = [type(item) for item in first]
    assert kinds == [ScopeInfo, InvalidScopeError, ScopeInfo, AlreadyDueError, NotYetOpenError, ScopeInfo]
    assert first[0] == first[5]
    assert [item for item in again if isinstance(item, ScopeInfo)] == [first[0], first[2], first[0]]


def test_all_six_kinds_seal_and_open(home: TestHome) -> None:
    names = [MONTH, PERSON, "customer/acct-1/greetings", "customer/acct-1/credentials/crm", "user/u-1", "marketing/c-1"]
    names.append("business/acct-1/2026")
    with home.vault() as vault:
        values_of(vault.ensure_scopes(names))
        sealed = values_of(vault.seal_many([SealRequest(plaintext=name.encode(), scopes=(name,)) for name in names]))
        opened = values_of(vault.open_many([OpenRequest(envelope=envelope) for envelope in sealed]))
    assert opened == [name.encode() for name in names]


def test_concurrent_creators_get_the_same_scope(home: TestHome) -> None:
    names = [f"consumer/acct-1/{index}" for index in range(5)]
    with home.vault() as vault, ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: values_of(vault.ensure_scopes(names)), range(8)))
    assert len({info.id for result in results for info in result}) == len(names)
    with home.opened() as opened:
        rows = rows_of(opened)
        assert len({place(row) for row in rows}) == len(rows) == len(names), "none of them shares its key's place"


@in_dedicated_custody
def test_the_keys_of_creators_that_lost_are_collected(home: TestHome) -> None:
    names = [f"consumer/acct-1/{index}" for index in range(5)]
    with home.vault() as vault, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: values_of(vault.ensure_scopes(names)), range(8)))
    with home.opened() as opened:
        assert len(opened.engine.list_keys()) >= len(names) + 1
    with home.destroyer() as destroyer:
        destroyer.collect()
        assert destroyer.status().unused_keys == 0
    with home.opened() as opened:
        assert len(opened.engine.list_keys()) == len(names) + 1, "the losers' keys are gone, the system key stays"


@in_ring_custody
def test_concurrent_creators_share_one_ring_and_no_slot_of_it(home: TestHome) -> None:
    """Threads of two processes create names that they share, and names of their own."""
    with home.vault() as one, home.vault() as other, ThreadPoolExecutor(8) as pool:

        def create(number: int) -> None:
            names = [f"consumer/acct-1/{index}" for index in range(number, number + 6)]
            values_of((one, other)[number % 2].ensure_scopes(names))

        list(pool.map(create, range(8)))
    with home.opened() as opened:
        rows = rows_of(opened)
        assert len({place(row) for row in rows}) == len(rows) == 13
        keys = set(opened.engine.list_keys()) - {SYSTEM_KEY}
        written_down = opened.database.read(rings.all_ring_ids)
    assert {row.ring_id for row in rows} <= written_down
    assert keys <= {key_name(ring_id) for ring_id in written_down}, "a ring that nobody knows of"


def rows_of(home: Home) -> list[ScopeRow]:
    return home.database.read(lambda connection: scope_store.page(connection, after=b"", limit=10_000))


def place(row: ScopeRow) -> object:
    return row.key_ref or (row.ring_id, row.slot)


def test_data_keys_are_fresh_and_unwrap_to_themselves(home: TestHome) -> None:
    requests = [KeyRequest(scopes=(MONTH, PERSON), associated_data=b"r-1")] * 3 + [KeyRequest(scopes=(PERSON,))]
    with home.vault() as vault:
        values_of(vault.ensure_scopes([MONTH, PERSON]))
        keys = values_of(vault.generate_data_keys(requests))
        assert len({bytes(key.plaintext) for key in keys}) == 4
        assert len({len(key.plaintext) for key in keys}) == 1
        back = values_of(
            vault.unwrap_data_keys(
                [
                    UnwrapRequest(wrapped=key.wrapped, associated_data=request.associated_data)
                    for key, request in zip(keys, requests, strict=True)
                ]
            )
        )
        assert back == [key.plaintext for key in keys]
        wrong = vault.unwrap_data_keys([UnwrapRequest(wrapped=keys[0].wrapped, associated_data=b"r-2")])
    assert isinstance(wrong[0], DecryptionFailedError)


def test_one_bad_request_never_fails_the_others(home: TestHome) -> None:
    with home.vault() as vault:
        values_of(vault.ensure_scopes([PERSON, OTHER]))
        vault.suspend([OTHER])
        requests = [
            KeyRequest(scopes=(PERSON,)),
            KeyRequest(scopes=("consumer/acct-1/nobody",)),
            KeyRequest(scopes=(PERSON, OTHER)),
            KeyRequest(scopes=()),
            KeyRequest(scopes=(PERSON, PERSON)),
            KeyRequest(scopes=("consumer/acct-1",)),
            KeyRequest(scopes=(PERSON,), record="r-1"),
            KeyRequest(scopes=(PERSON,), associated_data=bytes(64 * 1024 + 1)),
            KeyRequest(scopes=(PERSON,)),
        ]
        results = vault.generate_data_keys(requests)
        opened = vault.unwrap_data_keys([UnwrapRequest(wrapped=b""), UnwrapRequest(wrapped=b"KVW\x01" + bytes(60))])
    expected = [DataKey, UnknownScopeError, ScopeSuspendedError, InvalidInputError, InvalidInputError]
    expected += [InvalidScopeError, RecordsNotSupportedError, InvalidInputError, DataKey]
    assert [type(result) for result in results] == expected
    assert [type(result) for result in opened] == [InvalidFormatError, InvalidFormatError]


def test_existing_data_keys_come_over_and_move_between_scopes(home: TestHome) -> None:
    mine = secrets.token_bytes(64)
    with home.vault() as vault:
        values_of(vault.ensure_scopes([PERSON, OTHER]))
        wrapped = values_of(vault.wrap_data_keys([WrapRequest(data_key=mine, scopes=(PERSON,), associated_data=b"a")]))
        moved = values_of(
            vault.rewrap_data_keys([RewrapRequest(wrapped=wrapped[0].wrapped, scopes=(OTHER,), associated_data=b"a")])
        )
    shred(home, PERSON)
    with home.vault() as vault:
        kept, lost = vault.unwrap_data_keys(
            [
                UnwrapRequest(wrapped=moved[0], associated_data=b"a"),
                UnwrapRequest(wrapped=wrapped[0].wrapped, associated_data=b"a"),
            ]
        )
        again = vault.rewrap_data_keys([RewrapRequest(wrapped=wrapped[0].wrapped, scopes=(OTHER,))])
    assert kept == bytearray(mine)
    assert isinstance(lost, ScopeDestroyedError)
    assert isinstance(again[0], ScopeDestroyedError)


@pytest.mark.parametrize("victim", [MONTH, PERSON])
def test_destroying_either_scope_of_two_makes_both_unreadable(home: TestHome, victim: str) -> None:
    with home.vault() as vault:
        values_of(vault.ensure_scopes([MONTH, PERSON]))
        both = vault.seal(b"identifying", [MONTH, PERSON])
        alone = {name: vault.seal(b"alone", [name]) for name in (MONTH, PERSON)}
    shred(home, victim)
    with home.vault() as vault:
        with pytest.raises(ScopeDestroyedError):
            vault.open(both)
        for name, envelope in alone.items():
            if name == victim:
                with pytest.raises(ScopeDestroyedError):
                    vault.open(envelope)
            else:
                assert vault.open(envelope) == b"alone"


def test_suspended_scopes_issue_nothing_until_resumed(home: TestHome) -> None:
    with home.vault() as vault:
        values_of(vault.ensure_scopes([PERSON]))
        envelope = vault.seal(b"x", [PERSON])
        info = values_of(vault.suspend([PERSON]))[0]
        assert info.state is KeyState.SUSPENDED
        assert values_of(vault.suspend([PERSON])) == [info]
        assert isinstance(vault.generate_data_keys([KeyRequest(scopes=(PERSON,))])[0], ScopeSuspendedError)
        with pytest.raises(ScopeSuspendedError):
            vault.open(envelope)
        assert values_of(vault.resume([PERSON]))[0].state is KeyState.ACTIVE
        assert vault.open(envelope) == b"x"
        assert isinstance(vault.suspend(["consumer/acct-1/nobody"])[0], UnknownScopeError)


def test_a_destroyed_name_is_refused_until_it_is_renewed_and_the_old_stays_shut(home: TestHome) -> None:
    with home.vault() as vault:
        old = values_of(vault.ensure_scopes([PERSON]))[0]
        envelope = vault.seal(b"old", [PERSON])
    shred(home, PERSON)
    with home.vault() as vault:
        assert isinstance(vault.ensure_scopes([PERSON])[0], ScopeDestroyedError)
        assert isinstance(vault.resume([PERSON])[0], ScopeDestroyedError)
        assert values_of(vault.describe([PERSON]))[0].state is KeyState.DESTROYED
        new = values_of(vault.ensure_scopes([PERSON], renew=True))[0]
        assert (new.generation, new.state) == (old.generation + 1, KeyState.ACTIVE)
        assert new.id != old.id
        assert vault.open(vault.seal(b"new", [PERSON])) == b"new"
        with pytest.raises(ScopeDestroyedError):
            vault.open(envelope)


def test_business_records_give_no_key_for_marketing(home: TestHome) -> None:
    name = "business/acct-1/2026"
    with home.vault() as vault:
        values_of(vault.ensure_scopes([name]))
        envelope = vault.seal(b"invoice", [name], purpose="accounting")
        with pytest.raises(PurposeNotAllowedError):
            vault.seal(b"invoice", [name], purpose="marketing")
        with pytest.raises(PurposeNotAllowedError):
            vault.open(envelope, purpose="marketing")
        assert vault.open(envelope, purpose="audit") == b"invoice"


def test_streams_seal_and_open_under_several_scopes(home: TestHome) -> None:
    data = secrets.token_bytes(3 * 1024 * 1024 + 17)
    sealed, opened = io.BytesIO(), io.BytesIO()
    with home.vault() as vault:
        values_of(vault.ensure_scopes([MONTH, PERSON]))
        vault.seal_stream(io.BytesIO(data), sealed, [MONTH, PERSON], associated_data=b"file")
        vault.open_stream(io.BytesIO(sealed.getvalue()), opened, associated_data=b"file")
    assert opened.getvalue() == data
    shred(home, PERSON)
    with home.vault() as vault, pytest.raises(ScopeDestroyedError):
        vault.open_stream(io.BytesIO(sealed.getvalue()), io.BytesIO(), associated_data=b"file")


def test_listing_opens_names_and_says_what_is_destroyed(home: TestHome) -> None:
    with home.vault() as vault:
        values_of(vault.ensure_scopes([MONTH, PERSON, OTHER]))
    shred(home, OTHER)
    with home.vault() as vault:
        listed = {(info.kind, info.state): name for info, name in vault.list_scopes()}
        active = {name for _, name in vault.list_scopes(state=KeyState.ACTIVE)}
    assert {type(name).__name__ for name in listed.values()} == {"str", "ScopeDestroyedError"}
    assert active == {MONTH, PERSON}
