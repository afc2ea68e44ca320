"""The bytes in which the records of ring scopes lie in the engine's store: sealed record entries, and their kinds.

A record entry holds a frontier, an index or a chunk (`keyvault.puncture_records`) of one scope under a key used for it alone, which
stands one level up: in the ring's state or in the scope's index. The first byte of an entry's name is its kind, so that whoever
collects what is not reached any more need not read every frontier for that. The format's page is docs/formats/sealed-ring-state.md.
No I/O.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from enum import IntEnum

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvault.errors import DecryptionFailedError, InvalidFormatError
from keyvault.formats import NONCE_BYTES, TAG_BYTES, Bytes, labelled
from keyvault.puncture_records import KEY_BYTES, NAME_BYTES, EntryRef

_MARK = "keyvault-ring-records/1"
_LABEL = b"keyvault/ring/records/1"
_SCOPE_ID = re.compile(r"[0-9a-f]{32}", re.ASCII)


class RecordKind(IntEnum):
    """What an entry holds: the first byte of its name."""

    FRONTIER = 0
    INDEX = 1
    CHUNK = 2


_REFERRED_BY_STATES = (RecordKind.FRONTIER, RecordKind.INDEX)


def new_ref(kind: RecordKind, epoch: int) -> EntryRef:
    """Return the reference of an entry to be written in `epoch`: a fresh key (32 bytes), and 7 random bytes after the kind."""
    name = bytes([kind]) + secrets.token_bytes(NAME_BYTES - 1)
    return EntryRef(epoch=epoch, name=name, key=bytearray(secrets.token_bytes(KEY_BYTES)))


def kind_of(name: bytes) -> RecordKind:
    """Return the kind that an entry's name (8 bytes) says; whatever is no other counts as a chunk, which refers to nothing."""
    return RecordKind(name[0]) if name[0] in _REFERRED_BY_STATES else RecordKind.CHUNK


def seal(encoded: Bytes, ref: EntryRef, *, ring_id: bytes, scope_id: bytes) -> str:
    """Return the entry of an encoded frontier, index or chunk, under the reference's own key, which seals nothing else."""
    nonce = secrets.token_bytes(NONCE_BYTES)
    sealed = nonce + AESGCM(ref.key).encrypt(nonce, encoded, _binding(ref, ring_id, scope_id))
    return "\n".join([_MARK, scope_id.hex(), base64.b64encode(sealed).decode()])


def unseal(value: str, ref: EntryRef, *, ring_id: bytes, scope_id: bytes) -> bytearray:
    """Return the encoded frontier, index or chunk of an entry, which the caller wipes.

    Raises `InvalidFormatError` for what is no entry, `DecryptionFailedError` when it was altered, or is of another ring, scope,
    epoch or name.
    """
    _, sealed = _parse(value)
    opened = bytearray(len(sealed) - NONCE_BYTES - TAG_BYTES)
    binding = _binding(ref, ring_id, scope_id)
    try:
        AESGCM(ref.key).decrypt_into(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], binding, opened)
    except InvalidTag as error:
        raise DecryptionFailedError(
            f"ring {ring_id.hex()}: records of scope {scope_id.hex()} of epoch {ref.epoch} were altered, or belong elsewhere"
        ) from error
    return opened


def claimed_scope_id(value: str) -> bytes:
    """Return the scope's id (16 bytes) that an entry names; true only if it opens under it. `InvalidFormatError` for no entry."""
    return _parse(value)[0]


def _parse(value: str) -> tuple[bytes, bytes]:
    mark, _, rest = value.partition("\n")
    scope_id, _, text = rest.partition("\n")
    try:
        sealed = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidFormatError("not sealed records") from error
    if mark != _MARK or not _SCOPE_ID.fullmatch(scope_id) or len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise InvalidFormatError("not sealed records that this version reads")
    return bytes.fromhex(scope_id), sealed


def _binding(ref: EntryRef, ring_id: bytes, scope_id: bytes) -> bytes:
    return labelled(_LABEL, ring_id, scope_id, ref.epoch.to_bytes(8, "big"), ref.name)
