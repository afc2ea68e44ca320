"""Custody, the same cases over every custody and engine."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from typing import Any

import pytest

from keyvault.custody import dedicated
from keyvault.custody.base import Custody, Identity, Placement, Proof, Share, Target
from keyvault.errors import (
    CiphertextRefusedError,
    InvalidInputError,
    KeyMissingError,
    NotProvenError,
    RestoreDetected,
    ScopeFencedError,
)
from keyvault.home import Home, assemble, open_engine, vault_settings
from keyvault.results import values_of
from keyvault.scopes import Scope, ScopeKind
from keyvault.settings import load_settings
from keyvault.states import KeyState
from keyvault.store import intents, rings, tables
from keyvault.store import scopes as scope_store
from keyvault.store.database import Database
from keyvault.store.scopes import ScopeRow
from keyvault.system_keys import SYSTEM_KEY
from keyvault.transit.hashicorp import HashicorpEngine, TokenCredentials
from tests.homes import TestHome, in_dedicated_custody, in_ring_custody


@pytest.fixture
def opened(request: pytest.FixtureRequest, home: TestHome) -> Iterator[Home]:
    """The home with all rights, because a contract is of issuer and shredder together."""
    settings = load_settings(home.path)
    engine = open_engine(home.path, settings, role="shredder")
    if settings.engine == "vault":
        engine.close()
        root = TokenCredentials(token=request.getfixturevalue("vault_server").root_token)
        engine = HashicorpEngine(vault_settings(settings), root)
    made = assemble(settings, Database(settings.store), engine, path=home.path)
    yield made
    made.close()


def scopes(count: int) -> list[Scope]:
    return [Scope.of(ScopeKind.CONSUMER, "acct-1", secrets.token_hex(8)) for _ in range(count)]


def targets(*rows: ScopeRow) -> list[Target]:
    return [Target(row) for row in rows]


def rows_of(home: Home, count: int) -> list[ScopeRow]:
    """Create scopes' keys and rows by custody alone."""
    custody = home.custody
    placements = values_of(custody.prepare(scopes(count)))
    ids = [secrets.token_bytes(16) for _ in placements]
    identities = [
        Identity(placement=placement, scope_id=scope_id, data=b"identity of " + scope_id)
        for placement, scope_id in zip(placements, ids, strict=True)
    ]
    sealed = values_of(custody.seal_identities(identities))
    rows = [
        ScopeRow(
            id=scope_id,
            generation=1,
            custody=custody.code,
            key_ref=placement.key_ref,
            ring_id=placement.ring_id,
            slot=placement.slot,
            kind=ScopeKind.CONSUMER,
            lookup=secrets.token_bytes(32),
            commitment=bytes(32),
            sealed_name=text,
            state=KeyState.ACTIVE,
            created_at=home.clock.now(),
        )
        for scope_id, placement, text in zip(ids, placements, sealed, strict=True)
    ]

    def bind(connection: Any) -> None:
        assert custody.bind(connection, placements) == set(placements)
        scope_store.insert_new(connection, rows)

    home.database.write(bind)
    return rows


def collect(home: Home) -> int:
    """Do with unused keys what the shredder does, and return how many there were."""
    references = home.custody.unused(100)
    home.custody.erase_unused(references)
    home.database.write(lambda connection: home.custody.forget_unused(connection, references))
    return len(references)


def place(placement: Placement) -> object:
    return placement.key_ref or (placement.ring_id, placement.slot)


def test_scopes_never_share_a_key(opened: Home) -> None:
    with closing(assemble(opened.settings, opened.database, opened.engine, path=opened.path).custody) as other_process:
        placements = [
            placement
            for custody in (opened.custody, opened.custody, other_process)
            for placement in values_of(custody.prepare(scopes(50)))
        ]
    assert len({place(placement) for placement in placements}) == 150


def test_shares_are_32_bytes_that_their_tokens_give_again(opened: Home) -> None:
    rows = rows_of(opened, 3)
    asked = targets(*rows, rows[0])
    shares = values_of(opened.custody.fresh_shares(asked))
    assert {len(share.secret) for share in shares} == {32}
    assert len({bytes(share.secret) for share in shares}) >= 3
    tokens = [(target, share.token) for target, share in zip(asked, shares, strict=True)]
    assert values_of(opened.custody.recover_shares(tokens)) == [share.secret for share in shares]


def test_a_token_works_under_its_own_scope_only(opened: Home) -> None:
    one, other = targets(*rows_of(opened, 2))
    share = values_of(opened.custody.fresh_shares([one]))[0]
    results = opened.custody.recover_shares([(other, share.token), (one, share.token), (one, b"\xff"), (one, b"")])
    assert [type(result) for result in results[2:]] == [CiphertextRefusedError, CiphertextRefusedError]
    assert isinstance(results[0], CiphertextRefusedError)
    assert results[1] == share.secret


@in_ring_custody
def test_records_of_one_batch_have_the_shares_that_each_has_alone(opened: Home) -> None:
    one, other = rows_of(opened, 2)
    tags = [secrets.token_bytes(8) for _ in range(20)]
    tags = [bytes([tag[0] & 0x7F]) + tag[1:] for tag in tags]
    asked = [Target(row, tag) for tag in tags for row in (one, other)] + targets(one)
    shares = values_of(opened.custody.fresh_shares(asked))
    assert len({bytes(share.secret) for share in shares}) == 41
    assert [values_of(opened.custody.fresh_shares([target])) for target in asked] == [[share] for share in shares]


@in_ring_custody
def test_each_record_of_a_batch_is_its_share_or_its_own_error_and_owns_its_buffer(opened: Home) -> None:
    (row,) = rows_of(opened, 1)
    good, bad = Target(row, bytes(7) + b"\1"), Target(row, b"\x80" + bytes(7))
    share, refused, again = opened.custody.fresh_shares([good, bad, good])
    assert isinstance(refused, InvalidInputError)
    assert isinstance(share, Share)
    assert isinstance(again, Share)
    assert again.secret == share.secret
    assert again.secret is not share.secret
    forged, recovered = opened.custody.recover_shares([(good, b"\xff"), (good, share.token)])
    assert isinstance(forged, CiphertextRefusedError)
    assert recovered == share.secret


def test_an_identity_is_bound_to_its_scope(opened: Home) -> None:
    row = rows_of(opened, 1)[0]
    stolen = row._replace(id=secrets.token_bytes(16))
    mine, theirs = opened.custody.open_identities([row, stolen])
    assert mine == bytearray(b"identity of " + row.id)
    assert isinstance(theirs, CiphertextRefusedError)


def end(home: Home, row: ScopeRow) -> None:
    """Mark as fenced, as the shredder does before it destroys."""
    home.database.write(
        lambda c: scope_store.change_state(c, [row.id], before=[KeyState.ACTIVE], after=KeyState.DEACTIVATED)
    )


def test_destroyed_keys_are_proven_and_nothing_of_them_works(opened: Home) -> None:
    custody = opened.custody
    rows = rows_of(opened, 2)
    kept, gone = targets(*rows)
    tokens = [share.token for share in values_of(custody.fresh_shares([kept, gone]))]
    end(opened, rows[1])
    for _ in range(2):
        (proof,) = custody.destroy([gone])
        assert isinstance(proof, Proof)
        assert proof.retained_ciphertext == "refused"
    results = custody.recover_shares([(kept, tokens[0]), (gone, tokens[1])])
    assert isinstance(results[0], bytearray)
    assert isinstance(results[1], ScopeFencedError)
    assert gone.row.id.hex() in str(results[1])
    assert isinstance(custody.open_identities([rows[1]])[0], ScopeFencedError)
    assert isinstance(custody.fresh_shares([kept])[0], Share)
    assert isinstance(custody.open_identities([rows[0]])[0], bytearray)


def test_a_key_that_is_gone_although_the_database_calls_its_scope_active_is_an_alarm(opened: Home) -> None:
    rows = rows_of(opened, 2)
    kept, gone = targets(*rows)
    (share,) = values_of(opened.custody.fresh_shares([gone]))
    end(opened, rows[1])
    values_of(opened.custody.destroy([gone]))
    opened.database.write(
        lambda c: scope_store.change_state(c, [gone.row.id], before=[KeyState.DEACTIVATED], after=KeyState.ACTIVE)
    )
    for result in (
        opened.custody.fresh_shares([gone])[0],
        opened.custody.recover_shares([(gone, share.token)])[0],
        opened.custody.open_identities([rows[1]])[0],
    ):
        assert isinstance(result, KeyMissingError)
        assert gone.row.id.hex() in str(result)
    assert isinstance(opened.custody.fresh_shares([kept])[0], Share)


@in_ring_custody
def test_what_is_not_fenced_is_not_destroyed_in_a_ring(opened: Home) -> None:
    """A ring's worker goes by what the database calls fenced, not by what it is asked for."""
    rows = rows_of(opened, 2)
    one, other = targets(*rows)
    end(opened, rows[1])
    results = opened.custody.destroy([one, other])
    assert [type(result) for result in results] == [NotProvenError, Proof]
    assert isinstance(opened.custody.fresh_shares([one])[0], Share)


@in_dedicated_custody
def test_unbound_keys_are_collected_and_bound_ones_never(opened: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    custody: Custody = opened.custody
    bound = rows_of(opened, 2)
    crashed = values_of(custody.prepare(scopes(2)))
    lost = values_of(custody.prepare(scopes(1)))
    opened.database.write(lambda c: (custody.bind(c, lost), custody.discard(c, lost)))
    assert collect(opened) == 1, "an open intent may still be bound within the hour"
    monkeypatch.setattr(dedicated, "ABANDONED_AFTER", timedelta(0))
    assert collect(opened) == len(crashed)
    assert collect(opened) == 0
    assert set(opened.engine.list_keys()) == {SYSTEM_KEY, *(row.key_ref for row in bound)}
    assert opened.database.write(lambda c: custody.bind(c, crashed)) == set(), "too late to bind them"


@in_dedicated_custody
def test_a_key_that_a_row_holds_is_not_collected_whatever_its_intent_says(opened: Home) -> None:
    row = rows_of(opened, 1)[0]
    opened.database.write(lambda c: opened.custody.discard(c, [Placement(key_ref=row.key_ref)]))
    assert collect(opened) == 0
    assert opened.database.read(intents.count) == 0
    assert isinstance(opened.custody.fresh_shares([Target(row)])[0], Share)


@in_dedicated_custody
def test_an_older_copy_of_the_database_never_costs_a_key_that_is_in_use(
    opened: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dedicated, "ABANDONED_AFTER", timedelta(0))
    row = rows_of(opened, 1)[0]
    assert row.key_ref is not None
    later = rows_of(opened, 1)[0]

    def go_back(connection: Any) -> None:
        """Make the store what it was while the first scope was being made: its intent open, and none of the rows."""
        connection.execute(tables.scopes.delete())
        intents.announce(connection, [row.key_ref or ""], at=opened.clock.now() - timedelta(days=1))

    opened.database.write(go_back)
    assert collect(opened) == 0
    assert isinstance(opened.custody.fresh_shares([Target(row)])[0], Share)
    assert isinstance(opened.custody.fresh_shares([Target(later)])[0], Share)
    assert opened.database.read(intents.count) == 1


@in_ring_custody
def test_a_ring_leaves_no_keys_to_collect_and_its_unbound_slots_are_never_given_out_again(opened: Home) -> None:
    custody = opened.custody
    lost = values_of(custody.prepare(scopes(3)))
    opened.database.write(lambda c: (custody.bind(c, lost), custody.discard(c, lost)))
    assert collect(opened) == 0
    later = {place(placement) for placement in values_of(custody.prepare(scopes(300)))}
    assert not later & {place(placement) for placement in lost}


@in_ring_custody
def test_an_older_copy_of_the_database_gives_no_slot_out_twice(opened: Home) -> None:
    """Who gets a slot is decided by the engine's counter alone."""
    first = values_of(opened.custody.prepare(scopes(3)))
    opened.database.write(lambda c: c.execute(tables.rings.update().values(chunks=0)))
    with closing(assemble(opened.settings, opened.database, opened.engine, path=opened.path).custody) as custody:
        again = values_of(custody.prepare(scopes(3)))
    assert len({placement.ring_id for placement in first + again}) == 1, "both give out slots of one ring"
    assert len({placement.slot for placement in first + again}) == 6


@in_ring_custody
def test_an_engine_that_gave_out_fewer_slots_than_the_database_knows_of_creates_nothing(opened: Home) -> None:
    rows_of(opened, 1)
    opened.database.write(lambda c: c.execute(tables.rings.update().values(chunks=7)))
    custody = assemble(opened.settings, opened.database, opened.engine, path=opened.path).custody
    with closing(custody), pytest.raises(RestoreDetected, match="the engine is an older copy"):
        custody.prepare(scopes(1))


@in_ring_custody
def test_a_closed_ring_takes_no_scope_whose_slot_was_given_out_before(opened: Home) -> None:
    custody = opened.custody
    early = values_of(custody.prepare(scopes(2)))
    ring_id = early[0].ring_id
    assert ring_id is not None
    opened.database.write(lambda c: rings.close(c, ring_id, at=opened.clock.now()))
    assert opened.database.write(lambda c: custody.bind(c, early)) == set()
    later = values_of(custody.prepare(scopes(2)))
    assert ring_id not in {placement.ring_id for placement in later}
    assert opened.database.write(lambda c: custody.bind(c, later)) == set(later)
