"""What the fold knows of rings: they stay what they are, and what becomes of the slots that no scope sits in."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from keyvault.events import instant
from tests.entries import START, Entries, name16, uuid

FENCED: dict[str, Any] = {"ring": name16("ring"), "scopes": 1, "unused": 4095}
GONE: dict[str, Any] = {
    "erasure": uuid("erasure"),
    "proof": {"key": "punctured", "neighbour": "derivable", "retained_ciphertext": "refused"},
    "ring": name16("ring"),
}
OPENED = instant(START)


def changed(log: Entries, **changes: Any) -> None:
    ring: dict[str, Any] = {
        "capacity": 4096,
        "closed_at": None,
        "destroyed_at": None,
        "epoch": 3,
        "highest_version": 2,
        "incarnation": 1,
        "month": "2026-11",
        "opened_at": OPENED,
        "ring": name16("ring"),
    }
    log.add("ring.changed", **ring | changes)


def room(log: Entries) -> int:
    """Return the room that an attestation leaves which is made now."""
    log.attested({"ring": 256})
    attested = log.ledger().attested
    assert attested is not None
    return attested.room


@pytest.fixture
def log() -> Entries:
    """A closed ring with one scope in it, of which an engine that is read now counts the slot."""
    log = Entries()
    log.created("a")
    changed(log, closed_at=OPENED)
    log.at += timedelta(minutes=20)
    return log


def test_a_ring_stays_what_it_is(log: Entries) -> None:
    changed(log, closed_at=OPENED, epoch=4)
    assert not log.codes()
    changed(log, capacity=1)
    assert log.codes() == [("entry 3", "ring-changed")] * 2


def test_unused_slots_are_room_until_they_are_gone(log: Entries) -> None:
    assert room(log) == 255
    log.add("slots.fenced", **FENCED)
    assert room(log) == 255
    log.add("slots.destroyed", **GONE)
    assert room(log) == 0
    assert not log.codes()


def test_those_of_a_destroyed_ring_are_no_room(log: Entries) -> None:
    changed(log, closed_at=OPENED, destroyed_at=OPENED)
    assert room(log) == 255, "nobody has said how many scopes it had"
    log.add("slots.fenced", **FENCED)
    assert room(log) == 0
    assert not log.codes()


def test_a_full_ring_leaves_no_room_once_it_is_fenced(log: Entries) -> None:
    log.add("slots.fenced", **{**FENCED, "scopes": 256, "unused": 4096 - 256})
    assert room(log) == 255
    small = Entries()
    small.created("a")
    changed(small, capacity=1, closed_at=OPENED)
    small.at += timedelta(minutes=20)
    small.add("slots.fenced", **{**FENCED, "unused": 0})
    assert room(small) == 0
    assert not small.codes()
    small.add("slots.destroyed", **GONE)
    assert [code for _, code in small.codes()] == ["destroyed-twice"]


def test_slots_are_fenced_once_in_a_closed_ring_of_that_size(log: Entries) -> None:
    log.add("slots.fenced", **{**FENCED, "ring": name16("another")})
    log.add("slots.fenced", **{**FENCED, "unused": 4096})
    log.add("slots.fenced", **FENCED)
    log.add("slots.fenced", **FENCED)
    assert log.codes() == [("entry 2", "impossible-step"), ("entry 3", "ring-changed"), ("entry 5", "impossible-step")]


def test_slots_of_a_ring_that_takes_scopes_are_not_fenced() -> None:
    log = Entries()
    changed(log)
    log.add("slots.fenced", **FENCED)
    assert log.codes() == [("entry 1", "impossible-step")]


def test_slots_are_destroyed_once_after_their_fence(log: Entries) -> None:
    log.add("slots.destroyed", **GONE)
    log.add("slots.fenced", **FENCED)
    log.add("slots.destroyed", **GONE)
    log.add("slots.destroyed", **GONE)
    assert log.codes() == [("entry 2", "no-fence"), ("entry 5", "destroyed-twice")]


def test_a_fence_counts_no_more_scopes_than_slots_were_given_out(log: Entries) -> None:
    log.add("slots.fenced", **{**FENCED, "scopes": 257, "unused": 4096 - 257})
    log.attested({"ring": 256})
    assert not log.codes(), "the engine may have been read before"
    log.at += timedelta(minutes=20)
    log.attested({"ring": 256})
    assert log.codes() == [("entry 4", "more-scopes-than-slots")]


def test_scopes_that_an_emptied_ring_has_no_slot_for_are_found(log: Entries) -> None:
    log.created("b")
    log.at += timedelta(minutes=20)
    log.add("slots.fenced", **FENCED)
    log.attested({"ring": 256})
    assert not log.codes()
    log.add("slots.destroyed", **GONE)
    log.attested({"ring": 256})
    assert log.codes() == [("entry 6", "more-scopes-than-slots")]
