"""The event of a ring: its whole row, whenever that says something new about the ring itself. Rings are few."""

from __future__ import annotations

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
