"""A ring's secret state: the tree of its slots, from which the keys of up to 8,192 scopes come, and its bytes.

The node of a slot is one scope's. Its left child keys the whole scope; its right child is the root of the 63-level tree of the
scope's records (`keyvault.puncture_records`). A slot is

- *whole*: its node can be derived from the frontier of the slots' tree. Creating a scope changes nothing;
- *with records erased*: the node was punctured. The state keeps its left child, and the `EntryRef` of what is left of the records;
- *punctured*: the node, or both of these, are gone, and with them every key of the scope.

Seeds are either expanded or used as HMAC keys, never both. Values are immutable but for `wipe`; changing one gives another with
buffers of its own, and custody destroys the old one. Assumptions and sources stand in `keyvault.puncture`; the format's page is
docs/formats/punctured-state.md.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from keyvault.errors import InvalidFormatError, InvalidInputError
from keyvault.formats import Bytes, labelled, wipe
from keyvault.puncture import SEED_BYTES, Frontier, expand, new_frontier, usable
from keyvault.puncture_records import MAX_ENTRY_BYTES, SCOPE_ID_BYTES, EntryRef, check_scope_id
from keyvault.ring_sizes import DEFAULT_CAPACITY, MAX_CAPACITY

STATE_MAGIC = b"KVR\x01"

# What `labelled` puts before a scope's id, which always has the same length.
_SCOPE_PREFIX = labelled(b"keyvault/ring/scope/1", bytes(SCOPE_ID_BYTES))[:-SCOPE_ID_BYTES]
_IDENTITY_PREFIX = labelled(b"keyvault/ring/identity/1", bytes(SCOPE_ID_BYTES))[:-SCOPE_ID_BYTES]
_FIXED = struct.Struct(">4sHHH")
_SLOT = struct.Struct(">H")
_ENTRY = struct.Struct(">H32sQ8s32s")


class ScopeNode(NamedTuple):
    """What a scope's keys come from: the seed of the left child (32 bytes), and the records.

    `records` is the seed of the right child (32 bytes) while no record is erased (`keyvault.puncture_records.new_records`), and
    afterwards the reference to the entry that `keyvault.puncture_records.parse_root` reads. The value owns its buffers. A tuple,
    because one is made for every scope of a batch.
    """

    scope_seed: bytearray
    records: bytearray | EntryRef

    def __repr__(self) -> str:
        return "ScopeNode()"

    def share(self, scope_id: bytes) -> bytearray:
        """Return the share (32 bytes) that the whole scope gives to a wrapping key. The caller wipes it.

        Raises `InvalidInputError` unless `scope_id` has 16 bytes, and `KeyVaultError` after `wipe`.
        """
        return self._key(_SCOPE_PREFIX, scope_id)

    def identity_key(self, scope_id: bytes) -> bytearray:
        """Return the key (32 bytes) under which the scope's name and salt are sealed. The caller wipes it. Raises as `share`."""
        return self._key(_IDENTITY_PREFIX, scope_id)

    def wipe(self) -> None:
        """Overwrite the secrets with zeros."""
        wipe(self.scope_seed)
        wipe(self.records.key if isinstance(self.records, EntryRef) else self.records)

    def _key(self, prefix: bytes, scope_id: bytes) -> bytearray:
        check_scope_id(scope_id)
        return bytearray(hmac.digest(usable(self.scope_seed), prefix + scope_id, "sha256"))


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SlotEntry:
    """A slot with records erased: the seed of its left child (32 bytes), and where the frontier of its records is."""

    slot: int
    scope_seed: bytearray
    records: EntryRef

    def copy(self) -> SlotEntry:
        """Return the same with buffers of its own; raise `KeyVaultError` when this one was wiped."""
        return SlotEntry(slot=self.slot, scope_seed=bytearray(usable(self.scope_seed)), records=self.records.copy())


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class RingState:
    """The state of a ring with `capacity` slots (1 to 8,192). Immutable but for `wipe`; thread-safe.

    `slots` is the frontier of the slots' tree, of ceil(log2(capacity)) levels; leaves beyond the capacity are never used. `entries`
    ascend by slot. Raises `InvalidFormatError` when these do not fit together.
    """

    capacity: int
    slots: Frontier
    entries: tuple[SlotEntry, ...] = ()
    _by_slot: dict[int, SlotEntry] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        by_slot = {entry.slot: entry for entry in self.entries}
        object.__setattr__(self, "_by_slot", by_slot)
        _require(
            (self.slots.first, self.slots.height) == (0, slot_height(self.capacity)), "a ring's tree has another size"
        )
        _require(all(slot < self.capacity for slot in self.slots.punctured[-1:]), "a punctured slot is beyond the ring")
        _require(
            all(left.slot < right.slot for left, right in pairwise(self.entries))
            and by_slot.keys() <= set(self.slots.punctured)
            and all(len(entry.scope_seed) == SEED_BYTES for entry in self.entries),
            "a ring's slot entries must ascend, and stand for nodes that are gone from its tree",
        )

    @property
    def punctured(self) -> tuple[int, ...]:
        """The slots whose keys are gone, ascending."""
        return tuple(slot for slot in self.slots.punctured if slot not in self._by_slot)

    def derive(self, slot: int) -> ScopeNode:
        """Return what the keys of the scope in this slot come from. The caller wipes it.

        Raises `PuncturedError` for a punctured slot, `InvalidInputError` for one beyond the capacity, `KeyVaultError` after `wipe`.
        """
        self._check_slots((slot,))
        if entry := self._by_slot.get(slot):
            kept = entry.copy()
            return ScopeNode(scope_seed=kept.scope_seed, records=kept.records)
        node = self.slots.derive(slot)
        scope_seed, records_seed = expand(node)
        wipe(node)
        return ScopeNode(scope_seed=bytearray(scope_seed), records=bytearray(records_seed))

    def derive_many(self, slots: Iterable[int]) -> dict[int, ScopeNode]:
        """Return what the keys of the scopes in these slots come from, by slot; punctured slots are left out.

        The caller wipes them. Raises as `derive` for slots beyond the capacity and after `wipe`.
        """
        wanted = set(slots)
        self._check_slots(sorted(wanted)[:: max(len(wanted) - 1, 1)])
        nodes: dict[int, ScopeNode] = {}
        for slot, node in self.slots.derive_many(wanted).items():
            scope_seed, records_seed = expand(node)
            wipe(node)
            nodes[slot] = ScopeNode(bytearray(scope_seed), bytearray(records_seed))
        for slot in wanted & self._by_slot.keys():
            kept = self._by_slot[slot].copy()
            nodes[slot] = ScopeNode(scope_seed=kept.scope_seed, records=kept.records)
        return nodes

    def puncture_slots(self, slots: Iterable[int]) -> RingState:
        """Return a new state from which no key of these slots' scopes can be derived; those punctured before do no harm.

        Raises `InvalidInputError` for a slot beyond the capacity, and `KeyVaultError` after `wipe`.
        """
        gone = set(slots)
        self._check_slots(gone)
        entries = tuple(entry.copy() for entry in self.entries if entry.slot not in gone)
        return RingState(capacity=self.capacity, slots=self.slots.puncture(gone), entries=entries)

    def move_records(self, entries: Mapping[int, EntryRef]) -> RingState:
        """Return a new state in which the records of these slots are in new entries, and in no older one.

        Raises `PuncturedError` for a punctured slot, `InvalidInputError` for one beyond the capacity, `KeyVaultError` after `wipe`.
        """
        kept = {entry.slot: entry.copy() for entry in self.entries if entry.slot not in entries}
        for slot, ref in entries.items():
            kept[slot] = SlotEntry(slot=slot, scope_seed=self.derive(slot).scope_seed, records=ref.copy())
        ordered = tuple(kept[slot] for slot in sorted(kept))
        return RingState(capacity=self.capacity, slots=self.slots.puncture(entries), entries=ordered)

    def wipe(self) -> None:
        """Overwrite all secrets with zeros; deriving, changing and encoding raise afterwards, in other threads too."""
        self.slots.wipe()
        for entry in self.entries:
            wipe(entry.scope_seed)
            wipe(entry.records.key)

    def _check_slots(self, slots: Iterable[int]) -> None:
        for slot in slots:
            if not 0 <= slot < self.capacity:
                raise InvalidInputError(f"slot {slot} is not one of this ring's {self.capacity}")


def new_ring(seed: Bytes, *, capacity: int = DEFAULT_CAPACITY) -> RingState:
    """Return a ring without punctures over a copy of its root's seed, 32 bytes from the system's random generator.

    Raises `InvalidFormatError` for another length or a capacity outside 1 to 8,192.
    """
    return RingState(capacity=capacity, slots=new_frontier(slot_height(capacity), seed))


def slot_height(capacity: int) -> int:
    """Return the levels of a ring's tree, ceil(log2(capacity)); raise `InvalidFormatError` outside 1 to 8,192."""
    _require(1 <= capacity <= MAX_CAPACITY, "a ring has 1 to 8,192 slots")
    return (capacity - 1).bit_length()


# --- bytes to values and back --------------------------------------------------------------------------------


def encode_state(state: RingState) -> bytearray:
    """Return the state's bytes before sealing, which the caller wipes.

    Raises `KeyVaultError` after `wipe`, and `InvalidInputError` above `MAX_ENTRY_BYTES`, where no ring of 4,096 slots ever comes.
    """
    punctured = state.punctured
    pieces: list[Bytes] = [
        _FIXED.pack(STATE_MAGIC, state.capacity, len(punctured), len(state.entries)),
        *(_SLOT.pack(slot) for slot in punctured),
        *(_encode_entry(entry) for entry in state.entries),
        state.slots.seeds,
    ]
    encoded = bytearray().join(pieces)
    state.slots.check_usable()  # last, because another thread may wipe meanwhile
    if len(encoded) > MAX_ENTRY_BYTES:
        wipe(encoded)
        raise InvalidInputError("too many scopes of this ring have records erased; destroy some, or use smaller rings")
    return encoded


def parse_state(data: Bytes) -> RingState:
    """Read a ring's state and nothing after it; raise `InvalidFormatError` for anything else."""
    _require(data[:4] == STATE_MAGIC, "not the state of a ring that this version reads")
    _require(_FIXED.size <= len(data) <= MAX_ENTRY_BYTES, "the state of a ring is cut short, or too long")
    _, capacity, count, entry_count = _FIXED.unpack_from(data)
    middle = _FIXED.size + count * _SLOT.size
    end = middle + entry_count * _ENTRY.size
    _require(end <= len(data), "the state of a ring is cut short")
    view = memoryview(data)
    entries = tuple(_parse_entry(*fields) for fields in _ENTRY.iter_unpack(view[middle:end]))
    punctured = struct.unpack_from(f">{count}H", data, _FIXED.size)
    _require(
        all(left < right for left, right in pairwise(punctured)), "punctured slots must ascend, without repetition"
    )
    removed = tuple(sorted((*punctured, *(entry.slot for entry in entries))))
    slots = Frontier(height=slot_height(capacity), punctured=removed, seeds=bytearray(view[end:]))
    return RingState(capacity=capacity, slots=slots, entries=entries)


def _encode_entry(entry: SlotEntry) -> bytes:
    ref = entry.records
    return _ENTRY.pack(entry.slot, usable(entry.scope_seed), ref.epoch, ref.name, usable(ref.key))


def _parse_entry(slot: int, scope_seed: bytes, epoch: int, name: bytes, key: bytes) -> SlotEntry:
    records = EntryRef(epoch=epoch, name=name, key=bytearray(key))
    return SlotEntry(slot=slot, scope_seed=bytearray(scope_seed), records=records)


def _require(holds: bool, rule: str) -> None:
    if not holds:
        raise InvalidFormatError(rule)
