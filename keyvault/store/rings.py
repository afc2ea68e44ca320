"""Queries on rings: which there are, how far their slots are given out, and how far their states have come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.states import KeyState
from keyvault.store.dialects import chunks
from keyvault.store.scopes import actual_state
from keyvault.store.tables import fenced_records, rings, scopes

ENDED = (str(KeyState.DEACTIVATED), str(KeyState.DESTROYED))


@dataclass(frozen=True, kw_only=True, slots=True)
class RingRow:
    """A ring. `id` 16 bytes; `month` (`2026-11`) where it holds that month's account-months only.

    `chunks` is the number of the last chunk of slots that a scope is known to sit in; `epoch` and `highest_version` are the furthest
    that were seen. A ring without `opened_at` takes no scopes yet, one with `closed_at` none any more. `slots_fenced_at`: since when the
    slots that no scope sits in are to go, and `slots_destroyed_at`: when they were proven gone.
    """

    id: bytes
    incarnation: int
    epoch: int
    highest_version: int
    capacity: int
    chunks: int
    month: str | None
    opened_at: datetime | None
    closed_at: datetime | None
    destroyed_at: datetime | None
    slots_fenced_at: datetime | None = None
    slots_destroyed_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RingContent:
    """What a worker needs to know of a ring's scopes.

    `ended` are the slots of fenced and destroyed scopes, and unused ones once they are fenced; `erased` the fenced tags of others, by slot
    and scope id; `live` a slot of a scope that is neither, or None.
    """

    ended: frozenset[int]
    erased: Mapping[tuple[int, bytes], frozenset[bytes]]
    live: int | None


# Built once: a shred of one scope runs all of these, and building them takes longer than running them.
_OF_RING = scopes.c.ring_id == sa.bindparam("ring")
_ENDED_SLOTS = sa.select(scopes.c.slot).where(_OF_RING, scopes.c.state.in_(ENDED))
_SLOTS = sa.select(scopes.c.slot).where(_OF_RING)
_COUNT = sa.select(sa.func.count()).select_from(scopes).where(_OF_RING)
_LIVE_SLOT = sa.select(scopes.c.slot).where(_OF_RING, scopes.c.state.not_in(ENDED)).limit(1)
_ERASED_RECORDS = (
    sa.select(scopes.c.slot, scopes.c.id, fenced_records.c.tag)
    .join(fenced_records, fenced_records.c.scope_id == scopes.c.id)
    .where(_OF_RING, scopes.c.state.not_in(ENDED), fenced_records.c.state == str(KeyState.DEACTIVATED))
)
_FURTHER: dict[sa.Column[int], sa.BindParameter[int]] = {
    rings.c.epoch: sa.bindparam("seen_epoch"),
    rings.c.highest_version: sa.bindparam("seen_version"),
}
_NOTE_STATE = (
    sa.update(rings)
    .where(rings.c.id == sa.bindparam("ring"), sa.or_(*(column < seen for column, seen in _FURTHER.items())))
    .values({column: sa.case((column < seen, seen), else_=column) for column, seen in _FURTHER.items()})
)


def announce(connection: Connection, ring_id: bytes, *, incarnation: int, capacity: int, month: str | None) -> None:
    """Write a ring down before it is made, so that no crash leaves one behind that nobody knows of."""
    connection.execute(
        sa.insert(rings).values(
            id=ring_id, incarnation=incarnation, epoch=0, highest_version=0, capacity=capacity, chunks=0, month=month
        )
    )


def taking(connection: Connection, *, incarnation: int, month: str | None) -> list[RingRow]:
    """Return the rings that may take scopes of a month (None: of other kinds): the opened ones, longest first, then the spare."""
    query = (
        sa.select(rings)
        .where(
            rings.c.incarnation == incarnation,
            rings.c.month.is_(None) if month is None else rings.c.month == month,
            rings.c.closed_at.is_(None),
        )
        .order_by(rings.c.opened_at.is_(None), rings.c.opened_at, rings.c.id)
    )
    return [_value(row) for row in connection.execute(query)]


def open_(connection: Connection, ring_id: bytes, *, at: datetime) -> datetime:
    """Let a ring take scopes, from `at` on unless it was opened before; return since when."""
    statement = sa.update(rings).where(rings.c.id == ring_id, rings.c.opened_at.is_(None)).values(opened_at=at)
    connection.execute(statement)
    opened: datetime = connection.execute(sa.select(rings.c.opened_at).where(rings.c.id == ring_id)).scalar_one()
    return opened


def close(connection: Connection, ring_id: bytes, *, at: datetime) -> bool:
    """Let a ring take no more scopes; return whether that changed it."""
    statement = sa.update(rings).where(rings.c.id == ring_id, rings.c.closed_at.is_(None)).values(closed_at=at)
    return connection.execute(statement).rowcount == 1


def take_slots(connection: Connection, chunk_numbers: Mapping[bytes, int]) -> set[bytes]:
    """Return which of these rings still take scopes, and keep that true until the transaction ends; note the chunks in use."""
    taken: set[bytes] = set()
    for ring_id, number in sorted(chunk_numbers.items()):
        open_ring = sa.select(rings.c.id).where(rings.c.id == ring_id, rings.c.closed_at.is_(None))
        # The note before the shared lock: of several that hold a row together, none gets to change it.
        connection.execute(sa.update(rings).where(rings.c.id == ring_id, rings.c.chunks < number).values(chunks=number))
        if connection.execute(open_ring.with_for_update(read=True)).scalar() is not None:
            taken.add(ring_id)
    return taken


def by_id(connection: Connection, ids: Iterable[bytes], *, lock: bool = False) -> dict[bytes, RingRow]:
    """Return the rings of these ids; `lock` holds them until the transaction ends."""
    found: dict[bytes, RingRow] = {}
    for chunk in chunks(sorted(set(ids))):
        query = sa.select(rings).where(rings.c.id.in_(chunk)).order_by(rings.c.id)
        for row in connection.execute(query.with_for_update() if lock else query):
            found[row.id] = _value(row)
    return found


def all_rings(connection: Connection) -> list[RingRow]:
    """Return all rings."""
    return [_value(row) for row in connection.execute(sa.select(rings).order_by(rings.c.id))]


def in_use(connection: Connection) -> list[RingRow]:
    """Return the rings that were opened and not destroyed."""
    return [ring for ring in all_rings(connection) if ring.opened_at is not None and ring.destroyed_at is None]


def destroyed_slots(connection: Connection, ring_id: bytes) -> frozenset[int]:
    """Return the slots of a ring's destroyed scopes; those whose destruction is pending are not among them."""
    query = sa.select(scopes.c.slot).where(scopes.c.ring_id == ring_id, actual_state == str(KeyState.DESTROYED))
    return frozenset(connection.execute(query).scalars().all())


def live_slots(connection: Connection, ring_id: bytes) -> frozenset[int]:
    """Return the slots of a ring's scopes that are not fenced."""
    query = sa.select(scopes.c.slot).where(scopes.c.ring_id == ring_id, scopes.c.state.not_in(ENDED))
    return frozenset(connection.execute(query).scalars().all())


def all_ring_ids(connection: Connection) -> set[bytes]:
    """Return the ids of all rings, destroyed ones included."""
    return set(connection.execute(sa.select(rings.c.id)).scalars().all())


def content(connection: Connection, ring: RingRow) -> RingContent:
    """Return what is known of a ring's scopes; records that are proven gone already are left out."""
    of_ring = {"ring": ring.id}
    ended = frozenset(connection.execute(_ENDED_SLOTS, of_ring).scalars().all())
    if ring.slots_fenced_at is not None:
        ended |= unused_slots(connection, ring)
    live: int | None = connection.execute(_LIVE_SLOT, of_ring).scalar()
    erased: dict[tuple[int, bytes], set[bytes]] = {}
    for slot, scope_id, tag in connection.execute(_ERASED_RECORDS, of_ring).all():
        erased.setdefault((slot, scope_id), set()).add(tag)
    return RingContent(
        ended=ended,
        erased={place: frozenset(tags) for place, tags in erased.items()},
        live=live,
    )


def unused_slots(connection: Connection, ring: RingRow) -> frozenset[int]:
    """Return the slots of a ring that no scope ever sat in, as far as the database knows: for good, once the ring is closed."""
    return frozenset(range(ring.capacity)) - used_slots(connection, ring.id)


def used_slots(connection: Connection, ring_id: bytes) -> frozenset[int]:
    """Return the slots of a ring that any scope has or had."""
    return frozenset(connection.execute(_SLOTS, {"ring": ring_id}).scalars().all())


def count_scopes(connection: Connection, ring_id: bytes) -> int:
    """Return how many scopes sit, or sat, in a ring: each in a slot of its own."""
    counted: int = connection.execute(_COUNT, {"ring": ring_id}).scalar_one()
    return counted


def opened_before(connection: Connection, moment: datetime) -> list[bytes]:
    """Return the ids of the rings that take scopes since before a moment."""
    query = sa.select(rings.c.id).where(rings.c.opened_at <= moment, rings.c.closed_at.is_(None))
    return sorted(connection.execute(query).scalars())


def with_unused_slots(connection: Connection) -> list[bytes]:
    """Return the ids of the closed rings whose unused slots are not proven gone, alone or with the whole ring."""
    query = sa.select(rings.c.id).where(
        rings.c.closed_at.is_not(None), rings.c.slots_destroyed_at.is_(None), rings.c.destroyed_at.is_(None)
    )
    return sorted(connection.execute(query).scalars())


def fence_slots(connection: Connection, ring_id: bytes, *, at: datetime) -> bool:
    """Let the unused slots of a closed ring go; return whether that changed it."""
    statement = sa.update(rings).where(
        rings.c.id == ring_id, rings.c.closed_at.is_not(None), rings.c.slots_fenced_at.is_(None)
    )
    return connection.execute(statement.values(slots_fenced_at=at)).rowcount == 1


def note_slots_destroyed(connection: Connection, ring_id: bytes, *, at: datetime) -> bool:
    """Remember that the unused slots of a ring are proven gone; return whether that changed it."""
    statement = sa.update(rings).where(rings.c.id == ring_id, rings.c.slots_destroyed_at.is_(None))
    return connection.execute(statement.values(slots_destroyed_at=at)).rowcount == 1


def note_state(connection: Connection, ring_id: bytes, *, epoch: int, version: int) -> None:
    """Remember how far a ring's state and transit key have come; never goes back."""
    connection.execute(_NOTE_STATE, {"ring": ring_id, "seen_epoch": epoch, "seen_version": version})


def note_destroyed(connection: Connection, ring_id: bytes, *, at: datetime) -> bool:
    """Remember that a ring was destroyed with all its keys; return whether that changed it."""
    statement = sa.update(rings).where(rings.c.id == ring_id, rings.c.destroyed_at.is_(None)).values(destroyed_at=at)
    return connection.execute(statement).rowcount == 1


def _value(row: sa.Row[Any]) -> RingRow:
    columns = dict(row._mapping)  # noqa: SLF001 - the documented way to a row's mapping
    del columns["covered_by"]
    return RingRow(**columns)
