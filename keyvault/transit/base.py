"""The transit engine: named keys that never leave it, and a small store for sealed state.

The shape is that of Vault's transit and KV v2 engines. Batch methods return one entry an input, in input order, each the
value or its own `KeyVaultError`; an error that concerns the whole engine (`Unavailable`) may also be raised.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from keyvault.errors import KeyVaultError

DATA_KEY_BYTES = 32

_First = TypeVar("_First")
_Second = TypeVar("_Second")

_audit_event: ContextVar[str] = ContextVar("keyvault_audit_event", default="")


@contextmanager
def audit_event(event_id: str) -> Iterator[None]:
    """Let every engine call made inside carry `event_id` to the engine's own audit log."""
    token = _audit_event.set(event_id)
    try:
        yield
    finally:
        _audit_event.reset(token)


def current_audit_event() -> str:
    """Return the event id of the innermost `audit_event`, or an empty string."""
    return _audit_event.get()


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyInfo:
    """What the engine says of a named key. Versions count from 1."""

    latest_version: int
    min_available_version: int
    min_decryption_version: int
    min_encryption_version: int
    deletion_allowed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Ciphertext:
    """Something to decrypt: `text` as the engine gave it, under key `name`, bound to `associated_data`."""

    name: str
    text: str
    associated_data: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plaintext:
    """Something to encrypt under key `name`, bound to `associated_data`."""

    name: str
    data: bytes
    associated_data: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class EngineDataKey:
    """A fresh 32-byte key and its ciphertext under a named key."""

    plaintext: bytearray
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class StateEntry:
    """A state value (text, under 512 kB) and its version, which check-and-set compares."""

    value: str
    version: int


class TransitEngine(ABC):
    """Named AES-256-GCM keys, one Ed25519 log key, and sealed state. Thread-safe."""

    kind: str

    # --- named keys: batches ---------------------------------------------------------------------------------

    @abstractmethod
    def create_keys(self, names: Sequence[str]) -> list[KeyVaultError | None]:
        """Create AES-256-GCM keys; a name that exists is left as it is and is no error."""

    @abstractmethod
    def encrypt(self, items: Sequence[Plaintext]) -> list[str | KeyVaultError]:
        """Encrypt each under its key's newest version. `KeyMissingError` where there is no key; never creates one."""

    @abstractmethod
    def decrypt(self, items: Sequence[Ciphertext]) -> list[bytearray | KeyVaultError]:
        """Decrypt each. `KeyMissingError` without a key, `CiphertextRefusedError` when it does not decrypt."""

    @abstractmethod
    def generate_data_keys(self, names: Sequence[str]) -> list[EngineDataKey | KeyVaultError]:
        """Give a fresh 32-byte data key under each named key."""

    @abstractmethod
    def read_keys(self, names: Sequence[str]) -> list[KeyInfo | KeyVaultError | None]:
        """Describe each key; None when it is absent, which is an answer and not an error."""

    @abstractmethod
    def delete_keys(self, names: Sequence[str]) -> list[KeyVaultError | None]:
        """Allow deletion and delete each key with all its versions, leaving nothing.

        A name that is absent is created and deleted once more, because an interrupted deletion may have left its archive
        (measured on Vault 1.21). Returning None says the engine accepted it; the proof is the caller's (`read_keys`, `decrypt`).
        """

    # --- named keys: one at a time -----------------------------------------------------------------------------

    @abstractmethod
    def list_keys(self) -> list[str]:
        """Return the names of all named keys, sorted."""

    @abstractmethod
    def rotate(self, name: str) -> None:
        """Add a version. `KeyMissingError` without the key."""

    @abstractmethod
    def set_min_versions(self, name: str, *, decryption: int, encryption: int) -> None:
        """Set the lowest versions that decrypt and encrypt. Reversible: removes nothing."""

    @abstractmethod
    def trim(self, name: str, *, min_available: int) -> None:
        """Remove the material of versions below `min_available`, for ever. Both minimum versions must be at least that."""

    # --- the log key -----------------------------------------------------------------------------------------------

    @abstractmethod
    def create_log_key(self) -> None:
        """Create the Ed25519 log key unless it exists."""

    @abstractmethod
    def log_public_key(self) -> bytes:
        """Return the log key's public half, 32 bytes. `KeyMissingError` without it."""

    @abstractmethod
    def sign(self, message: bytes) -> bytes:
        """Sign with the log key: Ed25519, 64 bytes (RFC 8032)."""

    # --- sealed state ----------------------------------------------------------------------------------------------

    @abstractmethod
    def put_state(self, path: str, value: str, *, expected_version: int) -> int:
        """Write if the stored version is `expected_version` (0: create only); return the new version. No history is kept.

        `CheckAndSetError` when it is not; `InvalidInputError` for a value over 512 kB.
        """

    @abstractmethod
    def get_state(self, path: str) -> StateEntry | None:
        """Read an entry, or None."""

    @abstractmethod
    def delete_state(self, path: str) -> None:
        """Remove an entry with its metadata; absent is no error."""

    @abstractmethod
    def list_state(self, folder: str) -> list[str]:
        """Return the names directly under a folder, sorted; a folder's name ends in a slash."""

    # --- what waits outside ---------------------------------------------------------------------------------------

    def wrapped_answers(self) -> int | None:
        """Return how many wrapped answers wait to be fetched, whoever asked for them; None where the engine gives out none.

        A wrapped data key outlives its named key. It looks at each token there is.
        """
        return None

    # --- two things at a time -------------------------------------------------------------------------------------

    def overlap(self, first: Callable[[], _First], second: Callable[[], _Second]) -> tuple[_First, _Second]:
        """Do both, at the same time where calls are round trips, else in order; both have ended when this returns or raises.

        `first` runs in one of the engine's threads, in the caller's context, and must neither overlap nor send a batch there. When
        both fail, its error is raised.
        """
        return first(), second()

    @abstractmethod
    def close(self) -> None:
        """Release connections; the engine is unusable afterwards."""
