"""What the byte formats share: their magics, the encoding of associated data, HKDF, and care for secrets in memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from enum import Enum

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keyvault.errors import InvalidFormatError, InvalidInputError

_SHA256 = SHA256()

MAGIC_BYTES = 4
NONCE_BYTES = 12
TAG_BYTES = 16
MAX_ASSOCIATED_DATA_BYTES = 64 * 1024


Bytes = bytes | bytearray | memoryview


class Format(Enum):
    """The formats of this project; a value is the format's first four bytes: three letters and the version."""

    WRAPPED_KEY = b"KVW\x01"
    ENVELOPE = b"KVE\x01"
    STREAM = b"KVS\x01"


_LETTERS = frozenset(known.value[:3] for known in Format)


def sniff(prefix: Bytes) -> Format:
    """Tell which format begins with these bytes (four or more); raise `InvalidFormatError` when it is none."""
    magic = bytes(prefix[:MAGIC_BYTES])
    try:
        return Format(magic)
    except ValueError as error:
        if magic[:3] in _LETTERS and len(magic) == MAGIC_BYTES:
            raise InvalidFormatError(
                f"format version {magic[3]} is not one this program reads; use a newer one"
            ) from error
        raise InvalidFormatError("not a wrapped key, an envelope or a stream: unknown first four bytes") from error


def check_format(prefix: Bytes, expected: Format) -> None:
    """Raise `InvalidFormatError` unless `prefix` begins with the magic of `expected`."""
    if prefix[:MAGIC_BYTES] != expected.value:
        found = sniff(prefix)
        raise InvalidFormatError(f"expected format {expected.name}, found {found.name}; open it as what it is")


def read_exactly(read: Callable[[int], Bytes | None], size: int) -> bytes:
    """Call `read` until `size` bytes are there, or fewer at the end: pipes and sockets give what they have."""
    data = bytearray()
    while len(data) < size and (piece := read(size - len(data))):
        data += piece
    return bytes(data)


def labelled(label: bytes, *parts: Bytes) -> bytes:
    """Return the label, and then for each part its length as u64 (big-endian) and its bytes."""
    pieces: list[Bytes] = [label]
    for part in parts:
        pieces += (len(part).to_bytes(8, "big"), part)
    return b"".join(pieces)


def check_associated_data(associated_data: Bytes) -> None:
    """Raise `InvalidInputError` when there are more than 64 KiB."""
    if len(associated_data) > MAX_ASSOCIATED_DATA_BYTES:
        raise InvalidInputError(
            f"associated data has {len(associated_data)} bytes; {MAX_ASSOCIATED_DATA_BYTES} are allowed, pass a digest of it"
        )


def hkdf(ikm: Bytes, *, salt: bytes, info: bytes, length: int) -> bytearray:
    """HKDF-SHA256, extract and expand (RFC 5869), into a buffer that the caller clears. An empty salt is 32 zero bytes."""
    output = bytearray(length)
    HKDF(_SHA256, length, salt, info).derive_into(ikm, output)
    return output


def random_pieces(count: int, size: int) -> list[bytes]:
    """Return fresh random bytes, `count` times `size` of them, from one call of the system's generator. Not for keys: nobody can wipe them."""
    random = os.urandom(count * size)
    return [random[start : start + size] for start in range(0, len(random), size)]


_ZEROS = bytes(32)


def wipe(secret: bytearray) -> None:
    """Overwrite a secret with zeros, in place."""
    secret[:] = _ZEROS if len(secret) == len(_ZEROS) else bytes(len(secret))
