"""Between the library's values and the wire's, on the client's side. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from keyvault.errors import KeyVaultError, ServiceError
from keyvault.scopes import ScopeKind
from keyvault.service import wire
from keyvault.service.failures import from_wire
from keyvault.states import KeyState
from keyvault.values import DataKey, KeyRequest, RewrapRequest, ScopeInfo, UnwrapRequest, WrapRequest

T = TypeVar("T")


def generate(requests: Sequence[KeyRequest]) -> wire.GenerateKeys:
    """Ask for fresh data keys."""
    return wire.GenerateKeys(
        keys=[
            wire.KeyItem(
                scopes=item.scopes, associated_data=item.associated_data, purpose=item.purpose, record=item.record
            )
            for item in requests
        ]
    )


def wrap(requests: Sequence[WrapRequest]) -> wire.WrapKeys:
    """Ask to wrap data keys."""
    return wire.WrapKeys(
        keys=[
            wire.WrapItem(
                scopes=item.scopes,
                associated_data=item.associated_data,
                purpose=item.purpose,
                record=item.record,
                data_key=item.data_key,
            )
            for item in requests
        ]
    )


def unwrap(requests: Sequence[UnwrapRequest]) -> wire.UnwrapKeys:
    """Ask for data keys again."""
    return wire.UnwrapKeys(
        keys=[
            wire.UnwrapItem(wrapped=item.wrapped, associated_data=item.associated_data, purpose=item.purpose)
            for item in requests
        ]
    )


def rewrap(requests: Sequence[RewrapRequest]) -> wire.RewrapKeys:
    """Ask to move wrapped keys."""
    return wire.RewrapKeys(
        keys=[
            wire.RewrapItem(
                scopes=item.scopes,
                associated_data=item.associated_data,
                purpose=item.purpose,
                record=item.record,
                wrapped=item.wrapped,
            )
            for item in requests
        ]
    )


def data_keys(answers: wire.KeyAnswers, plaintexts: Sequence[bytes | None]) -> list[DataKey | KeyVaultError]:
    """Return data keys; where the service does not send a plaintext, because the caller has it, it stands in `plaintexts`."""
    return [_data_key(answer, known) for answer, known in zip(answers.keys, plaintexts, strict=True)]


def plaintexts(answers: wire.KeyAnswers) -> list[bytearray | KeyVaultError]:
    """Return unwrapped data keys."""
    return [
        from_wire(answer.error) if answer.error is not None else _there(answer.plaintext) for answer in answers.keys
    ]


def wrapped(answers: wire.KeyAnswers) -> list[bytes | KeyVaultError]:
    """Return wrapped keys."""
    return [from_wire(answer.error) if answer.error is not None else _there(answer.wrapped) for answer in answers.keys]


def scopes(answers: wire.ScopeAnswers) -> list[ScopeInfo | KeyVaultError]:
    """Return scopes."""
    return [_scope(answer) for answer in answers.scopes]


def records(answers: wire.RecordAnswers) -> list[KeyState | KeyVaultError]:
    """Return states of records."""
    return [
        from_wire(answer.error) if answer.error is not None else KeyState(_there(answer.state))
        for answer in answers.records
    ]


def _data_key(answer: wire.KeyAnswer, known: bytes | None) -> DataKey | KeyVaultError:
    if answer.error is not None:
        return from_wire(answer.error)
    return DataKey(_there(answer.plaintext) if known is None else bytearray(known), _there(answer.wrapped))


def _scope(answer: wire.ScopeAnswer) -> ScopeInfo | KeyVaultError:
    if answer.error is not None:
        return from_wire(answer.error)
    return ScopeInfo(
        id=_there(answer.id),
        generation=_there(answer.generation),
        kind=ScopeKind(_there(answer.kind)),
        period=answer.period,
        custody=_there(answer.custody),
        holds_records=_there(answer.holds_records),
        state=KeyState(_there(answer.state)),
        created_at=_there(answer.created_at),
        due_at=answer.due_at,
        fenced_at=answer.fenced_at,
        destroyed_at=answer.destroyed_at,
        destroy_id=answer.destroy_id,
        former_custody=answer.former_custody,
    )


def _there(value: T | None) -> T:
    if value is None:
        raise ServiceError("the service left out a part of its answer: its version does not fit this client's")
    return value
