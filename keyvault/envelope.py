"""Envelopes: data under a data key, together with that data key wrapped.

An envelope is made and opened whole, in memory; `keyvault.stream` is for what does not fit. Pure. The format's page is
docs/formats/envelope.md.
"""

from __future__ import annotations

import os
from io import BytesIO
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
    labelled,
)
from keyvault.wrapped import WrappedKey, split_wrapped

DEK_BYTES = 32
# One call of the cryptography package takes at most 2^31 - 1 bytes, and the tag counts.
MAX_PLAINTEXT_BYTES = 2**31 - 1 - TAG_BYTES
# Up to here a copy takes less time than a view of what is there.
SMALL_BYTES = 4096

_MAGIC = Format.ENVELOPE.value
_LABEL = b"keyvault/envelope/1"
_NO_ENVELOPE = "the envelope is cut short, or longer than an envelope can be"
_ALTERED = "the envelope was altered, or has other associated data"


class Envelope(NamedTuple):
    """A parsed envelope. `nonce` has 12 bytes; `ciphertext` is a view of the input, 16 bytes longer than the plaintext."""

    wrapped: WrappedKey
    nonce: bytes
    ciphertext: memoryview


class EnvelopeKey:
    """A data key, for the envelopes that begin with one wrapped key and have the same associated data; thread-safe.

    The key lives inside OpenSSL only, which clears it when `wipe` drops it. A key may seal up to 2^32 envelopes (NIST SP 800-38D,
    section 8.3: each has a random 96-bit nonce of its own); whoever seals more than one counts them.
    """

    __slots__ = ("_aead", "_body_at", "_bound", "_nonce_at", "_start")

    def __init__(self, dek: Bytes, wrapped: bytes, associated_data: Bytes = b"") -> None:
        """Take `dek` (32 bytes), which the caller clears; bind `wrapped` and `associated_data` (at most 64 KiB).

        Raises `InvalidInputError` for lengths out of range.
        """
        check_dek(dek)
        check_associated_data(associated_data)
        self._start = _MAGIC + wrapped
        self._nonce_at = len(self._start)
        self._body_at = self._nonce_at + NONCE_BYTES
        self._bound = labelled(_LABEL, wrapped, associated_data)
        self._aead: AESGCM | None = AESGCM(dek)

    def __repr__(self) -> str:
        return "EnvelopeKey()"

    def seal(self, plaintext: Bytes) -> bytes:
        """Return an envelope. Raises `InvalidInputError` where there is too much for one, and `KeyVaultError` after `wipe`."""
        if len(plaintext) > MAX_PLAINTEXT_BYTES:
            raise InvalidInputError(
                f"an envelope holds at most {MAX_PLAINTEXT_BYTES} bytes, and there are {len(plaintext)}; seal a stream instead"
            )
        aead = self._aead or self._usable()
        nonce = os.urandom(NONCE_BYTES)
        start = self._start + nonce
        if len(plaintext) <= SMALL_BYTES:
            return start + aead.encrypt(nonce, plaintext, self._bound)
        # BytesIO gives its buffer away as bytes: the one way to encrypt into bytes in place, without a copy of the whole.
        buffer = BytesIO(bytes(len(start) + len(plaintext) + TAG_BYTES))
        buffer.write(start)
        with buffer.getbuffer() as view, view[len(start) :] as ciphertext:
            aead.encrypt_into(nonce, plaintext, self._bound, ciphertext)
        return buffer.getvalue()

    def open(self, data: Bytes) -> bytes:
        """Return the plaintext of an envelope that begins with this key's wrapped key, which the caller has made sure of.

        Raises `InvalidFormatError`, `DecryptionFailedError`, and `KeyVaultError` after `wipe`.
        """
        body_at = self._body_at
        size = len(data) - body_at - TAG_BYTES
        if not 0 <= size <= MAX_PLAINTEXT_BYTES:
            raise InvalidFormatError(_NO_ENVELOPE)
        aead = self._aead or self._usable()
        body = data[body_at:] if size <= SMALL_BYTES else memoryview(data)[body_at:]
        try:
            return aead.decrypt(data[self._nonce_at : body_at], body, self._bound)
        except InvalidTag as error:
            raise DecryptionFailedError(_ALTERED) from error

    def wipe(self) -> None:
        """Drop the key; the object is unusable afterwards."""
        self._aead = None

    def _usable(self) -> AESGCM:
        if self._aead is None:
            raise KeyVaultError("this data key was wiped; ask for it again")
        return self._aead


def seal_envelope(dek: Bytes, wrapped: bytes, plaintext: Bytes, associated_data: Bytes = b"") -> bytes:
    """Encrypt under `dek` (32 bytes) and put `wrapped`, its wrapped key, in front.

    Binds `wrapped` and `associated_data` (at most 64 KiB). A DEK may seal up to 2^32 envelopes (NIST SP 800-38D, section 8.3).
    Raises `InvalidInputError` for lengths out of range.
    """
    return EnvelopeKey(dek, wrapped, associated_data).seal(plaintext)


def split_envelope(data: Bytes) -> Envelope:
    """Read an envelope's parts; nothing is decrypted or copied. Raises `InvalidFormatError`."""
    if data[:MAGIC_BYTES] != _MAGIC:
        check_format(data, Format.ENVELOPE)
    wrapped, body = split_wrapped(data, MAGIC_BYTES)
    if not 0 <= len(body) - NONCE_BYTES - TAG_BYTES <= MAX_PLAINTEXT_BYTES:
        raise InvalidFormatError(_NO_ENVELOPE)
    return Envelope(wrapped, bytes(body[:NONCE_BYTES]), body[NONCE_BYTES:])


def open_envelope(envelope: Envelope, dek: Bytes, associated_data: Bytes = b"") -> bytes:
    """Return the plaintext. Raises `DecryptionFailedError` when anything differs from what was sealed."""
    check_dek(dek)
    check_associated_data(associated_data)
    bound = labelled(_LABEL, envelope.wrapped.raw, associated_data)
    try:
        return AESGCM(dek).decrypt(envelope.nonce, envelope.ciphertext, bound)
    except InvalidTag as error:
        raise DecryptionFailedError(_ALTERED) from error


def check_dek(dek: Bytes) -> None:
    """Raise `InvalidInputError` unless the DEK fits AES-256."""
    if len(dek) != DEK_BYTES:
        raise InvalidInputError(f"data is encrypted under a data key of {DEK_BYTES} bytes; this one has {len(dek)}")
