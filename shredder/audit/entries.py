"""What a pack looks for in entries, without judging them: that is the fold's. Pure."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Iterator, Sequence

# No text within an entry's strings can spell these: canonical JSON writes a quotation mark inside a string with a backslash before it.
_DESTROYED = (b'"type":"key.destroyed"', b'"type":"record.destroyed"')
_CREATED = b'"type":"scope.created"'
_MONTH = b'"kind":"communications"'


def destructions(first: int, bundle: bytes, entries: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    """Give the entries that say that keys were destroyed, with their indices; `bundle`: the bytes that the entries are from."""
    if b'.destroyed"' in bundle:
        for index, entry in enumerate(entries, start=first):
            if any(mark in entry for mark in _DESTROYED):
                yield index, entry


def created_months(entries: Sequence[bytes]) -> Iterator[bytes]:
    """Give the commitments (32 bytes) of the account-months that entries say were created."""
    for entry in entries:
        if _CREATED in entry and _MONTH in entry:
            yield urlsafe_b64decode(json.loads(entry)["scope"] + "=")
