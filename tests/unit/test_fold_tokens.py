"""What the fold finds wrong with tokens in a log."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from keyvault.events import instant
from tests.entries import START, Entries, name16, name32


class TokenEntries(Entries):
    """Entries of tokens, each legal unless a test says otherwise."""

    def issued(self, token: str = "t", **fields: Any) -> dict[str, Any]:  # noqa: S107 - a token's id
        given = {
            "accounts": None,
            "content": "A" * 80,
            "expires_at": instant(START + timedelta(days=90)),
            "kinds": None,
            "limits": None,
            "owner": name32("ada"),
            "purposes": None,
            "rate": None,
            "role": "issuer",
            "token": name16(token),
        }
        return self.add("token.issued", **{**given, **fields})

    def revoked(self, token: str = "t") -> dict[str, Any]:  # noqa: S107 - a token's id
        return self.add("token.revoked", token=name16(token), revoked_by=name32("grace"))


@pytest.fixture
def log() -> TokenEntries:
    return TokenEntries()


def test_tokens_that_are_issued_and_revoked_are_in_order(log: TokenEntries) -> None:
    log.issued(kinds=["business", "consumer"], limits=name32("limits"), rate=7)
    log.issued("u", accounts=2, purposes=1, limits=name32("limits"), role="auditor")
    log.revoked()
    assert log.codes() == []


def test_a_token_is_issued_once_and_revoked_once_and_in_this_order(log: TokenEntries) -> None:
    log.revoked()
    log.issued("u")
    log.issued("u")
    log.revoked("u")
    log.revoked("u")
    assert log.codes() == [
        ("entry 0", "impossible-step"),
        ("entry 2", "id-used-twice"),
        ("entry 4", "impossible-step"),
    ]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"expires_at": instant(START)}, "wrong-dates"),
        ({"kinds": ["consumer"]}, "malformed"),
        ({"limits": name32("limits")}, "malformed"),
        ({"kinds": ["consumer", "business"], "limits": name32("limits")}, "listed-twice"),
        ({"kinds": ["consumer", "consumer"], "limits": name32("limits")}, "listed-twice"),
        ({"kinds": [], "limits": name32("limits")}, "malformed"),
        ({"kinds": ["person"], "limits": name32("limits")}, "malformed"),
        ({"accounts": 0, "limits": name32("limits")}, "malformed"),
        ({"role": "emperor"}, "malformed"),
        ({"rate": 0}, "malformed"),
        ({"expires_at": "2026-02-30T00:00:00.000000Z"}, "malformed"),
        ({"policy": "p/1"}, "other-policy"),
    ],
)
def test_a_token_that_cannot_be_is_found(log: TokenEntries, fields: dict[str, Any], code: str) -> None:
    log.issued(**fields)
    assert log.codes() == [("entry 0", code)]
