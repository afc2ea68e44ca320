"""What must hold for any bytes at all: a parser answers or raises its own error, and nothing opens but what was sealed."""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Callable
from typing import TypeVar

from keyvault.envelope import open_envelope, split_envelope
from keyvault.errors import (
    DecryptionFailedError,
    InvalidFormatError,
    InvalidScopeError,
    KeyVaultError,
    VerificationError,
)
from keyvault.puncture_records import encode_frontier, encode_index, parse_frontier, parse_index
from keyvault.puncture_state import encode_state, parse_state
from keyvault.scopes import Scope
from keyvault.stream import open_stream_body, read_stream_header
from keyvault.wrapped import parse_wrapped, read_wrapped
from shredder.log.checkpoint import parse_text
from shredder.log.note import parse_verifier_key, split_note
from shredder.log.proof import parse_proof
from shredder.log.tiles import decode_bundle, encode_bundle, parse_path
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


def tile_path(data: bytes) -> None:
    path = data.decode("utf-8", "surrogateescape")
    tile = parse_path(path)
    assert tile is None or tile.path == path


def verifier_key(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        key = parse_verifier_key(text)
    except VerificationError:
        return
    assert str(key) == text.strip()


def signed_note(data: bytes) -> None:
    try:
        text, lines = split_note(data)
    except VerificationError:
        return
    signatures = "".join(f"\N{EM DASH} {name} {b64encode(signature).decode()}\n" for name, signature in lines)
    assert f"{text}\n{signatures}".encode() == data


def checkpoint_text(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    try:
        found = parse_text(text)
    except VerificationError:
        return
    assert text.startswith(found.text)


def proof_file(data: bytes) -> None:
    try:
        proof = parse_proof(data)
    except VerificationError:
        return
    assert proof.text == data


def entry_bundle(data: bytes) -> None:
    try:
        entries = decode_bundle(data)
    except VerificationError:
        return
    assert encode_bundle(entries) == data


TARGETS: dict[str, Callable[[bytes], None]] = {
    "wrapped_key": wrapped_key,
    "envelope": envelope,
    "stream": stream,
    "scope_name": scope_name,
    "punctured_state": punctured_state,
    "tile_path": tile_path,
    "verifier_key": verifier_key,
    "signed_note": signed_note,
    "checkpoint_text": checkpoint_text,
    "proof_file": proof_file,
    "entry_bundle": entry_bundle,
}
