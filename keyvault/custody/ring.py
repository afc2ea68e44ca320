"""Ring custody: thousands of scopes under one transit key, each with a node of the ring's secret state.

A share is derived from the scope's node, or from the record's leaf below it; nothing of it travels but where it is found. Creating a
scope changes no secret state. Destroying takes its node out of the state (`keyvault.custody.ring_shredding`).
"""

from __future__ import annotations

import base64
import binascii
import secrets
import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy.engine import Connection

from keyvault.clock import Clock
from keyvault.custody.base import Custody, Identity, Placement, Proof, Share, Target
from keyvault.custody.missing import explain_missing
from keyvault.custody.ring_cache import CachedRing, RingCache
from keyvault.custody.ring_records import read_records
from keyvault.custody.ring_shredding import RingShredder
from keyvault.custody.ring_slots import SlotAllocator, chunk_number
from keyvault.custody.ring_state import RingStates
from keyvault.errors import CiphertextRefusedError, KeyMissingError, KeyVaultError
from keyvault.formats import NONCE_BYTES, TAG_BYTES, labelled, wipe
from keyvault.puncture import Frontier
from keyvault.puncture_records import EntryRef, new_records, record_share
from keyvault.puncture_state import ScopeNode
from keyvault.results import caught
from keyvault.scopes import Scope
from keyvault.store import rings
from keyvault.store.database import Database
from keyvault.store.scopes import ScopeRow
from keyvault.transit.base import TransitEngine
from keyvault.wrapped import CustodyCode

T = TypeVar("T")
R = TypeVar("R")

_TOKEN = struct.Struct(">16sIB")
_TOKEN_FORMAT = 1
_IDENTITY_MARK = "ring:1:"
_IDENTITY_LABEL = b"keyvault/ring/sealed-identity/1"


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
        self._shredder = RingShredder(database, engine, clock, states)

    # --- creating ---------------------------------------------------------------------------------------------------

    def prepare(self, scopes: Sequence[Scope]) -> list[Placement | KeyVaultError]:
        """Give each scope a slot that no other ever gets."""
        placements: list[Placement | KeyVaultError] = list(self._slots.take(scopes))
        return placements

    def bind(self, connection: Connection, placements: Sequence[Placement]) -> set[Placement]:
        """Claim slots in rings that still take scopes, and keep them from closing until the transaction ends."""
        chunks: dict[bytes, int] = {}
        for placement in placements:
            ring_id, slot = _place(placement.ring_id, placement.slot)
            chunks[ring_id] = max(chunks.get(ring_id, 0), chunk_number(slot))
        taking = rings.take_slots(connection, chunks)
        self._slots.forget(chunks.keys() - taking)
        return {placement for placement in placements if placement.ring_id in taking}

    def discard(self, connection: Connection, placements: Sequence[Placement]) -> None:
        """Leave the slots unused: nothing was ever put under them."""

    def seal_identities(self, identities: Sequence[Identity]) -> list[str | KeyVaultError]:
        """Encrypt with AES-256-GCM under the node's identity key; associated data is the scope's id."""

        def seal(ring: CachedRing, item: Identity) -> str:
            key = _identity_key(ring, item.placement.slot, item.scope_id)
            nonce = secrets.token_bytes(NONCE_BYTES)
            try:
                sealed = AESGCM(key).encrypt(nonce, item.data, labelled(_IDENTITY_LABEL, item.scope_id))
            finally:
                wipe(key)
            return _IDENTITY_MARK + base64.b64encode(nonce + sealed).decode()

        return self._in_rings(identities, lambda item: (item.placement.ring_id, 0), seal)

    def open_identities(self, rows: Sequence[ScopeRow]) -> list[bytearray | KeyVaultError]:
        """Decrypt with the node's identity key."""

        def open_(ring: CachedRing, row: ScopeRow) -> bytearray:
            sealed = _sealed_identity(row)
            key = _identity_key(ring, row.slot, row.id)
            opened = bytearray(len(sealed) - NONCE_BYTES - TAG_BYTES)
            try:
                bound = labelled(_IDENTITY_LABEL, row.id)
                AESGCM(key).decrypt_into(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], bound, opened)
            except InvalidTag as error:
                raise CiphertextRefusedError(
                    f"scope {row.id.hex()}: its sealed name was altered, or is another scope's"
                ) from error
            finally:
                wipe(key)
            return opened

        results = self._in_rings(rows, lambda row: (row.ring_id, row.ring_epoch), open_)
        return explain_missing(self._database, [Target(row) for row in rows], results)

    # --- using ------------------------------------------------------------------------------------------------------

    def fresh_shares(self, targets: Sequence[Target]) -> list[Share | KeyVaultError]:
        """Derive the shares; the token says where each was found."""

        def derive(ring: CachedRing, target: Target) -> Share:
            row = target.row
            return Share(secret=self._share(ring, target), token=_token(row))

        return explain_missing(self._database, targets, self._in_rings(targets, _ring_of, derive))

    def recover_shares(self, items: Sequence[tuple[Target, bytes]]) -> list[bytearray | KeyVaultError]:
        """Derive the shares again; a token that names another place than the row is refused."""

        def derive(ring: CachedRing, item: tuple[Target, bytes]) -> bytearray:
            target, token = item
            if token != _token(target.row):
                raise CiphertextRefusedError(
                    f"scope {target.row.id.hex()}: the header names another ring or slot than the store"
                )
            return self._share(ring, target)

        results = self._in_rings(items, lambda item: _ring_of(item[0]), derive)
        return explain_missing(self._database, [target for target, _ in items], results)

    def _share(self, ring: CachedRing, target: Target) -> bytearray:
        node = ring.loaded.state.derive(_place(target.row.ring_id, target.row.slot)[1])
        try:
            if not target.record_tag:
                return node.share(target.row.id)
            return self._record_share(ring, target, node)
        finally:
            node.wipe()

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
        ring_id, slot = _place(target.row.ring_id, target.row.slot)
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

    def _in_rings(
        self,
        items: Sequence[T],
        ring_of: Callable[[T], tuple[bytes | None, int]],
        work: Callable[[CachedRing, T], R],
    ) -> list[R | KeyVaultError]:
        """Call `work` on each item with its ring's state, each ring opened once; results in input order."""
        groups: dict[bytes, list[int]] = defaultdict(list)
        epochs: dict[bytes, int] = defaultdict(int)
        results: dict[int, R | KeyVaultError] = {}
        for index, item in enumerate(items):
            ring_id, epoch = ring_of(item)
            if ring_id is None:
                results[index] = KeyMissingError("a row of ring custody names no ring: its database was altered")
                continue
            groups[ring_id].append(index)
            epochs[ring_id] = max(epochs[ring_id], epoch)
        for ring_id, indices in groups.items():
            results |= self._in_ring(ring_id, epochs[ring_id], {index: items[index] for index in indices}, work)
        return [results[index] for index in range(len(items))]

    def _in_ring(
        self, ring_id: bytes, epoch: int, items: dict[int, T], work: Callable[[CachedRing, T], R]
    ) -> dict[int, R | KeyVaultError]:
        """Do it with the state at hand, and what is missing in that once more with the state as it is now."""
        results: dict[int, R | KeyVaultError] = {}
        left = items
        for again in (False, True):
            if again:
                self._cache.drop(ring_id)
            try:
                with self._cache.borrow(ring_id, epoch) as ring:
                    results |= {index: caught(work, ring, item) for index, item in left.items()}
            except KeyVaultError as error:
                results |= dict.fromkeys(left, error)
                break
            # An entry of erased records that is not there was replaced since this state was read.
            left = {index: item for index, item in left.items() if isinstance(results[index], KeyMissingError)}
            if not left:
                break
        return results


def _ring_of(target: Target) -> tuple[bytes | None, int]:
    return target.row.ring_id, target.row.ring_epoch


def _token(row: ScopeRow) -> bytes:
    """Return where a scope's share is found: ring id (16) ‖ slot (4, big-endian) ‖ format (1)."""
    return _TOKEN.pack(*_place(row.ring_id, row.slot), _TOKEN_FORMAT)


def _place(ring_id: bytes | None, slot: int | None) -> tuple[bytes, int]:
    if ring_id is None or slot is None:
        raise KeyMissingError("a placement without ring and slot is not ring custody's")
    return ring_id, slot


def _identity_key(ring: CachedRing, slot: int | None, scope_id: bytes) -> bytearray:
    node = ring.loaded.state.derive(_place(ring.loaded.ring_id, slot)[1])
    try:
        return node.identity_key(scope_id)
    finally:
        node.wipe()


def _sealed_identity(row: ScopeRow) -> bytes:
    if row.sealed_name is None:
        raise KeyMissingError(f"scope {row.id.hex()}: its row holds no sealed name")
    mark, text = row.sealed_name[: len(_IDENTITY_MARK)], row.sealed_name[len(_IDENTITY_MARK) :]
    try:
        sealed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CiphertextRefusedError(f"scope {row.id.hex()}: its sealed name is not one of ring custody") from error
    if mark != _IDENTITY_MARK or len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise CiphertextRefusedError(f"scope {row.id.hex()}: its sealed name is not one of ring custody")
    return sealed
