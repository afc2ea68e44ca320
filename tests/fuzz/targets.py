"""What must hold for any bytes at all: a parser answers or raises its own error, and nothing opens but what was sealed."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TypeVar

from keyvault.envelope import open_envelope, split_envelope
from keyvault.errors import DecryptionFailedError, InvalidFormatError, InvalidScopeError, KeyVaultError
from keyvault.puncture_records import encode_frontier, encode_index, parse_frontier, parse_index
from keyvault.puncture_state import encode_state, parse_state
from keyvault.scopes import Scope
from keyvault.stream import open_stream_body, read_stream_header
from keyvault.wrapped import parse_wrapped, read_wrapped
from tests.vectors import load
from tests.vectors.generate import AD, DEK

T = TypeVar("T")

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


def punctured_state(data: bytes) -> None:
    if data[:4] == b"KVF\x01":
        accepts_only_what_it_writes(data, parse_frontier, encode_frontier)
    elif data[:4] == b"KVI\x01":
        accepts_only_what_it_writes(data, parse_index, encode_index)
    else:
        accepts_only_what_it_writes(data, parse_state, encode_state)


def accepts_only_what_it_writes(data: bytes, parse: Callable[[bytes], T], encode: Callable[[T], bytearray]) -> None:
    try:
        parsed = parse(data)
    except InvalidFormatError:
        return
    try:
        assert encode(parsed) == data
    except KeyVaultError:
        assert bytes(32) in data  # a seed of zeros counts as wiped


TARGETS: dict[str, Callable[[bytes], None]] = {
    "wrapped_key": wrapped_key,
    "envelope": envelope,
    "stream": stream,
    "scope_name": scope_name,
    "punctured_state": punctured_state,
}
