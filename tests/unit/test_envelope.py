from __future__ import annotations

import mmap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault import envelope as module
from keyvault.envelope import MAX_PLAINTEXT_BYTES, Envelope, open_envelope, seal_envelope, split_envelope
from keyvault.errors import DecryptionFailedError, InvalidFormatError, InvalidInputError
from keyvault.wrapped import CustodyCode, Header, ScopeShareRef, derive_wrapping_key, parse_wrapped

DEK = bytes(range(32))
SECRET = b"+15551000862, Arthur Dent"
SHARES = [b"\x01" * 32, b"\x02" * 32]
SCOPES = tuple(ScopeShareRef(scope_id=bytes([n]) * 16, custody=CustodyCode.DEDICATED, generation=1) for n in (1, 2))
KEY = derive_wrapping_key(Header(salt=bytes(32), scopes=SCOPES), SHARES)
WRAPPED = KEY.wrap(DEK, b"ad")
SEALED = seal_envelope(DEK, WRAPPED, SECRET, b"ad")


def open_as_a_vault_does(data: bytes) -> bytes:
    envelope = split_envelope(data)
    header = envelope.wrapped.header
    key = derive_wrapping_key(header, SHARES[: len(header.scopes)])
    return open_envelope(envelope, key.unwrap(envelope.wrapped, b"ad"), b"ad")


@given(st.binary(max_size=5000), st.binary(max_size=100))
def test_round_trip(plaintext: bytes, associated_data: bytes) -> None:
    data = seal_envelope(DEK, WRAPPED, plaintext, associated_data)
    envelope = split_envelope(data)
    assert type(data) is bytes
    assert len(data) == 4 + len(WRAPPED) + 12 + len(plaintext) + 16
    assert envelope.wrapped.raw == WRAPPED
    assert open_envelope(envelope, DEK, associated_data) == plaintext


def test_a_megabyte_and_any_kind_of_bytes() -> None:
    plaintext = bytearray(b"abc" * 400_000)
    data = seal_envelope(bytearray(DEK), WRAPPED, memoryview(plaintext), bytearray(b"ad"))
    assert open_envelope(split_envelope(bytearray(data)), bytearray(DEK), memoryview(b"ad")) == plaintext


def test_sealing_twice_gives_two_nonces() -> None:
    assert len({split_envelope(seal_envelope(DEK, WRAPPED, SECRET)).nonce for _ in range(100)}) == 100


@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_no_byte_can_be_altered(bit: int) -> None:
    assert open_as_a_vault_does(SEALED) == SECRET
    for position in range(len(SEALED)):
        altered = bytearray(SEALED)
        altered[position] ^= bit
        with pytest.raises((InvalidFormatError, DecryptionFailedError)):
            open_as_a_vault_does(bytes(altered))


def test_no_byte_of_the_wrapped_key_can_be_altered_even_for_who_has_the_data_key() -> None:
    for position in range(4, 4 + len(WRAPPED)):
        altered = bytearray(SEALED)
        altered[position] ^= 1
        with pytest.raises((InvalidFormatError, DecryptionFailedError)):
            open_envelope(split_envelope(bytes(altered)), DEK, b"ad")


def test_truncated_anywhere() -> None:
    for end in range(len(SEALED)):
        expected = InvalidFormatError if end < 4 + len(WRAPPED) + 12 + 16 else DecryptionFailedError
        with pytest.raises(expected):
            open_as_a_vault_does(SEALED[:end])


@pytest.mark.parametrize("extra", [b"\x00", b"x" * 16, SEALED])
def test_extended(extra: bytes) -> None:
    with pytest.raises(DecryptionFailedError):
        open_as_a_vault_does(SEALED + extra)


def test_headers_of_two_envelopes_exchanged() -> None:
    wrapped = KEY.wrap(DEK, b"ad")
    assert open_as_a_vault_does(seal_envelope(DEK, wrapped, SECRET, b"ad")) == SECRET
    exchanged = SEALED[:4] + wrapped + SEALED[4 + len(WRAPPED) :]
    with pytest.raises(DecryptionFailedError, match=r"^the envelope was altered, or has other associated data$"):
        open_as_a_vault_does(exchanged)


def test_scopes_in_another_order() -> None:
    turned = Header(salt=bytes(32), scopes=SCOPES[::-1]).encoded
    with pytest.raises(DecryptionFailedError):
        open_as_a_vault_does(SEALED[:4] + turned + SEALED[4 + len(turned) :])


@pytest.mark.parametrize("other", [b"", b"a", b"add"])
def test_associated_data_is_bound(other: bytes) -> None:
    with pytest.raises(DecryptionFailedError) as raised:
        open_envelope(split_envelope(SEALED), DEK, other)
    assert raised.value.__cause__ is not None


def test_another_data_key() -> None:
    with pytest.raises(DecryptionFailedError):
        open_envelope(split_envelope(SEALED), bytes(32), b"ad")


@pytest.mark.parametrize(
    "data",
    [b"", b"KVE", WRAPPED, b"KVS\x01" + SEALED[4:], b"KVE\x00" + SEALED[4:], b"KVE\x02" + SEALED[4:], b"{}" * 99],
)
def test_other_formats(data: bytes) -> None:
    with pytest.raises(InvalidFormatError):
        split_envelope(data)


def test_too_long_for_an_envelope() -> None:
    with (
        mmap.mmap(-1, MAX_PLAINTEXT_BYTES + 1) as untouched,
        memoryview(untouched) as plaintext,
        pytest.raises(InvalidInputError, match=r"^an envelope holds at most 2147483631 bytes.* seal a stream instead$"),
    ):
        seal_envelope(DEK, WRAPPED, plaintext)
    size = len(SEALED) - len(SECRET) + MAX_PLAINTEXT_BYTES + 1
    with mmap.mmap(-1, size) as sparse:
        sparse[: len(SEALED)] = SEALED
        with memoryview(sparse) as view, pytest.raises(InvalidFormatError, match="longer than an envelope can be"):
            split_envelope(view)


@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_data_keys_out_of_range(size: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"of 32 bytes; this one has {size}$"):
        seal_envelope(bytes(size), WRAPPED, b"")
    with pytest.raises(InvalidInputError, match=rf"of 32 bytes; this one has {size}$"):
        open_envelope(split_envelope(SEALED), bytes(size))


def test_associated_data_out_of_range() -> None:
    with pytest.raises(InvalidInputError, match="65536 are allowed"):
        seal_envelope(DEK, WRAPPED, b"", bytes(65537))
    with pytest.raises(InvalidInputError, match="65536 are allowed"):
        open_envelope(split_envelope(SEALED), DEK, bytes(65537))


def test_values() -> None:
    envelope = split_envelope(SEALED)
    assert isinstance(envelope, Envelope)
    assert envelope.wrapped == parse_wrapped(WRAPPED)
    assert SECRET.decode() not in repr(envelope)


def test_the_longest_envelope(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = seal_envelope(DEK, WRAPPED, bytes(20))
    monkeypatch.setattr(module, "MAX_PLAINTEXT_BYTES", 20)
    assert seal_envelope(DEK, WRAPPED, bytes(20))[:4] == longest[:4]
    assert open_envelope(split_envelope(longest), DEK) == bytes(20)
    for broken in (longest + b"\0", longest[: len(WRAPPED) + 4 + 27]):
        with pytest.raises(InvalidFormatError) as raised:
            split_envelope(broken)
        assert str(raised.value) == "the envelope is cut short, or longer than an envelope can be"


def test_no_associated_data_is_the_empty_associated_data() -> None:
    assert open_envelope(split_envelope(seal_envelope(DEK, WRAPPED, SECRET)), DEK, b"") == SECRET
    assert open_envelope(split_envelope(seal_envelope(DEK, WRAPPED, SECRET, b"")), DEK) == SECRET
