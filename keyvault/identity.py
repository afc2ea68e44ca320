"""A scope's identity: salt (32) ‖ look-up HMAC (32) ‖ canonical name (1 to 512 bytes of UTF-8), sealed under the scope's own key.

The commitment to a name is `HMAC-SHA256(salt, canonical name)`: with the salt it can be opened, without it not be guessed at.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from keyvault.errors import InvalidFormatError

SALT_BYTES = 32
LOOKUP_BYTES = 32


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Identity:
    """The opened identity of a scope."""

    salt: bytes
    lookup: bytes
    name: str


def commit(salt: bytes, canonical: bytes) -> bytes:
    """Return the 32-byte commitment to a canonical name."""
    return hmac.digest(salt, canonical, "sha256")


def encode_identity(salt: bytes, lookup: bytes, canonical: bytes) -> bytes:
    """Return the bytes to seal."""
    return salt + lookup + canonical


def decode_identity(data: bytes | bytearray) -> Identity:
    """Read what `encode_identity` wrote; `InvalidFormatError` when it is too short or not UTF-8."""
    body = bytes(data)
    if len(body) <= SALT_BYTES + LOOKUP_BYTES:
        raise InvalidFormatError("a sealed identity is too short")
    try:
        name = body[SALT_BYTES + LOOKUP_BYTES :].decode()
    except UnicodeDecodeError as error:
        raise InvalidFormatError("a sealed identity is not UTF-8") from error
    return Identity(salt=body[:SALT_BYTES], lookup=body[SALT_BYTES : SALT_BYTES + LOOKUP_BYTES], name=name)
