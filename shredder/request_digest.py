"""The digest that an approval is for: of the exact list that a request names. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

ItemKey = tuple[bytes, bytes]
"""A scope's id (16 bytes), and a record's tag (8 bytes) or nothing."""


def digest_of(request_id: bytes, kind: str, items: Iterable[ItemKey]) -> bytes:
    """Return the SHA-256 of the exact list: the request's id and kind, then each scope's id (one of each generation) and record's tag."""
    digest = hashlib.sha256(b"keyvault/request/1\0" + request_id + kind.encode())
    for scope, tag in sorted(items):
        digest.update(b"\0" + scope + bytes((len(tag),)) + tag)
    return digest.digest()
