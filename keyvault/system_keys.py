"""The deployment's own keys: index (look-ups), journal (what rebuilds rows), pseudonym (accounts, people, tickets).

Each is 32 random bytes, a create-only entry `system/NAME` in the engine's state store, sealed by the transit key `system`.
Their check values stand in the database and are compared at every start, as is the log key's.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvault.errors import CheckAndSetError, DecryptionFailedError, EngineMismatchError, KeyMissingError
from keyvault.results import value_of, values_of
from keyvault.transit.base import Ciphertext, Plaintext, TransitEngine

SYSTEM_KEY = "system"
NAMES = ("index", "journal", "pseudonym")
KEY_BYTES = 32
NONCE_BYTES = 12
CHECK_BYTES = 16


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SystemKeys:
    """The three keys, and the log key's public half."""

    index: bytes
    journal: bytes
    pseudonym: bytes
    log_public: bytes
    _journal_cipher: AESGCM = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_journal_cipher", AESGCM(self.journal))

    def lookup(self, canonical: bytes) -> bytes:
        """Return the 32-byte HMAC-SHA256 under which a canonical name is found."""
        return hmac.digest(self.index, canonical, "sha256")

    def lookups(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return the look-up of each name, canonical or not; names that UTF-8 cannot carry are left out."""
        found = {}
        for name in names:
            try:
                encoded = name.encode()
            except UnicodeEncodeError:
                continue
            found[name] = self.lookup(encoded)
        return found

    def pseudonym_of(self, what: str, value: str) -> bytes:
        """Return the 32-byte pseudonym of an account, person or ticket; equal values of other sorts differ."""
        return hmac.digest(self.pseudonym, what.encode() + b"\0" + value.encode(), "sha256")

    def seal_journal(self, data: bytes, associated_data: bytes) -> bytes:
        """Seal with AES-256-GCM under the journal key: nonce (12) ‖ ciphertext ‖ tag (16)."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        return nonce + self._journal_cipher.encrypt(nonce, data, associated_data)

    def open_journal(self, sealed: bytes, associated_data: bytes) -> bytes:
        """Open what `seal_journal` sealed; `DecryptionFailedError` when it was altered."""
        try:
            return self._journal_cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], associated_data)
        except InvalidTag as error:
            raise DecryptionFailedError("a journal entry was altered, or is under another journal key") from error

    def check_values(self) -> dict[str, str]:
        """Return the 16-byte check values in hex; they tell nothing of the keys."""
        checks = {name: _check(name, getattr(self, name)) for name in NAMES}
        return {**checks, "log": hashlib.sha256(b"keyvault/check/1/log" + self.log_public).digest()[:CHECK_BYTES].hex()}

    def verify(self, expected: Mapping[str, str]) -> None:
        """Raise `EngineMismatchError` unless these are the keys that the store was made with."""
        actual = self.check_values()
        wrong = sorted(name for name in actual if not hmac.compare_digest(actual[name], expected.get(name, "")))
        if wrong:
            raise EngineMismatchError(
                f"the engine's {', '.join(wrong)} key is not the one this store was made with: "
                "point the home to its own engine, or restore the engine and the store that belong together"
            )


def load_system_keys(engine: TransitEngine) -> SystemKeys:
    """Read and unseal the keys. `KeyMissingError` when `init` has not made them."""
    sealed = []
    for name in NAMES:
        entry = engine.get_state(f"system/{name}")
        if entry is None:
            raise KeyMissingError(f"the engine holds no {name} key: run `keyvault init`, or point to the right engine")
        sealed.append(Ciphertext(name=SYSTEM_KEY, text=entry.value, associated_data=_label(name)))
    opened = [bytes(plain) for plain in values_of(engine.decrypt(sealed))]
    return SystemKeys(**dict(zip(NAMES, opened, strict=True)), log_public=engine.log_public_key())


def create_system_keys(engine: TransitEngine) -> None:
    """Make what is missing. An entry is never overwritten, so a second `init` changes nothing."""
    value_of(engine.create_keys([SYSTEM_KEY])[0])
    engine.create_log_key()
    for name in NAMES:
        if engine.get_state(f"system/{name}") is not None:
            continue
        plaintext = Plaintext(name=SYSTEM_KEY, data=secrets.token_bytes(KEY_BYTES), associated_data=_label(name))
        sealed = value_of(engine.encrypt([plaintext])[0])
        try:
            engine.put_state(f"system/{name}", sealed, expected_version=0)
        except CheckAndSetError:
            continue  # another init was faster; its key stands


def _label(name: str) -> bytes:
    return f"keyvault/system/1/{name}".encode()


def _check(name: str, key: bytes) -> str:
    return hmac.digest(key, f"keyvault/check/1/{name}".encode(), "sha256")[:CHECK_BYTES].hex()
