"""Lifecycle events: canonical JSON without names.

A scope appears as its commitment, `HMAC-SHA256(salt, canonical name)`; accounts, people and tickets as pseudonyms under
the pseudonym key; binary values as unpadded base64url (RFC 4648, section 5). The bytes of an event are made once, here, and
stored and hashed as they are: RFC 8785, at most 64 KiB with its two length bytes (C2SP tlog-tiles).
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import rfc8785

from keyvault.errors import InvalidInputError

SCHEMA_VERSION = 1
POLICY_VERSION = "builtin/1"
MAX_EVENT_BYTES = 65_535
MAX_SCOPES_PER_EVENT = 1_000

MAX_INTEGER = 2**53

_PLAIN = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), check_circular=False)
_quoted = json.encoder.encode_basestring  # what `_PLAIN` does to a text, without asking what it is
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_PLAIN_TYPES = frozenset({str, bool, type(None)})

Value: TypeAlias = bool | int | str | Sequence["Value"] | Mapping[str, "Value"] | None


class EventType(StrEnum):
    """What can happen in a scope's life."""

    SCOPE_CREATED = "scope.created"
    SCOPE_SUSPENDED = "scope.suspended"
    SCOPE_RESUMED = "scope.resumed"
    SCOPE_MIGRATED = "scope.migrated"
    RECORD_SUSPENDED = "record.suspended"
    RECORD_RESUMED = "record.resumed"
    DESTROY_FENCED = "destroy.fenced"
    KEY_DESTROYED = "key.destroyed"
    RECORD_DESTROYED = "record.destroyed"
    DESTROY_FAILED = "destroy.failed"
    UNUSED_KEYS_DELETED = "unused_keys.deleted"
    RING_CHANGED = "ring.changed"
    SLOTS_FENCED = "slots.fenced"
    SLOTS_DESTROYED = "slots.destroyed"
    POLICY_CHANGED = "policy.changed"
    FACTS_RECORDED = "facts.recorded"
    REQUEST_RECEIVED = "request.received"
    REQUEST_LISTED = "request.listed"
    REQUEST_MOVED = "request.moved"
    REQUEST_REFUSED = "request.refused"
    REQUEST_APPROVED = "request.approved"
    REQUEST_CANCELLED = "request.cancelled"
    INVENTORY_ATTESTED = "inventory.attested"
    TOKEN_ISSUED = "token.issued"  # noqa: S105 - what happened, not a token
    TOKEN_REVOKED = "token.revoked"  # noqa: S105 - as above


class Event(NamedTuple):
    """An event and its exact bytes."""

    id: str
    type: EventType
    body: bytes


def new_event_id() -> str:
    """Return a fresh UUID (RFC 9562, version 4): it tells nothing of the event."""
    digits = secrets.token_bytes(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def make_event(
    kind: EventType,
    payload: Mapping[str, Value],
    *,
    at: datetime,
    event_id: str | None = None,
    policy: str = POLICY_VERSION,
) -> Event:
    """Build an event, resting on a version of the retention policy. `InvalidInputError` when it would not fit a log entry."""
    identity = event_id or new_event_id()
    return _fitting(Event(identity, kind, canonical({**payload, **_header(kind, at, policy), "id": identity})))


class EventTemplate:
    """Events of one type and instant that differ in a few texts: `fill` writes the bytes that `make_event` does, in less time."""

    def __init__(self, kind: EventType, shared: Mapping[str, Value], texts: Iterable[str], *, at: datetime) -> None:
        """`shared` is what all have; `texts` names the fields that `fill` gets. Names are ASCII words, whose order is that of RFC 8785."""
        fixed = {
            name: canonical(value).decode().replace("%", "%%")
            for name, value in {**shared, **_header(kind, at, POLICY_VERSION)}.items()
        }
        members = {name: f"%({name})s" for name in (*texts, "id")} | fixed
        self._form = "{" + ",".join(f'"{name}":{members[name]}' for name in sorted(members)) + "}"
        self._kind = kind

    def fill(self, texts: Mapping[str, str | None]) -> Event:
        """Build an event with a fresh id. `InvalidInputError` when it would not fit a log entry."""
        identity = new_event_id()
        written = {name: "null" if text is None else _quoted(text) for name, text in texts.items()}
        written["id"] = f'"{identity}"'
        return _fitting(Event(identity, self._kind, (self._form % written).encode()))


def canonical(value: Value) -> bytes:
    """Return the canonical JSON (RFC 8785) of a value.

    The standard library's encoder, ten times as fast, writes the same wherever names are ASCII and numbers small integers.
    """
    if _is_plain(value):
        with contextlib.suppress(UnicodeEncodeError):  # a lone surrogate, which the other refuses in its own words
            return _PLAIN.encode(value).encode()
    return rfc8785.dumps(value)


def _header(kind: EventType, at: datetime, policy: str) -> dict[str, Value]:
    return {"v": SCHEMA_VERSION, "type": str(kind), "at": instant(at), "policy": policy}


def _fitting(event: Event) -> Event:
    if len(event.body) > MAX_EVENT_BYTES:
        raise InvalidInputError(f"an event of {len(event.body)} bytes does not fit the log: split the group")
    return event


def _is_plain(value: Value) -> bool:
    if type(value) is dict:
        return "".join(value).isascii() and _is_plain(list(value.values()))
    if type(value) is list:
        return all(_is_plain(item) for item in value if type(item) not in _PLAIN_TYPES)
    return type(value) in _PLAIN_TYPES or (type(value) is int and abs(value) < MAX_INTEGER)


def b64(data: bytes) -> str:
    """Encode as unpadded base64url."""
    return binascii.b2a_base64(data, newline=False).translate(_URL_SAFE).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    """Decode what `b64` wrote."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@lru_cache(maxsize=256)  # one instant stands in thousands of events
def instant(moment: datetime) -> str:
    """Write an instant as UTC with microseconds: `2026-11-23T21:48:31.000000Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
