"""Holding limited tokens to their limits: an item out of reach is answered with `NotPermittedError`, and the batch goes on without it.

New keys are asked for by names, which say kind and account. A wrapped key carries ids only, so their rows are read first, once a batch,
before any key is unwrapped; a scope that is not there is out of reach, as nothing says whose it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import msgspec

from keyvault.errors import KeyVaultError, NotPermittedError
from keyvault.limits import Limits
from keyvault.results import caught
from keyvault.scopes import Scope
from keyvault.service import wire
from keyvault.service.callers import Caller
from keyvault.service.failures import to_wire
from keyvault.store import scopes as scope_store
from keyvault.store.database import Database
from keyvault.store.scopes import ScopeRow
from keyvault.system_keys import SystemKeys
from keyvault.wrapped import WrappedKey, parse_wrapped

B = TypeVar("B", bound=msgspec.Struct)
Refusals: TypeAlias = Sequence[NotPermittedError | None]
Rows: TypeAlias = dict[bytes, ScopeRow]


class LimitedCalls:
    """Puts limits before the key calls. Thread-safe."""

    def __init__(self, database: Database, keys: SystemKeys) -> None:
        """Read scopes from `database`, and make pseudonyms with `keys`."""
        self._database = database
        self._keys = keys

    def answer(self, caller: Caller, body: B, work: Callable[[B], msgspec.Struct]) -> msgspec.Struct:
        """Return what `work` answers to a body, or to as much of it as the caller may ask for, and refusals for the rest."""
        if caller.limits.unlimited:
            return work(body)
        if isinstance(body, wire.RecordNames):
            (refusal,) = self._names(caller.limits, [body.scope])
            return work(body) if refusal is None else _refused_records(body, refusal)
        asked, answered, empty = _parts(body)
        items: Sequence[Any] = getattr(body, asked)
        refusals = self._refusals(caller.limits, items)
        permitted = [item for item, refusal in zip(items, refusals, strict=True) if refusal is None]
        answer = work(msgspec.structs.replace(body, **{asked: permitted})) if permitted else empty
        given = iter(getattr(answer, answered))
        return msgspec.structs.replace(answer, **{answered: list(_merged(refusals, given, answered))})

    def _refusals(self, limits: Limits, items: Sequence[Any]) -> Refusals:
        if isinstance(items[0], str):
            return self._names(limits, items)
        rows = self._rows(items)
        return [_refusal(self._check_item, limits, item, rows) for item in items]

    def _names(self, limits: Limits, names: Sequence[str]) -> Refusals:
        return [_refusal(self._check_name, limits, name) for name in names]

    def _check_item(self, limits: Limits, item: Any, rows: Rows) -> None:
        limits.check_purpose(item.purpose)
        for name in getattr(item, "scopes", ()):
            self._check_name(limits, name)
        if (wrapped := getattr(item, "wrapped", None)) is not None:
            _check_wrapped(limits, wrapped, rows)

    def _check_name(self, limits: Limits, name: str) -> None:
        scope = caught(Scope.parse, name)
        if isinstance(scope, Scope):  # what is no name is refused as that, further on
            limits.check_scope(scope.kind, self._keys.pseudonym_of(*scope.subject))

    def _rows(self, items: Sequence[Any]) -> Rows:
        parsed = [caught(parse_wrapped, item.wrapped) for item in items if hasattr(item, "wrapped")]
        ids = {reference.scope_id for key in parsed if isinstance(key, WrappedKey) for reference in key.header.scopes}
        return self._database.read(lambda connection: scope_store.by_id(connection, ids)) if ids else {}


def _check_wrapped(limits: Limits, wrapped: bytes, rows: Rows) -> None:
    parsed = caught(parse_wrapped, wrapped)
    if not isinstance(parsed, WrappedKey):  # refused as that, further on
        return
    for reference in parsed.header.scopes:
        row = rows.get(reference.scope_id)
        if row is None:
            raise NotPermittedError(
                f"scope {reference.scope_id.hex()} is out of the token's reach, or not in this store"
            )
        limits.check_scope(row.kind, row.account)


def _refusal(check: Callable[..., None], *args: Any) -> NotPermittedError | None:
    try:
        check(*args)
    except NotPermittedError as error:
        return error
    return None


def _parts(body: msgspec.Struct) -> tuple[str, str, msgspec.Struct]:
    """Return the names of what is asked for and of what is answered, and an answer to nothing."""
    if isinstance(body, wire.EnsureScopes | wire.ScopeNames):
        return "names", "scopes", wire.ScopeAnswers(scopes=[])
    if isinstance(body, wire.GenerateKeys | wire.WrapKeys | wire.UnwrapKeys | wire.RewrapKeys):
        return "keys", "keys", wire.KeyAnswers(lease=0.0, keys=[])
    raise TypeError(f"nothing holds a limited token to its limits in {type(body).__name__}")


def _merged(refusals: Refusals, given: Iterator[Any], answered: str) -> Iterable[Any]:
    for refusal in refusals:
        yield next(given) if refusal is None else _error(answered, refusal)


def _error(answered: str, error: KeyVaultError) -> msgspec.Struct:
    if answered == "scopes":
        return wire.ScopeAnswer(error=to_wire(error))
    return wire.KeyAnswer(error=to_wire(error))


def _refused_records(body: wire.RecordNames, error: KeyVaultError) -> wire.RecordAnswers:
    return wire.RecordAnswers(records=[wire.RecordAnswer(error=to_wire(error)) for _ in body.records])
