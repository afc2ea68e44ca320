"""What callers pass to a `KeyVault` and get from it. Frozen; secrets never show in `repr`."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from keyvault.errors import InvalidInputError
from keyvault.scopes import ScopeKind
from keyvault.states import KeyState


@dataclass(frozen=True, kw_only=True, slots=True)
class ScopeInfo:
    """A scope as the store knows it, without its name. `id` 16 bytes; times aware, in UTC.

    `holds_records`: single records of it can be sealed, suspended and destroyed. `former_custody`: where it was moved from; what was
    sealed there has no keys for single records.
    """

    id: bytes
    generation: int
    kind: ScopeKind
    period: str | None
    custody: str
    holds_records: bool
    state: KeyState
    created_at: datetime
    due_at: datetime | None
    fenced_at: datetime | None
    destroyed_at: datetime | None
    destroy_id: bytes | None
    former_custody: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRequest:
    """Ask for a fresh data key under one to eight scopes, all of which are needed to unwrap it.

    `associated_data` (at most 64 KiB) must be given again to unwrap. The policy refuses some kinds for some `purpose`s.
    `record` (1 to 512 bytes) narrows the account-months among the scopes to that record of theirs, where the custody can.
    """

    scopes: tuple[str, ...]
    associated_data: bytes = b""
    purpose: str | None = None
    record: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class WrapRequest(KeyRequest):
    """Ask to wrap a data key that exists already, 16 to 64 bytes."""

    data_key: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class UnwrapRequest:
    """Ask for the data key in a wrapped key."""

    wrapped: bytes
    associated_data: bytes = b""
    purpose: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RewrapRequest(KeyRequest):
    """Ask to move a wrapped data key under other scopes; `associated_data` holds before and after."""

    wrapped: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class SealRequest(KeyRequest):
    """Ask to seal `plaintext` in an envelope under a fresh data key."""

    plaintext: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenRequest:
    """Ask for the plaintext of an envelope."""

    envelope: bytes = field(repr=False)
    associated_data: bytes = b""
    purpose: str | None = None


class DataKey(NamedTuple):
    """A data key, and itself wrapped. Zero `plaintext` (32 bytes, or as long as it was wrapped) when done: `wipe`.

    A tuple, because one is made for every message that is sealed.
    """

    plaintext: bytearray
    wrapped: bytes

    def __repr__(self) -> str:
        return f"DataKey(wrapped={self.wrapped!r})"

    def wipe(self) -> None:
        """Overwrite the plaintext key with zeros."""
        self.plaintext[:] = bytes(len(self.plaintext))


@dataclass(frozen=True, kw_only=True, slots=True)
class Reuse:
    """How far a client goes on with a data key for sealing: so many messages, so many bytes, and never beyond the key's lease.

    AES-GCM with random 96-bit nonces allows 2^32 messages a key (NIST SP 800-38D, section 8.3). The defaults stay far below: among 2^10
    nonces two are the same with a probability of 2^-77, and 2^26 blocks tell AES from a random function with an advantage of 2^-77.
    More brings nothing: at a thousand messages a call of the service costs each less than its encryption.
    """

    messages: int = 1_000
    bytes: int = 2**30

    def __post_init__(self) -> None:
        if not 1 <= self.messages <= 2**32:
            raise InvalidInputError("a data key is used for 1 to 2^32 messages")
        if not 1 <= self.bytes <= 2**38:
            raise InvalidInputError("a data key is used for 1 to 2^38 bytes")
