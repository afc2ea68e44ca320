"""Whether a key may be issued: fail closed on anything but a known, active scope, asked for a purpose the policy allows. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from keyvault.errors import (
    AlreadyDueError,
    DecryptionFailedError,
    InvalidInputError,
    PurposeNotAllowedError,
    RecordsNotSupportedError,
    UnknownScopeError,
)
from keyvault.scopes import KIND_RULES, Scope
from keyvault.states import check_issuable
from keyvault.store.scopes import ScopeRow
from keyvault.values import KeyRequest
from keyvault.wrapped import MAX_SCOPES, WrappedKey

Rows = tuple[ScopeRow, ...]


def admit_request(
    request: KeyRequest, scopes: Mapping[str, Scope], rows: Mapping[str, ScopeRow], now: datetime
) -> Rows:
    """Return the rows of a request for a new wrapped key, in its order; `rows` by scope name.

    Raises the `ScopeError` that forbids it, or `InvalidInputError` for a wrong number of scopes.
    """
    if not 1 <= len(request.scopes) <= MAX_SCOPES or len(set(request.scopes)) != len(request.scopes):
        raise InvalidInputError(f"a key is asked for under 1 to {MAX_SCOPES} different scopes")
    if request.record is not None:
        raise RecordsNotSupportedError(
            "dedicated custody has no keys for single records: seal under the account-month alone, or use ring custody"
        )
    return tuple(_admit_scope(scopes[name], rows.get(name), request.purpose, now) for name in request.scopes)


def admit_wrapped(wrapped: WrappedKey, rows: Mapping[bytes, ScopeRow], purpose: str | None) -> Rows:
    """Return the rows of a wrapped key's scopes, in its order; `rows` by scope id.

    Raises the `ScopeError` that forbids it, or `DecryptionFailedError` when the header contradicts the store.
    """
    return tuple(_admit_reference(wrapped, index, rows, purpose) for index in range(len(wrapped.header.scopes)))


def _admit_scope(scope: Scope, row: ScopeRow | None, purpose: str | None, now: datetime) -> ScopeRow:
    if row is None:
        raise UnknownScopeError(f"no such {scope.kind.value} scope: create it with ensure_scopes first")
    check_issuable(row.state, row.id)
    _check_purpose(row, purpose)
    if row.due_at is not None and row.due_at <= now:
        raise AlreadyDueError(f"scope {row.id.hex()} is due for destruction: nothing new may be put under it")
    return row


def _admit_reference(wrapped: WrappedKey, index: int, rows: Mapping[bytes, ScopeRow], purpose: str | None) -> ScopeRow:
    reference = wrapped.header.scopes[index]
    row = rows.get(reference.scope_id)
    if row is None:
        raise UnknownScopeError(
            f"scope {reference.scope_id.hex()} is not in this store: the data belongs to another, or a later one"
        )
    if (row.custody, row.generation) != (reference.custody, reference.generation):
        raise DecryptionFailedError(f"scope {row.id.hex()}: the header's custody or generation was altered")
    check_issuable(row.state, row.id)
    _check_purpose(row, purpose)
    return row


def _check_purpose(row: ScopeRow, purpose: str | None) -> None:
    if purpose in KIND_RULES[row.kind].refused_purposes:
        raise PurposeNotAllowedError(
            f"the policy allows no key of a {row.kind.value} scope for the purpose {purpose!r}"
        )
