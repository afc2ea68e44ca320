"""Ring custody: thousands of scopes under one transit key, each with a node of the ring's secret state.

A share is derived from the scope's node, or from the record's leaf below it; nothing of it travels but where it is found. Creating a
scope changes no secret state. Destroying takes its node out of the state (`keyvault.custody.ring_shredding`).
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from sqlalchemy.engine import Connection

from keyvault.clock import Clock
from keyvault.custody.base import Custody, Identity, Placement, Proof, Share, Target
from keyvault.custody.missing import explain_missing
from keyvault.custody.ring_cache import CachedRing, RingCache
from keyvault.custody.ring_identity import open_identity, seal_identity
from keyvault.custody.ring_records import read_records
from keyvault.custody.ring_shredding import RingShredder
from keyvault.custody.ring_slots import SlotAllocator, chunk_number
from keyvault.custody.ring_state import RingStates
from keyvault.errors import CiphertextRefusedError, KeyMissingError, KeyVaultError, PuncturedError
from keyvault.puncture import Frontier
from keyvault.puncture_records import EntryRef, new_records, record_share
from keyvault.puncture_state import ScopeNode
from keyvault.results import caught
from keyvault.scopes import Scope
from keyvault.store import rings
from keyvault.store.database import Database
from keyvault.store.issuable import IssuableScope
from keyvault.store.scopes import ScopeRow
from keyvault.transit.base import TransitEngine
from keyvault.wrapped import CustodyCode

T = TypeVar("T")
R = TypeVar("R")

_TOKEN = struct.Struct(">16sIB")
_TOKEN_FORMAT = 1


class _Place(NamedTuple):
    """Where a scope sits, and the furthest epoch that its ring was known to have."""

    ring_id: bytes | None
    slot: int | None
    epoch: int = 0


class RingCustody(Custody):
    """One slot of a ring a scope, and one leaf below it a record."""

    code = CustodyCode.RING
    name = "ring"
    holds_records = True

    def __init__(
        self,
        database: Database,
        engine: TransitEngine,
        clock: Clock,
        *,
        incarnation: int,
        capacity: int,
        lease_ttl: float,
    ) -> None:
        """`capacity` is that of new rings; opened states are kept for `lease_ttl` seconds."""
        states = RingStates(engine, incarnation)
        self._database = database
        self._engine = engine
        self._cache = RingCache(states, clock, ttl=lease_ttl)
        self._slots = SlotAllocator(database, engine, clock, states, incarnation=incarnation, capacity=capacity)
        self._shredder = RingShredder(database, engine, clock, states, self._cache)

    # --- creating ---------------------------------------------------------------------------------------------------

    def prepare(self, scopes: Sequence[Scope]) -> list[Placement | KeyVaultError]:
        """Give each scope a slot that no other ever gets."""
        placements: list[Placement | KeyVaultError] = list(self._slots.take(scopes))
        return placements

    def bind(self, connection: Connection, placements: Sequence[Placement]) -> set[Placement]:
        """Claim slots in rings that still take scopes, and keep them from closing until the transaction ends."""
        chunks: dict[bytes, int] = {}
        for placement in placements:
            ring_id, slot = _required(placement.ring_id, placement.slot)
            chunks[ring_id] = max(chunks.get(ring_id, 0), chunk_number(slot))
        taking = rings.take_slots(connection, chunks)
        self._slots.forget(chunks.keys() - taking)
        return {placement for placement in placements if placement.ring_id in taking}

    def discard(self, connection: Connection, placements: Sequence[Placement]) -> None:
        """Leave the slots unused: nothing was ever put under them."""

    def seal_identities(self, identities: Sequence[Identity]) -> list[str | KeyVaultError]:
        """Encrypt with AES-256-GCM under the node's identity key; associated data is the scope's id."""
        places = [_Place(item.placement.ring_id, item.placement.slot) for item in identities]
        return self._with_nodes(places, identities, lambda _, node, item: seal_identity(node, item.scope_id, item.data))

    def open_identities(self, rows: Sequence[ScopeRow]) -> list[bytearray | KeyVaultError]:
        """Decrypt with the node's identity key."""
        results = self._with_nodes(
            [_place_of(row) for row in rows], rows, lambda _, node, row: open_identity(node, row.id, row.sealed_name)
        )
        return explain_missing(self._database, [Target(row) for row in rows], results)

    # --- using ------------------------------------------------------------------------------------------------------

    def fresh_shares(self, targets: Sequence[Target]) -> list[Share | KeyVaultError]:
        """Derive the shares; the token says where each was found."""

        def derive(ring: CachedRing, node: ScopeNode, target: Target) -> Share:
            return Share(secret=self._share(ring, node, target), token=_token(target.row))

        results = self._with_nodes([_place_of(target.row) for target in targets], targets, derive)
        return explain_missing(self._database, targets, results)

    def recover_shares(self, items: Sequence[tuple[Target, bytes]]) -> list[bytearray | KeyVaultError]:
        """Derive the shares again; a token that names another place than the row is refused."""

        def derive(ring: CachedRing, node: ScopeNode, item: tuple[Target, bytes]) -> bytearray:
            target, token = item
            if token != _token(target.row):
                raise CiphertextRefusedError(
                    f"scope {target.row.id.hex()}: the header names another ring or slot than the store"
                )
            return self._share(ring, node, target)

        results = self._with_nodes([_place_of(target.row) for target, _ in items], items, derive)
        return explain_missing(self._database, [target for target, _ in items], results)

    def _share(self, ring: CachedRing, node: ScopeNode, target: Target) -> bytearray:
        if not target.record_tag:
            return node.share(target.row.id)
        return self._record_share(ring, target, node)

    def _record_share(self, ring: CachedRing, target: Target, node: ScopeNode) -> bytearray:
        row, tag = target
        if isinstance(node.records, EntryRef):
            return record_share(self._erased_frontier(ring, target, node.records), row.id, tag)
        records = new_records(node.records)
        try:
            return record_share(records, row.id, tag)
        finally:
            records.wipe()

    def _erased_frontier(self, ring: CachedRing, target: Target, ref: EntryRef) -> Frontier:
        ring_id, slot = _required(target.row.ring_id, target.row.slot)
        kept = ring.frontier(slot, target.record_tag)
        if kept is None:
            kept = read_records(self._engine, ring_id, target.row.id, ref, target.record_tag)
            ring.keep(slot, kept)
        return kept

    # --- destroying -------------------------------------------------------------------------------------------------

    def destroy(self, targets: Sequence[Target]) -> list[Proof | KeyVaultError]:
        """Puncture, ring by ring and several rings at a time; see `RingShredder`."""
        outcomes = self._shredder.destroy(targets)
        for target in targets:
            self._cache.drop(target.row.ring_id or b"")
        return outcomes

    def unused(self, limit: int) -> list[str]:  # noqa: ARG002 - a ring leaves no keys behind
        """Return nothing: rings are written down before they are made, and taken into use by whoever comes next."""
        return []

    def erase_unused(self, references: Sequence[str]) -> None:
        """Do nothing."""

    def forget_unused(self, connection: Connection, references: Sequence[str]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Wipe the opened states."""
        self._cache.close()

    # --- within -----------------------------------------------------------------------------------------------------

    def _with_nodes(
        self,
        places: Sequence[_Place],
        items: Sequence[T],
        work: Callable[[CachedRing, ScopeNode, T], R],
    ) -> list[R | KeyVaultError]:
        """Call `work` on each item with its ring and its scope's node, each ring opened once; results in input order."""
        groups: dict[bytes, dict[int, tuple[_Place, T]]] = defaultdict(dict)
        results: dict[int, R | KeyVaultError] = {}
        for index, (place, item) in enumerate(zip(places, items, strict=True)):
            if place.ring_id is None or place.slot is None:
                results[index] = KeyMissingError(
                    "a row of ring custody names no ring or slot: the database was altered"
                )
            else:
                groups[place.ring_id][index] = place, item
        for ring_id, group in groups.items():
            results |= self._in_ring(ring_id, group, work)
        return [results[index] for index in range(len(items))]

    def _in_ring(
        self,
        ring_id: bytes,
        left: Mapping[int, tuple[_Place, T]],
        work: Callable[[CachedRing, ScopeNode, T], R],
    ) -> dict[int, R | KeyVaultError]:
        """Do it with the state at hand, and what is missing in that once more with the state as it is now."""
        results: dict[int, R | KeyVaultError] = {}
        epoch = max(place.epoch for place, _ in left.values())
        for again in (False, True):
            if again:
                self._cache.drop(ring_id)
            try:
                with self._cache.borrow(ring_id, epoch) as ring:
                    results |= _each(ring, left, work)
            except KeyVaultError as error:
                return results | dict.fromkeys(left, error)
            # An entry of erased records that is not there was replaced since this state was read.
            left = {index: item for index, item in left.items() if isinstance(results[index], KeyMissingError)}
            if not left:
                break
        return results


def _each(
    ring: CachedRing, items: Mapping[int, tuple[_Place, T]], work: Callable[[CachedRing, ScopeNode, T], R]
) -> dict[int, R | KeyVaultError]:
    nodes = ring.loaded.state.derive_many(place.slot or 0 for place, _ in items.values())
    gone = PuncturedError("this scope's node was punctured; nothing can be derived from it any more")
    results: dict[int, R | KeyVaultError] = {}
    for index, (place, item) in items.items():
        node = nodes.get(place.slot or 0)
        results[index] = gone if node is None else caught(work, ring, node, item)
    for node in nodes.values():
        node.wipe()
    return results


def _place_of(row: ScopeRow | IssuableScope) -> _Place:
    return _Place(row.ring_id, row.slot, row.ring_epoch)


def _token(row: ScopeRow | IssuableScope) -> bytes:
    """Return where a scope's share is found: ring id (16) ‖ slot (4, big-endian) ‖ format (1)."""
    return _TOKEN.pack(*_required(row.ring_id, row.slot), _TOKEN_FORMAT)


def _required(ring_id: bytes | None, slot: int | None) -> tuple[bytes, int]:
    if ring_id is None or slot is None:
        raise KeyMissingError("a placement without ring and slot is not ring custody's")
    return ring_id, slot
