"""Events of requests that more than one module writes: the list of what a request names, and the state it has moved to. Pure.

The list is internal until it is carried out, so it travels sealed under the journal key: of each item the scope's id (16 bytes), the
length of the record's tag (one byte, 0 or 8) and the tag.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from keyvault.errors import InvalidFormatError
from keyvault.events import Event, EventType, Value, b64, make_event
from keyvault.store.dialects import chunks
from keyvault.store.requests import ItemKey
from keyvault.system_keys import SystemKeys

ITEMS_PER_EVENT = 1_800
"""As many as fit an event of 64 KiB, each a record."""
ID_BYTES = 16
TAG_LENGTHS = frozenset({0, 8})
_LIST, _CONTENT = b"request-list", b"request-content"


def listed(
    keys: SystemKeys, request_id: bytes, digest: bytes, items: Sequence[ItemKey], *, at: datetime, policy: str
) -> Iterator[Event]:
    """Give the events `request.listed` that put down what a request names, in place of what it named before: at least one."""
    pieces = list(chunks(sorted(items), ITEMS_PER_EVENT)) or [()]
    for number, piece in enumerate(pieces):
        payload: dict[str, Value] = {
            "request": b64(request_id),
            "digest": b64(digest),
            "piece": number,
            "pieces": len(pieces),
            "items": b64(keys.seal_journal(encode_items(piece), _LIST + request_id)),
        }
        yield make_event(EventType.REQUEST_LISTED, payload, at=at, policy=policy)


def moved(request_id: bytes, state: str, *, at: datetime, policy: str) -> Event:
    """Return the event `request.moved`: a request has reached a state that no refusal, approval or cancellation tells."""
    return make_event(EventType.REQUEST_MOVED, {"request": b64(request_id), "state": state}, at=at, policy=policy)


def open_items(keys: SystemKeys, request_id: bytes, sealed: bytes) -> list[ItemKey]:
    """Return the items of one piece. `DecryptionFailedError` when it was altered, `InvalidFormatError` when it is no list."""
    return list(decode_items(keys.open_journal(sealed, _LIST + request_id)))


def seal_content(keys: SystemKeys, request_id: bytes, content: bytes) -> bytes:
    """Seal the HMAC (32 bytes) by which the same submission is known again."""
    return keys.seal_journal(content, _CONTENT + request_id)


def open_content(keys: SystemKeys, request_id: bytes, sealed: bytes) -> bytes:
    """Open what `seal_content` sealed. `DecryptionFailedError` when it was altered."""
    return keys.open_journal(sealed, _CONTENT + request_id)


def encode_items(items: Iterable[ItemKey]) -> bytes:
    """Return the bytes of a list: 17 or 25 an item."""
    return b"".join(scope + bytes((len(tag),)) + tag for scope, tag in items)


def decode_items(data: bytes) -> Iterator[ItemKey]:
    """Read what `encode_items` wrote. `InvalidFormatError` for anything else."""
    position = 0
    while position < len(data):
        tag_at = position + ID_BYTES + 1
        length = data[tag_at - 1] if tag_at <= len(data) else -1
        if length not in TAG_LENGTHS or tag_at + length > len(data):
            raise InvalidFormatError("not the list of what a request names")
        yield data[position : position + ID_BYTES], data[tag_at : tag_at + length]
        position = tag_at + length
