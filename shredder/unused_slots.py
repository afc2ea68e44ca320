"""Closed rings, and their slots that no scope sits in: fenced, punctured and told, so that no scope can be there that the log does not know.

In this order: rings whose time is over are closed; the database is asked whether it knows all that the log has; unused slots are fenced, in the
log; only then they are punctured. After its closing a ring gets no scope, in this database or in any that knows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple

from sqlalchemy.engine import Connection

from keyvault.custody.ring import RingCustody
from keyvault.custody.ring_events import close, fence_slots
from keyvault.custody.ring_slots import TAKES_SCOPES_FOR
from keyvault.errors import KeyVaultError, NotProvenError
from keyvault.events import new_event_id
from keyvault.home import Home
from keyvault.store import rings
from keyvault.store.dialects import chunks
from keyvault.transit.base import audit_event
from keyvault.wrapped import CustodyCode
from shredder.current import require_current
from shredder.fence import check_not_paused

RINGS_AT_ONCE = 100
"""Rings that are closed, or fenced, in one transaction: keys of new scopes wait for it."""


class UnusedSlots(NamedTuple):
    """What became of them: in how many rings they are gone since, and what is wrong with others, which the next run tries again."""

    rings: int = 0
    problems: tuple[str, ...] = ()


def destroy_unused_slots(home: Home, at: datetime, check: Callable[[], None] = lambda: None) -> UnusedSlots:
    """Close rings that have taken scopes long enough by `at`, and destroy the unused slots of all closed ones.

    `check` is asked before each portion, and raises where this run may not go on. Raises what it does, `DestructionPausedError`, and what the
    log does where it cannot go on: `LogError`, `RestoreDetected`, `Unavailable`.
    """
    custody = home.custodies.get(CustodyCode.RING)
    if not isinstance(custody, RingCustody):
        return UnusedSlots()
    before = at - TAKES_SCOPES_FOR
    for some in chunks(home.database.read(lambda connection: rings.opened_before(connection, before)), RINGS_AT_ONCE):
        home.database.write(partial(_close, home, some))
    count, problems = 0, list[str]()
    for some in chunks(home.database.read(rings.with_unused_slots), RINGS_AT_ONCE):
        check()
        failed = _destroy(home, custody, some)
        count += len(some) - len(failed)
        problems += [
            f"unused slots of ring {ring_id.hex()} are not destroyed yet: {error}" for ring_id, error in failed.items()
        ]
    return UnusedSlots(count, tuple(problems))


def _destroy(home: Home, custody: RingCustody, ring_ids: Sequence[bytes]) -> dict[bytes, KeyVaultError]:
    """Destroy the unused slots of closed rings; return why they are not gone, by ring."""
    require_current(home)
    owed = home.database.write(partial(_fence, home, ring_ids))
    home.log.settle()
    with audit_event(new_event_id()):
        failed = custody.destroy_unused_slots(owed)
    home.log.settle()
    left = home.database.read(partial(_owed, ring_ids=owed))
    return {
        ring_id: failed.get(ring_id, NotProvenError("the database did not know of their fence any more"))
        for ring_id in left
    }


def _close(home: Home, ring_ids: Sequence[bytes], connection: Connection) -> None:
    for ring_id in ring_ids:
        close(connection, ring_id, at=home.clock.now())


def _fence(home: Home, ring_ids: Sequence[bytes], connection: Connection) -> list[bytes]:
    """Fence what is not fenced yet; return the rings that are not full."""
    check_not_paused(connection)
    for ring_id in ring_ids:
        fence_slots(connection, ring_id, at=home.clock.now())
    return _owed(connection, ring_ids)


def _owed(connection: Connection, ring_ids: Sequence[bytes]) -> list[bytes]:
    left = set(rings.with_unused_slots(connection))
    return [ring_id for ring_id in ring_ids if ring_id in left]
