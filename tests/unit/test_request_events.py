"""The list of what a request names, as events carry it."""

from __future__ import annotations

import json
import secrets
from datetime import UTC, datetime

import pytest

from keyvault.errors import DecryptionFailedError, InvalidFormatError
from keyvault.events import MAX_EVENT_BYTES
from keyvault.system_keys import SystemKeys
from shredder.request_events import (
    ITEMS_PER_EVENT,
    decode_items,
    encode_items,
    listed,
    open_content,
    open_items,
    seal_content,
)

AT = datetime(2026, 11, 24, tzinfo=UTC)
KEYS = SystemKeys(index=bytes(32), journal=bytes(range(32)), pseudonym=bytes(32), log_public=bytes(32))
REQUEST, DIGEST = bytes(16), bytes(32)


def _items(count: int) -> list[tuple[bytes, bytes]]:
    return sorted((secrets.token_bytes(16), secrets.token_bytes(8)) for _ in range(count))


@pytest.mark.parametrize("count", [0, 1, ITEMS_PER_EVENT, ITEMS_PER_EVENT + 1, 3 * ITEMS_PER_EVENT])
def test_a_list_travels_in_pieces_that_fit_an_entry_and_comes_back_whole(count: int) -> None:
    items = _items(count)
    events = list(listed(KEYS, REQUEST, DIGEST, items[::-1], at=AT, policy="a-policy-with-a-long-name/2026-11"))
    assert len(events) == max(1, -(-count // ITEMS_PER_EVENT))
    assert max(len(event.body) for event in events) <= MAX_EVENT_BYTES
    told = [json.loads(event.body) for event in events]
    assert [(event["piece"], event["pieces"]) for event in told] == [(n, len(events)) for n in range(len(events))]
    found = [item for event in told for item in open_items(KEYS, REQUEST, _unb64(event["items"]))]
    assert found == items


def test_whole_scopes_and_records_stand_in_one_list() -> None:
    items = [(bytes(16), b""), (bytes(16), b"12345678"), (b"\1" * 16, b"")]
    assert list(decode_items(encode_items(items))) == items


@pytest.mark.parametrize("data", [bytes(1), bytes(16), bytes(16) + b"\1", bytes(16) + b"\x08" + bytes(7), bytes(18)])
def test_what_is_no_list_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidFormatError):
        list(decode_items(data))


def test_a_piece_belongs_to_its_request_and_to_nothing_else() -> None:
    (event,) = listed(KEYS, REQUEST, DIGEST, _items(1), at=AT, policy="p")
    sealed = _unb64(json.loads(event.body)["items"])
    for other, data in ((b"\1" * 16, sealed), (REQUEST, sealed[:-1] + bytes((sealed[-1] ^ 1,)))):
        with pytest.raises(DecryptionFailedError):
            open_items(KEYS, other, data)
    with pytest.raises(DecryptionFailedError):
        open_items(KEYS, REQUEST, seal_content(KEYS, REQUEST, bytes(32)))
    assert open_content(KEYS, REQUEST, seal_content(KEYS, REQUEST, b"\7" * 32)) == b"\7" * 32


def _unb64(text: str) -> bytes:
    import base64

    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
