"""Tokens as a rebuild makes them from entries: what does not fit is never taken up."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyvault.errors import LogError
from keyvault.events import b64, canonical
from keyvault.limits import Limits, encode_limits
from keyvault.scopes import ScopeKind
from keyvault.store.tokens import TokenRow
from keyvault.token_events import issued, revoked
from shredder.rebuild.entries import Entry, read_entry
from shredder.rebuild.tokens import TokenTables, references
from tests.token_histories import KEYS

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
ROW = TokenRow(
    id=b"t" * 16,
    name="importer",
    role="issuer",
    secret_hash=b"s" * 32,
    owner=b"o" * 32,
    limits=encode_limits(Limits(kinds=frozenset({ScopeKind.USER}))),
    created_at=NOW,
    expires_at=NOW + timedelta(days=1),
    rate=7,
)


def entry(body: bytes, **changes: Any) -> Entry:
    return read_entry(0, canonical({**json.loads(body), **changes}) if changes else body)


def test_a_token_is_made_as_it_was_and_revoked_when_it_was() -> None:
    entries = [entry(issued(KEYS, ROW).body), entry(revoked(ROW.id, b"p" * 32, at=NOW + timedelta(hours=1)).body)]
    tables = TokenTables(KEYS, {})
    for one in entries:
        tables.apply(one)
    assert tables.tokens.added == [replace(ROW, revoked_at=NOW + timedelta(hours=1))]
    assert references(entries) == {ROW.id}
    later = TokenTables(KEYS, {ROW.id: ROW})
    later.apply(entries[1])
    assert (later.tokens.added, later.tokens.changed) == ([], tables.tokens.added)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"token": b64(b"u" * 16)}, "does not open"),
        ({"limits": None}, "not those that it states"),
        ({"content": b64(bytes(60))}, "does not open"),
        ({"expires_at": "soon"}, "instant"),
        ({"rate": "many"}, "no number"),
    ],
)
def test_an_entry_that_does_not_fit_stops_the_rebuild(changes: dict[str, object], match: str) -> None:
    with pytest.raises(LogError, match=match):
        TokenTables(KEYS, {}).apply(entry(issued(KEYS, ROW).body, **changes))


def test_a_revocation_of_nothing_stops_the_rebuild() -> None:
    with pytest.raises(LogError, match="not issued before"):
        TokenTables(KEYS, {}).apply(entry(revoked(ROW.id, b"p" * 32, at=NOW).body))
