"""What the engine adds to the log: how far rings have come, look-ups that only a scope's own key can open, keys that nobody holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import NamedTuple

from sqlalchemy.engine import Connection

from keyvault.custody.base import Custody
from keyvault.custody.former import named_in
from keyvault.custody.ring_sealing import RingHandle
from keyvault.custody.ring_slots import chunk_number
from keyvault.custody.ring_state import RingStates
from keyvault.errors import (
    KeyMissingError,
    KeyVaultError,
    PuncturedError,
    ScopeDestroyedError,
    ScopeFencedError,
    VerificationError,
)
from keyvault.formats import wipe
from keyvault.identity import commit, decode_identity
from keyvault.states import KeyState
from keyvault.store import rebuilding
from keyvault.store import rings as ring_store
from keyvault.store.database import Database
from keyvault.store.rings import RingRow
from keyvault.store.scopes import ScopeRow
from keyvault.system_keys import SystemKeys
from keyvault.transit.base import TransitEngine
from shredder.rebuild.gaps import GapCode, Gaps
from shredder.rebuild.rings import completed, told, unknown_ring

RING_KEY, SCOPE_KEY = "r-", "k-"
GONE = (KeyMissingError, PuncturedError, ScopeFencedError, ScopeDestroyedError)


class _Found(NamedTuple):
    """A ring that the engine has: how far it has come, and the slots whose nodes are gone."""

    handle: RingHandle
    punctured: frozenset[int]


class EngineReader:
    """Completes a database whose entries are all applied, from an engine that was opened as shredder."""

    def __init__(
        self,
        database: Database,
        engine: TransitEngine,
        keys: SystemKeys,
        custodies: Mapping[int, Custody],
        *,
        incarnation: int,
    ) -> None:
        """`custodies` by custody byte."""
        self._database = database
        self._engine = engine
        self._keys = keys
        self._custodies = custodies
        self._incarnation = incarnation
        self._states = RingStates(engine, incarnation)

    def complete_rings(self, gaps: Gaps, now: datetime) -> list[bytes]:
        """Write how far each ring's state, key and slots have come; a ring that the engine alone knows takes no scopes.

        Returns the ids of live scopes whose nodes are gone.
        """
        listed = {
            bytes.fromhex(name[len(RING_KEY) :]) for name in self._engine.list_keys() if name.startswith(RING_KEY)
        }
        rows = {ring.id: ring for ring in self._database.read(ring_store.all_rings)}
        slots = self._database.read(rebuilding.slots_in_use)
        lost: list[bytes] = []
        changed: list[RingRow] = []
        added: list[RingRow] = []
        for ring_id in sorted(rows.keys() | listed):
            ring = rows.get(ring_id) or unknown_ring(ring_id, self._incarnation)
            if not told(ring):
                gaps.add(GapCode.RING, ring_id)
            found = self._found(ring_id) if ring_id in listed else None
            lost += self._lost_in(ring_id, found, gaps)
            done = self._completed(ring, found, slots.get(ring_id), now)
            (changed if ring_id in rows else added).append(done)
        self._database.write(partial(rebuilding.write_rings, added=added, changed=changed))
        return lost

    def _completed(self, ring: RingRow, found: _Found | None, slot: int | None, now: datetime) -> RingRow:
        month = None
        if not told(ring):
            month = self._database.read(partial(rebuilding.month_of_ring, ring_id=ring.id))
        chunks = 0 if slot is None else chunk_number(slot)
        return completed(ring, None if found is None else found.handle, chunks=chunks, month=month, now=now)

    def _found(self, ring_id: bytes) -> _Found | None:
        """Return how far a ring has come; None where it was announced, or half destroyed, and has no state."""
        try:
            loaded = self._states.load(ring_id)
        except KeyMissingError:
            return None
        try:
            handle = RingHandle(
                ring_id=ring_id, capacity=loaded.state.capacity, epoch=loaded.epoch, key_version=loaded.key_version
            )
            return _Found(handle, frozenset(loaded.state.punctured))
        finally:
            loaded.state.wipe()

    def _lost_in(self, ring_id: bytes, found: _Found | None, gaps: Gaps) -> list[bytes]:
        """Return the live scopes of a ring whose nodes are gone; note a ring with punctures of scopes that no event created."""

        def work(connection: Connection) -> tuple[list[bytes], bool]:
            live = ring_store.live_slots(connection, ring_id)
            gone = live if found is None else live & found.punctured
            row = ring_store.by_id(connection, [ring_id]).get(ring_id)
            fenced = row is not None and row.slots_fenced_at is not None  # and then unused slots are to be gone
            known = ring_store.used_slots(connection, ring_id)
            unknown = not (fenced or found is None or found.punctured <= known)
            return rebuilding.in_slots(connection, ring_id, gone), unknown

        lost, unknown = self._database.read(work)
        if unknown:
            gaps.add(GapCode.SLOT, ring_id)
        return lost

    def lost_keys(self) -> list[bytes]:
        """Return the live scopes in dedicated custody whose keys the engine does not have."""
        listed = set(self._engine.list_keys())
        lost: list[bytes] = []
        after = b""
        while rows := self._database.read(partial(rebuilding.live_keys, after=after)):
            lost += [scope_id for scope_id, key in rows if key not in listed]
            after = rows[-1][0]
        return lost

    # --- look-ups -----------------------------------------------------------------------------------------------------

    def complete_lookups(self, gaps: Gaps, progress: Callable[[int], None]) -> None:
        """Open the names of people's live scopes, each with the scope's own key, and write the look-ups in them.

        One that is fenced and whose key is gone already stays without. Raises `VerificationError` for a name that is not the one committed to, and what the
        engine raises.
        """
        for rows in self._nameless():
            found = {row.id: self._lookup(row, opened, gaps) for row, opened in self._opened(rows)}
            lookups = {scope_id: lookup for scope_id, lookup in found.items() if lookup is not None}
            self._database.write(partial(rebuilding.write_lookups, lookups=lookups))
            progress(len(rows))

    def _nameless(self) -> Iterator[list[ScopeRow]]:
        rings = [ring.id for ring in self._database.read(ring_store.all_rings)]
        for ring_id in (*rings, None):
            after = b""
            while rows := self._database.read(partial(rebuilding.without_lookup, ring_id=ring_id, after=after)):
                yield rows
                after = rows[-1].id

    def _opened(self, rows: Sequence[ScopeRow]) -> Iterator[tuple[ScopeRow, bytearray | KeyVaultError]]:
        named = [named_in(row) for row in rows]
        for code, custody in self._custodies.items():
            some = [row for row in named if row.custody == code]
            yield from zip(some, custody.open_identities(some) if some else (), strict=True)

    def _lookup(self, row: ScopeRow, opened: bytearray | KeyVaultError, gaps: Gaps) -> bytes | None:
        if isinstance(opened, GONE):
            if row.state is not KeyState.DEACTIVATED:
                gaps.add(GapCode.NAME, row.id)
            return None
        if isinstance(opened, KeyVaultError):
            raise opened
        identity = decode_identity(opened)
        wipe(opened)
        name = identity.name.encode()
        if commit(identity.salt, name) != row.commitment or self._keys.lookup(name) != identity.lookup:
            raise VerificationError(
                f"scope {row.id.hex()}: its sealed name is not the one that the log commits to; nothing may rest on this engine and log together"
            )
        return identity.lookup

    # --- keys that nobody holds ----------------------------------------------------------------------------------------

    def abandon_unheld(self, now: datetime) -> int:
        """Hand keys of the engine that no scope holds over to the shredder, which deletes them; return how many.

        Their scopes' creation is not in the log, so that no key was ever issued under them.
        """
        listed = [name for name in self._engine.list_keys() if name.startswith(SCOPE_KEY)]

        def work(connection: Connection) -> int:
            unheld = rebuilding.unheld_keys(connection, listed)
            rebuilding.abandon_keys(connection, unheld, at=now)
            return len(unheld)

        return self._database.write(work)
