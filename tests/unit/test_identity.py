from __future__ import annotations

import hashlib
import hmac

import pytest

from keyvault.errors import InvalidFormatError
from keyvault.identity import Identity, commit, decode_identity, encode_identity

SALT, LOOKUP = bytes(range(32)), bytes(range(32, 64))
NAME = "consumer/acct-001/Zoë"


def test_a_commitment_is_the_hmac_of_the_name_under_the_salt() -> None:
    assert commit(SALT, NAME.encode()) == hmac.new(SALT, NAME.encode(), hashlib.sha256).digest()
    assert commit(SALT, NAME.encode()) != commit(LOOKUP, NAME.encode())


def test_an_identity_is_salt_lookup_and_name_in_that_order() -> None:
    encoded = encode_identity(SALT, LOOKUP, NAME.encode())
    assert encoded == SALT + LOOKUP + NAME.encode()
    identity = decode_identity(bytearray(encoded))
    assert (identity.salt, identity.lookup, identity.name) == (SALT, LOOKUP, NAME)
    assert (type(identity.salt), type(identity.lookup)) == (bytes, bytes)


def test_the_shortest_identity_has_a_name_of_one_byte() -> None:
    assert decode_identity(SALT + LOOKUP + b"x") == Identity(salt=SALT, lookup=LOOKUP, name="x")


@pytest.mark.parametrize("data", [b"", SALT, SALT + LOOKUP[:-1], SALT + LOOKUP])
def test_an_identity_without_a_name_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidFormatError, match=r"^a sealed identity is too short$"):
        decode_identity(data)


def test_a_name_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(InvalidFormatError, match=r"^a sealed identity is not UTF-8$") as raised:
        decode_identity(SALT + LOOKUP + b"\xff")
    assert isinstance(raised.value.__cause__, UnicodeDecodeError)


def test_nothing_of_an_identity_shows() -> None:
    shown = repr(Identity(salt=SALT, lookup=LOOKUP, name=NAME))
    assert NAME not in shown
    assert "x00" not in shown
