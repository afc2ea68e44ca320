"""Signed notes of C2SP signed-note: a text, a blank line, and signature lines of named keys. Pure.

Types of keys: 01 Ed25519, and 04 Ed25519 cosignatures with a time (C2SP tlog-cosignature). Others are not known here, and signatures
by unknown keys are left alone, as the specification wants it.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from keyvault.errors import VerificationError

ED25519 = 1
COSIGNATURE = 4
KEY_ID_BYTES = 4
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
TIME_BYTES = 8
MAX_SIGNATURES = 64
MAX_NOTE_BYTES = 1_000_000
MAX_NUMBER = 2**63 - 1
_MARK = "\N{EM DASH} "
_NUMBER = re.compile("0|[1-9][0-9]{0,18}")


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifierKey:
    """A key that verifies notes. `public`: 32 bytes."""

    name: str
    type: int
    public: bytes

    @property
    def id(self) -> bytes:
        """Return the 4 bytes that name the key in signature lines: of SHA-256(name ‖ 0A ‖ type ‖ public key)."""
        return sha256(self.name.encode() + b"\n" + bytes((self.type,)) + self.public).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        """Write the key as `NAME+hex(id)+base64(type ‖ public key)`."""
        return f"{self.name}+{self.id.hex()}+{b64encode(bytes((self.type,)) + self.public).decode()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Signature:
    """A signature of a key that is known, and holds. `at`: of a cosignature, seconds since 1970 (UTC)."""

    key: VerifierKey
    at: int | None = None


def parse_verifier_key(text: str) -> VerifierKey:
    """Read a verifier key. `VerificationError` when it is malformed, of an unknown type, or its id is not its own."""
    name, _, rest = text.strip().partition("+")
    key_id, _, encoded = rest.partition("+")
    data = unbase64(encoded, "the verifier key")
    if not is_name(name) or len(data) != 1 + PUBLIC_KEY_BYTES or data[0] not in (ED25519, COSIGNATURE):
        raise VerificationError("this is no verifier key of Ed25519: NAME+ID+KEY")
    key = VerifierKey(name=name, type=data[0], public=data[1:])
    if key.id.hex() != key_id:
        raise VerificationError(f"the id in the verifier key of {name} is not that of its key")
    return key


def sign_note(text: str, key: VerifierKey, sign: Callable[[bytes], bytes]) -> bytes:
    """Return the signed note of a text that ends in a newline; `sign` gives the 64-byte Ed25519 signature of bytes."""
    line = b64encode(key.id + sign(text.encode())).decode()
    return f"{text}\n{_MARK}{key.name} {line}\n".encode()


def open_note(note: bytes, keys: Iterable[VerifierKey]) -> tuple[str, list[Signature]]:
    """Return a note's text and the signatures of known keys.

    Raises `VerificationError` when the note is malformed, when a known key's signature does not hold, or when none of them signed.
    """
    text, lines = split_note(note)
    known = {(key.name, key.id): key for key in keys}
    found = []
    for name, data in lines:
        key = known.get((name, data[:KEY_ID_BYTES]))
        if key is not None:
            found.append(_verified(text, key, data[KEY_ID_BYTES:]))
    if not found:
        raise VerificationError("no key that is known here has signed this note")
    return text, found


def split_note(note: bytes) -> tuple[str, Sequence[tuple[str, bytes]]]:
    """Return a note's text, and the name and the bytes of each signature line, verifying none. `VerificationError` if malformed."""
    try:
        whole = note.decode()
    except UnicodeDecodeError as error:
        raise VerificationError("a signed note is UTF-8, and this is not") from error
    if len(note) > MAX_NOTE_BYTES or any(character < " " and character != "\n" for character in whole):
        raise VerificationError("a signed note has no control characters but newlines, and at most a million bytes")
    text, blank, signatures = whole.rpartition("\n\n")
    if not blank or not signatures.endswith("\n"):
        raise VerificationError("a signed note is a text, a blank line, and signature lines")
    lines = signatures[:-1].split("\n")
    if len(lines) > MAX_SIGNATURES:
        raise VerificationError(f"a signed note of more than {MAX_SIGNATURES} signatures is not read")
    return text + "\n", [_signature_line(line) for line in lines]


def is_name(name: str) -> bool:
    """Tell whether a key, or a log, may have this name: Unicode text without white space or a plus sign (C2SP signed-note)."""
    return bool(name) and not any(
        character == "+" or character.isspace() or "\ud800" <= character <= "\udfff" for character in name
    )


def _signature_line(line: str) -> tuple[str, bytes]:
    name, space, encoded = line.removeprefix(_MARK).partition(" ")
    if not line.startswith(_MARK) or not space or not is_name(name):
        raise VerificationError("a line under a signed note is no signature line")
    data = unbase64(encoded, "a signature line")
    if len(data) <= KEY_ID_BYTES:
        raise VerificationError("a signature line holds no signature")
    return name, data


def _verified(text: str, key: VerifierKey, signature: bytes) -> Signature:
    at, message = None, text
    if key.type == COSIGNATURE:
        at = int.from_bytes(signature[:TIME_BYTES], "big")
        message, signature = f"cosignature/v1\ntime {at}\n{text}", signature[TIME_BYTES:]
    if len(signature) != SIGNATURE_BYTES:
        raise VerificationError(f"the signature of {key.name} has {len(signature)} bytes, not {SIGNATURE_BYTES}")
    try:
        Ed25519PublicKey.from_public_bytes(key.public).verify(signature, message.encode())
    except InvalidSignature as error:
        raise VerificationError(f"the signature of {key.name} does not hold: the note was altered") from error
    return Signature(key=key, at=at)


def whole_number(text: str, what: str) -> int:
    """Read a decimal number of at most 2^63 - 1 in its one form; `VerificationError`, naming `what`, otherwise."""
    if not _NUMBER.fullmatch(text) or int(text) > MAX_NUMBER:
        raise VerificationError(f"{what} is no decimal number below 2^63 without leading zeros")
    return int(text)


def unbase64(text: str, what: str) -> bytes:
    """Decode standard base64 in its one canonical form; `VerificationError`, naming `what`, otherwise."""
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError) as error:
        raise VerificationError(f"{what} is not base64") from error
    if b64encode(data).decode() != text:
        raise VerificationError(f"{what} is not base64 as it is written")
    return data
