"""Entries read as events, and the check that each is one in its only spelling. Pure.

An event has one spelling, canonical JSON (RFC 8785): an entry that is written in another is malformed, as one is that lacks a field, has
one that is unknown, or one of another form.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Final, TypeAlias

import msgspec

from shredder.audit.creations import Creations, runs_of
from shredder.audit.events import STRUCTS, Event, FactsRecorded, ScopeCreated
from shredder.audit.finding import Finding
from shredder.audit.forms import moment

Read: TypeAlias = Creations | Event | Finding
"""What entries say: creations that follow each other, any other event, or what is wrong with the form of an entry."""

_DECODERS: Final = {kind.encode(): msgspec.json.Decoder(struct) for kind, struct in STRUCTS.items()}
_encode: Final = msgspec.json.Encoder(order="sorted").encode
"""Of these structs it writes what RFC 8785 does: names are ASCII, numbers small integers."""
_decode_list: Final = msgspec.json.Decoder(list[ScopeCreated]).decode
_encode_list: Final = msgspec.json.Encoder().encode
"""The fields of `ScopeCreated` are declared in their order, and need not be sorted a million times."""
_CREATED: Final = b'"type":"scope.created","v":1}'
"""How the canonical spelling of `scope.created` ends, and nothing within it: there a quotation mark would have a backslash before it."""
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
_DELETE: Final = b"\x7f"
"""The one control character that JSON lets stand as it is."""


def read_bundle(first: int, entries: Sequence[bytes]) -> list[Read]:
    """Return what entries say, in their order; `first` is the index of the first. Any process can ask, for any bundle."""
    read: list[Read] = []
    are_created = [entry.endswith(_CREATED) for entry in entries]
    for is_created, places in groupby(range(len(entries)), key=are_created.__getitem__):
        together = [*places]
        start = together[0]
        members = entries[start : start + len(together)]
        runs = _read_created(members) if is_created else None
        read += [_read(index, entry) for index, entry in enumerate(members, first + start)] if runs is None else runs
    return read


def entries_of(read: Read) -> int:
    """Return of how many entries this was read."""
    return read.count if isinstance(read, Creations) else 1


def _read_created(entries: Sequence[bytes]) -> list[Creations] | None:
    """Read creations as one list, which is what a log of a million entries mostly is; None when anything is wrong with any.

    Written again, the list is what was joined. So it is canonical, and has as many objects as there are entries, each of which ends in
    `_CREATED`, and so where an object does: an entry is one object.
    """
    joined = b"[" + b",".join(entries) + b"]"
    try:
        created = _decode_list(joined)
        if len(created) != len(entries) or _encode_list(created) != joined or not _is_plain(joined):
            return None
        return [*runs_of(created)]
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _read(index: int, entry: bytes) -> Read:
    kind = entry.rpartition(_TYPE)[2].partition(b'"')[0]
    decoder = _DECODERS.get(kind)
    if decoder is None:
        return _malformed(
            index, "it is not an event of a type that this version knows: use the version that wrote the log"
        )
    try:
        event = decoder.decode(entry)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return _malformed(index, f"{kind.decode()}: {error}")
    if _encode(event) != entry:
        return _malformed(index, f"{event.type}: it is not canonical JSON (RFC 8785), which is its one spelling")
    try:
        if isinstance(event, ScopeCreated):
            return _created(event, entry)
        _check_moments(event)
    except ValueError as error:
        return _malformed(index, f"{event.type}: {error}")
    return event


def _created(event: ScopeCreated, entry: bytes) -> Creations:
    """Return a single creation. `ValueError` when one of its forms is wrong."""
    if not _is_plain(entry):
        raise ValueError("placement or sealed has characters that it cannot have")
    (created,) = runs_of([event])
    return created


def _is_plain(text: bytes) -> bool:
    """Tell whether texts in canonical JSON are printable ASCII, and none of it needs a backslash."""
    return text.isascii() and b"\\" not in text and _DELETE not in text


def _malformed(index: int, message: str) -> Finding:
    return Finding("malformed", f"entry {index}", message)


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
