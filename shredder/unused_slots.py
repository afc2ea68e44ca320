"""Closed rings, and their slots that no scope sits in: fenced, punctured and told, so that no scope can be there that the log does not know.

In this order: rings whose time is over are closed, in the log; their unused slots are fenced, in the log; only then they are punctured.
That the closing is in the log shows that this database is no older copy: scopes that one does not know of are in the log, and it could
not go on with that. After its closing a ring gets no scope, in this database or in any that knows of it.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from sqlalchemy.engine import Connection

from keyvault.custody.ring import RingCustody
from keyvault.custody.ring_events import close, fence_slots
from keyvault.custody.ring_slots import TAKES_SCOPES_FOR
from keyvault.events import new_event_id
from keyvault.home import Home
from keyvault.store import rings
from keyvault.transit.base import audit_event
from keyvault.wrapped import CustodyCode
from shredder.fence import check_not_paused


class UnusedSlots(NamedTuple):
    """What became of them: in how many rings they are gone since, and what is wrong with others, which the next run tries again."""

    rings: int = 0
    problems: tuple[str, ...] = ()


def destroy_unused_slots(home: Home, at: datetime) -> UnusedSlots:
    """Close rings that have taken scopes long enough by `at`, and destroy the unused slots of all closed ones.

    Raises `DestructionPausedError`, and what the log does where it cannot go on: `LogError`, `RestoreDetected`, `Unavailable`.
    """
    custody = home.custodies.get(CustodyCode.RING)
    if not isinstance(custody, RingCustody):
        return UnusedSlots()

    def close_old(connection: Connection) -> None:
        for ring_id in rings.opened_before(connection, at - TAKES_SCOPES_FOR):
            close(connection, ring_id, at=home.clock.now())

    def fence(connection: Connection) -> list[bytes]:
        check_not_paused(connection)
        found = [ring.id for ring in rings.with_unused_slots(connection)]
        for ring_id in found:
            fence_slots(connection, ring_id, at=home.clock.now())
        return found

    home.database.write(close_old)
    if not home.database.read(rings.with_unused_slots):
        return UnusedSlots()
    home.log.settle()
    fenced = home.database.write(fence)
    home.log.settle()
    with audit_event(new_event_id()):
        failed = custody.destroy_unused_slots(fenced)
    home.log.settle()
    return UnusedSlots(
        rings=len(fenced) - len(failed),
        problems=tuple(
            f"unused slots of ring {ring_id.hex()} are not destroyed yet: {error}" for ring_id, error in failed.items()
        ),
    )
