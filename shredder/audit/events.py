"""The events of a log as types: each of docs/events.md is a struct of all its fields, with their forms. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final, Literal, TypeAlias, Union, get_args, get_type_hints

import msgspec
from msgspec import UNSET, Meta, UnsetType

from keyvault.scopes import ScopeKind
from keyvault.subjects import SubjectKind
from shredder.audit.forms import (
    Bytes16,
    Bytes32,
    Code,
    Count,
    Instant,
    Number,
    Scopes,
    Sealed,
    Tag,
    Tags,
    Uuid,
    Words,
)
from shredder.facts import FactType
from shredder.policy import Requester, RequestKind, Rule

CustodyName: TypeAlias = Literal["dedicated", "ring"]
Custodies: TypeAlias = Annotated[list[CustodyName], Meta(min_length=1, max_length=2)]
KindName: TypeAlias = Literal["communications", "consumer", "customer", "user", "marketing", "business"]
EngineName: TypeAlias = Literal["embedded", "hashicorp"]


class _Struct(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, gc=False):
    """Immutable by agreement: `frozen` costs a third of the time that a million entries take."""


class _Event(_Struct):
    at: Instant
    id: Uuid
    policy: Words
    v: Literal[1]


class ScopeCreated(_Struct):
    """`scope.created`; the forms of its texts are checked by `creations`, in columns: a log has a million of them."""

    account: str
    at: str
    custody: CustodyName
    due_at: str | None
    generation: Number
    id: str
    kind: KindName
    period: str | None
    placement: Words
    policy: str
    scope: str
    scope_id: str
    sealed: Words
    type: Literal["scope.created"]
    v: Literal[1]


class _OfScope(_Event):
    scope: Bytes32
    scope_id: Bytes16


class ScopeSuspended(_OfScope):
    """`scope.suspended`."""

    type: Literal["scope.suspended"]
    cause: Literal["user", "facts"]


class ScopeResumed(_OfScope):
    """`scope.resumed`."""

    type: Literal["scope.resumed"]


class ScopeMigrated(_OfScope):
    """`scope.migrated`."""

    type: Literal["scope.migrated"]
    custody: Literal["ring"]
    placement: Sealed


class _OfRecords(_OfScope):
    records: Annotated[list[Tag], Meta(min_length=1)]


class RecordSuspended(_OfRecords):
    """`record.suspended`."""

    type: Literal["record.suspended"]


class RecordResumed(_OfRecords):
    """`record.resumed`."""

    type: Literal["record.resumed"]


class DestroyFenced(_Event):
    """`destroy.fenced`."""

    type: Literal["destroy.fenced"]
    approvals: Literal[0, 1, 2]
    approved_by: Bytes32 | None
    destroy_id: Bytes16
    reason: Code
    records: Tags
    request: Bytes16 | None
    requested_by: Bytes32
    scopes: Scopes
    ticket: Bytes32


class FormerProof(_Struct):
    """What is proven of the key that a scope had before it was moved to a ring."""

    key: Literal["absent"]
    neighbour: Literal["none"]
    retained_ciphertext: Literal["refused"]


class Proof(_Struct, omit_defaults=True):
    """What is proven of keys that are gone; `former` where scopes were moved."""

    key: Literal["absent", "punctured"]
    neighbour: Literal["derivable", "none"]
    retained_ciphertext: Literal["refused"]
    former: FormerProof | UnsetType = UNSET


class _Destroyed(_Event):
    custody: Custodies
    destroy_id: Bytes16
    engine: EngineName
    erasure: Uuid
    fence: Uuid
    fenced_at: Instant
    horizon: Instant
    lease_bound: Instant
    proof: Proof
    tool: Annotated[str, Meta(pattern=r"^keyvault-shredder [0-9][0-9A-Za-z.+-]*\Z")]


class KeyDestroyed(_Destroyed):
    """`key.destroyed`."""

    type: Literal["key.destroyed"]
    scopes: Scopes


class RecordDestroyed(_Destroyed):
    """`record.destroyed`."""

    type: Literal["record.destroyed"]
    records: Annotated[Tags, Meta(min_length=1)]
    scope: Bytes32


class DestroyFailed(_Event):
    """`destroy.failed`."""

    type: Literal["destroy.failed"]
    destroy_id: Bytes16
    erasure: Uuid
    errors: Annotated[list[Annotated[str, Meta(pattern=r"^[A-Z][A-Za-z]+\Z")]], Meta(min_length=1)]
    fence: Uuid
    records: Tags
    scopes: Scopes
    fenced_at: Instant
    lease_bound: Instant


class UnusedKeysDeleted(_Event):
    """`unused_keys.deleted`."""

    type: Literal["unused_keys.deleted"]
    custody: Literal["dedicated"]
    keys: Annotated[list[Words], Meta(min_length=1, max_length=1_000)]


class PolicyName(_Struct):
    """A policy by its version and the SHA-256 of its file."""

    digest: Bytes32
    version: Words


class CategoryStated(_Struct):
    """What holds for one kind of scope."""

    classes: dict[str, Count]
    grace_days: Count | None
    months: Count | None
    refused_purposes: list[str]
    rule: Rule


class PolicyChanged(_Event):
    """`policy.changed`."""

    type: Literal["policy.changed"]
    categories: dict[ScopeKind, CategoryStated]
    digest: Bytes32
    facts_days: Count
    previous: PolicyName | None
    version: Words


class FactStated(_Struct):
    """One fact, as `shredder.facts.Fact` has it."""

    at: Instant
    detail: str
    kind: SubjectKind
    subject: Bytes32
    type: FactType


class FactsRecorded(_Event):
    """`facts.recorded`."""

    type: Literal["facts.recorded"]
    facts: Annotated[list[FactStated], Meta(min_length=1, max_length=200)]
    not_before: Instant


class RequestReceived(_Event):
    """`request.received`."""

    type: Literal["request.received"]
    account: Bytes32 | None
    break_glass: bool
    digest: Bytes32
    due_by: Instant
    kind: RequestKind
    reason: Code | None
    records: Count
    request: Bytes16
    requester: Requester
    row: Number
    scopes: Count
    state: Literal["awaiting-approval", "awaiting-billing", "refused", "done", "approved"]
    submitted_by: Bytes32
    ticket: Bytes32
    content: Sealed | None
    waits_for: Code | None


class RequestListed(_Event):
    """`request.listed`."""

    type: Literal["request.listed"]
    digest: Bytes32
    items: Sealed
    piece: Count
    pieces: Number
    request: Bytes16


class RequestMoved(_Event):
    """`request.moved`."""

    type: Literal["request.moved"]
    request: Bytes16
    state: Literal["done", "awaiting-approval", "approved"]


class RequestRefused(_Event):
    """`request.refused`."""

    type: Literal["request.refused"]
    by: Bytes32 | None
    destroy_id: Bytes16 | None
    reason: Code
    request: Bytes16
    state: Literal["refused", "rejected", "awaiting-billing", "awaiting-approval", "expired"]


class RequestApproved(_Event):
    """`request.approved`."""

    type: Literal["request.approved"]
    approvals: Literal[1, 2]
    approved_by: Bytes32
    digest: Bytes32
    request: Bytes16
    state: Literal["approved", "awaiting-billing", "done"]


class RequestCancelled(_Event):
    """`request.cancelled`."""

    type: Literal["request.cancelled"]
    cancelled_by: Bytes32
    request: Bytes16


class RingChanged(_Event):
    """`ring.changed`."""

    type: Literal["ring.changed"]
    capacity: Number
    closed_at: Instant | None
    destroyed_at: Instant | None
    epoch: Count
    highest_version: Count
    incarnation: Count
    month: Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}\Z")] | None
    opened_at: Instant | None
    ring: Bytes16


class SlotsFenced(_Event):
    """`slots.fenced`."""

    type: Literal["slots.fenced"]
    ring: Bytes16
    scopes: Count
    unused: Count


class SlotsProof(_Struct):
    """What is proven of slots that are gone."""

    key: Literal["punctured"]
    neighbour: Literal["derivable", "none"]
    retained_ciphertext: Literal["refused"]


class SlotsDestroyed(_Event):
    """`slots.destroyed`."""

    type: Literal["slots.destroyed"]
    erasure: Uuid
    proof: SlotsProof
    ring: Bytes16


class TokenIssued(_Event):
    """`token.issued`."""

    type: Literal["token.issued"]
    accounts: Number | None
    content: Sealed
    expires_at: Instant
    kinds: Annotated[list[KindName], Meta(min_length=1)] | None
    limits: Bytes32 | None
    owner: Bytes32
    purposes: Number | None
    rate: Number | None
    role: Literal["issuer", "platform", "requester", "auditor"]
    token: Bytes16


class TokenRevoked(_Event):
    """`token.revoked`."""

    type: Literal["token.revoked"]
    revoked_by: Bytes32
    token: Bytes16


class KeyCounts(_Struct):
    """Keys that the engine lists, by what their names say."""

    dedicated: Count
    other: Count
    ring: Count
    system: Count


class RingSlots(_Struct):
    """A ring, and how many of its slots were ever given out."""

    ring: Bytes16
    slots: Count


class InventoryAttested(_Event):
    """`inventory.attested`."""

    type: Literal["inventory.attested"]
    attestation: Bytes16
    attested_by: Bytes32
    engine: EngineName
    keys: KeyCounts
    keys_digest: Bytes32
    missing: Count
    part: Number
    parts: Number
    returned: Count
    rings: Annotated[list[RingSlots], Meta(max_length=1_000)]
    unknown: Count
    wrapped: Count | None


Event: TypeAlias = Union[  # noqa: UP007 - `|` of twenty names reads no better
    ScopeCreated,
    ScopeSuspended,
    ScopeResumed,
    ScopeMigrated,
    RecordSuspended,
    RecordResumed,
    DestroyFenced,
    KeyDestroyed,
    RecordDestroyed,
    DestroyFailed,
    UnusedKeysDeleted,
    PolicyChanged,
    FactsRecorded,
    RequestReceived,
    RequestListed,
    RequestMoved,
    RequestRefused,
    RequestApproved,
    RequestCancelled,
    RingChanged,
    SlotsFenced,
    SlotsDestroyed,
    InventoryAttested,
    TokenIssued,
    TokenRevoked,
]


def _type_of(struct: type[Event]) -> str:
    (name,) = get_args(get_type_hints(struct)["type"])
    return str(name)


STRUCTS: Final[Mapping[str, type[Event]]] = {_type_of(struct): struct for struct in get_args(Event)}
"""Every type of event, as `type` spells it."""
