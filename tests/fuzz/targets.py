"""What must hold for any bytes at all: a parser answers or raises its own error, and nothing opens but what was sealed."""

from __future__ import annotations

import io
from collections.abc import Callable

from keyvault.envelope import open_envelope, split_envelope
from keyvault.errors import DecryptionFailedError, InvalidFormatError, InvalidScopeError
from keyvault.scopes import Scope
from keyvault.stream import open_stream_body, read_stream_header
from keyvault.wrapped import parse_wrapped, read_wrapped
from tests.vectors import load
from tests.vectors.generate import AD, DEK

SEALED = frozenset(
    bytes.fromhex(row[name]) for name in ("envelope", "stream") for row in load(name)["valid"] if name in row
)


def wrapped_key(data: bytes) -> None:
    try:
        parsed = parse_wrapped(data)
    except InvalidFormatError:
        return
    assert parsed.raw == data
    assert read_wrapped(io.BytesIO(data).read) == parsed


def envelope(data: bytes) -> None:
    try:
        open_envelope(split_envelope(data), DEK, AD)
    except (InvalidFormatError, DecryptionFailedError):
        return
    assert data in SEALED


def stream(data: bytes) -> None:
    source, sink = io.BytesIO(data), io.BytesIO()
    try:
        open_stream_body(DEK, read_stream_header(source), source, sink, AD)
    except (InvalidFormatError, DecryptionFailedError):
        assert sink.getvalue() == b""  # shorter than a segment, so nothing but the whole is authentic
        return
    assert data in SEALED


def scope_name(data: bytes) -> None:
    name = data.decode("utf-8", "surrogateescape")
    try:
        scope = Scope.parse(name)
    except InvalidScopeError:
        return
    assert scope.canonical == data
    assert Scope.of(scope.kind, *scope.segments) == scope


TARGETS: dict[str, Callable[[bytes], None]] = {
    "wrapped_key": wrapped_key,
    "envelope": envelope,
    "stream": stream,
    "scope_name": scope_name,
}
