"""What the engine lists, beside what the database knows: keys that are missing, that came back, and that belong to nothing."""

from __future__ import annotations

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.concurrency import side_by_side
from keyvault.custody.ring_sealing import SLOTS_FOLDER, key_name, ring_of_slots
from keyvault.custody.ring_slots import CHUNK_SLOTS
from keyvault.states import KeyState
from keyvault.store import rings
from keyvault.store.database import Database
from keyvault.store.scopes import actual_state
from keyvault.store.tables import intents, scopes
from keyvault.system_keys import SYSTEM_KEY
from keyvault.transit.base import TransitEngine

READERS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyComparison:
    """The engine's keys and the database's. `names` are all that the engine lists, sorted; `live` and `gone` count the database's.

    `missing`: of live scopes and rings, and not in the engine; `returned`: of destroyed ones, and there; `unknown`: there, and known to
    no row and no intent.
    """

    names: tuple[str, ...]
    live: int
    gone: int
    missing: frozenset[str]
    returned: frozenset[str]
    unknown: frozenset[str]


def compare_keys(database: Database, engine: TransitEngine) -> KeyComparison:
    """Compare, while scopes may be created and destroyed; raises what the engine does."""
    # Rows first: what is created between the two readings is then a key more, and never a key that is missing.
    live, gone = database.read(_references)
    names = engine.list_keys()
    keys = frozenset(names) - {SYSTEM_KEY}
    announced = database.read(_announced)
    going = database.read(_going)
    still_live, gone_since = database.read(_references)
    held = live | gone | announced | going | still_live
    return KeyComparison(
        names=tuple(names),
        live=len(live),
        gone=len(gone),
        missing=frozenset(live - keys - going - gone_since),
        returned=frozenset(gone & keys),
        unknown=frozenset(keys - held),
    )


def reserved_slots(engine: TransitEngine) -> dict[bytes, int]:
    """Return how many slots the engine has given out in each ring that it lists, destroyed ones included; raises what it does.

    A chunk's number is the version of the ring's slots entry, which nobody can set back.
    """
    names = engine.list_state(SLOTS_FOLDER)
    paths = [f"{SLOTS_FOLDER}/{name}" for name in names]
    found: dict[bytes, int] = {}
    for name, entry in zip(names, side_by_side(engine.get_state, paths, READERS), strict=True):
        ring_id, reserved = ring_of_slots(name), entry.version * CHUNK_SLOTS if entry else 0
        found[ring_id] = max(reserved, found.get(ring_id, 0))
    return found


def _references(connection: Connection) -> tuple[set[str], set[str]]:
    """Return the keys of scopes and rings that are usable, and of those that are destroyed; what is being destroyed is neither."""
    keys: dict[bool, set[str]] = {True: set(), False: set()}
    of_scopes = sa.select(scopes.c.key_ref, actual_state).where(
        scopes.c.key_ref.is_not(None), actual_state != str(KeyState.DEACTIVATED)
    )
    for reference, state in connection.execute(of_scopes):
        keys[state != str(KeyState.DESTROYED)].add(reference)
    for ring in rings.all_rings(connection):
        if ring.destroyed_at is not None or ring.opened_at is not None:
            keys[ring.destroyed_at is None].add(key_name(ring.id))
    return keys[True] - _going(connection), keys[False]


def _going(connection: Connection) -> set[str]:
    """Return the keys of what is being destroyed: they may be there still, or be gone already."""
    fenced = actual_state == str(KeyState.DEACTIVATED)
    of_scopes = connection.execute(sa.select(scopes.c.key_ref).where(fenced, scopes.c.key_ref.is_not(None))).scalars()
    emptied = sa.select(scopes.c.ring_id).where(fenced, scopes.c.ring_id.is_not(None))
    living = sa.select(scopes.c.ring_id).where(scopes.c.state.not_in(rings.ENDED), scopes.c.ring_id.is_not(None))
    of_rings = connection.execute(emptied.except_(living)).scalars()
    return {*of_scopes, *map(key_name, of_rings)}


def _announced(connection: Connection) -> set[str]:
    """Return the names under which keys may be made at any time."""
    spare = map(key_name, rings.all_ring_ids(connection))
    return {*spare, *connection.execute(sa.select(intents.c.key_ref)).scalars()}
