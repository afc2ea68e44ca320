from __future__ import annotations

import io
import os
import threading
import tracemalloc
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keyvault import stream as module
from keyvault.errors import DecryptionFailedError, InvalidFormatError, InvalidInputError
from keyvault.stream import SEGMENT_BYTES, open_stream_body, read_stream_header, seal_stream
from keyvault.wrapped import CustodyCode, Header, ScopeShareRef, derive_wrapping_key

DEK = bytes(range(32))
SHARE = b"\x01" * 32
REF = ScopeShareRef(scope_id=bytes(16), custody=CustodyCode.DEDICATED, generation=1)
KEY = derive_wrapping_key(Header(salt=bytes(32), scopes=(REF,)), [SHARE])
WRAPPED = KEY.wrap(DEK, b"ad")
HEADER_BYTES = 4 + len(WRAPPED) + 7
SEALED_BYTES = SEGMENT_BYTES + 16
LONG = os.urandom(2 * SEGMENT_BYTES + 1000)


def seal(plaintext: bytes, associated_data: bytes = b"ad", wrapped: bytes = WRAPPED) -> bytes:
    sink = io.BytesIO()
    seal_stream(DEK, wrapped, io.BytesIO(plaintext), sink, associated_data)
    return sink.getvalue()


def open_into(data: bytes, sink: io.BytesIO, associated_data: bytes = b"ad") -> None:
    """Do as a vault does: unwrap the data key under the header that stands in the bytes."""
    source = io.BytesIO(data)
    header = read_stream_header(source)
    dek = derive_wrapping_key(header.wrapped.header, [SHARE]).unwrap(header.wrapped, b"ad")
    open_stream_body(dek, header, source, sink, associated_data)


def opened(data: bytes, associated_data: bytes = b"ad") -> bytes:
    sink = io.BytesIO()
    open_into(data, sink, associated_data)
    return sink.getvalue()


STREAM = seal(LONG)
FIRST, SECOND, THIRD = (
    STREAM[HEADER_BYTES : HEADER_BYTES + SEALED_BYTES],
    STREAM[HEADER_BYTES + SEALED_BYTES : HEADER_BYTES + 2 * SEALED_BYTES],
    STREAM[HEADER_BYTES + 2 * SEALED_BYTES :],
)
BEFORE = STREAM[:HEADER_BYTES]


@given(st.binary(max_size=3000), st.binary(max_size=100))
@settings(max_examples=50)
def test_round_trip(plaintext: bytes, associated_data: bytes) -> None:
    assert opened(seal(plaintext, associated_data), associated_data) == plaintext


@pytest.mark.parametrize("segments", [0, 1, 2])
@pytest.mark.parametrize("more", [-1, 0, 1])
def test_lengths_at_segment_boundaries(segments: int, more: int) -> None:
    size = segments * SEGMENT_BYTES + more
    if size < 0:
        size = 3 * SEGMENT_BYTES
    data = seal(LONG[:size])
    plaintext = LONG[:size]
    count = max(1, -(-len(plaintext) // SEGMENT_BYTES))
    assert len(data) == HEADER_BYTES + len(plaintext) + 16 * count
    assert opened(data) == plaintext


class Dribble:
    """Gives and takes a little at a time, as pipes and sockets do."""

    def __init__(self, data: bytes = b"", step: int = 700_001) -> None:
        self.buffer = io.BytesIO(data)
        self.step = step

    def read(self, size: int, /) -> bytes:
        return self.buffer.read(min(size, self.step))

    def write(self, data: memoryview, /) -> int:
        return self.buffer.write(data[: self.step])


class DribbleRaw(io.RawIOBase):
    """The same with `readinto`."""

    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        return self.buffer.readinto(memoryview(buffer)[:77_777])


@pytest.mark.parametrize("source_of", [Dribble, DribbleRaw])
def test_short_reads_and_short_writes(source_of: Any) -> None:
    sealed, plain = Dribble(), Dribble()
    seal_stream(DEK, WRAPPED, source_of(LONG), sealed, b"ad")
    source = source_of(sealed.buffer.getvalue())
    open_stream_body(DEK, read_stream_header(source), source, plain, b"ad")
    assert plain.buffer.getvalue() == LONG


def test_through_real_pipes() -> None:
    read_end, write_end = os.pipe()
    with open(read_end, "rb", buffering=0) as source, open(write_end, "wb", buffering=0) as sink:  # noqa: PTH123 - descriptors

        def produce() -> None:
            seal_stream(DEK, WRAPPED, io.BytesIO(LONG), sink, b"ad")
            sink.close()

        producer = threading.Thread(target=produce)
        producer.start()
        plain = io.BytesIO()
        open_stream_body(DEK, read_stream_header(source), source, plain, b"ad")
        producer.join()
    assert plain.getvalue() == LONG


def test_progress_is_told_plaintext_bytes() -> None:
    sealing: list[int] = []
    opening: list[int] = []
    sink = io.BytesIO()
    seal_stream(DEK, WRAPPED, io.BytesIO(LONG), sink, b"ad", progress=sealing.append)
    sink.seek(0)
    open_stream_body(DEK, read_stream_header(sink), sink, io.BytesIO(), b"ad", progress=opening.append)
    assert sealing == opening == [SEGMENT_BYTES, SEGMENT_BYTES, 1000]


def test_memory_is_constant() -> None:
    class Zeros:
        left = 64 * SEGMENT_BYTES

        def read(self, size: int, /) -> bytes:
            taken = min(size, self.left)
            self.left -= taken
            return bytes(taken)

    class Counter:
        total = 0

        def write(self, data: memoryview, /) -> int:
            self.total += len(data)
            return len(data)

    sink = Counter()
    tracemalloc.start()
    try:
        seal_stream(DEK, WRAPPED, Zeros(), sink)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sink.total == HEADER_BYTES + 64 * SEALED_BYTES
    assert peak < 5 * SEGMENT_BYTES


def test_every_stream_has_its_own_prefix() -> None:
    assert len({seal(b"")[HEADER_BYTES - 7 : HEADER_BYTES] for _ in range(50)}) == 50


# --- tampering -------------------------------------------------------------------------------------------------


def refused(data: bytes, *errors: type[Exception], at_most: int = 0) -> None:
    """Show that the stream is refused, and that nothing but authenticated segments from its beginning was written."""
    sink = io.BytesIO()
    with pytest.raises(errors):
        open_into(data, sink)
    written = sink.getvalue()
    assert len(written) <= at_most
    assert LONG.startswith(written)


def test_no_byte_of_the_header_can_be_altered() -> None:
    short = seal(b"short")
    for position in range(HEADER_BYTES):
        refused(flipped(short, position), InvalidFormatError, DecryptionFailedError)


def test_no_byte_of_a_short_stream_can_be_altered() -> None:
    short = seal(b"short")
    for position in range(HEADER_BYTES, len(short)):
        refused(flipped(short, position), DecryptionFailedError)


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize("segment", [0, 1, 2])
@pytest.mark.parametrize("offset", [0, 1, 499, 983, 984, 999, 1000, 1015, -1, -16, -17])
def test_no_byte_of_a_segment_can_be_altered(segment: int, offset: int) -> None:
    start = HEADER_BYTES + segment * SEALED_BYTES
    end = min(start + SEALED_BYTES, len(STREAM))
    position = start + offset if offset >= 0 else end + offset
    refused(flipped(STREAM, position), DecryptionFailedError, at_most=segment * SEGMENT_BYTES)


def test_truncated_in_the_header() -> None:
    for end in range(HEADER_BYTES + 16):
        refused(STREAM[:end], InvalidFormatError)


@pytest.mark.parametrize("boundary", [1, 2, 3])
@pytest.mark.parametrize("less", [0, 1, 2, 15, 16, 17, 1000])
def test_truncated_at_boundaries(boundary: int, less: int) -> None:
    end = min(HEADER_BYTES + boundary * SEALED_BYTES, len(STREAM)) - less
    if end == len(STREAM):
        assert opened(STREAM[:end]) == LONG
    else:
        refused(STREAM[:end], DecryptionFailedError, InvalidFormatError, at_most=(boundary - 1) * SEGMENT_BYTES)


@pytest.mark.parametrize("more", [1, 15, 16, 17])
def test_a_boundary_and_a_little_more(more: int) -> None:
    end = HEADER_BYTES + SEALED_BYTES + more
    expected = InvalidFormatError if more <= 16 else DecryptionFailedError
    refused(STREAM[:end], expected, at_most=SEGMENT_BYTES)


@pytest.mark.parametrize("extra", [b"\x00", bytes(16), bytes(SEALED_BYTES), THIRD])
def test_extended(extra: bytes) -> None:
    refused(STREAM + extra, DecryptionFailedError, at_most=2 * SEGMENT_BYTES)


def test_extended_after_a_full_last_segment() -> None:
    full = seal(LONG[:SEGMENT_BYTES])
    for extra in (b"\x00", bytes(16), THIRD):
        refused(full + extra, DecryptionFailedError)


@pytest.mark.parametrize(
    ("segments", "written"),
    [
        ([SECOND, FIRST, THIRD], 0),
        ([SECOND, THIRD], 0),
        ([FIRST, THIRD], 1),
        ([FIRST, FIRST, SECOND, THIRD], 1),
        ([FIRST, SECOND, SECOND, THIRD], 2),
        ([FIRST, SECOND, THIRD, THIRD], 2),
        ([FIRST, SECOND], 1),
        ([FIRST], 0),
        ([THIRD], 0),
    ],
    ids=["swapped", "first dropped", "dropped", "first twice", "twice", "last twice", "last dropped", "first", "last"],
)
def test_segments_are_counted(segments: list[bytes], written: int) -> None:
    refused(BEFORE + b"".join(segments), DecryptionFailedError, at_most=written * SEGMENT_BYTES)


def test_segments_of_two_streams_under_one_key() -> None:
    other = seal(LONG)
    refused(BEFORE + FIRST + other[HEADER_BYTES + SEALED_BYTES :], DecryptionFailedError, at_most=SEGMENT_BYTES)
    refused(other[:HEADER_BYTES] + STREAM[HEADER_BYTES:], DecryptionFailedError)


def test_headers_of_two_streams_exchanged() -> None:
    wrapped = KEY.wrap(DEK, b"ad")
    refused(STREAM[:4] + wrapped + STREAM[4 + len(WRAPPED) :], DecryptionFailedError)


def test_associated_data_is_bound() -> None:
    for other in (b"", b"a", b"add"):
        with pytest.raises(DecryptionFailedError, match=r"^segment 0 of the stream was altered, moved, or cut off"):
            opened(STREAM, other)


# --- limits ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 16, 33])
def test_data_keys_out_of_range(size: int) -> None:
    sink = io.BytesIO()
    with pytest.raises(InvalidInputError, match="of 32 bytes"):
        seal_stream(bytes(size), WRAPPED, io.BytesIO(), sink)
    assert sink.getvalue() == b""


def test_associated_data_out_of_range() -> None:
    with pytest.raises(InvalidInputError, match="65536 are allowed"):
        seal_stream(DEK, WRAPPED, io.BytesIO(), io.BytesIO(), bytes(65537))


def test_segments_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.MAX_SEGMENTS == 2**32
    monkeypatch.setattr(module, "MAX_SEGMENTS", 2)
    assert opened(seal(LONG[: 2 * SEGMENT_BYTES])) == LONG[: 2 * SEGMENT_BYTES]
    with pytest.raises(InvalidInputError, match=r"more than 2\^32 segments"):
        seal(LONG)


class NotReady(io.RawIOBase):
    def readinto(self, _buffer: Any, /) -> None:
        return None

    def write(self, _data: Any, /) -> None:
        return None


class NotReadyPlain:
    def read(self, _size: int, /) -> None:
        return None


@pytest.mark.parametrize("source", [NotReady(), NotReadyPlain()])
def test_a_source_without_data_yet_is_not_the_end(source: Any) -> None:
    with pytest.raises(InvalidInputError, match="it must block"):
        seal_stream(DEK, WRAPPED, source, io.BytesIO())


def test_a_sink_that_takes_nothing() -> None:
    with pytest.raises(InvalidInputError, match="it must block"):
        seal_stream(DEK, WRAPPED, io.BytesIO(), NotReady())


def test_errors_of_the_sink_pass_and_buffers_are_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def write(self, data: memoryview, /) -> int:
            if len(data) > 10_000:
                raise OSError(28, "No space left on device")
            return len(data)

    wiped = []

    def watch(secret: bytearray) -> None:
        secret[:] = bytes(len(secret))
        wiped.append(len(secret))

    monkeypatch.setattr(module, "wipe", watch)
    with pytest.raises(OSError, match="No space left"):
        seal_stream(DEK, WRAPPED, io.BytesIO(LONG), Full())
    assert sorted(wiped) == [32, SEGMENT_BYTES + 1, SEALED_BYTES]


def test_no_associated_data_is_the_empty_associated_data() -> None:
    for sealing, opening in (((), (b"",)), ((b"",), ())):
        sink, plain = io.BytesIO(), io.BytesIO()
        seal_stream(DEK, WRAPPED, io.BytesIO(b"data"), sink, *sealing)
        source = io.BytesIO(sink.getvalue())
        open_stream_body(DEK, read_stream_header(source), source, plain, *opening)
        assert plain.getvalue() == b"data"


class Asked:
    """A source that is no file, and notes how much it was asked for."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self.sizes: list[int] = []

    def read(self, size: int, /) -> bytes:
        self.sizes.append(size)
        return self._data.read(size)


def test_a_source_is_never_asked_for_nothing() -> None:
    source = Asked(LONG[: 2 * SEGMENT_BYTES])
    seal_stream(DEK, WRAPPED, source, io.BytesIO())
    assert min(source.sizes) > 0
    assert source.sizes[:2] == [SEGMENT_BYTES + 1, SEGMENT_BYTES]


def test_what_a_refusal_says(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked, full = Mock(read=Mock(return_value=None)), Mock(write=Mock(return_value=0))
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: opened(STREAM[: HEADER_BYTES - 1]), "the stream is cut short in its header"),
        (lambda: opened(STREAM[: HEADER_BYTES + 15]), "the stream is cut short in segment 0"),
        (
            lambda: opened(BEFORE + SECOND),
            "segment 0 of the stream was altered, moved, or cut off, or has other associated data",
        ),
        (
            lambda: seal_stream(DEK, WRAPPED, blocked, io.BytesIO()),
            "the source has nothing yet; it must block until it can give data",
        ),
        (
            lambda: seal_stream(DEK, WRAPPED, io.BytesIO(), full),
            "the sink took nothing; it must block until it can take data",
        ),
        (lambda: seal(LONG), "the stream has more than 2^32 segments; split it"),
    ]
    monkeypatch.setattr(module, "MAX_SEGMENTS", 1)
    for refused, message in cases:
        with pytest.raises((InvalidFormatError, DecryptionFailedError, InvalidInputError)) as raised:
            refused()
        assert str(raised.value) == message
