"""An entry of Vault's storage, decrypted or not, and the search for key material in many of them."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass

GZIP_CANARY = b"G"
"""Vault puts this byte before a value that it compressed with gzip."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """`path` is the storage path, `value` its bytes, `source` where it was found: a file's name, or the API."""

    path: str
    value: bytes
    source: str


def decompressed(value: bytes) -> bytes:
    """Return a value as its writer gave it to Vault's storage, where that was compressed with gzip."""
    if value[:3] != GZIP_CANARY + b"\x1f\x8b":
        return value
    return gzip.decompress(value[1:])


def key_versions(policy: bytes) -> dict[int, bytes]:
    """Return the key material in a transit key's `policy/` entry, 32 bytes a version."""
    return {int(version): base64.b64decode(key["key"]) for version, key in json.loads(policy)["keys"].items()}


def paths_holding(entries: Iterable[Entry], material: bytes) -> set[str]:
    """Return the paths of the entries whose value holds `material`: as bytes, in base64, or in hexadecimal."""
    forms = (material, base64.b64encode(material), base64.urlsafe_b64encode(material), material.hex().encode())
    return {entry.path for entry in entries if any(form in entry.value for form in forms)}


def paths_naming(entries: Iterable[Entry], name: str) -> set[str]:
    """Return the paths of the entries that bear a key's name, in the path or in the value."""
    return {entry.path for entry in entries if name in entry.path or name.encode() in entry.value}
