"""Ring custody: thousands of scopes under one transit key, each with a node of the ring's secret state.

A share is derived from the scope's node, or from the record's leaf below it; nothing of it travels but where it is found. Creating a
scope changes no secret state. Destroying takes its node out of the state (`keyvault.custody.ring_shredding`).
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

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
from keyvault.errors import CiphertextRefusedError, KeyMissingError, KeyVaultError, PuncturedError, Unavailable
from keyvault.formats import wipe
from keyvault.puncture_records import EntryRef, leaf_of, new_records, record_share, record_shares
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
_Work: TypeAlias = Callable[[CachedRing, Sequence[tuple[ScopeNode, T]]], Sequence[R | KeyVaultError]]
"""What is done in one ring with the items whose nodes are left of it; an answer for each, in order."""

ATTEMPTS = 5
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
        """Give each scope a slot that no other ever gets. Raises as `SlotAllocator.take` and `SlotAllocator.leave`."""
        for _ in range(ATTEMPTS):
            placements = self._slots.take(scopes)
            emptied = self._emptied(placements)
            if not emptied:
                return list(placements)
            self._slots.leave(emptied)
        raise Unavailable("the rings that would take these scopes keep being closed: try again")

    def _emptied(self, placements: Sequence[Placement]) -> set[bytes]:
        """Return the rings of which slots are gone that were given out just now: another clock has closed them since.

        What keeps a ring's state from being read is told where the slot is used.
        """
        slots: dict[bytes, set[int]] = defaultdict(set)
        for placement in placements:
            ring_id, slot = _required(placement.ring_id, placement.slot)
            slots[ring_id].add(slot)
        return {ring_id for ring_id, wanted in slots.items() if caught(self._lacks_any, ring_id, wanted) is True}

    def _lacks_any(self, ring_id: bytes, slots: Collection[int]) -> bool:
        with self._cache.borrow(ring_id, 0) as ring:
            return not set(slots).isdisjoint(ring.loaded.state.punctured)

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

        def seal(_: CachedRing, items: Sequence[tuple[ScopeNode, Identity]]) -> list[str | KeyVaultError]:
            return [caught(seal_identity, node, item.scope_id, item.data) for node, item in items]

        places = [_Place(item.placement.ring_id, item.placement.slot) for item in identities]
        return self._with_nodes(places, identities, seal)

    def open_identities(self, rows: Sequence[ScopeRow]) -> list[bytearray | KeyVaultError]:
        """Decrypt with the node's identity key."""

        def unseal(_: CachedRing, items: Sequence[tuple[ScopeNode, ScopeRow]]) -> list[bytearray | KeyVaultError]:
            return [caught(open_identity, node, row.id, row.sealed_name) for node, row in items]

        results = self._with_nodes([_place_of(row) for row in rows], rows, unseal)
        return explain_missing(self._database, [Target(row) for row in rows], results)

    # --- using ------------------------------------------------------------------------------------------------------

    def fresh_shares(self, targets: Sequence[Target]) -> list[Share | KeyVaultError]:
        """Derive the shares; the token says where each was found."""
        return [
            share if isinstance(share, KeyVaultError) else Share(share, _token(target.row))
            for share, target in zip(self._shares(targets), targets, strict=True)
        ]

    def recover_shares(self, items: Sequence[tuple[Target, bytes]]) -> list[bytearray | KeyVaultError]:
        """Derive the shares again; a token that names another place than the row is refused."""
        shares = self._shares([target for target, _ in items])
        for index, ((target, token), share) in enumerate(zip(items, shares, strict=True)):
            if isinstance(share, bytearray) and token != _token(target.row):
                wipe(share)
                shares[index] = CiphertextRefusedError(
                    f"scope {target.row.id.hex()}: the header names another ring or slot than the store"
                )
        return shares

    def _shares(self, targets: Sequence[Target]) -> list[bytearray | KeyVaultError]:
        shares = self._with_nodes([_place_of(target.row) for target in targets], targets, self._derive_shares)
        return explain_missing(self._database, targets, shares)

    def _derive_shares(
        self, ring: CachedRing, items: Sequence[tuple[ScopeNode, Target]]
    ) -> list[bytearray | KeyVaultError]:
        records = _shares_of_records(items)
        results: list[bytearray | KeyVaultError] = []
        for node, target in items:
            row, tag = target
            if not tag:
                results.append(caught(node.share, row.id))
            elif isinstance(node.records, EntryRef):
                results.append(caught(self._erased_share, ring, target, node.records))
            else:
                share = records[row.id, tag]
                results.append(bytearray(share) if isinstance(share, bytearray) else share)  # each item owns its buffer
        for share in records.values():
            if isinstance(share, bytearray):
                wipe(share)
        return results

    def _erased_share(self, ring: CachedRing, target: Target, ref: EntryRef) -> bytearray:
        """Return the share of a record in a scope of which some were erased."""
        row, tag = target
        ring_id, slot = _required(row.ring_id, row.slot)
        kept = ring.frontier(slot, tag)
        if kept is None:
            kept = read_records(self._engine, ring_id, row.id, ref, tag)
            ring.keep(slot, kept)
        return record_share(kept, row.id, tag)

    # --- destroying -------------------------------------------------------------------------------------------------

    def destroy(self, targets: Sequence[Target]) -> list[Proof | KeyVaultError]:
        """Puncture, ring by ring and several rings at a time; see `RingShredder`."""
        outcomes = self._shredder.destroy(targets)
        for ring_id in {target.row.ring_id for target in targets}:
            self._cache.drop(ring_id or b"")
        return outcomes

    def destroy_unused_slots(self, ring_ids: Sequence[bytes]) -> dict[bytes, KeyVaultError]:
        """Puncture the slots that no scope sits in, of closed rings in which they are fenced; return what failed, by ring."""
        failed = self._shredder.destroy_unused(ring_ids)
        for ring_id in ring_ids:
            self._cache.drop(ring_id)
        return failed

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

    def forget(self, rings: Collection[bytes] | None) -> None:
        """Wipe the opened states of these rings, or all."""
        self._cache.forget(rings)

    # --- within -----------------------------------------------------------------------------------------------------

    def _with_nodes(self, places: Sequence[_Place], items: Sequence[T], work: _Work[T, R]) -> list[R | KeyVaultError]:
        """Call `work` on the items of each ring with their scopes' nodes, each ring opened once; results in input order."""
        nowhere = KeyMissingError("a row of ring custody names no ring or slot: the database was altered")
        results: list[R | KeyVaultError] = [nowhere] * len(items)
        rings: dict[bytes, list[int]] = defaultdict(list)
        for index, (ring_id, slot, _) in enumerate(places):
            if ring_id is not None and slot is not None:
                rings[ring_id].append(index)
        for ring_id, indices in rings.items():
            made = self._in_ring(
                ring_id, [places[index] for index in indices], [items[index] for index in indices], work
            )
            for index, result in zip(indices, made, strict=True):
                results[index] = result
        return results

    def _in_ring(
        self, ring_id: bytes, places: Sequence[_Place], items: Sequence[T], work: _Work[T, R]
    ) -> list[R | KeyVaultError]:
        """Do it with the state at hand, and what is missing in that once more with the state as it is now."""
        epoch = max([place.epoch for place in places])
        wanted = [(place.slot or 0, item) for place, item in zip(places, items, strict=True)]
        try:
            results = self._once(ring_id, epoch, wanted, work)
        except KeyVaultError as error:
            return [error] * len(items)
        # An entry of erased records that is not there was replaced since this state was read.
        left = [index for index, result in enumerate(results) if isinstance(result, KeyMissingError)]
        if left:
            self._cache.drop(ring_id)
            try:
                again = self._once(ring_id, epoch, [wanted[index] for index in left], work)
            except KeyVaultError as error:
                again = [error] * len(left)
            for index, result in zip(left, again, strict=True):
                results[index] = result
        return results

    def _once(
        self, ring_id: bytes, epoch: int, items: Sequence[tuple[int, T]], work: _Work[T, R]
    ) -> list[R | KeyVaultError]:
        """Call `work` on the items, each with its slot, whose nodes are left."""
        with self._cache.borrow(ring_id, epoch) as ring:
            nodes = ring.loaded.state.derive_many([slot for slot, _ in items])
            try:
                made = iter(work(ring, [(nodes[slot], item) for slot, item in items if slot in nodes]))
                gone = PuncturedError("this scope's node was punctured; nothing can be derived from it any more")
                return [next(made) if slot in nodes else gone for slot, _ in items]
            finally:
                for node in nodes.values():
                    node.wipe()


def _shares_of_records(
    items: Sequence[tuple[ScopeNode, Target]],
) -> dict[tuple[bytes, bytes], bytearray | KeyVaultError]:
    """Return the shares of single records in scopes of which none was erased, by scope's id and tag."""
    shares: dict[tuple[bytes, bytes], bytearray | KeyVaultError] = {}
    scopes: dict[bytes, tuple[bytearray, list[bytes]]] = {}
    for node, (row, tag) in items:
        if not tag or isinstance(node.records, EntryRef):
            continue
        if isinstance(leaf := caught(leaf_of, tag), KeyVaultError):
            shares[row.id, tag] = leaf
        else:
            scopes.setdefault(row.id, (node.records, []))[1].append(tag)
    for scope_id, (seed, tags) in scopes.items():
        records = new_records(seed)
        try:
            shares |= {(scope_id, tag): share for tag, share in record_shares(records, scope_id, tags).items()}
        finally:
            records.wipe()
    return shares


def _place_of(row: ScopeRow | IssuableScope) -> _Place:
    return _Place(row.ring_id, row.slot, row.ring_epoch)


def _token(row: ScopeRow | IssuableScope) -> bytes:
    """Return where a scope's share is found: ring id (16) ‖ slot (4, big-endian) ‖ format (1)."""
    return _TOKEN.pack(*_required(row.ring_id, row.slot), _TOKEN_FORMAT)


def _required(ring_id: bytes | None, slot: int | None) -> tuple[bytes, int]:
    if ring_id is None or slot is None:
        raise KeyMissingError("a placement without ring and slot is not ring custody's")
    return ring_id, slot
