"""Rings for tests: made, read and shredded, and the history of everything that was ever stored of one."""

import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TypeVar

from keyvault import puncture_records
from keyvault.custody import ring_record_sealing as record_sealing
from keyvault.custody import ring_sealing as sealing
from keyvault.custody.ring_sealing import LoadedRing, SealedRef
from keyvault.custody.ring_state import RingStates
from keyvault.errors import (
    CheckAndSetError,
    CiphertextRefusedError,
    DecryptionFailedError,
    KeyMissingError,
    PuncturedError,
)
from keyvault.puncture import Frontier
from keyvault.puncture_state import RingState, parse_state
from keyvault.testing import faulty_engine
from keyvault.transit.base import Ciphertext, KeyInfo, TransitEngine

T = TypeVar("T")
R = TypeVar("R")

CAPACITY = 8
SCOPE_ID = bytes(16)
Shares = dict[int, bytes | None]


def scope_id(slot: int) -> bytes:
    """Return the id that a scope in this slot has in tests of records."""
    return b"scope in %07d" % slot


def gives(records: Frontier, tag: bytes) -> bool:
    leaf = puncture_records.leaf_of(tag)
    return records.first <= leaf < records.end and leaf not in records.punctured


def share(state: RingState, slot: int) -> bytes | None:
    try:
        node = state.derive(slot)
    except PuncturedError:
        return None
    return bytes(node.share(SCOPE_ID))


def shares(state: RingState) -> Shares:
    return {slot: share(state, slot) for slot in range(state.capacity)}


def stored_shares(states: RingStates, ring_id: bytes) -> Shares:
    return shares(states.load(ring_id).state)


def without(before: Shares, *slots: int) -> Shares:
    return {slot: None if slot in slots else value for slot, value in before.items()}


def replace(states: RingStates, loaded: LoadedRing, *slots: int, highest: int = 0, proven: int = 0) -> LoadedRing:
    return states.replace(
        loaded,
        lambda state, _epoch: state.puncture_slots(slots),
        is_punctured=lambda state: set(slots) <= set(state.punctured),
        highest_version=highest,
        proven_epoch=proven,
    )


def shred(states: RingStates, ring_id: bytes, *slots: int, proven: int = 0) -> LoadedRing:
    """Replace, starting over as often as another worker was faster."""
    while True:
        try:
            return replace(states, states.load(ring_id), *slots, proven=proven)
        except CheckAndSetError:
            continue


def new_ring(engine: TransitEngine, incarnation: int = 1) -> tuple[RingStates, bytes, Shares]:
    states, ring_id = RingStates(engine, incarnation), secrets.token_bytes(16)
    states.create(ring_id, CAPACITY)
    return states, ring_id, stored_shares(states, ring_id)


def entries(engine: TransitEngine, ring_id: bytes) -> list[str]:
    return engine.list_state(sealing.folder(ring_id))


def info(engine: TransitEngine, ring_id: bytes) -> KeyInfo:
    (found,) = engine.read_keys([sealing.key_name(ring_id)])
    assert isinstance(found, KeyInfo)
    return found


class History:
    """Everything that was ever stored through an engine: what an attacker with every backup has."""

    def __init__(self, engine: TransitEngine) -> None:
        self.engine = engine
        self.stored: list[tuple[str, str]] = []
        original = engine.put_state

        def put_state(path: str, value: str, *, expected_version: int) -> int:
            version = original(path, value, expected_version=expected_version)
            self.stored.append((path, value))
            return version

        engine.put_state = put_state  # type: ignore[method-assign]

    def derivable(self, ring_id: bytes) -> set[bytes]:
        """Return all shares that every stored state gives, opened by every stored state key that the engine still decrypts."""
        return {found for state in self._states(ring_id) for found in shares(state).values() if found}

    def derivable_records(self, ring_id: bytes, slot: int, tags: Iterable[bytes]) -> set[bytes]:
        """Return the tags whose records' keys every such state gives, with every record entry that was ever stored."""
        entries = {path: value for path, value in self.stored if path.startswith(f"{sealing.folder(ring_id)}/r")}
        parts = [part for state in self._states(ring_id) for part in self._record_parts(state, ring_id, slot, entries)]
        return {tag for tag in tags for part in parts if gives(part, tag)}

    def _record_parts(self, state: RingState, ring_id: bytes, slot: int, entries: dict[str, str]) -> Iterator[Frontier]:
        try:
            records = state.derive(slot).records
        except PuncturedError:
            return
        if isinstance(records, bytearray):
            yield puncture_records.new_records(records)
            return
        refs = [records]
        while refs:
            ref = refs.pop()
            path = sealing.record_entry_path(ring_id, ref)
            encoded = record_sealing.unseal(entries[path], ref, ring_id=ring_id, scope_id=scope_id(slot))
            if encoded.startswith(puncture_records.INDEX_MAGIC):
                refs += [chunk.ref for chunk in puncture_records.parse_index(encoded).chunks]
            else:
                yield puncture_records.parse_frontier(encoded)

    def _states(self, ring_id: bytes) -> Iterator[RingState]:
        """Give every stored state, opened by every stored state key that the engine still decrypts."""
        values = [
            value
            for path, value in self.stored
            if path.startswith(f"{sealing.folder(ring_id)}/") and sealing.is_entry(path.rpartition("/")[2])
        ]
        for ref, state_key in self._state_keys(ring_id):
            for value in values:
                with suppress(DecryptionFailedError):
                    yield parse_state(sealing.unseal(value, state_key, ring_id=ring_id, epoch=ref.epoch))

    def _state_keys(self, ring_id: bytes) -> Iterator[tuple[SealedRef, bytearray]]:
        for ref in self._refs(ring_id):
            item = Ciphertext(
                name=sealing.key_name(ring_id),
                text=ref.wrapped_key,
                associated_data=sealing.state_key_binding(ring_id, ref.epoch),
            )
            (opened,) = self.engine.decrypt([item])
            if isinstance(opened, bytearray):
                yield ref, opened
            else:
                assert isinstance(opened, KeyMissingError | CiphertextRefusedError)

    def _refs(self, ring_id: bytes) -> set[SealedRef]:
        found = set()
        for path, value in self.stored:
            if path.startswith(f"pointer/{ring_id.hex()}-"):
                pointer = sealing.parse_pointer(value, accept_moved=True)
                found |= {ref for ref in (pointer.current, pointer.previous) if ref is not None}
            elif path == sealing.entry_path(ring_id, sealing.FIRST_ENTRY):
                found.add(SealedRef(entry=path.rpartition("/")[2], wrapped_key=sealing.first_wrapped_key(value)))
        return found


class DiedError(BaseException):
    """What a test's worker dies of."""


def die() -> None:
    raise DiedError


def hooked(engine: TransitEngine, at: int, action: Callable[[], object]) -> tuple[TransitEngine, list[str]]:
    """Return the engine with `action` run inside its `at`-th step, counted from 1, and the list of steps so far."""
    steps: list[str] = []

    def hook(step: str) -> None:
        steps.append(step)
        if len(steps) == at:
            action()

    return faulty_engine(engine, hook), steps


def second_first(_engine: TransitEngine, first: Callable[[], T], second: Callable[[], R]) -> tuple[T, R]:
    """Stand for `TransitEngine.overlap`: where two calls are under way together, either may happen first."""
    done = second()
    return first(), done


def at_every_step(run: Callable[[int], list[str]], *, stride: int = 1) -> list[str]:
    """Call `run` for step 1, 2 and so on until it took fewer steps than that; return the steps of the last, undisturbed run.

    A `stride` of 2 leaves out the moments after each call: where nothing else is at work they are those before the next.
    """
    at = 1
    while len(steps := run(at)) >= at:
        at += stride
    return steps
