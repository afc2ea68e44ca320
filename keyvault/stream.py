"""Streams: data of any length under a data key, in constant memory.

The STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár, "Online Authenticated-Encryption and its Nonce-Reuse
Misuse-Resistance" (CRYPTO 2015): segments of 1 MiB, whose nonces count them and mark the last one, so that reordering, truncation
and extension are detected. The format's page is docs/formats/stream.md.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvault.envelope import DEK_BYTES, check_dek
from keyvault.errors import DecryptionFailedError, InvalidFormatError, InvalidInputError
from keyvault.formats import (
    MAGIC_BYTES,
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
from keyvault.wrapped import WrappedKey, read_wrapped

SEGMENT_BYTES = 1024 * 1024
PREFIX_BYTES = 7
MAX_SEGMENTS = 2**32  # the counter in the nonce has 32 bits

_LABEL = b"keyvault/stream/1"
_NONCE = struct.Struct(f">{PREFIX_BYTES}sI?")

Progress = Callable[[int], None]


class Source(Protocol):
    """A blocking binary stream to read from."""

    def read(self, size: int, /) -> bytes | None:
        """Return 1 to `size` bytes, and none at the end."""


class Sink(Protocol):
    """A blocking binary stream to write to."""

    def write(self, data: memoryview, /) -> int | None:
        """Take some of `data`, which is only valid during the call; return how many bytes were taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamHeader:
    """What stands before the segments. `prefix` has 7 random bytes, which begin every segment's nonce."""

    wrapped: WrappedKey
    prefix: bytes


def seal_stream(
    dek: Bytes,
    wrapped: bytes,
    source: Source,
    sink: Sink,
    associated_data: Bytes = b"",
    *,
    progress: Progress | None = None,
) -> None:
    """Encrypt all of `source` into `sink` under `dek` (32 bytes), with `wrapped`, its wrapped key, in front.

    Binds `wrapped` and `associated_data` (at most 64 KiB). `progress` is told the plaintext bytes of each segment when it is written.
    Raises `InvalidInputError` for lengths out of range; errors of source and sink (`OSError`) pass.
    """
    prefix = os.urandom(PREFIX_BYTES)
    aead = _stream_aead(dek, wrapped, prefix, associated_data)
    _write_all(sink, memoryview(b"".join((Format.STREAM.value, wrapped, prefix))))
    with _buffer(SEGMENT_BYTES + TAG_BYTES) as output, closing(_segments(source, prefix, SEGMENT_BYTES)) as segments:
        for nonce, segment in segments:
            with output[: len(segment) + TAG_BYTES] as sealed:
                aead.encrypt_into(nonce, segment, None, sealed)
                _write_all(sink, sealed)
            _tell(progress, len(segment))


def read_stream_header(source: Source) -> StreamHeader:
    """Read what stands before the segments, and not a byte more. Raises `InvalidFormatError`."""
    check_format(read_exactly(source.read, MAGIC_BYTES), Format.STREAM)
    wrapped = read_wrapped(source.read)
    prefix = read_exactly(source.read, PREFIX_BYTES)
    if len(prefix) != PREFIX_BYTES:
        raise InvalidFormatError("the stream is cut short in its header")
    return StreamHeader(wrapped=wrapped, prefix=prefix)


def open_stream_body(
    dek: Bytes,
    header: StreamHeader,
    source: Source,
    sink: Sink,
    associated_data: Bytes = b"",
    *,
    progress: Progress | None = None,
) -> None:
    """Decrypt the segments that follow `header` in `source` into `sink`, under `dek` (32 bytes).

    Only authenticated segments are written, but the end may be missing: when this raises, the caller MUST discard the sink (write
    under a temporary name, rename afterwards). `progress` is told the plaintext bytes of each segment when it is written.
    Raises `DecryptionFailedError` when anything differs from what was sealed or is missing at the end, and `InvalidFormatError` when
    the last segment is no segment; errors of source and sink (`OSError`) pass.
    """
    aead = _stream_aead(dek, header.wrapped.raw, header.prefix, associated_data)
    sealed_bytes = SEGMENT_BYTES + TAG_BYTES
    with _buffer(SEGMENT_BYTES) as output, closing(_segments(source, header.prefix, sealed_bytes)) as segments:
        for number, (nonce, segment) in enumerate(segments):
            size = len(segment) - TAG_BYTES
            # A writer ends with an empty segment only when there is no other.
            if size < 0 or (size == 0 and number > 0):
                raise InvalidFormatError(f"the stream is cut short in segment {number}")
            with output[:size] as opened:
                try:
                    aead.decrypt_into(nonce, segment, None, opened)
                except InvalidTag as error:
                    raise DecryptionFailedError(
                        f"segment {number} of the stream was altered, moved, or cut off, or has other associated data"
                    ) from error
                _write_all(sink, opened)
            _tell(progress, size)


def _stream_aead(dek: Bytes, wrapped: bytes, prefix: bytes, associated_data: Bytes) -> AESGCM:
    """Derive the stream's own key, which binds the header and the associated data for all segments at once."""
    check_dek(dek)
    check_associated_data(associated_data)
    info = labelled(_LABEL, b"".join((Format.STREAM.value, wrapped, prefix)), associated_data)
    key = hkdf(dek, salt=b"", info=info, length=DEK_BYTES)
    try:
        return AESGCM(key)
    finally:
        wipe(key)


def _segments(source: Source, prefix: bytes, size: int) -> Generator[tuple[bytes, memoryview]]:
    """Yield the nonce and the bytes of each segment; the bytes are valid until the next.

    One byte is read ahead, because the last segment's nonce says that it is the last.
    """
    with _buffer(size + 1) as buffer:
        filled = _fill(source, buffer)
        for counter in range(MAX_SEGMENTS):
            last = filled <= size
            with buffer[: min(filled, size)] as segment:
                yield _NONCE.pack(prefix, counter, last), segment
            if last:
                return
            buffer[0] = buffer[size]
            with buffer[1:] as rest:
                filled = 1 + _fill(source, rest)
    raise InvalidInputError("the stream has more than 2^32 segments; split it")


@contextmanager
def _buffer(size: int) -> Iterator[memoryview]:
    """Lend a buffer, and clear it afterwards, for it may hold plaintext."""
    buffer = bytearray(size)
    try:
        with memoryview(buffer) as view:
            yield view
    finally:
        wipe(buffer)


def _fill(source: Source, buffer: memoryview) -> int:
    """Read until the buffer is full or the source ends; return the number of bytes."""
    filled = 0
    while filled < len(buffer):
        with buffer[filled:] as rest:
            count = _read_into(source, rest)
        if count == 0:
            break
        filled += count
    return filled


def _read_into(source: Source, buffer: memoryview) -> int:
    if isinstance(source, io.BufferedIOBase | io.RawIOBase):
        count = source.readinto(buffer)
    else:
        data = source.read(len(buffer))
        count = None if data is None else len(data)
        buffer[: len(data or b"")] = data or b""
    if count is None:
        raise InvalidInputError("the source has nothing yet; it must block until it can give data")
    return count


def _write_all(sink: Sink, data: memoryview) -> None:
    written = 0
    while written < len(data):
        with data[written:] as rest:
            count = sink.write(rest)
        if not count:
            raise InvalidInputError("the sink took nothing; it must block until it can take data")
        written += count


def _tell(progress: Progress | None, size: int) -> None:
    if progress is not None:
        progress(size)
