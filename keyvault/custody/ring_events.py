"""Events of rings, which are few: a ring's row whenever it says something new of the ring itself, and what becomes of unused slots."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from sqlalchemy.engine import Connection

from keyvault.events import Event, EventType, Value, b64, instant, make_event
from keyvault.store import outbox, rings
from keyvault.store.rings import RingRow


def tell(connection: Connection, ring_id: bytes, *, at: datetime) -> None:
    """Write `ring.changed` with the ring's row as the transaction has it by now."""
    outbox.append(connection, [_event(rings.by_id(connection, [ring_id])[ring_id], at)])


def close(connection: Connection, ring_id: bytes, *, at: datetime) -> None:
    """Let a ring take no more scopes, and tell it, unless it was closed before."""
    if rings.close(connection, ring_id, at=at):
        tell(connection, ring_id, at=at)


def fence_slots(connection: Connection, ring_id: bytes, *, at: datetime) -> None:
    """Let the slots of a closed ring that no scope sits in go, and tell how many scopes do, unless that was done before.

    Of a full ring that is all: there is nothing to destroy, nothing to prove, and nothing more to tell.
    """
    if not rings.fence_slots(connection, ring_id, at=at):
        return
    ring = rings.by_id(connection, [ring_id])[ring_id]
    used = rings.count_scopes(connection, ring_id)
    if used == ring.capacity:
        rings.note_slots_destroyed(connection, ring_id, at=at)
    payload: dict[str, Value] = {"ring": b64(ring_id), "scopes": used, "unused": ring.capacity - used}
    outbox.append(connection, [make_event(EventType.SLOTS_FENCED, payload, at=at)])


def note_slots_destroyed(
    connection: Connection, ring_id: bytes, *, proof: Mapping[str, Value], erasure: str, at: datetime
) -> None:
    """Note that the unused slots of a ring are proven gone, and tell it, unless another worker has."""
    if rings.note_slots_destroyed(connection, ring_id, at=at):
        payload: dict[str, Value] = {"ring": b64(ring_id), "erasure": erasure, "proof": proof}
        outbox.append(connection, [make_event(EventType.SLOTS_DESTROYED, payload, at=at)])


def _event(ring: RingRow, at: datetime) -> Event:
    payload: dict[str, Value] = {
        "ring": b64(ring.id),
        "incarnation": ring.incarnation,
        "capacity": ring.capacity,
        "month": ring.month,
        "epoch": ring.epoch,
        "highest_version": ring.highest_version,
        "opened_at": _instant(ring.opened_at),
        "closed_at": _instant(ring.closed_at),
        "destroyed_at": _instant(ring.destroyed_at),
    }
    return make_event(EventType.RING_CHANGED, payload, at=at)


def _instant(moment: datetime | None) -> str | None:
    return None if moment is None else instant(moment)
