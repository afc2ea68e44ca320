"""Vault's barrier, opened with the unseal key alone: the chain from the unseal key to every data key, and the values' format.

    unseal key -> root key (core/hsm/barrier-unseal-keys) -> data keys of all terms (core/keyring) -> every other entry

A barrier value is term (4 bytes) | version (1) | nonce (12) | AES-256-GCM; version 2 has the storage path as associated data.
With one key share of one, the share is the unseal key. Checked with Vault 1.21.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.forensics.entries import Entry, decompressed

ROOT_KEY_PATH = "core/hsm/barrier-unseal-keys"
KEYRING_PATH = "core/keyring"
TERM_BYTES = 4
NONCE_BYTES = 12
TAG_BYTES = 16
PATH_IS_AUTHENTICATED = 2
CIPHERTEXT_FIELD = 0x0A  # tag of the first field of a wrapped blob: nonce and AES-256-GCM, no associated data


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What a barrier's keys opened, and the encrypted entries that it was opened from."""

    plain: list[Entry] = field(repr=False)
    encrypted: list[Entry] = field(repr=False)


def open_all(entries: Iterable[Entry], unseal_key: str) -> Opened:
    """Open every entry that the unseal key (base64) leads to; what is not this barrier's, or is damaged, is left out.

    Raises `ValueError` where the unseal key opens no root key: a search that opens nothing would prove nothing.
    """
    entries = list(entries)
    root_keys = set(_root_keys(entries, base64.b64decode(unseal_key)))
    data_keys = {key for root_key in root_keys for key in _data_keys(entries, root_key)}
    if not data_keys:
        raise ValueError("the unseal key opens no barrier keys in these entries")
    opened = [(entry, plain) for entry in entries if (plain := _open(entry, data_keys)) is not None]
    return Opened(
        plain=[Entry(path=entry.path, value=decompressed(plain), source=entry.source) for entry, plain in opened],
        encrypted=[entry for entry, _ in opened],
    )


def _root_keys(entries: Iterable[Entry], unseal_key: bytes) -> Iterator[bytes]:
    for entry in entries:
        if entry.path == ROOT_KEY_PATH and entry.value[:1] == bytes([CIPHERTEXT_FIELD]):
            size = entry.value[1]
            plain = _decrypt(unseal_key, entry.value[2 : 2 + size], None)
            if plain is not None:
                yield from (base64.b64decode(key) for key in json.loads(plain))


def _data_keys(entries: Iterable[Entry], root_key: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield terms and keys of every version of the keyring: rotating the barrier key adds one and keeps the others."""
    for entry in entries:
        if entry.path == KEYRING_PATH:
            plain = _open(entry, {(1, root_key)})
            if plain is not None:
                yield from ((key["Term"], base64.b64decode(key["Value"])) for key in json.loads(plain)["Keys"])


def _open(entry: Entry, keys: Iterable[tuple[int, bytes]]) -> bytes | None:
    term = int.from_bytes(entry.value[:TERM_BYTES], "big")
    version = entry.value[TERM_BYTES : TERM_BYTES + 1]
    associated = entry.path.encode() if version == bytes([PATH_IS_AUTHENTICATED]) else None
    body = entry.value[TERM_BYTES + 1 :]
    opened = (_decrypt(key, body, associated) for known, key in keys if known == term)
    return next((plain for plain in opened if plain is not None), None)


def _decrypt(key: bytes, body: bytes, associated_data: bytes | None) -> bytes | None:
    if len(body) < NONCE_BYTES + TAG_BYTES:
        return None
    try:
        return AESGCM(key).decrypt(body[:NONCE_BYTES], body[NONCE_BYTES:], associated_data)
    except InvalidTag:
        return None
