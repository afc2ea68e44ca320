"""How a ring's secret state is stored, replaced and destroyed, so that nothing loses a ring or leaves a punctured key alive.

Two rules carry the protocol, whatever dies, waits or loses an answer:

- **Never lost.** A pointer moves by check-and-set from the version that was read, to an entry that was just opened with what the
  engine holds, one epoch on, under a newer version of the transit key. So along a pointer's life epochs and key versions only grow,
  and a worker who trims to the version of *some* state the pointer named, or deletes entries of *its* epoch and before, takes
  nothing that the pointer names now or later. Entries of later epochs may be about to be pointed to; nobody deletes them.
- **Dead once acknowledged.** The state key's ciphertext is stored nowhere but in the pointer. A flip overwrites the one before
  (kept there as *previous*, to be tried again) and trimming kills it; what other workers wrote and never pointed to has no key.

Record entries (`keyvault.custody.ring_records`) follow both: they are written before the state that alone holds their keys, seen to be
there before anything is trimmed, and deleted after that when the stored state does not reach them.

The order is that of docs/adr/0013-ring-state-protocol.md, which has each step's failures in a table.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from keyvault.custody import ring_sealing as sealing
from keyvault.custody.ring_reading import ATTEMPTS, REFUSED, RingReader, wrapped_state_key
from keyvault.custody.ring_records import collect_records, require_records
from keyvault.custody.ring_sealing import LoadedRing, Pointer, RingHandle, SealedRef
from keyvault.errors import (
    CheckAndSetError,
    InvalidInputError,
    KeyExistsError,
    KeyMissingError,
    NotProvenError,
    Unavailable,
)
from keyvault.formats import wipe
from keyvault.puncture import SEED_BYTES
from keyvault.puncture_state import RingState, encode_state, new_ring
from keyvault.results import value_of, values_of
from keyvault.transit.base import KeyInfo, Plaintext

Change = Callable[[RingState, int], RingState]
"""Returns a new state in the place of one, given the epoch that the new one will have; may write record entries for it."""

Note = Callable[[LoadedRing], None]
"""Told of a stored state whose predecessors are proven dead."""


class RingStates(RingReader):
    """The states of all rings in one engine and one incarnation of the deployment. Thread-safe.

    A worker needs no lock to be safe, only to get on: of two that replace the state of one ring, one meets `CheckAndSetError`.
    """

    # --- create -------------------------------------------------------------------------------------------------

    def create(self, ring_id: bytes, capacity: int) -> RingHandle:
        """Make a ring, or finish making it, or find it made; concurrent creators get the same ring. Needs the issuer's rights.

        `ring_id` is 16 random bytes that no ring ever had. Raises `KeyExistsError` where its key was in use but its pointer is not
        there, `CiphertextRefusedError` when it was destroyed half made, `InvalidInputError` when the ring has another capacity.
        """
        if self._engine.get_state(self._pointer_path(ring_id)) is None:
            self._begin(ring_id, capacity)
        ring = self.load(ring_id)
        try:
            if ring.state.capacity != capacity:
                raise InvalidInputError(f"ring {ring_id.hex()} exists, with {ring.state.capacity} slots")
            return RingHandle(ring_id=ring_id, capacity=capacity, epoch=ring.epoch, key_version=ring.key_version)
        finally:
            ring.state.wipe()

    def _begin(self, ring_id: bytes, capacity: int) -> None:
        value_of(self._engine.create_keys([sealing.key_name(ring_id)])[0])
        if self._key_info(ring_id).latest_version > 1:
            if self._engine.get_state(self._pointer_path(ring_id)) is None:
                raise KeyExistsError(f"ring {ring_id.hex()} is in use, but has no pointer here; take another ring id")
            return
        path = sealing.entry_path(ring_id, sealing.FIRST_ENTRY)
        if self._engine.get_state(path) is None:
            self._write_first(ring_id, capacity, path)
        entry = self._engine.get_state(path)
        if entry is None:
            return  # a replacement deleted it, so there is a pointer
        first = SealedRef(entry=sealing.FIRST_ENTRY, wrapped_key=sealing.first_wrapped_key(entry.value))
        try:
            self._open(ring_id, first).wipe()
        except REFUSED:
            if self._engine.get_state(self._pointer_path(ring_id)) is None:
                raise
            return  # another creator finished, and the state was replaced since
        self._put_new(self._pointer_path(ring_id), sealing.encode_pointer(Pointer(current=first)))

    def _write_first(self, ring_id: bytes, capacity: int, path: str) -> None:
        seed = bytearray(secrets.token_bytes(SEED_BYTES))
        state = new_ring(seed, capacity=capacity)
        encoded = encode_state(state)
        state_key = bytearray(secrets.token_bytes(sealing.STATE_KEY_BYTES))
        try:
            wrapped = self._wrap(ring_id, 0, state_key)
            self._put_new(path, sealing.seal(encoded, state_key, ring_id=ring_id, epoch=0, wrapped_key=wrapped))
        finally:
            state.wipe()
            for secret in (seed, encoded, state_key):
                wipe(secret)

    def _put_new(self, path: str, value: str) -> None:
        try:
            self._engine.put_state(path, value, expected_version=0)
        except CheckAndSetError:
            return  # another creator was faster; what it wrote stands

    # --- replace ------------------------------------------------------------------------------------------------

    def replace(
        self,
        loaded: LoadedRing,
        change: Change,
        *,
        is_punctured: Callable[[RingState], bool],
        highest_version: int = 0,
        proven_epoch: int = 0,
        note: Note = lambda _: None,
    ) -> LoadedRing:
        """Put `change(loaded.state, epoch)` in the state's place, and prove the old one dead. Needs the shredder's rights.

        `epoch` is the new state's; `change` may write the records of scopes for it (`keyvault.custody.ring_records.erase_records`).
        `highest_version` is the highest key version ever seen; the new state's is above it. `is_punctured` says whether a state
        lacks what must be gone, and may read its records. All states before that of `proven_epoch` are known to be dead; nothing came
        before epoch 0. `note` is told of the stored state as soon as the old one is proven dead, while what is left of that is deleted.
        On return `loaded.state` is wiped, and the result may already be another worker's later state.
        On any error, load again and start over: `CheckAndSetError` when another worker was faster, `Unavailable` when it is not
        known, `NotProvenError` when the old state could not be shown to be dead.
        """
        if loaded.epoch > proven_epoch and not self._is_retired(loaded):
            self._trim(loaded)
            self._require_retired(loaded)
        new = self._write(loaded, change, is_punctured, floor=max(highest_version, loaded.key_version))
        self._flip(loaded, new)
        stored = self.load(loaded.ring_id)
        try:
            self._check_stored(stored, is_punctured)
            self._trim(stored)
            self._finish(stored, {loaded.current}, note)
        except BaseException:
            stored.state.wipe()
            raise
        loaded.state.wipe()
        return stored

    def resume(self, ring_id: bytes, *, note: Note = lambda _: None) -> LoadedRing:
        """Finish a replacement that was interrupted after its flip, prove it, and return the state. Does no harm otherwise.

        `note` as in `replace`. Raises as `load`, and `NotProvenError`. Needs the shredder's rights.
        """
        ring = self.load(ring_id)
        try:
            if not self._is_retired(ring):
                self._trim(ring)
            self._finish(ring, set(), note)
        except BaseException:
            ring.state.wipe()
            raise
        return ring

    def _write(
        self,
        loaded: LoadedRing,
        change: Change,
        is_punctured: Callable[[RingState], bool],
        *,
        floor: int,
    ) -> SealedRef:
        """Write the new state under a version above `floor`, and open it again as any reader would."""
        try:
            encoded = _changed(loaded, change, is_punctured)
        except KeyMissingError as error:
            self._check_not_overtaken(loaded, error)
            raise
        state_key = bytearray(secrets.token_bytes(sealing.STATE_KEY_BYTES))
        try:
            return self._write_bytes(loaded, encoded, state_key, floor)
        finally:
            wipe(encoded)
            wipe(state_key)

    def _write_bytes(self, loaded: LoadedRing, encoded: bytearray, state_key: bytearray, floor: int) -> SealedRef:
        ring_id, epoch = loaded.ring_id, loaded.epoch + 1
        entry = sealing.new_entry(epoch)
        value = sealing.seal(encoded, state_key, ring_id=ring_id, epoch=epoch)
        # In whatever order: without the pointer, the one is a ciphertext without a key and the other is stored nowhere.
        wrapped, _ = self._engine.overlap(
            lambda: self._wrap_above(ring_id, epoch, state_key, floor),
            lambda: self._engine.put_state(sealing.entry_path(ring_id, entry), value, expected_version=0),
        )
        ref = SealedRef(entry=entry, wrapped_key=wrapped)
        try:
            read_back = self._open_bytes(ring_id, ref)
        except REFUSED as error:
            self._check_not_overtaken(loaded, error)
            raise
        same = read_back == encoded
        wipe(read_back)
        if not same:
            raise NotProvenError(f"ring {ring_id.hex()}: its new state reads back as another; the old one stands")
        return ref

    def _check_stored(self, stored: LoadedRing, is_punctured: Callable[[RingState], bool]) -> None:
        try:
            _require_punctured(stored.state, is_punctured)
        except KeyMissingError as error:
            self._check_not_overtaken(stored, error)
            raise

    def _check_not_overtaken(self, loaded: LoadedRing, error: Exception) -> None:
        """Explain entries that cannot be read any more: another worker has trimmed past them, or collected them."""
        now = self._engine.get_state(self._pointer_path(loaded.ring_id))
        if now is not None and now.version != loaded.pointer_version:
            raise CheckAndSetError(f"ring {loaded.ring_id.hex()}: another worker replaced its state") from error

    def _wrap_above(self, ring_id: bytes, epoch: int, state_key: bytearray, floor: int) -> str:
        while True:
            self._engine.rotate(sealing.key_name(ring_id))
            wrapped = self._wrap(ring_id, epoch, state_key)
            if sealing.version_of(wrapped) > floor:
                return wrapped

    def _wrap(self, ring_id: bytes, epoch: int, state_key: bytearray) -> str:
        plaintext = Plaintext(
            name=sealing.key_name(ring_id),
            data=bytes(state_key),
            associated_data=sealing.state_key_binding(ring_id, epoch),
        )
        return value_of(self._engine.encrypt([plaintext])[0])

    def _flip(self, loaded: LoadedRing, new: SealedRef) -> None:
        value = sealing.encode_pointer(Pointer(current=new, previous=loaded.current))
        path = self._pointer_path(loaded.ring_id)
        try:
            self._engine.put_state(path, value, expected_version=loaded.pointer_version)
        except (CheckAndSetError, Unavailable):
            now = self._engine.get_state(path)
            # The entry's name is random: if it stands there, the flip happened and only its answer was lost.
            if now is None or now.value != value:
                raise

    # --- what follows a flip --------------------------------------------------------------------------------------

    def _finish(self, stored: LoadedRing, replaced: set[SealedRef], note: Note) -> None:
        """Prove the states before dead, which were trimmed, and then delete what is left of them."""
        old = replaced | ({stored.previous} if stored.previous else set())
        self._engine.overlap(
            lambda: self._require_retired(stored),
            lambda: self._require_refused(stored.ring_id, old),
        )
        self._engine.overlap(lambda: self._delete_older(stored), lambda: note(stored))

    def _trim(self, ring: LoadedRing) -> None:
        """Trim the versions below that of a state the pointer names, or named, unless another worker has come past it.

        The pointer never goes back below it. Raising the minimum versions can be undone and proves nothing; trimming cannot. Before
        that, the state's own record entries are seen to be there: the state before is what is left of a ring without them.
        """
        name, version = sealing.key_name(ring.ring_id), ring.key_version
        for _ in range(ATTEMPTS):
            try:
                require_records(self._engine, ring.ring_id, ring.state, ring.epoch)
            except KeyMissingError:
                if self._is_retired(ring):
                    return  # another worker collected what this state alone had reached
                raise
            try:
                self._engine.set_min_versions(name, decryption=version, encryption=version)
                self._engine.trim(name, min_available=version)
            except InvalidInputError:  # another worker moved the minimum versions meanwhile
                if self._is_retired(ring):
                    return
            else:
                return

    def _require_retired(self, ring: LoadedRing) -> None:
        if not self._is_retired(ring):
            raise NotProvenError(
                f"ring {ring.ring_id.hex()}: versions of its key below {ring.key_version} are still available"
            )

    def _is_retired(self, ring: LoadedRing) -> bool:
        return max(self._key_info(ring.ring_id).min_available_version, 1) >= ring.key_version

    def _require_refused(self, ring_id: bytes, old: set[SealedRef]) -> None:
        """Try encrypted state keys of dead states again."""
        for outcome in self._engine.decrypt([wrapped_state_key(ring_id, ref) for ref in old]):
            if isinstance(outcome, bytearray):
                wipe(outcome)
                raise NotProvenError(f"ring {ring_id.hex()}: the state key of a replaced state still opens")
            if not isinstance(outcome, REFUSED):
                raise outcome

    def _delete_older(self, ring: LoadedRing) -> None:
        """Delete the entries that no pointer names or ever will: those of this epoch and before, but for its own.

        The same of record entries, which its state does not reach.
        """
        names = self._engine.list_state(sealing.folder(ring.ring_id))
        for name in names:
            if sealing.is_entry(name) and sealing.epoch_of(name) <= ring.epoch and name != ring.current.entry:
                self._engine.delete_state(sealing.entry_path(ring.ring_id, name))
        if any(sealing.is_record_entry(name) for name in names):
            collect_records(self._engine, ring.ring_id, ring.state, ring.epoch)

    # --- destroy ------------------------------------------------------------------------------------------------

    def destroy(self, ring_id: bytes) -> None:
        """Destroy the ring with all its keys, prove that, and delete what lies around. Idempotent. Needs the shredder's rights.

        Raises `NotProvenError` when the transit key is still there, or still decrypts.
        """
        pointer = self._engine.get_state(self._pointer_path(ring_id))
        name = sealing.key_name(ring_id)
        values_of(self._engine.delete_keys([name]))
        if value_of(self._engine.read_keys([name])[0]) is not None:
            raise NotProvenError(f"ring {ring_id.hex()}: the engine still lists its key")
        if pointer is not None:
            self._require_refused(ring_id, {sealing.parse_pointer(pointer.value, accept_moved=True).current})
            self._engine.delete_state(self._pointer_path(ring_id))
        for entry in self._engine.list_state(sealing.folder(ring_id)):
            self._engine.delete_state(sealing.entry_path(ring_id, entry))

    # --- a new incarnation ----------------------------------------------------------------------------------------

    def adopt(self, ring_id: bytes, from_incarnation: int) -> LoadedRing:
        """Take a ring over from an earlier incarnation, after a restore; no worker of that one can move it afterwards.

        Where one has already moved the old pointer to an entry that the restore took away, the state before, which the pointer keeps,
        is taken. Idempotent. Needs the restorer's rights. Raises as `load`, and `CheckAndSetError` to be called again.
        """
        if self._engine.get_state(self._pointer_path(ring_id)) is None:
            pointer = self._close_pointer(ring_id, from_incarnation)
            self._put_new(self._pointer_path(ring_id), sealing.encode_pointer(self._usable(ring_id, pointer)))
        ring = self.load(ring_id)
        self._engine.delete_state(sealing.pointer_path(ring_id, from_incarnation))
        return ring

    def _close_pointer(self, ring_id: bytes, incarnation: int) -> Pointer:
        """Mark the pointer as moved, by check-and-set: it is not read any more, and who read it before cannot flip it."""
        path = sealing.pointer_path(ring_id, incarnation)
        entry = self._engine.get_state(path)
        if entry is None:
            raise KeyMissingError(f"ring {ring_id.hex()} has no pointer in incarnation {incarnation}")
        pointer = sealing.parse_pointer(entry.value, accept_moved=True)
        self._engine.put_state(path, sealing.encode_pointer(pointer, moved=True), expected_version=entry.version)
        return pointer

    def _usable(self, ring_id: bytes, pointer: Pointer) -> Pointer:
        try:
            self._check_whole(ring_id, pointer.current)
        except REFUSED:
            if pointer.previous is None:
                raise
        else:
            return pointer
        try:
            self._open(ring_id, pointer.previous).wipe()
        except REFUSED:
            self._open(ring_id, pointer.current).wipe()  # better a ring whose records are lost than none
            return pointer
        return Pointer(current=pointer.previous)

    def _check_whole(self, ring_id: bytes, ref: SealedRef) -> None:
        """Raise one of `REFUSED` where a state, or what was written of records for it, was taken away."""
        state = self._open(ring_id, ref)
        try:
            require_records(self._engine, ring_id, state, ref.epoch)
        finally:
            state.wipe()

    # --- small things -----------------------------------------------------------------------------------------------

    def _key_info(self, ring_id: bytes) -> KeyInfo:
        info = value_of(self._engine.read_keys([sealing.key_name(ring_id)])[0])
        if info is None:
            raise KeyMissingError(f"ring {ring_id.hex()}: its transit key is gone")
        return info


def _changed(loaded: LoadedRing, change: Change, is_punctured: Callable[[RingState], bool]) -> bytearray:
    """Return the changed state's bytes and wipe the rest of it; raise `NotProvenError` unless it lacks what must be gone."""
    changed = change(loaded.state, loaded.epoch + 1)
    try:
        _require_punctured(changed, is_punctured)
        return encode_state(changed)
    finally:
        if changed is not loaded.state:
            changed.wipe()


def _require_punctured(state: RingState, is_punctured: Callable[[RingState], bool]) -> None:
    if not is_punctured(state):
        raise NotProvenError("the state that takes a ring's place is not punctured as asked; nothing was trimmed")
