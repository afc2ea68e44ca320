from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import rfc8785

from keyvault.errors import InvalidInputError
from keyvault.events import (
    MAX_EVENT_BYTES,
    MAX_SCOPES_PER_EVENT,
    EventTemplate,
    EventType,
    Value,
    b64,
    canonical,
    instant,
    make_event,
    new_event_id,
)
from keyvault.results import values_of
from keyvault.store import outbox
from tests.homes import embedded_home

AT = datetime(2026, 11, 23, 21, 48, 31, tzinfo=UTC)
ID = "00000000-0000-4000-8000-000000000000"


def test_the_bytes_are_canonical_json() -> None:
    payload: dict[str, Value] = {"é": 1, "scopes": ["b", "a"], "a": {"z": None, "y": True}, "text": "\u20ac\n/<"}
    event = make_event(EventType.KEY_DESTROYED, payload, at=AT, event_id=ID)
    # RFC 8785: keys by UTF-16 code units, no white space, shortest escapes, UTF-8; arrays keep their order.
    expected = (
        '{"a":{"y":true,"z":null},"at":"2026-11-23T21:48:31.000000Z","id":"' + ID + '","policy":"builtin/1",'
        '"scopes":["b","a"],"text":"\u20ac\\n/<","type":"key.destroyed","v":1,"é":1}'
    )
    assert event.body == expected.encode()
    assert (event.id, event.type) == (ID, EventType.KEY_DESTROYED)


@pytest.mark.parametrize(
    "value",
    [
        {"b": [1, -1, 0, True, None, '\x00\x1f\x7f\u20ac\U0001f600"\\/\b\f\n\r\t\u2028'], "a": {}, "": []},
        {"\U0001f600": 1, "\ufb33": 2, "z": (1, 2)},
        {"largest": 2**53 - 1, "smallest": -(2**53) + 1},
    ],
)
def test_both_encoders_write_the_same(value: Any) -> None:
    assert canonical(value) == rfc8785.dumps(value)


@pytest.mark.parametrize("value", [{"text": "\ud800"}, {"number": 2**53}])
def test_what_json_cannot_carry_is_refused(value: Any) -> None:
    with pytest.raises(rfc8785.CanonicalizationError):
        canonical(value)


def test_a_payload_cannot_pass_itself_off_as_another_event() -> None:
    forged: dict[str, Value] = {"v": 9, "id": "other", "type": "scope.created", "at": "never", "policy": "none"}
    event = make_event(EventType.DESTROY_FENCED, forged, at=AT, event_id=ID)
    assert event.body == make_event(EventType.DESTROY_FENCED, {}, at=AT, event_id=ID).body
    assert json.loads(event.body)["type"] == "destroy.fenced"


def test_every_event_has_a_fresh_random_id() -> None:
    events = [make_event(EventType.SCOPE_CREATED, {}, at=AT) for _ in range(3)]
    ids = {event.id for event in events} | {new_event_id()}
    assert len(ids) == 4
    assert {(uuid.UUID(item).version, uuid.UUID(item).variant) for item in ids} == {(4, uuid.RFC_4122)}
    assert {str(uuid.UUID(item)) for item in ids} == ids
    assert all(json.loads(event.body)["id"] == event.id for event in events)


def test_ids_differ_in_all_their_random_digits() -> None:
    columns = list(zip(*(new_event_id() for _ in range(500)), strict=True))
    counted = [len(set(column)) for column in columns]
    assert counted == [1 if place in {8, 13, 14, 18, 23} else 4 if place == 19 else 16 for place in range(36)]


@pytest.mark.parametrize("text", ["plain", "%s 100% %(b)s", '\x00\x1f\u20ac\U0001f600"\\/\n', "", None])
def test_a_template_writes_what_a_single_event_is_made_of(text: str | None) -> None:
    shared: dict[str, Value] = {"generation": 1, "z": "%s 5%", "none": None}
    event = EventTemplate(EventType.SCOPE_CREATED, shared, ["b", "y"], at=AT).fill({"b": text, "y": "sealed"})
    assert event == make_event(EventType.SCOPE_CREATED, {**shared, "b": text, "y": "sealed"}, at=AT, event_id=event.id)


def test_texts_of_a_template_cannot_pass_themselves_off_as_its_header() -> None:
    names = ["v", "id", "type", "at", "policy"]
    event = EventTemplate(EventType.DESTROY_FENCED, {}, names, at=AT).fill(dict.fromkeys(names, "forged"))
    assert event == make_event(EventType.DESTROY_FENCED, {}, at=AT, event_id=event.id)


def test_each_event_of_a_template_has_an_id_of_its_own() -> None:
    template = EventTemplate(EventType.SCOPE_CREATED, {}, [], at=AT)
    assert template.fill({}).id != template.fill({}).id


def test_an_event_of_a_template_is_at_most_what_a_log_entry_holds() -> None:
    template = EventTemplate(EventType.SCOPE_CREATED, {}, ["pad"], at=AT)
    overhead = len(template.fill({"pad": ""}).body)
    assert len(template.fill({"pad": "x" * (65_535 - overhead)}).body) == MAX_EVENT_BYTES
    with pytest.raises(InvalidInputError, match=r"^an event of 65536 bytes does not fit the log: split the group$"):
        template.fill({"pad": "x" * (65_536 - overhead)})


def test_an_event_is_at_most_what_a_log_entry_holds() -> None:
    overhead = len(make_event(EventType.SCOPE_CREATED, {"pad": ""}, at=AT, event_id=ID).body)
    largest = make_event(EventType.SCOPE_CREATED, {"pad": "x" * (65_535 - overhead)}, at=AT, event_id=ID)
    assert len(largest.body) == MAX_EVENT_BYTES == 65_535
    with pytest.raises(InvalidInputError, match=r"^an event of 65536 bytes does not fit the log: split the group$"):
        make_event(EventType.SCOPE_CREATED, {"pad": "x" * (65_536 - overhead)}, at=AT, event_id=ID)


def test_the_largest_group_fits() -> None:
    payload: dict[str, Value] = {"scopes": [b64(bytes(32))] * MAX_SCOPES_PER_EVENT, "more": "x" * 1024}
    assert len(make_event(EventType.KEY_DESTROYED, payload, at=AT).body) < MAX_EVENT_BYTES


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"\x00", "AA"),
        (b"\xfb\xff", "-_8"),
        (b"\xfb\xff\xfe", "-__-"),
        (b"\0\0\x17", "AAAX"),
        (bytes(16), "A" * 22),
    ],
)
def test_binary_values_are_unpadded_base64url(data: bytes, text: str) -> None:
    assert b64(data) == text


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (AT, "2026-11-23T21:48:31.000000Z"),
        (AT.replace(microsecond=7), "2026-11-23T21:48:31.000007Z"),
        (AT.astimezone(timezone(timedelta(hours=-5))), "2026-11-23T21:48:31.000000Z"),
    ],
)
def test_instants_are_utc_with_microseconds_wherever_the_machine_is(
    moment: datetime, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert instant(moment) == text
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("TZ", "Asia/Kathmandu")
        time.tzset()
        assert instant(moment) == text
    time.tzset()


def test_types_are_spelled_as_the_log_spells_them() -> None:
    """A type once written stays what it is."""
    assert {
        "SCOPE_CREATED": "scope.created",
        "SCOPE_SUSPENDED": "scope.suspended",
        "SCOPE_RESUMED": "scope.resumed",
        "DESTROY_FENCED": "destroy.fenced",
        "KEY_DESTROYED": "key.destroyed",
        "DESTROY_FAILED": "destroy.failed",
    }.items() <= {kind.name: kind.value for kind in EventType}.items()


def test_no_event_of_a_scopes_life_carries_its_name(tmp_path: Path) -> None:
    name, month = "consumer/acct-Quince/Zenobia", "communications/acct-Quince/2026-10"
    home = embedded_home(tmp_path)
    with home.vault() as vault:
        values_of(vault.ensure_scopes([name, month]))
        values_of(vault.suspend([name]))
        values_of(vault.resume([name]))
    with home.destroyer() as destroyer:
        destroyer.destroy([name, month], ticket="T-Medlar", requested_by="Philippa")
    with home.opened() as opened:
        bodies = [body for _, body in opened.database.read(outbox.bodies)]
    events: list[dict[str, Any]] = [json.loads(body) for body in bodies]
    types = [event["type"] for event in events]
    assert [kind for kind in types if kind != "ring.changed"] == [
        "scope.created",
        "scope.created",
        "scope.suspended",
        "scope.resumed",
        "destroy.fenced",
        "key.destroyed",
    ]
    for word in (b"Quince", b"Zenobia", b"Medlar", b"Philippa"):
        assert not any(word in body for body in bodies), word
