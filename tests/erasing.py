"""Erasing single records of a ring's scopes, for tests: with the share that each record had from the start."""

from collections.abc import Iterable
from functools import partial
from random import Random

import pytest

from keyvault.custody import ring_records
from keyvault.custody import ring_sealing as sealing
from keyvault.custody.ring_records import erase_records, read_records, read_records_many
from keyvault.custody.ring_sealing import LoadedRing
from keyvault.custody.ring_state import RingStates
from keyvault.errors import CheckAndSetError, PuncturedError
from keyvault.puncture_records import EntryRef, leaf_of, new_records, partition, record_share
from keyvault.puncture_state import RingState
from keyvault.transit.base import TransitEngine
from tests import puncture_oracle as oracle
from tests.rings import entries, new_ring, scope_id

SLOT = 2
SMALL_CHUNK = 16_384


def some_tags(count: int, seed: int = 1) -> list[bytes]:
    random = Random(seed)
    return [random.getrandbits(63).to_bytes(8, "big") for _ in range(count)]


def records_seed(states: RingStates, ring_id: bytes, slot: int = SLOT) -> bytes:
    """Return the root of a scope's records, while none is erased."""
    records = states.load(ring_id).state.derive(slot).records
    assert isinstance(records, bytearray)
    return bytes(records)


def new_records_ring(engine: TransitEngine) -> tuple[RingStates, bytes, bytes]:
    """Return what handles the states of a new ring, its id, and the root of the records in `SLOT`."""
    states, ring_id, _ = new_ring(engine)
    return states, ring_id, records_seed(states, ring_id)


def root_ref(state: RingState, slot: int = SLOT) -> EntryRef:
    records = state.derive(slot).records
    assert isinstance(records, EntryRef)
    return records


def are_erased(engine: TransitEngine, ring_id: bytes, state: RingState, slot: int, tags: Iterable[bytes]) -> bool:
    try:
        records = state.derive(slot).records
    except PuncturedError:
        return True
    if not isinstance(records, EntryRef):
        return False
    parts = read_records_many(engine, ring_id, scope_id(slot), records, tags)
    return all(leaf_of(tag) in part.punctured for part, its_tags in parts for tag in its_tags)


def replace_erasing(states: RingStates, loaded: LoadedRing, slot: int, tags: list[bytes]) -> LoadedRing:
    engine, ring_id = states._engine, loaded.ring_id

    def change(state: RingState, epoch: int) -> RingState:
        ref = erase_records(engine, ring_id, scope_id(slot), epoch, state.derive(slot), tags)
        return state.move_records({slot: ref})

    return states.replace(loaded, change, is_punctured=lambda state: are_erased(engine, ring_id, state, slot, tags))


def erase(states: RingStates, ring_id: bytes, tags: list[bytes], slot: int = SLOT) -> LoadedRing:
    """Replace, starting over as often as another worker was faster."""
    while True:
        try:
            return replace_erasing(states, states.load(ring_id), slot, tags)
        except CheckAndSetError:
            continue


def stored_share(engine: TransitEngine, ring_id: bytes, state: RingState, tag: bytes, slot: int = SLOT) -> bytes | None:
    """Return a record's share as a reader gets it, or None when it was erased."""
    records = state.derive(slot).records
    if isinstance(records, EntryRef):
        part = read_records(engine, ring_id, scope_id(slot), records, tag)
    else:
        part = new_records(records)
    try:
        return bytes(record_share(part, scope_id(slot), tag))
    except PuncturedError:
        return None
    finally:
        part.wipe()


def check_records(
    states: RingStates, ring_id: bytes, seed: bytes, *, gone: Iterable[bytes], kept: Iterable[bytes], slot: int = SLOT
) -> None:
    """Compare what a reader gets now with what the root of the scope's records gave."""
    state = states.load(ring_id).state
    for tag in gone:
        assert stored_share(states._engine, ring_id, state, tag, slot) is None
    for tag in kept:
        expected = oracle.record_share(seed, scope_id(slot), tag)
        assert stored_share(states._engine, ring_id, state, tag, slot) == expected


def record_entries(engine: TransitEngine, ring_id: bytes) -> set[str]:
    return {name for name in entries(engine, ring_id) if sealing.is_record_entry(name)}


def small_chunks(patch: pytest.MonkeyPatch) -> None:
    """Let a few erased records need an index."""
    patch.setattr(ring_records, "partition", partial(partition, limit=SMALL_CHUNK))
