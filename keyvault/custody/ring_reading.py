"""Reading a ring's state: what an issuer does, while shredders replace it."""

from __future__ import annotations

from keyvault.custody import ring_sealing as sealing
from keyvault.custody.ring_sealing import LoadedRing, Pointer, SealedRef
from keyvault.errors import CiphertextRefusedError, KeyMissingError, Unavailable
from keyvault.formats import wipe
from keyvault.puncture_state import RingState, parse_state
from keyvault.results import caught, value_of
from keyvault.transit.base import Ciphertext, TransitEngine

ATTEMPTS = 10
"""How often a read or a trim starts over because other workers moved the ring on meanwhile."""

REFUSED = (KeyMissingError, CiphertextRefusedError)


class RingReader:
    """Reads the states of all rings in one engine and one incarnation of the deployment. Thread-safe."""

    def __init__(self, engine: TransitEngine, incarnation: int) -> None:
        """Use this engine; pointers lie at paths that end in `incarnation` (0 or more)."""
        self._engine = engine
        self._incarnation = incarnation

    def load(self, ring_id: bytes) -> LoadedRing:
        """Return the ring's state as it is now, whole, while others replace it.

        Raises `KeyMissingError` for a ring that is gone or never was, or whose entry is gone; `CiphertextRefusedError` when the
        transit key does not open it (a Vault restored in part); `DecryptionFailedError` and `InvalidFormatError` when it was
        altered; `Unavailable` when it moved on faster than it could be read.
        """
        for _ in range(ATTEMPTS):
            pointer, version = self._read_pointer(ring_id)
            try:
                state = self._open(ring_id, pointer.current)
            except REFUSED:
                now = self._engine.get_state(self._pointer_path(ring_id))
                if now is None or now.version == version:
                    raise
                continue
            return LoadedRing(
                ring_id=ring_id,
                current=pointer.current,
                previous=pointer.previous,
                pointer_version=version,
                state=state,
            )
        raise Unavailable(f"ring {ring_id.hex()}: its state was replaced faster than it could be read; try again")

    def reload(self, loaded: LoadedRing) -> LoadedRing:
        """Return the ring's state as it is now: the same, if the pointer still names it, else that is wiped. Raises as `load`."""
        try:
            pointer, version = self._read_pointer(loaded.ring_id)
        except BaseException:
            loaded.state.wipe()
            raise
        if (pointer.current, version) == (loaded.current, loaded.pointer_version):
            return loaded
        loaded.state.wipe()
        return self.load(loaded.ring_id)

    def epoch(self, ring_id: bytes) -> int:
        """Return how many states came before the ring's; raise `KeyMissingError` for a ring that is gone or never was."""
        return self._read_pointer(ring_id)[0].current.epoch

    def _read_pointer(self, ring_id: bytes) -> tuple[Pointer, int]:
        entry = self._engine.get_state(self._pointer_path(ring_id))
        if entry is None:
            raise KeyMissingError(
                f"ring {ring_id.hex()} has no pointer in incarnation {self._incarnation}: destroyed, or never made here"
            )
        return sealing.parse_pointer(entry.value), entry.version

    def _open(self, ring_id: bytes, ref: SealedRef) -> RingState:
        encoded = self._open_bytes(ring_id, ref)
        try:
            return parse_state(encoded)
        finally:
            wipe(encoded)

    def _open_bytes(self, ring_id: bytes, ref: SealedRef) -> bytearray:
        opened, found = self._engine.overlap(
            lambda: self._engine.decrypt([wrapped_state_key(ring_id, ref)])[0],
            lambda: caught(self._engine.get_state, sealing.entry_path(ring_id, ref.entry)),
        )
        state_key = value_of(opened)
        try:
            entry = value_of(found)
            if entry is None:
                raise KeyMissingError(f"ring {ring_id.hex()}: the entry of its state of epoch {ref.epoch} is missing")
            return sealing.unseal(entry.value, state_key, ring_id=ring_id, epoch=ref.epoch)
        finally:
            wipe(state_key)

    def _pointer_path(self, ring_id: bytes) -> str:
        return sealing.pointer_path(ring_id, self._incarnation)


def wrapped_state_key(ring_id: bytes, ref: SealedRef) -> Ciphertext:
    """Return the ciphertext of a state's key, as the engine decrypts it."""
    return Ciphertext(
        name=sealing.key_name(ring_id),
        text=ref.wrapped_key,
        associated_data=sealing.state_key_binding(ring_id, ref.epoch),
    )
