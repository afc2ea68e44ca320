"""Tokens of the service: `kv1_ID_SECRET`, 16 and 32 random bytes in hexadecimal. Shown once, stored hashed, limited to a role.

The secret has 256 random bits, so one SHA-256 keeps it: there is nothing to guess, and nothing for a slow hash to slow down.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from keyvault.errors import TokenRefusedError

if TYPE_CHECKING:
    from keyvault.store.tokens import TokenRow

TOKEN_ID_BYTES: Final = 16
_FORM = re.compile(r"kv1_([0-9a-f]{32})_([0-9a-f]{64})")
_REFUSED = "the token is unknown, expired or revoked: `keyvault token issue` makes another"
_NO_HASH = secrets.token_bytes(32)
"""What a token that does not exist is compared with, so that it takes the path of one that does."""


class Role(StrEnum):
    """What a token lets its bearer do; no role destroys a key."""

    ISSUER = "issuer"
    PLATFORM = "platform"
    REQUESTER = "requester"
    AUDITOR = "auditor"


LIMITABLE: Final = frozenset({Role.ISSUER})
"""Roles whose calls look at a token's limits. Of the others no limited token is issued or taken: nothing would hold it to them."""

CALLS_PER_SECOND: Final = {Role.ISSUER: 10_000, Role.PLATFORM: 2_000, Role.REQUESTER: 2_000, Role.AUDITOR: 2_000}
"""Calls that a token may make, of each worker, where it says nothing of its own: more than a healthy client needs, less than would starve
the others for long. A call has up to 10,000 items, so that who needs more has batches."""


class NewToken(NamedTuple):
    """A token as its bearer keeps it, its id (16 bytes), and the hash of its secret (32 bytes)."""

    text: str
    id: bytes
    secret_hash: bytes

    def __repr__(self) -> str:
        return f"NewToken(id={self.id.hex()})"


class Presented(NamedTuple):
    """A token that somebody presents, in its parts. A tuple, because one is made for every call."""

    id: bytes
    secret_hash: bytes


def new_token() -> NewToken:
    """Make a token."""
    identity, secret = secrets.token_bytes(TOKEN_ID_BYTES), secrets.token_bytes(32)
    return NewToken(f"kv1_{identity.hex()}_{secret.hex()}", identity, _hash(secret))


def parse_token(text: str) -> Presented:
    """Take a presented token apart. `TokenRefusedError` where it is none."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise TokenRefusedError(_REFUSED)
    return Presented(id=bytes.fromhex(match[1]), secret_hash=_hash(bytes.fromhex(match[2])))


def is_holder(presented: Presented, row: TokenRow | None) -> bool:
    """Whether the secret is that of the token in `row`, in a time that does not depend on where they differ, or whether there is one."""
    same = hmac.compare_digest(presented.secret_hash, _NO_HASH if row is None else row.secret_hash)
    return same and row is not None


def check_token(presented: Presented, row: TokenRow | None, now: datetime) -> TokenRow:
    """Return the token's row if it is the one presented and in force; `TokenRefusedError` otherwise, whatever the reason."""
    if not is_holder(presented, row) or row is None:
        raise TokenRefusedError(_REFUSED)
    if row.revoked_at is not None or row.expires_at <= now:
        raise TokenRefusedError(_REFUSED)
    return row


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
