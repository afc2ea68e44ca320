"""What `keyvault doctor` looks at in rings: that each is there, whole, and as far as the database knows; and what must be gone is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from keyvault.custody.ring_reading import RingReader
from keyvault.custody.ring_sealing import key_name, slots_path
from keyvault.doctor.check import Check
from keyvault.errors import KeyVaultError, PermissionDeniedError, Unavailable
from keyvault.store import rings, system
from keyvault.store.database import Database
from keyvault.store.rings import RingRow
from keyvault.transit.base import TransitEngine

WHOLE = "every ring has its state"
CURRENT = "no ring is older than the database"
KEPT = "every live scope is in its ring's state"
PUNCTURED = "no destroyed scope, and no destroyed slot, is in its ring's state"
NAMES = (WHOLE, CURRENT, KEPT, PUNCTURED)

_OLDER = "the engine is an older copy, or another's: restore what belongs together, and destroy again what came back"

_GONE = "the database is probably older than their destruction: restore the newer one; nothing brings these keys back"


@dataclass(kw_only=True, slots=True)
class _Findings:
    rings: int = 0
    lost: list[str] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)
    missing: int = 0
    live: int = 0
    returned: int = 0
    destroyed: int = 0


def check_rings(database: Database, engine: TransitEngine) -> Iterator[Check]:
    """Open the state of every ring that takes or holds scopes, one after the other."""
    row = database.read(system.load)
    incarnation = 0 if row is None else row.incarnation
    reader = RingReader(engine, incarnation)
    found = _Findings()
    for ring in database.read(rings.in_use):
        found.rings += 1
        _look_at(database, engine, reader, ring, incarnation, found)
    yield Check(
        name=WHOLE,
        ok=not found.lost,
        detail=f"ALARM: {len(found.lost)} of {found.rings}: {found.lost[0]}" if found.lost else f"{found.rings} rings",
        remedy=_OLDER,
    )
    yield Check(
        name=CURRENT,
        ok=not found.behind,
        detail=f"ALARM: {len(found.behind)}: {found.behind[0]}" if found.behind else "epochs and slots agree",
        remedy=_OLDER,
    )
    yield Check(
        name=KEPT,
        ok=found.missing == 0,
        detail=f"ALARM: {found.missing} of {found.live} are missing" if found.missing else f"{found.live} scopes",
        remedy=_GONE,
    )
    yield Check(
        name=PUNCTURED,
        ok=found.returned == 0,
        detail=f"ALARM: {found.returned} are back" if found.returned else f"{found.destroyed} destroyed scopes",
        remedy=_OLDER,
    )


def _look_at(  # noqa: PLR0917 - two stores, a reader over one of them, and what is found
    database: Database,
    engine: TransitEngine,
    reader: RingReader,
    ring: RingRow,
    incarnation: int,
    found: _Findings,
) -> None:
    # What is destroyed before the state is read, what lives after: so nothing that ends meanwhile looks wrong.
    destroyed = database.read(lambda connection: rings.destroyed_slots(connection, ring.id))
    unused = frozenset[int]()
    if ring.slots_destroyed_at is not None:
        unused = database.read(lambda connection: rings.unused_slots(connection, ring))
    try:
        loaded = reader.load(ring.id)
        slots = engine.get_state(slots_path(ring.id, incarnation))
    except (PermissionDeniedError, Unavailable):
        raise
    except KeyVaultError as error:
        found.lost.append(f"{key_name(ring.id)}: {error}")
        return
    try:
        if loaded.epoch < ring.epoch or (slots.version if slots else 0) < ring.chunks:
            found.behind.append(f"{key_name(ring.id)} is at epoch {loaded.epoch}, the database has seen {ring.epoch}")
        live = database.read(lambda connection: rings.live_slots(connection, ring.id))
        punctured = frozenset(loaded.state.punctured)
        found.live += len(live)
        found.missing += len(live & punctured)
        found.destroyed += len(destroyed)
        found.returned += len((destroyed | unused) - punctured)
    finally:
        loaded.state.wipe()
