"""From scopes to wrapping keys: fetches shares from custody, one round a batch, and wipes everything afterwards."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from keyvault.admission import Rows
from keyvault.custody.base import Custody, Share
from keyvault.errors import ConfigurationError, KeyVaultError
from keyvault.formats import wipe
from keyvault.results import caught, value_of
from keyvault.store.scopes import ScopeRow
from keyvault.wrapped import (
    SALT_BYTES,
    CustodyCode,
    Header,
    ScopeShareRef,
    WrappedKey,
    WrappingKey,
    derive_wrapping_key,
)

T = TypeVar("T")
R = TypeVar("R")
ScopeIds = tuple[bytes, ...]
Token = tuple[bytes, bytes]
"""A scope's id, and the token of one of its shares."""
WrappingKeys = Mapping[T, WrappingKey | KeyVaultError]


def scope_ids(rows: Rows) -> ScopeIds:
    """Return the ids of a group of scopes: what its wrapping key is found under."""
    return tuple(row.id for row in rows)


class WrappingKeySource:
    """Derives wrapping keys from the shares of any custody in use."""

    def __init__(self, custodies: Mapping[int, Custody]) -> None:
        """`custodies` by custody byte."""
        self._custodies = custodies

    @contextmanager
    def fresh(self, groups: Iterable[Rows]) -> Iterator[WrappingKeys[ScopeIds]]:
        """Give each group of scopes a wrapping key under a fresh salt; all are wiped when the context ends."""
        distinct = {scope_ids(group): group for group in groups}
        rows = {row.id: row for group in distinct.values() for row in group}
        shares = self._each(list(rows.values()), lambda row: row, lambda custody, some: custody.fresh_shares(some))
        by_id = dict(zip(rows, shares, strict=True))
        keys = {ids: caught(_derive_fresh, group, by_id) for ids, group in distinct.items()}
        with _wiped(keys, [share.secret for share in shares if isinstance(share, Share)]):
            yield keys

    @contextmanager
    def recovered(self, items: Iterable[tuple[WrappedKey, Rows]]) -> Iterator[WrappingKeys[bytes]]:
        """Give each header (its encoded bytes) its wrapping key again; all are wiped when the context ends."""
        headers = {wrapped.header.encoded: (wrapped.header, rows) for wrapped, rows in items}
        tokens = {
            (row.id, ref.token): row
            for header, rows in headers.values()
            for ref, row in zip(header.scopes, rows, strict=True)
        }
        wanted = [(row, token) for (_, token), row in tokens.items()]
        shares = self._each(wanted, lambda item: item[0], lambda custody, some: custody.recover_shares(some))
        by_token = dict(zip(tokens, shares, strict=True))
        keys = {encoded: caught(_derive_again, header, by_token) for encoded, (header, _) in headers.items()}
        with _wiped(keys, [share for share in shares if isinstance(share, bytearray)]):
            yield keys

    def _each(
        self,
        items: Sequence[T],
        row_of: Callable[[T], ScopeRow],
        ask: Callable[[Custody, Sequence[T]], Sequence[R | KeyVaultError]],
    ) -> list[R | KeyVaultError]:
        """Ask each item's own custody, and answer in the items' order."""
        answers: dict[int, R | KeyVaultError] = {}
        for code in {row_of(item).custody for item in items}:
            indices = [index for index, item in enumerate(items) if row_of(item).custody == code]
            custody = self._custodies.get(code)
            if custody is None:
                lost = ConfigurationError(f"custody {code} is not available in this home")
                answers |= dict.fromkeys(indices, lost)
                continue
            answers |= zip(indices, ask(custody, [items[index] for index in indices]), strict=True)
        return [answers[index] for index in range(len(items))]


def _derive_fresh(group: Rows, shares: Mapping[bytes, Share | KeyVaultError]) -> WrappingKey:
    given = [value_of(shares[row.id]) for row in group]
    references = tuple(
        ScopeShareRef(scope_id=row.id, custody=CustodyCode(row.custody), generation=row.generation, token=share.token)
        for row, share in zip(group, given, strict=True)
    )
    header = Header(salt=secrets.token_bytes(SALT_BYTES), scopes=references)
    return derive_wrapping_key(header, [share.secret for share in given])


def _derive_again(header: Header, shares: Mapping[Token, bytearray | KeyVaultError]) -> WrappingKey:
    return derive_wrapping_key(header, [value_of(shares[ref.scope_id, ref.token]) for ref in header.scopes])


@contextmanager
def _wiped(keys: WrappingKeys[T], secrets_: Sequence[bytearray]) -> Iterator[None]:
    for secret in secrets_:
        wipe(secret)
    try:
        yield
    finally:
        for key in keys.values():
            if isinstance(key, WrappingKey):
                key.wipe()
