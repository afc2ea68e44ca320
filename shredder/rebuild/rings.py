"""Rings, as events make them, and what the engine says of each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from keyvault.custody.ring_sealing import RingHandle
from keyvault.events import EventType
from keyvault.store.rings import RingRow
from shredder.rebuild.entries import Entry
from shredder.rebuild.rows import Rows

OF_RINGS = (EventType.RING_CHANGED, EventType.SLOTS_FENCED, EventType.SLOTS_DESTROYED)


class RingTables:
    """What a batch of entries makes of rings. Raises `LogError`."""

    def __init__(self, rings: Mapping[bytes, RingRow], *, incarnation: int) -> None:
        """`rings`: those that the database has of what `references` names."""
        self.rings = Rows(rings)
        self._incarnation = incarnation

    def apply(self, entry: Entry) -> None:
        """Take up what tells of a ring; anything else changes nothing."""
        if entry.type not in OF_RINGS:
            return
        ring_id = entry.data("ring")
        known = self.rings.now.get(ring_id) or unknown_ring(ring_id, self._incarnation)
        if entry.type == EventType.SLOTS_FENCED:
            gone = None if entry.number("unused") else entry.at
            self.rings.now[ring_id] = replace(known, slots_fenced_at=entry.at, slots_destroyed_at=gone)
            return
        if entry.type == EventType.SLOTS_DESTROYED:
            self.rings.now[ring_id] = replace(known, slots_destroyed_at=entry.at)
            return
        self.rings.now[ring_id] = RingRow(
            id=ring_id,
            incarnation=entry.number("incarnation"),
            epoch=entry.number("epoch"),
            highest_version=entry.number("highest_version"),
            capacity=entry.number("capacity"),
            chunks=0,
            month=entry.optional("month"),
            opened_at=entry.optional_moment("opened_at"),
            closed_at=entry.optional_moment("closed_at"),
            destroyed_at=entry.optional_moment("destroyed_at"),
            slots_fenced_at=known.slots_fenced_at,
            slots_destroyed_at=known.slots_destroyed_at,
        )

    def expect(self, ring_id: bytes) -> None:
        """Make a row of a ring that no event tells of, as older logs have them, so that its scopes can be written; `told` is False of it."""
        self.rings.now.setdefault(ring_id, unknown_ring(ring_id, self._incarnation))


def references(entries: Iterable[Entry]) -> set[bytes]:
    """Return the rings that entries tell of."""
    return {entry.data("ring") for entry in entries if entry.type in OF_RINGS}


def unknown_ring(ring_id: bytes, incarnation: int) -> RingRow:
    """Return the row of a ring of which nothing is known but that it was there."""
    return RingRow(
        id=ring_id,
        incarnation=incarnation,
        epoch=0,
        highest_version=0,
        capacity=0,
        chunks=0,
        month=None,
        opened_at=None,
        closed_at=None,
        destroyed_at=None,
    )


def told(ring: RingRow) -> bool:
    """Tell whether an event has told of the ring: a capacity of 0 stands for none."""
    return ring.capacity > 0


def completed(ring: RingRow, handle: RingHandle | None, *, chunks: int, month: str | None, now: datetime) -> RingRow:
    """Return a ring's row with what the engine says of it; `handle` is None where the engine has no such ring.

    One that no event told of takes no scopes, from `now` on. `month` is that of its scopes, where they are account-months.
    """
    epoch = handle.epoch if handle is not None else 0
    row = replace(
        ring,
        chunks=chunks,
        epoch=max(ring.epoch, epoch),
        # A first state is never noted in the database: there is nothing before it that could come back.
        highest_version=max(ring.highest_version, handle.key_version if handle is not None and epoch else 0),
    )
    if told(ring):
        return row
    return replace(
        row,
        capacity=handle.capacity if handle is not None else 1,
        month=month,
        opened_at=now,
        closed_at=now,
        destroyed_at=None if handle is not None else now,
    )
