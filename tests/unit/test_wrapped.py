from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault import wrapped as module
from keyvault.errors import DecryptionFailedError, InvalidFormatError, InvalidInputError, KeyVaultError
from keyvault.formats import Format, check_format, random_pieces, read_exactly, sniff, wipe
from keyvault.wrapped import (
    MAX_WRAPPED_BYTES,
    CustodyCode,
    Header,
    ScopeShareRef,
    derive_wrapping_key,
    fresh_wrapping_key,
    parse_wrapped,
    read_wrapped,
    split_wrapped,
)

SALT = bytes(range(32))
DEK = bytes(range(100, 132))
SHARES = [b"\x01" * 32, b"\x02" * 32]
MONTH = ScopeShareRef(scope_id=b"m" * 16, custody=CustodyCode.DEDICATED, generation=1, token=b"vault:v1:token")
RECORD = ScopeShareRef(
    scope_id=b"c" * 16, custody=CustodyCode.RING, generation=7, record_tag=b"record-7", token=b"ring"
)
HEADER = Header(salt=SALT, scopes=(MONTH, RECORD))
KEY = derive_wrapping_key(HEADER, SHARES)

refs = st.builds(
    ScopeShareRef,
    scope_id=st.binary(min_size=16, max_size=16),
    custody=st.sampled_from(CustodyCode),
    generation=st.integers(1, 2**32 - 1),
    record_tag=st.sampled_from([b"", b"8 bytes."]),
    token=st.binary(max_size=60) | st.just(bytes(1024)),
)
headers = st.builds(
    Header,
    salt=st.binary(min_size=32, max_size=32),
    scopes=st.lists(refs, min_size=1, max_size=8, unique_by=lambda ref: ref.scope_id).map(tuple),
)


@given(headers, st.binary(min_size=16, max_size=64), st.binary(max_size=300), st.binary(max_size=20))
def test_round_trip(header: Header, dek: bytes, associated_data: bytes, rest: bytes) -> None:
    shares = [bytes([number]) * 32 for number in range(len(header.scopes))]
    data = derive_wrapping_key(header, shares).wrap(dek, associated_data)
    wrapped = parse_wrapped(data)
    assert (wrapped.header, wrapped.raw) == (header, data)
    assert derive_wrapping_key(wrapped.header, shares).unwrap(wrapped, associated_data) == dek
    parsed, left = split_wrapped(data + rest)
    assert (parsed, bytes(left)) == (wrapped, rest)
    assert len(data) <= MAX_WRAPPED_BYTES


def test_the_longest_wrapped_key_has_the_greatest_length() -> None:
    scopes = tuple(replace(RECORD, scope_id=bytes([n]) * 16, token=bytes(1024)) for n in range(8))
    data = derive_wrapping_key(Header(salt=SALT, scopes=scopes), [bytes(32)] * 8).wrap(bytes(64))
    assert len(data) == MAX_WRAPPED_BYTES < 10_000
    assert parse_wrapped(data).raw == data


def test_every_wrap_has_its_own_nonce() -> None:
    nonces = {parse_wrapped(KEY.wrap(DEK)).nonce for _ in range(100)}
    assert len(nonces) == 100


@pytest.mark.parametrize("bit", [0x01, 0x80])
def test_no_byte_can_be_altered(bit: int) -> None:
    data = KEY.wrap(DEK, b"row 17")
    for position in range(len(data)):
        altered = bytearray(data)
        altered[position] ^= bit
        with pytest.raises((InvalidFormatError, DecryptionFailedError)):
            open_with_own_header(bytes(altered), b"row 17")


def open_with_own_header(data: bytes, associated_data: bytes) -> bytearray:
    """Do as custody does: derive the KEK for the header that stands in the bytes."""
    wrapped = parse_wrapped(data)
    return derive_wrapping_key(wrapped.header, SHARES[: len(wrapped.header.scopes)]).unwrap(wrapped, associated_data)


def test_truncation_and_extension_are_a_matter_of_form() -> None:
    data = KEY.wrap(DEK)
    for end in range(len(data)):
        for parse in (parse_wrapped, split_wrapped, lambda part: read_wrapped(io.BytesIO(part).read)):
            with pytest.raises(InvalidFormatError):
                parse(data[:end])
    with pytest.raises(InvalidFormatError, match=r"^3 bytes follow the wrapped key$"):
        parse_wrapped(data + b"abc")


def test_a_key_unwraps_only_its_own_header() -> None:
    ours = parse_wrapped(KEY.wrap(DEK, b"ad"))
    other_key = derive_wrapping_key(Header(salt=bytes(32), scopes=(MONTH, RECORD)), SHARES)
    other = parse_wrapped(other_key.wrap(DEK, b"ad"))
    with pytest.raises(DecryptionFailedError, match="commitment differs"):
        KEY.unwrap(other, b"ad")
    wrong_header = parse_wrapped(other.header.encoded + ours.raw[len(ours.header.encoded) :])
    wrong_commitment = parse_wrapped(other.raw.replace(other.commitment, ours.commitment))
    for exchanged in (wrong_header, wrong_commitment):
        for key in (KEY, other_key):
            with pytest.raises(DecryptionFailedError):
                key.unwrap(exchanged, b"ad")


def test_the_order_of_scopes_is_bound() -> None:
    data = KEY.wrap(DEK)
    turned = Header(salt=SALT, scopes=(RECORD, MONTH))
    reordered = parse_wrapped(turned.encoded + data[len(HEADER.encoded) :])
    for shares in (SHARES, SHARES[::-1]):
        with pytest.raises(DecryptionFailedError, match="commitment differs"):
            derive_wrapping_key(turned, shares).unwrap(reordered)
        with pytest.raises(DecryptionFailedError, match="commitment differs"):
            derive_wrapping_key(turned, shares).unwrap(parse_wrapped(data))


@pytest.mark.parametrize("shares", [SHARES[::-1], [SHARES[0], bytes(32)], [bytes(32), SHARES[1]]])
def test_every_share_is_needed(shares: list[bytes]) -> None:
    wrapped = parse_wrapped(KEY.wrap(DEK))
    with pytest.raises(DecryptionFailedError, match="commitment differs"):
        derive_wrapping_key(wrapped.header, shares).unwrap(wrapped)


@pytest.mark.parametrize("other", [b"", b"row 1", b"row 178", b"ROW 17"])
def test_associated_data_is_bound(other: bytes) -> None:
    wrapped = parse_wrapped(KEY.wrap(DEK, b"row 17"))
    with pytest.raises(DecryptionFailedError, match="other associated data") as raised:
        KEY.unwrap(wrapped, other)
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize(
    "shares", [[], SHARES[:1], [*SHARES, bytes(32)], [bytes(31), bytes(32)], [bytes(32), bytes(33)]]
)
def test_shares_out_of_range(shares: list[bytes]) -> None:
    with pytest.raises(InvalidInputError, match=r"^expected 2 shares of 32 bytes, one a scope$"):
        derive_wrapping_key(HEADER, shares)


@pytest.mark.parametrize("size", [0, 15, 65])
def test_data_keys_out_of_range(size: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"^a data key has 16 to 64 bytes, this one has {size}$"):
        KEY.wrap(bytes(size))


def test_associated_data_out_of_range() -> None:
    wrapped = parse_wrapped(KEY.wrap(DEK, bytes(64 * 1024)))
    assert KEY.unwrap(wrapped, bytes(64 * 1024)) == DEK
    for call in (lambda ad: KEY.wrap(DEK, ad), lambda ad: KEY.unwrap(wrapped, ad)):
        with pytest.raises(InvalidInputError, match="65537 bytes; 65536 are allowed"):
            call(bytes(64 * 1024 + 1))


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"scope_id": bytes(15)}, "a scope id has 16 bytes"),
        ({"scope_id": bytes(17)}, "a scope id has 16 bytes"),
        ({"custody": 0}, "a scope's custody is unknown"),
        ({"custody": 3}, "a scope's custody is unknown"),
        ({"generation": 0}, "a scope's generation is 1 to 4,294,967,295"),
        ({"generation": 2**32}, "a scope's generation is 1 to 4,294,967,295"),
        ({"record_tag": bytes(7)}, "a record tag has 8 bytes or none"),
        ({"token": bytes(1025)}, "a share token has at most 1,024 bytes"),
    ],
)
def test_a_scope_of_a_header_out_of_range(change: dict[str, Any], rule: str) -> None:
    with pytest.raises(InvalidFormatError, match=rf"^{rule}$"):
        replace(MONTH, **change)


@pytest.mark.parametrize(
    ("salt", "scopes", "rule"),
    [
        (bytes(31), (MONTH,), "a salt has 32 bytes"),
        (bytes(33), (MONTH,), "a salt has 32 bytes"),
        (SALT, (), "a wrapped key has 1 to 8 scopes"),
        (SALT, tuple(replace(MONTH, scope_id=bytes([n]) * 16) for n in range(9)), "a wrapped key has 1 to 8 scopes"),
        (SALT, (MONTH, replace(RECORD, scope_id=MONTH.scope_id)), "a wrapped key names a scope twice"),
    ],
)
def test_a_header_out_of_range(salt: bytes, scopes: tuple[ScopeShareRef, ...], rule: str) -> None:
    with pytest.raises(InvalidFormatError, match=rf"^{rule}$"):
        Header(salt=salt, scopes=scopes)


@pytest.mark.parametrize("step", [1, 2, 7, 10_000])
def test_reading_from_a_pipe_takes_not_a_byte_more(step: int) -> None:
    data = KEY.wrap(DEK)
    source = io.BytesIO(data + b"the rest")
    assert read_wrapped(lambda size: source.read(min(size, step))).raw == data
    assert source.read() == b"the rest"


def test_reading_garbage_is_bounded() -> None:
    taken = 0

    def read(size: int) -> bytes:
        nonlocal taken
        start, taken = taken, taken + size
        return (b"KVW\x01\x01\x00\x08" + b"\xff" * 20_000)[start:taken]

    with pytest.raises(InvalidFormatError):
        read_wrapped(read)
    assert taken <= MAX_WRAPPED_BYTES


def test_wraps_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WRAPS", 2)
    key = derive_wrapping_key(HEADER, SHARES)
    key.wrap(DEK)
    last = parse_wrapped(key.wrap(DEK))
    for _ in range(2):
        with pytest.raises(KeyVaultError, match="derive one with a fresh salt"):
            key.wrap(DEK)
    assert key.unwrap(last) == DEK


def test_the_limit_is_that_of_nist() -> None:
    assert module.MAX_WRAPS == 2**32
    key = derive_wrapping_key(HEADER, SHARES)
    key._wraps = itertools.count(2**32)
    key.wrap(DEK)
    with pytest.raises(KeyVaultError, match="fresh salt"):
        key.wrap(DEK)


def test_a_wiped_key_is_unusable() -> None:
    key = derive_wrapping_key(HEADER, SHARES)
    wrapped = parse_wrapped(key.wrap(DEK))
    key.wipe()
    key.wipe()
    for call in (lambda: key.wrap(DEK), lambda: key.unwrap(wrapped)):
        with pytest.raises(KeyVaultError, match="was wiped"):
            call()


def test_derivation_leaves_no_secret_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    wiped = []

    def watch(secret: bytearray) -> None:
        wiped.append(bytes(secret))
        wipe(secret)
        assert not any(secret)

    monkeypatch.setattr(module, "wipe", watch)
    shares = [bytearray(share) for share in SHARES]
    derive_wrapping_key(HEADER, shares)
    assert [len(secret) for secret in wiped] == [64, 64, 32]
    assert wiped[0] == b"".join(SHARES)
    assert shares == SHARES  # those are the caller's


def test_repr_shows_no_key() -> None:
    assert repr(KEY) == "WrappingKey(scopes=2)"
    assert KEY.header == HEADER


def test_secrets_may_be_any_bytes() -> None:
    wrapped = parse_wrapped(memoryview(KEY.wrap(bytearray(DEK), memoryview(b"ad"))))
    dek = derive_wrapping_key(HEADER, [bytearray(SHARES[0]), memoryview(SHARES[1])]).unwrap(wrapped, bytearray(b"ad"))
    assert isinstance(dek, bytearray)
    assert dek == DEK


def test_sniff() -> None:
    assert [sniff(known.value + b"...") for known in Format] == list(Format)
    for known in Format:
        check_format(memoryview(known.value + b"more"), known)
        with pytest.raises(InvalidFormatError, match="format version 2 is not one this program reads"):
            sniff(known.value[:3] + b"\x02")
        with pytest.raises(InvalidFormatError, match="unknown first four bytes"):
            sniff(known.value[:3])
    with pytest.raises(InvalidFormatError, match=r"^expected format ENVELOPE, found STREAM; open it as what it is$"):
        check_format(Format.STREAM.value, Format.ENVELOPE)
    with pytest.raises(InvalidFormatError, match="unknown first four bytes"):
        sniff(b"")


def test_every_refusal_says_what_is_wrong() -> None:
    data = KEY.wrap(DEK, b"ad")
    at, short = len(HEADER.encoded), "the wrapped key is cut short"
    sizes = "a wrapped data key has 32 to 80 bytes of ciphertext"
    cases = {
        "a wrapped key has 1 to 8 scopes": [data[:6] + bytes([count]) + data[7:] for count in (0, 9)],
        "the wrapped key's suite is unknown": [data[:4] + b"\x02" + data[5:]],
        "the wrapped key's flags are unknown": [data[:5] + b"\x01" + data[6:]],
        "a scope's custody is unknown": [data[: 39 + 16] + b"\x03" + data[39 + 17 :]],
        "a record tag has 8 bytes or none": [data[: 39 + 21] + b"\x07" + data[39 + 22 :]],
        "a share token has at most 1,024 bytes": [data[: 39 + 22] + b"\x04\x01" + data[39 + 24 :]],
        sizes: [data[: at + 44] + size + data[at + 46 :] for size in (b"\x01\x30", b"\x00\x1f", b"\x00\x51")],
        short: [data[:39], data[: at + 44], data[:-1]],
    }
    for rule, broken in cases.items():
        for item in broken:
            for parse in (parse_wrapped, lambda item: read_wrapped(io.BytesIO(item).read)):
                with pytest.raises(InvalidFormatError) as raised:
                    parse(item)
                assert str(raised.value) == rule
    with pytest.raises(InvalidFormatError) as raised:
        sniff(b"%PDF")
    assert str(raised.value) == "not a wrapped key, an envelope or a stream: unknown first four bytes"


def test_what_a_wrapping_key_says_when_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped = parse_wrapped(KEY.wrap(DEK, b"ad"))
    other = derive_wrapping_key(HEADER, SHARES[::-1])
    monkeypatch.setattr(module, "MAX_WRAPS", 0)
    wiped = derive_wrapping_key(HEADER, SHARES)
    wiped.wipe()
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: KEY.unwrap(wrapped, b"other"), "the wrapped key was altered, or has other associated data"),
        (
            lambda: other.unwrap(wrapped, b"ad"),
            "the wrapped key was altered, or is under another wrapping key: commitment differs",
        ),
        (
            lambda: other.wrap(DEK),
            "this wrapping key has made all its 2^32 wraps; derive one with a fresh salt",
        ),
        (lambda: wiped.wrap(DEK), "this wrapping key was wiped; derive it again"),
    ]
    for refused, message in cases:
        with pytest.raises(KeyVaultError) as raised:
            refused()
        assert str(raised.value) == message


def test_a_reader_is_asked_for_what_is_missing_and_no_more() -> None:
    source, asked = io.BytesIO(b"abcdef"), []

    def read(size: int) -> bytes:
        asked.append(size)
        return source.read(1)

    assert read_exactly(read, 3) == b"abc"
    assert asked == [3, 2, 1]


def test_a_fresh_wrapping_key_has_the_header_that_its_scopes_make() -> None:
    references = [reference.encoded for reference in HEADER.scopes]
    salt = bytes(range(32))
    one, other = (fresh_wrapping_key(salt, references, SHARES), fresh_wrapping_key(salt[::-1], references, SHARES))
    assert one.header.scopes == HEADER.scopes
    assert one.header.salt == salt
    assert one.wrap(DEK)[:39] == b"KVW\x01\x01\x00\x02" + one.header.salt
    wrapped = parse_wrapped(one.wrap(DEK, b"ad"))
    assert derive_wrapping_key(one.header, SHARES).unwrap(wrapped, b"ad") == DEK
    with pytest.raises(DecryptionFailedError):
        other.unwrap(wrapped, b"ad")
    with pytest.raises(InvalidInputError, match=r"^expected 2 shares of 32 bytes, one a scope$"):
        fresh_wrapping_key(salt, references, SHARES[:1])
    assert repr(one) == "WrappingKey(scopes=2)"


@pytest.mark.parametrize("associated_data", [b"", b"ad", bytes(300)])
def test_wrapping_under_a_given_nonce_is_wrapping(associated_data: bytes) -> None:
    nonce = bytes(range(12))
    wrapped = parse_wrapped(KEY.wrap_under(nonce, DEK, associated_data))
    assert wrapped.nonce == nonce
    assert KEY.unwrap(wrapped, associated_data) == DEK
    bare = parse_wrapped(KEY.wrap_under(nonce, DEK))
    assert KEY.unwrap(bare) == DEK


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, 64])
def test_wiping_keeps_the_length(size: int) -> None:
    secret = bytearray(b"s" * size)
    wipe(secret)
    assert secret == bytes(size)


def test_random_pieces_are_as_many_and_as_long_as_asked_for_and_all_different() -> None:
    pieces = random_pieces(1_000, 12)
    assert [len(piece) for piece in pieces] == [12] * 1_000
    assert len(set(pieces)) == 1_000
    assert random_pieces(0, 12) == []
