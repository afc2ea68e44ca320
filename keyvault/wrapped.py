"""Wrapped data keys: a data key (DEK) under a wrapping key (KEK) that one to eight scopes hold together.

Each scope gives a 32-byte share; without any one of them there is no KEK, so destroying one scope destroys access. Pure: where
shares come from is the business of custody. The format's page is docs/formats/wrapped-key.md.
"""

from __future__ import annotations

import hmac
import itertools
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from functools import lru_cache
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvault.errors import DecryptionFailedError, InvalidFormatError, InvalidInputError, KeyVaultError
from keyvault.formats import (
    MAGIC_BYTES,
    NONCE_BYTES,
    TAG_BYTES,
    Bytes,
    Format,
    check_associated_data,
    check_format,
    hkdf,
    labelled,
    read_exactly,
    wipe,
)

SALT_BYTES = 32
SCOPE_ID_BYTES = 16
SHARE_BYTES = 32
COMMITMENT_BYTES = 32
RECORD_TAG_BYTES = 8
MAX_SCOPES = 8
MAX_TOKEN_BYTES = 1024
MIN_DEK_BYTES = 16
MAX_DEK_BYTES = 64
# NIST SP 800-38D, section 8.3: at most 2^32 invocations of GCM under one key with random 96-bit nonces.
MAX_WRAPS = 2**32

SUITE = 1  # HKDF-SHA256, AES-256-GCM, key commitment
_KEK_BYTES = 32
_KEK_LABEL = b"keyvault/kek/1"
_WRAP_LABEL = b"keyvault/wrap/1"
_FIXED = struct.Struct(">4sBBB32s")
_SCOPE = struct.Struct(">16sBIB")
_U16 = struct.Struct(">H")
_TAIL = struct.Struct(">32s12sH")
MAX_WRAPPED_BYTES = (
    _FIXED.size
    + MAX_SCOPES * (_SCOPE.size + RECORD_TAG_BYTES + _U16.size + MAX_TOKEN_BYTES)
    + _TAIL.size
    + MAX_DEK_BYTES
    + TAG_BYTES
)

_NO_ASSOCIATED_DATA = bytes(8)
_SIZES = [_U16.pack(size + TAG_BYTES) for size in range(MAX_DEK_BYTES + 1)]
_MAGIC = Format.WRAPPED_KEY.value
_COUNT_AT = MAGIC_BYTES + 2

_CUT_SHORT = "the wrapped key is cut short"
_TAG_SIZES = frozenset({0, RECORD_TAG_BYTES})
_TAG_RULE = "a record tag has 8 bytes or none"
_SHARE_RULE = "a share token has at most 1,024 bytes"


class CustodyCode(IntEnum):
    """How a scope's share is had, as the header encodes it."""

    DEDICATED = 1
    RING = 2


_CUSTODY_CODES = {code.value: code for code in CustodyCode}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScopeShareRef:
    """One scope in a header, and what custody needs to find its share again.

    `scope_id` has 16 bytes; `generation` counts from 1; `record_tag` has 8 bytes, or none when the share is the whole scope's;
    `token` (at most 1,024 bytes) is custody's own and holds no secret. Raises `InvalidFormatError` outside these bounds.
    """

    scope_id: bytes
    custody: CustodyCode
    generation: int
    record_tag: bytes = b""
    token: bytes = b""

    def __post_init__(self) -> None:
        _require(len(self.scope_id) == SCOPE_ID_BYTES, "a scope id has 16 bytes")
        _require(self.custody in _CUSTODY_CODES, "a scope's custody is unknown")
        _require(1 <= self.generation < 2**32, "a scope's generation is 1 to 4,294,967,295")
        _require(len(self.record_tag) in _TAG_SIZES, _TAG_RULE)
        _require(len(self.token) <= MAX_TOKEN_BYTES, _SHARE_RULE)

    @property
    def encoded(self) -> bytes:
        """The scope's bytes in the header: 24 and those of the record tag and the token."""
        return encode_reference(self.scope_id, self.custody, self.generation, self.record_tag, self.token)


def encode_reference(scope_id: bytes, custody: int, generation: int, record_tag: bytes, token: bytes) -> bytes:
    """Return a scope's bytes in a header, of values that are within the bounds of `ScopeShareRef`."""
    start = _SCOPE.pack(scope_id, custody, generation, len(record_tag))
    return b"".join((start, record_tag, _U16.pack(len(token)), token))


@dataclass(frozen=True, kw_only=True, slots=True)
class Header:
    """What the KEK is derived from beside the shares: a random 32-byte salt, and 1 to 8 different scopes, in order.

    `encoded` is the header's bytes, from the magic through the last scope. Raises `InvalidFormatError` outside these bounds.
    """

    salt: bytes
    scopes: tuple[ScopeShareRef, ...]
    encoded: bytes = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        _require(len(self.salt) == SALT_BYTES, "a salt has 32 bytes")
        _require(1 <= len(self.scopes) <= MAX_SCOPES, "a wrapped key has 1 to 8 scopes")
        _require(len({ref.scope_id for ref in self.scopes}) == len(self.scopes), "a wrapped key names a scope twice")
        fixed = _FIXED.pack(Format.WRAPPED_KEY.value, SUITE, 0, len(self.scopes), self.salt)
        object.__setattr__(self, "encoded", b"".join((fixed, *(ref.encoded for ref in self.scopes))))


class WrappedKey(NamedTuple):
    """A parsed wrapped key; `raw` is all its bytes. A tuple, because one is made for every message that is opened."""

    header: Header
    raw: bytes

    @property
    def commitment(self) -> bytes:
        """The 32 bytes that commit to the KEK."""
        start = len(self.header.encoded)
        return self.raw[start : start + COMMITMENT_BYTES]

    @property
    def nonce(self) -> bytes:
        """The 12 bytes of the nonce."""
        start = len(self.header.encoded) + COMMITMENT_BYTES
        return self.raw[start : start + NONCE_BYTES]

    @property
    def before_ciphertext(self) -> bytes:
        """All bytes before the ciphertext; they are authenticated with it."""
        return self.raw[: len(self.header.encoded) + _TAIL.size]

    @property
    def ciphertext(self) -> bytes:
        """The encrypted DEK, 16 bytes longer than it."""
        return self.raw[len(self.header.encoded) + _TAIL.size :]


class WrappingKey:
    """A KEK, for many wraps under one header; thread-safe. Keep it no longer than the lease its shares came with.

    The KEK lives inside OpenSSL only, which clears it when `wipe` drops it.
    """

    __slots__ = ("_aead", "_bound", "_commitment", "_encoded", "_start", "_wraps")

    def __init__(self, encoded: bytes, kek: bytearray, commitment: bytes) -> None:
        self._encoded = encoded
        self._commitment = commitment
        self._start = encoded + commitment
        self._bound = _WRAP_LABEL + (len(encoded) + _TAIL.size).to_bytes(8, "big") + self._start
        self._aead: AESGCM | None = AESGCM(kek)
        self._wraps = itertools.count(1)

    def __repr__(self) -> str:
        return f"WrappingKey(scopes={self._encoded[_COUNT_AT]})"

    @property
    def header(self) -> Header:
        """The header that every wrapped key of this KEK begins with."""
        return _parse_header(self._encoded)

    def wrap(self, dek: Bytes, associated_data: Bytes = b"") -> bytes:
        """Return `dek` (16 to 64 bytes) as a wrapped key, bound to `associated_data` (at most 64 KiB).

        Raises `InvalidInputError` for other lengths, and `KeyVaultError` after 2^32 wraps or after `wipe`.
        """
        check_wrappable(dek, associated_data)
        return self.wrap_under(os.urandom(NONCE_BYTES), dek, associated_data)

    def wrap_under(self, nonce: bytes, dek: Bytes, associated_data: Bytes = b"") -> bytes:
        """As `wrap`, with 12 random bytes that were never used before, and lengths that the caller has checked: for batches.

        What `labelled` would return is put together from parts made once, because this runs for every message that is sealed.
        """
        aead = self._aead or self._usable()
        if next(self._wraps) > MAX_WRAPS:
            raise KeyVaultError("this wrapping key has made all its 2^32 wraps; derive one with a fresh salt")
        middle = nonce + _SIZES[len(dek)]
        bound = (
            self._bound
            + middle
            + (len(associated_data).to_bytes(8, "big") + associated_data if associated_data else _NO_ASSOCIATED_DATA)
        )
        return self._start + middle + aead.encrypt(nonce, dek, bound)

    def unwrap(self, wrapped: WrappedKey, associated_data: Bytes = b"") -> bytearray:
        """Return the DEK; the caller clears it with `keyvault.formats.wipe`.

        Raises `DecryptionFailedError` when anything differs from what was wrapped, and `KeyVaultError` after `wipe`.
        """
        check_associated_data(associated_data)
        aead = self._usable()
        if not hmac.compare_digest(wrapped.commitment, self._commitment):
            raise DecryptionFailedError(
                "the wrapped key was altered, or is under another wrapping key: commitment differs"
            )
        dek = bytearray(len(wrapped.ciphertext) - TAG_BYTES)
        bound = labelled(_WRAP_LABEL, wrapped.before_ciphertext, associated_data)
        try:
            aead.decrypt_into(wrapped.nonce, wrapped.ciphertext, bound, dek)
        except InvalidTag as error:
            raise DecryptionFailedError("the wrapped key was altered, or has other associated data") from error
        return dek

    def wipe(self) -> None:
        """Drop the KEK; the object is unusable afterwards."""
        self._aead = None

    def _usable(self) -> AESGCM:
        if self._aead is None:
            raise KeyVaultError("this wrapping key was wiped; derive it again")
        return self._aead


def check_wrappable(dek: Bytes, associated_data: Bytes) -> None:
    """Raise `InvalidInputError` unless a data key has 16 to 64 bytes and its associated data at most 64 KiB."""
    if not MIN_DEK_BYTES <= len(dek) <= MAX_DEK_BYTES:
        raise InvalidInputError(f"a data key has {MIN_DEK_BYTES} to {MAX_DEK_BYTES} bytes, this one has {len(dek)}")
    check_associated_data(associated_data)


def fresh_wrapping_key(salt: bytes, references: Sequence[bytes], shares: Sequence[Bytes]) -> WrappingKey:
    """Derive a KEK under a salt, 32 fresh random bytes; `references` are `encode_reference` of 1 to 8 different scopes.

    As `derive_wrapping_key`, without taking the header apart again: for batches.
    """
    start = _FIXED.pack(_MAGIC, SUITE, 0, len(references), salt)
    return _derive(b"".join((start, *references)), shares)


def derive_wrapping_key(header: Header, shares: Sequence[Bytes]) -> WrappingKey:
    """Derive the KEK from one 32-byte share a scope, in the header's order. The caller clears its shares.

    HKDF-SHA256 (RFC 5869) over the concatenated shares; the second half of the output commits to the KEK, which AES-GCM alone does
    not (Albertini et al., "How to Abuse and Fix Authenticated Encryption Without Key Commitment", USENIX Security 2022).
    Raises `InvalidInputError` for another number or length of shares.
    """
    return _derive(header.encoded, shares)


def _derive(encoded: bytes, shares: Sequence[Bytes]) -> WrappingKey:
    count = encoded[_COUNT_AT]
    if list(map(len, shares)) != [SHARE_BYTES] * count:
        raise InvalidInputError(f"expected {count} shares of {SHARE_BYTES} bytes, one a scope")
    ikm = bytearray().join(shares)
    salt = encoded[_FIXED.size - SALT_BYTES : _FIXED.size]
    output = hkdf(ikm, salt=salt, info=_KEK_LABEL + encoded, length=_KEK_BYTES + COMMITMENT_BYTES)
    kek = output[:_KEK_BYTES]
    try:
        return WrappingKey(encoded, kek, bytes(output[_KEK_BYTES:]))
    finally:
        for secret in (ikm, output, kek):
            wipe(secret)


# --- bytes to values -------------------------------------------------------------------------------------------


def parse_wrapped(data: Bytes) -> WrappedKey:
    """Read a wrapped key and nothing after it; raise `InvalidFormatError` for anything else."""
    wrapped, rest = split_wrapped(data)
    if len(rest) > 0:
        raise InvalidFormatError(f"{len(rest)} bytes follow the wrapped key")
    return wrapped


def split_wrapped(data: Bytes, offset: int = 0) -> tuple[WrappedKey, memoryview]:
    """Read the wrapped key at `offset` in `data`; return it and a view of what follows. Raises `InvalidFormatError`."""
    view = memoryview(data)
    start = bytes(view[offset : offset + MAX_WRAPPED_BYTES])
    header_size, size = _extent(start)
    _require(size <= len(start), _CUT_SHORT)
    return WrappedKey(_parse_header(start[:header_size]), start[:size]), view[offset + size :]


def read_wrapped(read: Callable[[int], Bytes | None]) -> WrappedKey:
    """Read a wrapped key from a stream, and not a byte more; `read(n)` gives 1 to n bytes, and none at the end.

    Reads at most `MAX_WRAPPED_BYTES`, whatever the bytes say. Raises `InvalidFormatError`.
    """
    data = b""
    header_size, size = 0, MAGIC_BYTES
    while len(data) < size:
        data += read_exactly(read, size - len(data))
        cut = len(data) < size
        header_size, size = _extent(data)
        _require(not cut, _CUT_SHORT)
    return WrappedKey(header=_parse_header(data[:header_size]), raw=data)


def _extent(data: bytes) -> tuple[int, int]:
    """Return the size of the header, and of the whole wrapped key, that `data` begins with.

    Where `data` ends too early to tell, the second is what it must have to tell more. Checks what bounds the sizes.
    """
    if data[:MAGIC_BYTES] != _MAGIC:
        check_format(data, Format.WRAPPED_KEY)
    end = _FIXED.size
    if len(data) < end:
        return 0, end
    count = data[_COUNT_AT]
    if not 1 <= count <= MAX_SCOPES:
        raise InvalidFormatError("a wrapped key has 1 to 8 scopes")
    for _ in range(count):
        end += _SCOPE.size
        if len(data) < end:
            return 0, end
        tag_size = data[end - 1]
        if tag_size not in _TAG_SIZES:
            raise InvalidFormatError(_TAG_RULE)
        end += tag_size + _U16.size
        if len(data) < end:
            return 0, end
        token_size = data[end - 2] << 8 | data[end - 1]
        if token_size > MAX_TOKEN_BYTES:
            raise InvalidFormatError(_SHARE_RULE)
        end += token_size
    header_size, end = end, end + _TAIL.size
    if len(data) < end:
        return 0, end
    size = data[end - 2] << 8 | data[end - 1]
    _require(MIN_DEK_BYTES <= size - TAG_BYTES <= MAX_DEK_BYTES, "a wrapped data key has 32 to 80 bytes of ciphertext")
    return header_size, end + size


@lru_cache(maxsize=1024)  # all wrapped keys of a lease begin with the same header
def _parse_header(encoded: bytes) -> Header:
    _, suite, flags, count, salt = _FIXED.unpack_from(encoded)
    _require(suite == SUITE, "the wrapped key's suite is unknown")
    _require(flags == 0, "the wrapped key's flags are unknown")
    scopes = []
    position = _FIXED.size
    for _ in range(count):
        scopes.append(_parse_scope(encoded, position))
        position += len(scopes[-1].encoded)
    return Header(salt=salt, scopes=tuple(scopes))


def _parse_scope(encoded: bytes, start: int) -> ScopeShareRef:
    scope_id, custody, generation, tag_size = _SCOPE.unpack_from(encoded, start)
    _require(custody in _CUSTODY_CODES, "a scope's custody is unknown")
    tag = start + _SCOPE.size
    token = tag + tag_size + _U16.size
    (token_size,) = _U16.unpack_from(encoded, tag + tag_size)
    return ScopeShareRef(
        scope_id=scope_id,
        custody=_CUSTODY_CODES[custody],
        generation=generation,
        record_tag=encoded[tag : tag + tag_size],
        token=encoded[token : token + token_size],
    )


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise InvalidFormatError(rule)
