"""Tokens of every sort, issued and revoked, for tests that look at all that a home can live through."""

from __future__ import annotations

import base64
import json
from datetime import timedelta

from keyvault.events import Event
from keyvault.home import Home
from keyvault.limits import NO_LIMITS
from keyvault.persons import Person
from keyvault.system_keys import SystemKeys
from keyvault.token_desk import TokenDesk
from keyvault.tokens import Role

WEEK = timedelta(days=7)
KEYS = SystemKeys(index=b"i" * 32, journal=b"j" * 32, pseudonym=b"p" * 32, log_public=b"l" * 32)


def give_tokens(home: Home, person: Person, other: Person) -> None:
    """Issue a token without limits, one with all of them, one for each other role; revoke some."""
    desk, until = TokenDesk(home), home.clock.now() + WEEK
    limits = desk.limits(accounts=("acct-1", "acct-2"), kinds=("consumer", "business"), purposes=("support",))
    assert not limits.unlimited
    _, plain = desk.issue("importer", Role.ISSUER, person, expires_at=until)
    _, limited = desk.issue("support-desk.eu", Role.ISSUER, person, expires_at=until, limits=limits, rate=50)
    for role in (Role.PLATFORM, Role.REQUESTER, Role.AUDITOR):
        desk.issue(str(role), role, other, expires_at=until + WEEK, limits=NO_LIMITS)
    since = desk.revoke(plain.id, other)
    assert desk.revoke(plain.id, person) == since, "the first revocation stands"
    desk.revoke(limited.id, other)


def content_of(event: Event) -> bytes:
    """Return what an event of a token seals."""
    text = json.loads(event.body)["content"]
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
