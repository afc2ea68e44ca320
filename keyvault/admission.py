"""Whether a key may be issued: fail closed on anything but a known, active scope, asked for a purpose the policy allows. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from keyvault.custody.base import Target
from keyvault.custody.former import former
from keyvault.errors import (
    AlreadyDueError,
    DecryptionFailedError,
    InvalidInputError,
    KeyVaultError,
    PurposeNotAllowedError,
    RecordsNotSupportedError,
    ScopeDestroyedError,
    ScopeFencedError,
    ScopeSuspendedError,
    Unavailable,
    UnknownScopeError,
)
from keyvault.puncture_records import record_tag
from keyvault.scopes import REFUSED_PURPOSES, RefusedPurposes, Scope, ScopeKind
from keyvault.states import KeyState, check_issuable
from keyvault.store.fenced_records import RecordKey, RecordRow
from keyvault.store.issuable import IssuableScope
from keyvault.store.scopes import ScopeRow
from keyvault.values import KeyRequest
from keyvault.wrapped import MAX_SCOPES, CustodyCode, ScopeShareRef, WrappedKey

Targets = tuple[Target, ...]
AnyRow = ScopeRow | IssuableScope
Marks = Mapping[RecordKey, RecordRow]

MAX_RECORD_BYTES = 512


def address_request(request: KeyRequest, rows: Mapping[str, AnyRow], index_key: bytes) -> Targets:
    """Return the keys that a request for a new wrapped key means, in its order; `rows` by scope name.

    A name with a row is not read again: only canonical names ever come to have one. Raises `InvalidScopeError`, `UnknownScopeError`,
    `RecordsNotSupportedError`, or `InvalidInputError` for a wrong number of scopes.
    """
    names = request.scopes
    found = [rows[name] for name in names if name in rows]
    unknown = [] if len(found) == len(names) else [Scope.parse(name) for name in names if name not in rows]
    if not 1 <= len(names) <= MAX_SCOPES or (len(names) > 1 and len(set(names)) != len(names)):
        raise InvalidInputError(f"a key is asked for under 1 to {MAX_SCOPES} different scopes")
    if unknown:
        raise UnknownScopeError(f"no such {unknown[0].kind.value} scope: create it with ensure_scopes first")
    if request.record is None:
        return tuple([Target(row) for row in found])
    if not any(row.kind is ScopeKind.COMMUNICATIONS for row in found):
        raise RecordsNotSupportedError("only account-months have records with keys of their own: name the record's")
    return tuple(
        Target(row, tag_of(row, request.record, index_key)) if row.kind is ScopeKind.COMMUNICATIONS else Target(row)
        for row in found
    )


def tag_of(row: AnyRow, record: str, index_key: bytes) -> bytes:
    """Return the tag (8 bytes) of a record in an account-month.

    Raises `RecordsNotSupportedError` for a scope without keys for single records, `InvalidInputError` unless the record's id has 1 to
    512 bytes.
    """
    if row.kind is not ScopeKind.COMMUNICATIONS:
        raise RecordsNotSupportedError(f"a {row.kind.value} scope has no records with keys of their own")
    if row.custody != CustodyCode.RING:
        raise RecordsNotSupportedError(
            f"scope {row.id.hex()} is in dedicated custody, which has no keys for single records: seal under the account-month alone, "
            "or move the scope with `keyvault scope migrate`"
        )
    return record_tag(index_key, row.id, encode_record(record))


def encode_record(record: str) -> bytes:
    """Return the bytes of a record's id, any text; `InvalidInputError` unless it is 1 to 512 bytes of UTF-8."""
    try:
        encoded = record.encode()
    except UnicodeEncodeError:
        raise InvalidInputError("a record's id holds a lone surrogate, which UTF-8 cannot carry") from None
    if not 1 <= len(encoded) <= MAX_RECORD_BYTES:
        raise InvalidInputError(f"a record's id has 1 to {MAX_RECORD_BYTES} bytes")
    return encoded


def admit_request(
    targets: Targets,
    purpose: str | None,
    marks: Marks,
    now: datetime,
    refused: RefusedPurposes = REFUSED_PURPOSES,
) -> None:
    """Raise the `ScopeError` that forbids a new key for these targets."""
    for target in targets:
        row = target.row
        _admit(target, purpose, marks, refused)
        if row.due_at is not None and row.due_at <= now:
            raise AlreadyDueError(f"scope {row.id.hex()} is due for destruction: nothing new may be put under it")


def check_logged(targets: Targets, held: Collection[bytes], reason: KeyVaultError | None) -> None:
    """Raise `Unavailable` for a scope, by id, that may have no key yet because its creation is not in the log (G7)."""
    for target in targets:
        if target.row.id in held:
            why = "ask again" if reason is None else str(reason)
            raise Unavailable(
                f"the creation of scope {target.row.id.hex()}, or its move, is not in the log yet: {why}"
            ) from reason


def admit_wrapped(
    wrapped: WrappedKey,
    rows: Mapping[bytes, AnyRow],
    purpose: str | None,
    marks: Marks,
    refused: RefusedPurposes = REFUSED_PURPOSES,
) -> Targets:
    """Return the keys that a wrapped key is under, in its order; `rows` by scope id.

    Raises the `ScopeError` that forbids it, or `DecryptionFailedError` when the header contradicts the store.
    """
    targets = tuple(_referred(reference, rows) for reference in wrapped.header.scopes)
    for target in targets:
        _admit(target, purpose, marks, refused)
    return targets


def check_record(mark: RecordRow) -> None:
    """Raise `ScopeSuspendedError`, `ScopeFencedError` or `ScopeDestroyedError`, whichever the record is."""
    record = f"a record of scope {mark.scope_id.hex()}"
    if mark.state is KeyState.SUSPENDED:
        raise ScopeSuspendedError(f"{record} is suspended; resume it to use its key again")
    if mark.state is KeyState.DEACTIVATED:
        raise ScopeFencedError(f"{record} is being destroyed; it never comes back")
    if mark.state is KeyState.DESTROYED:
        raise ScopeDestroyedError(f"{record} is destroyed, and its key with it; permanent")


def _referred(reference: ScopeShareRef, rows: Mapping[bytes, AnyRow]) -> Target:
    row = rows.get(reference.scope_id)
    if row is None:
        raise UnknownScopeError(
            f"scope {reference.scope_id.hex()} is not in this store: the data belongs to another, or a later one"
        )
    if row.custody != reference.custody:
        row = former(row) or row  # what was put under its own key before it moved is still there
    if (row.custody, row.generation) != (reference.custody, reference.generation):
        raise DecryptionFailedError(f"scope {row.id.hex()}: the header's custody or generation was altered")
    if reference.record_tag and row.custody != CustodyCode.RING:
        raise DecryptionFailedError(f"scope {row.id.hex()}: the header names a record, and its custody has none")
    return Target(row, reference.record_tag)


def _admit(target: Target, purpose: str | None, marks: Marks, refused: RefusedPurposes) -> None:
    row, tag = target
    check_issuable(row.state, row.id)
    if tag and (mark := marks.get((row.id, tag))) is not None:
        check_record(mark)
    if purpose is not None and purpose in refused[row.kind]:
        raise PurposeNotAllowedError(
            f"the policy allows no key of a {row.kind.value} scope for the purpose {purpose!r}"
        )
