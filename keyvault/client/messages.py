"""Between the library's values and the wire's, on the client's side. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import msgspec

from keyvault.errors import InvalidInputError, KeyVaultError, ServiceError
from keyvault.formats import wipe
from keyvault.scopes import ScopeKind
from keyvault.service import wire
from keyvault.service.failures import from_wire
from keyvault.states import KeyState
from keyvault.values import DataKey, KeyRequest, RewrapRequest, ScopeInfo, UnwrapRequest, WrapRequest

T = TypeVar("T")
MISSING_PART = "the service left out a part of its answer: its version does not fit this client's"


def parts(make: Callable[[Sequence[T]], msgspec.Struct], items: Sequence[T]) -> Iterator[tuple[Sequence[T], bytes]]:
    """Yield a batch in parts that the service takes, each with its body; no items, no part.

    Raises `InvalidInputError` where an item alone is too large for a body.
    """
    if len(items) == 0:
        return
    if len(items) <= wire.MAX_BATCH:
        body = wire.encoder.encode(make(items))
        if len(body) <= wire.MAX_BODY_BYTES:
            yield items, body
            return
        if len(items) == 1:
            raise InvalidInputError(f"what is asked for one item has more than {wire.MAX_BODY_BYTES} bytes")
    half = (len(items) + 1) // 2
    yield from parts(make, items[:half])
    yield from parts(make, items[half:])


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
    return [
        _data_key(answer, known) for answer, known in zip(_of(answers.keys, len(plaintexts)), plaintexts, strict=True)
    ]


def plaintexts(answers: wire.KeyAnswers, count: int) -> list[bytearray | KeyVaultError]:
    """Return `count` unwrapped data keys."""
    return [
        from_wire(answer.error) if answer.error is not None else _there(answer.plaintext)
        for answer in _of(answers.keys, count)
    ]


def wrapped(answers: wire.KeyAnswers, count: int) -> list[bytes | KeyVaultError]:
    """Return `count` wrapped keys."""
    return [
        from_wire(answer.error) if answer.error is not None else _there(answer.wrapped)
        for answer in _of(answers.keys, count)
    ]


def wipe_keys(answers: msgspec.Struct) -> None:
    """Overwrite the data keys of an answer that nobody gets."""
    if isinstance(answers, wire.KeyAnswers):
        for answer in answers.keys:
            if answer.plaintext is not None:
                wipe(answer.plaintext)


def scopes(answers: wire.ScopeAnswers, count: int) -> list[ScopeInfo | KeyVaultError]:
    """Return `count` scopes."""
    return [_scope(answer) for answer in _of(answers.scopes, count)]


def records(answers: wire.RecordAnswers, count: int) -> list[KeyState | KeyVaultError]:
    """Return states of `count` records."""
    return [
        from_wire(answer.error) if answer.error is not None else KeyState(_there(answer.state))
        for answer in _of(answers.records, count)
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
        raise ServiceError(MISSING_PART)
    return value


def _of(answers: list[T], count: int) -> list[T]:
    if len(answers) != count:
        raise ServiceError(MISSING_PART)
    return answers
