"""From scopes to wrapping keys: fetches shares from custody, one round a batch, and wipes everything afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import TypeVar

from keyvault.admission import Targets
from keyvault.custody.base import Custody, Share, Target
from keyvault.errors import ConfigurationError, KeyVaultError
from keyvault.formats import random_pieces, wipe
from keyvault.results import caught, value_of
from keyvault.wrapped import (
    SALT_BYTES,
    Header,
    WrappedKey,
    WrappingKey,
    derive_wrapping_key,
    encode_reference,
    fresh_wrapping_key,
)

T = TypeVar("T")
R = TypeVar("R")
TargetKeys = tuple[tuple[bytes, bytes], ...]
"""Of each key: its scope's id (16 bytes), and its record's tag (8 bytes or none)."""
Token = tuple[bytes, bytes, bytes]
"""A scope's id, a record's tag, and the token of a share."""
WrappingKeys = dict[T, WrappingKey | KeyVaultError]


def target_keys(targets: Targets) -> TargetKeys:
    """Return what the wrapping key of these targets is found under."""
    return tuple([target.key for target in targets])


class WrappingKeySource:
    """Derives wrapping keys from the shares of any custody in use."""

    def __init__(self, custodies: Mapping[int, Custody]) -> None:
        """`custodies` by custody byte."""
        self._custodies = custodies

    def fresh(self, groups: Mapping[TargetKeys, Targets]) -> WrappingKeys[TargetKeys]:
        """Give each group of targets, by its `target_keys`, a wrapping key under a fresh salt; the caller wipes them all (`wiped`)."""
        targets = {key: target for keys, group in groups.items() for key, target in zip(keys, group, strict=True)}
        shares = self._each(
            list(targets.values()), lambda target: target, lambda custody, some: custody.fresh_shares(some)
        )
        by_key = dict(zip(targets, shares, strict=True))
        salts = random_pieces(len(groups), SALT_BYTES)
        try:
            return {
                keys: caught(_derive_fresh, salt, group, [by_key[key] for key in keys])
                for salt, (keys, group) in zip(salts, groups.items(), strict=True)
            }
        finally:
            for share in shares:
                if isinstance(share, Share):
                    wipe(share.secret)

    def recovered(self, items: Iterable[tuple[WrappedKey, Targets]]) -> WrappingKeys[bytes]:
        """Give each header (its encoded bytes) its wrapping key again; the caller wipes them all (`wiped`)."""
        headers = {wrapped.header.encoded: (wrapped.header, targets) for wrapped, targets in items}
        tokens = {
            (target.row.id, target.record_tag, ref.token): target
            for header, targets in headers.values()
            for ref, target in zip(header.scopes, targets, strict=True)
        }
        wanted = [(target, token) for (_, _, token), target in tokens.items()]
        shares = self._each(wanted, lambda item: item[0], lambda custody, some: custody.recover_shares(some))
        by_token = dict(zip(tokens, shares, strict=True))
        try:
            return {encoded: caught(_derive_again, header, by_token) for encoded, (header, _) in headers.items()}
        finally:
            for share in shares:
                if isinstance(share, bytearray):
                    wipe(share)

    def _each(
        self,
        items: Sequence[T],
        target_of: Callable[[T], Target],
        ask: Callable[[Custody, Sequence[T]], Sequence[R | KeyVaultError]],
    ) -> list[R | KeyVaultError]:
        """Ask each item's own custody, and answer in the items' order."""
        codes = [target_of(item).row.custody for item in items]
        answers: dict[int, Iterator[R | KeyVaultError]] = {}
        for code in set(codes):
            some = [item for item, its_code in zip(items, codes, strict=True) if its_code == code]
            custody = self._custodies.get(code)
            if custody is None:
                answers[code] = repeat(ConfigurationError(f"custody {code} is not available in this home"))
            else:
                answers[code] = iter(ask(custody, some))
        return [next(answers[code]) for code in codes]


def _derive_fresh(salt: bytes, group: Targets, shares: Sequence[Share | KeyVaultError]) -> WrappingKey:
    references, secrets = [], []
    for (row, tag), given in zip(group, shares, strict=True):
        secret, token = value_of(given)
        references.append(encode_reference(row.id, row.custody, row.generation, tag, token))
        secrets.append(secret)
    return fresh_wrapping_key(salt, references, secrets)


def _derive_again(header: Header, shares: Mapping[Token, bytearray | KeyVaultError]) -> WrappingKey:
    return derive_wrapping_key(
        header, [value_of(shares[ref.scope_id, ref.record_tag, ref.token]) for ref in header.scopes]
    )


@contextmanager
def wiped(keys: WrappingKeys[T]) -> Iterator[None]:
    """Wipe all that are still in `keys` when the context ends."""
    try:
        yield
    finally:
        for key in keys.values():
            if isinstance(key, WrappingKey):
                key.wipe()
