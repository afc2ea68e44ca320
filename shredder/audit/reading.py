"""Entries read as events, and the check that each is one in its only spelling. Pure.

An event has one spelling, canonical JSON (RFC 8785): an entry that is written in another is malformed, as one is that lacks a field, has
one that is unknown, or one of another form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from keyvault.events import POLICY_VERSION
from shredder.audit.events import STRUCTS, Event, FactsRecorded, ScopeCreated
from shredder.audit.finding import Finding
from shredder.audit.forms import ALL_CREATED, CREATED, moment

_DECODERS: Final = {kind.encode(): msgspec.json.Decoder(struct) for kind, struct in STRUCTS.items()}
_encode: Final = msgspec.json.Encoder(order="sorted").encode
"""Of these structs it writes what RFC 8785 does: names are ASCII, numbers small integers."""
_decode_list: Final = msgspec.json.Decoder(list[ScopeCreated]).decode
_HEAD: Final = b'{"account":'
"""How the canonical spelling of `scope.created` begins, and nothing within it: its names are in order, and none of its values has parts."""
INSTANTS: Final = frozenset(
    [
        "at",
        "due_by",
        "fenced_at",
        "horizon",
        "lease_bound",
        "not_before",
        "opened_at",
        "closed_at",
        "destroyed_at",
        "expires_at",
    ]
)
_TYPE: Final = b'"type":"'


def read_bundle(first: int, entries: Sequence[bytes]) -> tuple[list[Event | Finding], list[Finding]]:
    """Return what a bundle's entries say, and what is wrong with the forms of which; `first` is the index of the first entry."""
    fast = _read_created(entries)
    if fast is not None:
        return [*fast], []
    read = [_read(index, entry) for index, entry in enumerate(entries, start=first)]
    return read, [found for found in read if isinstance(found, Finding)]


def malformed(first: int, entries: Sequence[bytes]) -> list[Finding]:
    """Return the second of `read_bundle` alone: any process can ask, for any bundle, in any order."""
    return read_bundle(first, entries)[1]


def decode_bundle(first: int, entries: Sequence[bytes]) -> list[Event | Finding]:
    """Read entries without a look at their spelling, for which somebody else has asked `malformed`."""
    fast = _decode_created(entries, _joined(entries))
    return [_decode(index, entry) for index, entry in enumerate(entries, start=first)] if fast is None else [*fast]


def _read(index: int, entry: bytes) -> Event | Finding:
    event = _decode(index, entry)
    if isinstance(event, Finding):
        return event
    if _encode(event) != entry:
        return _malformed(index, f"{event.type}: it is not canonical JSON (RFC 8785), which is its one spelling")
    try:
        if isinstance(event, ScopeCreated):
            _check_created(event)
        else:
            _check_moments(event)
    except ValueError as error:
        return _malformed(index, f"{event.type}: {error}")
    return event


def _decode(index: int, entry: bytes) -> Event | Finding:
    kind = entry.rpartition(_TYPE)[2].partition(b'"')[0]
    decoder = _DECODERS.get(kind)
    if decoder is None:
        return _malformed(
            index, "it is not an event of a type that this version knows: use the version that wrote the log"
        )
    try:
        return decoder.decode(entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return _malformed(index, f"{kind.decode()}: {error}")


# --- a whole bundle of creations at once, which is what a log of a million entries mostly is ----------------------------


def _decode_created(entries: Sequence[bytes], joined: bytes) -> list[ScopeCreated] | None:
    """Read a bundle of nothing but `scope.created` as one list; None when it is another, or anything is wrong with it."""
    if [entry[: len(_HEAD)] for entry in entries].count(_HEAD) != len(entries):
        return None
    try:
        created = _decode_list(joined)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return created if len(created) == len(entries) else None


def _read_created(entries: Sequence[bytes]) -> list[ScopeCreated] | None:
    """As `_decode_created`, with a look at the forms of all: what is wrong is then found entry by entry.

    Written again, the list is what was joined: so each of as many objects as there are entries begins where an entry does, which is the
    only place where `_HEAD` can stand outside of an object that has begun, and the entries' spellings are canonical.
    """
    joined = _joined(entries)
    created = _decode_created(entries, joined)
    if created is None or _encode(created) != joined or b"\\" in joined or not joined.isascii():
        return None
    fixed = "\n".join([f"{event.account} {event.scope} {event.scope_id} {event.id} {event.at}" for event in created])
    if created and ALL_CREATED.fullmatch(fixed) is None:
        return None
    try:
        for instant in {*[event.at for event in created], *[event.due_at for event in created]} - {None}:
            moment(str(instant))
    except ValueError:
        return None
    whole = all([event.placement and event.sealed and event.policy == POLICY_VERSION for event in created])  # noqa: C419 - faster
    return created if whole else None


def _joined(entries: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(entries) + b"]"


def _malformed(index: int, message: str) -> Finding:
    return Finding("malformed", f"entry {index}", message)


def _check_created(event: ScopeCreated) -> None:
    if CREATED.fullmatch(f"{event.account} {event.scope} {event.scope_id} {event.id} {event.at}") is None:
        raise ValueError("one of account, scope, scope_id, id and at has not the form that it must have")
    moment(event.at)
    if event.due_at is not None:
        moment(event.due_at)
    if event.policy != POLICY_VERSION:
        raise ValueError(f"its policy is {POLICY_VERSION}, whatever policy is in force")
    for text in (event.placement, event.sealed):
        if not (text and text.isascii() and text.isprintable()):
            raise ValueError("placement or sealed is empty, or has characters that it cannot have")


def _check_moments(event: Event) -> None:
    for name in _MOMENTS[event.type]:
        text = getattr(event, name)
        if isinstance(text, str):
            moment(text)
    if isinstance(event, FactsRecorded):
        for fact in event.facts:
            moment(fact.at)


_MOMENTS: Final = {
    kind: [name for name in struct.__struct_fields__ if name in INSTANTS] for kind, struct in STRUCTS.items()
}
"""The fields of each type that are instants."""
