"""What travels between the service and its clients: JSON, bytes as base64 (RFC 4648, section 4), times as RFC 3339.

Both sides use these types, and /openapi.json is made from them. A member that is not known is refused, because a misspelt one would be
left out in silence. Answers come in the order of what was asked, each item its value or its own error.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta, Struct

MAX_BATCH = 10_000
"""Items of one call."""
MAX_BODY_BYTES = 8 * 1024 * 1024

T = TypeVar("T")
Batch = Annotated[list[T], Meta(min_length=1, max_length=MAX_BATCH)]


class Asked(Struct, forbid_unknown_fields=True):
    """What a client sends."""


class Answered(Struct, omit_defaults=True):
    """What the service answers; what is null is left out."""


class ErrorAnswer(Answered):
    """An error: the name of its class in `keyvault.errors`, and what it says. `retry_after` in seconds, where trying again helps."""

    type: str
    message: str
    retry_after: float | None = None


class ItemProblem(Answered):
    """What is wrong with one item of a batch. `index`: its place, from 0."""

    index: int
    error: ErrorAnswer


class Problem(Answered):
    """The answer to a call that failed as a whole. `items`: where it did because of some of them."""

    error: ErrorAnswer
    items: list[ItemProblem] | None = None


# --- scopes -------------------------------------------------------------------------------------------------------------


class EnsureScopes(Asked):
    """Scopes to create where they are not there. `renew` gives a destroyed name a new generation, where the policy allows it."""

    names: Batch[str]
    renew: bool = False


class ScopeNames(Asked):
    """Scopes to describe, suspend or resume."""

    names: Batch[str]


class RecordNames(Asked):
    """Records of one account-month to suspend or resume."""

    scope: str
    records: Batch[str]


class ScopeAnswer(Answered):
    """A scope, as `keyvault.ScopeInfo`, or its error."""

    id: bytes | None = None
    generation: int | None = None
    kind: str | None = None
    period: str | None = None
    custody: str | None = None
    holds_records: bool | None = None
    state: str | None = None
    created_at: datetime | None = None
    due_at: datetime | None = None
    fenced_at: datetime | None = None
    destroyed_at: datetime | None = None
    destroy_id: bytes | None = None
    former_custody: str | None = None
    error: ErrorAnswer | None = None


class ScopeAnswers(Answered):
    """An answer a name."""

    scopes: list[ScopeAnswer]


class RecordAnswer(Answered):
    """A record's state, or its error."""

    state: str | None = None
    error: ErrorAnswer | None = None


class RecordAnswers(Answered):
    """An answer a record."""

    records: list[RecordAnswer]


# --- data keys ----------------------------------------------------------------------------------------------------------


class KeyItem(Asked):
    """As `keyvault.KeyRequest`."""

    scopes: tuple[str, ...]
    associated_data: bytes = b""
    purpose: str | None = None
    record: str | None = None


class WrapItem(KeyItem, kw_only=True):
    """As `keyvault.WrapRequest`."""

    data_key: bytes

    def __repr__(self) -> str:
        return f"WrapItem(scopes={len(self.scopes)})"


class RewrapItem(KeyItem, kw_only=True):
    """As `keyvault.RewrapRequest`."""

    wrapped: bytes


class UnwrapItem(Asked):
    """As `keyvault.UnwrapRequest`."""

    wrapped: bytes
    associated_data: bytes = b""
    purpose: str | None = None


class GenerateKeys(Asked):
    """Fresh data keys that are asked for."""

    keys: Batch[KeyItem]


class WrapKeys(Asked):
    """Data keys to wrap."""

    keys: Batch[WrapItem]


class UnwrapKeys(Asked):
    """Data keys to unwrap."""

    keys: Batch[UnwrapItem]


class RewrapKeys(Asked):
    """Wrapped keys to move under other scopes."""

    keys: Batch[RewrapItem]


class KeyAnswer(Answered):
    """A data key: in plaintext, wrapped, or both, as the call has it; or its error."""

    plaintext: bytearray | None = None
    wrapped: bytes | None = None
    error: ErrorAnswer | None = None

    def __repr__(self) -> str:
        return f"KeyAnswer(wrapped={self.wrapped!r}, error={self.error!r})"


class KeyAnswers(Answered):
    """An answer an item. `lease`: for how many seconds, counted from before the call was sent, these keys may be kept (G3)."""

    lease: float
    keys: list[KeyAnswer]


encoder = msgspec.json.Encoder()
