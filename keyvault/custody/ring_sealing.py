"""The bytes in which a ring's secret state lies in the engine's store: sealed entries, and the pointer that names one of them.

An entry holds the state under a state key used for it alone. That key, encrypted by the ring's transit key, stands in the *pointer*:
what is written and never pointed to can be opened by nobody, and the pointer's value before is overwritten with it. Only the first
entry carries its encrypted state key too, so that any creator can finish what another began. The format's page is
docs/formats/sealed-ring-state.md. No I/O.

What Python cannot promise: a state key passes through immutable `bytes` on its way to the engine, freed and not overwritten.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvault.errors import DecryptionFailedError, InvalidFormatError, InvalidInputError, KeyMissingError
from keyvault.formats import NONCE_BYTES, TAG_BYTES, Bytes, labelled
from keyvault.puncture_records import EntryRef
from keyvault.puncture_state import RingState

RING_ID_BYTES = 16
STATE_KEY_BYTES = 32
FIRST_ENTRY = "0"
SLOTS_FOLDER = "slots"

_ENTRY_MARK = "keyvault-ring-state/1"
_POINTER_MARK = "keyvault-ring-pointer/1"
_MOVED_MARK = "keyvault-ring-moved/1"
_STATE_LABEL = b"keyvault/ring/state/1"
_STATE_KEY_LABEL = b"keyvault/ring/state-key/1"
_ENTRY_NAME = re.compile(r"0|([1-9][0-9]{0,17})-[0-9a-f]{32}", re.ASCII)
_RECORD_ENTRY_NAME = re.compile(r"r(0|[1-9][0-9]{0,19})-([0-9a-f]{16})", re.ASCII)
_SLOTS_NAME = re.compile(r"([0-9a-f]{32})-(?:0|[1-9][0-9]*)", re.ASCII)
_WRAPPED = re.compile(r"[a-z]+:v([1-9][0-9]{0,8}):[A-Za-z0-9+/=]+", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedRef:
    """Which entry holds a state, and the state key's ciphertext under the ring's transit key: what opens it, while that lives."""

    entry: str
    wrapped_key: str

    @property
    def epoch(self) -> int:
        """How many states came before this one."""
        return epoch_of(self.entry)

    @property
    def key_version(self) -> int:
        """The transit key's version that encrypted the state key, from 1."""
        return version_of(self.wrapped_key)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointer:
    """Which state is a ring's, and which was before it (None for a ring's first)."""

    current: SealedRef
    previous: SealedRef | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RingHandle:
    """A ring that exists: its id (16 bytes), the number of its slots, the epoch and key version of its state."""

    ring_id: bytes
    capacity: int
    epoch: int
    key_version: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadedRing:
    """A ring's opened state and where it was found. Whoever holds it wipes `state`.

    `pointer_version` is the KV version of the pointer; `previous` is the state before, with what opened it.
    """

    ring_id: bytes
    current: SealedRef
    previous: SealedRef | None
    pointer_version: int
    state: RingState = field(repr=False)

    @property
    def epoch(self) -> int:
        """How many states came before this one."""
        return self.current.epoch

    @property
    def entry_path(self) -> str:
        """Where the sealed state lies."""
        return entry_path(self.ring_id, self.current.entry)

    @property
    def key_version(self) -> int:
        """The transit key's version inside the stored ciphertext."""
        return self.current.key_version


# --- names --------------------------------------------------------------------------------------------------------


def key_name(ring_id: bytes) -> str:
    """Return the name of the ring's transit key; raise `InvalidInputError` unless `ring_id` has 16 bytes."""
    return f"r-{_hex(ring_id)}"


def folder(ring_id: bytes) -> str:
    """Return the folder of the ring's entries; raises as `key_name`."""
    return f"state/{_hex(ring_id)}"


def entry_path(ring_id: bytes, entry: str) -> str:
    """Return the path of one of the ring's entries; raises as `key_name`."""
    return f"{folder(ring_id)}/{entry}"


def pointer_path(ring_id: bytes, incarnation: int) -> str:
    """Return the path of the ring's pointer in one incarnation (0 or more); raises as `key_name`."""
    if incarnation < 0:
        raise InvalidInputError("incarnations are counted from 0")
    return f"pointer/{_hex(ring_id)}-{incarnation}"


def slots_path(ring_id: bytes, incarnation: int) -> str:
    """Return the path of the entry whose version counts the ring's reserved chunks of slots; raises as `pointer_path`."""
    if incarnation < 0:
        raise InvalidInputError("incarnations are counted from 0")
    return f"{SLOTS_FOLDER}/{_hex(ring_id)}-{incarnation}"


def ring_of_slots(name: str) -> bytes:
    """Return the id of the ring whose slots entry has this name in its folder. `InvalidFormatError` for a name of another sort."""
    match = _SLOTS_NAME.fullmatch(name)
    if match is None:
        raise InvalidFormatError("an entry among the slots of rings is not one that this program wrote")
    return bytes.fromhex(match[1])


def new_entry(epoch: int) -> str:
    """Return the name of a new state's entry, which nobody else can come upon: the epoch (1 or more) and 16 random bytes."""
    return f"{epoch}-{secrets.token_hex(16)}"


def is_entry(name: str) -> bool:
    """Tell the entries of ring states from what else lies in the ring's folder."""
    return _ENTRY_NAME.fullmatch(name) is not None


def epoch_of(entry: str) -> int:
    """Return the epoch in an entry's name; raise `InvalidFormatError` for another name."""
    match = _ENTRY_NAME.fullmatch(entry)
    if match is None:
        raise InvalidFormatError("not the name of a ring state's entry")
    return int(match[1] or 0)


def record_entry(ref: EntryRef) -> str:
    """Return the name of the entry that `ref` refers to, which holds records of a scope: `r`, the epoch, and the name in hex."""
    return f"r{ref.epoch}-{ref.name.hex()}"


def record_entry_path(ring_id: bytes, ref: EntryRef) -> str:
    """Return the path of a record entry; raises as `key_name`."""
    return entry_path(ring_id, record_entry(ref))


def is_record_entry(name: str) -> bool:
    """Tell the record entries from what else lies in the ring's folder."""
    return _RECORD_ENTRY_NAME.fullmatch(name) is not None


def parse_record_entry(name: str) -> tuple[int, bytes]:
    """Return the epoch and the 8 bytes in a record entry's name; raise `InvalidFormatError` for another name."""
    match = _RECORD_ENTRY_NAME.fullmatch(name)
    if match is None:
        raise InvalidFormatError("not the name of an entry with records")
    return int(match[1]), bytes.fromhex(match[2])


def version_of(wrapped_key: str) -> int:
    """Return the version that an encrypted state key names; raise `InvalidFormatError` for another text."""
    match = _WRAPPED.fullmatch(wrapped_key)
    if match is None:
        raise InvalidFormatError("not an encrypted state key")
    return int(match[1])


def _hex(ring_id: bytes) -> str:
    if len(ring_id) != RING_ID_BYTES:
        raise InvalidInputError(f"a ring's id has {RING_ID_BYTES} bytes")
    return ring_id.hex()


# --- entries ------------------------------------------------------------------------------------------------------


def state_key_binding(ring_id: bytes, epoch: int) -> bytes:
    """Return the associated data under which the transit key encrypts a state key."""
    return labelled(_STATE_KEY_LABEL, ring_id, epoch.to_bytes(8, "big"))


def seal(encoded: Bytes, state_key: Bytes, *, ring_id: bytes, epoch: int, wrapped_key: str = "") -> str:
    """Return the entry of an encoded state under a fresh state key (32 bytes); `wrapped_key` goes into a first entry only."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = nonce + AESGCM(state_key).encrypt(nonce, encoded, _binding(ring_id, epoch))
    return "\n".join([_ENTRY_MARK, base64.b64encode(sealed).decode(), *([wrapped_key] if wrapped_key else [])])


def unseal(value: str, state_key: Bytes, *, ring_id: bytes, epoch: int) -> bytearray:
    """Return the encoded state of an entry, which the caller wipes.

    Raises `InvalidFormatError` for what is no entry, `DecryptionFailedError` when it was altered, or is of another ring or epoch.
    """
    sealed = _parse_entry(value)[0]
    opened = bytearray(len(sealed) - NONCE_BYTES - TAG_BYTES)
    try:
        AESGCM(state_key).decrypt_into(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _binding(ring_id, epoch), opened)
    except InvalidTag as error:
        raise DecryptionFailedError(
            f"ring {ring_id.hex()}: its state of epoch {epoch} was altered, or belongs to another key, ring or epoch"
        ) from error
    return opened


def first_wrapped_key(value: str) -> str:
    """Return the encrypted state key in a first entry; raise `InvalidFormatError` for another."""
    wrapped = _parse_entry(value)[1]
    version_of(wrapped)
    return wrapped


def _parse_entry(value: str) -> tuple[bytes, str]:
    mark, _, rest = value.partition("\n")
    text, _, wrapped = rest.partition("\n")
    try:
        sealed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidFormatError("not the sealed state of a ring") from error
    if mark != _ENTRY_MARK or len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise InvalidFormatError("not the sealed state of a ring that this version reads")
    return sealed, wrapped


def _binding(ring_id: bytes, epoch: int) -> bytes:
    return labelled(_STATE_LABEL, ring_id, epoch.to_bytes(8, "big"))


# --- the pointer ----------------------------------------------------------------------------------------------------


def encode_pointer(pointer: Pointer, *, moved: bool = False) -> str:
    """Return the pointer's text; `moved` marks one whose ring went to another incarnation."""
    refs = [pointer.current, *([pointer.previous] if pointer.previous else [])]
    mark = _MOVED_MARK if moved else _POINTER_MARK
    return "\n".join([mark, *(part for ref in refs for part in (ref.entry, ref.wrapped_key))])


def parse_pointer(value: str, *, accept_moved: bool = False) -> Pointer:
    """Read a pointer; raise `KeyMissingError` for one whose ring has moved, and `InvalidFormatError` for anything else."""
    mark, *parts = value.split("\n")
    if mark == _MOVED_MARK and not accept_moved:
        raise KeyMissingError("this ring has moved to another incarnation of the deployment; restart with that")
    if mark not in (_POINTER_MARK, _MOVED_MARK) or len(parts) not in (2, 4):
        raise InvalidFormatError("not the pointer of a ring that this version reads")
    refs = [SealedRef(entry=entry, wrapped_key=wrapped) for entry, wrapped in zip(parts[::2], parts[1::2], strict=True)]
    order = [(ref.epoch, ref.key_version) for ref in refs]
    if len(order) > 1 and not (order[1][0] < order[0][0] and order[1][1] < order[0][1]):
        raise InvalidFormatError("a ring's pointer names an older state as the newer one")
    return Pointer(current=refs[0], previous=refs[1] if len(refs) > 1 else None)
