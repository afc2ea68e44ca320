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

from keyvault.errors import DecryptionFailedError, InvalidFormatError, InvalidInputError
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

_MAGIC = Format.ENVELOPE.value
_LABEL = b"keyvault/envelope/1"


class Envelope(NamedTuple):
    """A parsed envelope. `nonce` has 12 bytes; `ciphertext` is a view of the input, 16 bytes longer than the plaintext."""

    wrapped: WrappedKey
    nonce: bytes
    ciphertext: memoryview


def seal_envelope(dek: Bytes, wrapped: bytes, plaintext: Bytes, associated_data: Bytes = b"") -> bytes:
    """Encrypt under `dek` (32 bytes) and put `wrapped`, its wrapped key, in front.

    Binds `wrapped` and `associated_data` (at most 64 KiB). A DEK may seal up to 2^32 envelopes (NIST SP 800-38D, section 8.3).
    Raises `InvalidInputError` for lengths out of range.
    """
    check_dek(dek)
    check_associated_data(associated_data)
    if len(plaintext) > MAX_PLAINTEXT_BYTES:
        raise InvalidInputError(
            f"an envelope holds at most {MAX_PLAINTEXT_BYTES} bytes, and there are {len(plaintext)}; seal a stream instead"
        )
    nonce = os.urandom(NONCE_BYTES)
    start = b"".join((_MAGIC, wrapped, nonce))
    # BytesIO gives its buffer away as bytes: the one way to encrypt into bytes in place, without a copy of the whole.
    buffer = BytesIO(bytes(len(start) + len(plaintext) + TAG_BYTES))
    buffer.write(start)
    with buffer.getbuffer() as view, view[len(start) :] as ciphertext:
        AESGCM(dek).encrypt_into(nonce, plaintext, labelled(_LABEL, wrapped, associated_data), ciphertext)
    return buffer.getvalue()


def split_envelope(data: Bytes) -> Envelope:
    """Read an envelope's parts; nothing is decrypted or copied. Raises `InvalidFormatError`."""
    if data[:MAGIC_BYTES] != _MAGIC:
        check_format(data, Format.ENVELOPE)
    wrapped, body = split_wrapped(data, MAGIC_BYTES)
    if not 0 <= len(body) - NONCE_BYTES - TAG_BYTES <= MAX_PLAINTEXT_BYTES:
        raise InvalidFormatError("the envelope is cut short, or longer than an envelope can be")
    return Envelope(wrapped, bytes(body[:NONCE_BYTES]), body[NONCE_BYTES:])


def open_envelope(envelope: Envelope, dek: Bytes, associated_data: Bytes = b"") -> bytes:
    """Return the plaintext. Raises `DecryptionFailedError` when anything differs from what was sealed."""
    check_dek(dek)
    check_associated_data(associated_data)
    bound = labelled(_LABEL, envelope.wrapped.raw, associated_data)
    try:
        return AESGCM(dek).decrypt(envelope.nonce, envelope.ciphertext, bound)
    except InvalidTag as error:
        raise DecryptionFailedError("the envelope was altered, or has other associated data") from error


def check_dek(dek: Bytes) -> None:
    """Raise `InvalidInputError` unless the DEK fits AES-256."""
    if len(dek) != DEK_BYTES:
        raise InvalidInputError(f"data is encrypted under a data key of {DEK_BYTES} bytes; this one has {len(dek)}")
