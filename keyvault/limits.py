"""What a token is limited to: accounts, kinds of scope, purposes. Pure.

An account appears as its pseudonym (32 bytes), so that neither the store nor the log names one. A limit on accounts reaches the scopes
whose subject is the account (`keyvault.scopes.SUBJECTS`): its communications, consumers and settings. Users, marketing contacts and
business years belong to the company, and are out of reach of such a token.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from keyvault.errors import InvalidInputError, NotPermittedError
from keyvault.events import Value, b64, canonical
from keyvault.scopes import SUBJECTS, Scope, ScopeKind

PSEUDONYM_BYTES: Final = 32
MAX_NAMED: Final = 1_000
"""Accounts or purposes of one token; more of them are another kind of client."""
MAX_PURPOSE: Final = 64
"""Characters of a purpose."""
_ACCOUNT: Final = "account"
_MEMBERS: Final = frozenset({"accounts", "kinds", "purposes"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits of a token; None where it has none of that sort, and an empty set never. `accounts`: pseudonyms of 32 bytes.

    Raises `InvalidInputError` for an empty set, more than 1,000 accounts or purposes, or a purpose that has not 1 to 64
    printable characters.
    """

    accounts: frozenset[bytes] | None = None
    kinds: frozenset[ScopeKind] | None = None
    purposes: frozenset[str] | None = None

    def __post_init__(self) -> None:
        for name, values in (("accounts", self.accounts), ("kinds", self.kinds), ("purposes", self.purposes)):
            if values is not None and not 1 <= len(values) <= MAX_NAMED:
                raise InvalidInputError(f"a token is limited to 1 to {MAX_NAMED} {name}, or not by them")
        if any(len(account) != PSEUDONYM_BYTES for account in self.accounts or ()):
            raise InvalidInputError(f"an account's pseudonym has {PSEUDONYM_BYTES} bytes")
        if any(not (1 <= len(purpose) <= MAX_PURPOSE and purpose.isprintable()) for purpose in self.purposes or ()):
            raise InvalidInputError(f"a purpose has 1 to {MAX_PURPOSE} printable characters")

    @property
    def unlimited(self) -> bool:
        """Whether there is no limit of any sort."""
        return self.accounts is None and self.kinds is None and self.purposes is None

    def check_scope(self, kind: ScopeKind, subject: bytes | None) -> None:
        """Raise `NotPermittedError` for a scope out of reach. `subject`: the pseudonym of what its due date rests on, 32 bytes."""
        if self.kinds is not None and kind not in self.kinds:
            raise NotPermittedError(f"the token is limited to other kinds of scope than {kind.value}")
        if self.accounts is not None and (SUBJECTS[kind] != _ACCOUNT or subject not in self.accounts):
            raise NotPermittedError(f"the token is limited to other accounts than that of this {kind.value} scope")

    def check_account(self, account: bytes) -> None:
        """Raise `NotPermittedError` for an account, by its pseudonym, out of reach."""
        if self.accounts is not None and account not in self.accounts:
            raise NotPermittedError("the token is limited to other accounts")

    def check_purpose(self, purpose: str | None) -> None:
        """Raise `NotPermittedError` for a purpose out of reach, or where one must be named and is not."""
        if self.purposes is not None and purpose not in self.purposes:
            raise NotPermittedError(
                "the token is limited to purposes: name one of them"
                if purpose is None
                else "the token is limited to other purposes"
            )


NO_LIMITS: Final = Limits()


def account_subject(account: str) -> tuple[str, str]:
    """Return what the pseudonym of an account that is named is made of, as `Scope.subject`. `InvalidScopeError` for what names none."""
    return Scope.of(ScopeKind.CONSUMER, account, "any").subject


def encode_limits(limits: Limits) -> str | None:
    """Write limits as canonical JSON; None for none."""
    if limits.unlimited:
        return None
    written: dict[str, Value] = {}
    if limits.accounts is not None:
        written["accounts"] = sorted(map(b64, limits.accounts))
    if limits.kinds is not None:
        written["kinds"] = sorted(map(str, limits.kinds))
    if limits.purposes is not None:
        written["purposes"] = sorted(limits.purposes)
    return canonical(written).decode()


def decode_limits(text: str | None) -> Limits:
    """Read what `encode_limits` wrote. `InvalidInputError` for anything else, so that a limit that is not understood lets nothing through."""
    if text is None:
        return NO_LIMITS
    try:
        written = _members(text)
        accounts, kinds, purposes = (_texts(written, name) for name in ("accounts", "kinds", "purposes"))
        return Limits(
            accounts=None if accounts is None else frozenset(map(_unb64, accounts)),
            kinds=None if kinds is None else frozenset(map(ScopeKind, kinds)),
            purposes=None if purposes is None else frozenset(purposes),
        )
    except ValueError as error:
        raise InvalidInputError(f"a token's limits are not those of this version: {error}") from error


def limits_digest(text: str | None) -> bytes | None:
    """Return the SHA-256 (32 bytes) of limits as they are written, or None for none."""
    return None if text is None else hashlib.sha256(text.encode()).digest()


def _members(text: str) -> dict[str, object]:
    written = json.loads(text)
    if not isinstance(written, dict) or not written or not written.keys() <= _MEMBERS:
        raise ValueError("its members are not accounts, kinds and purposes")
    return written


def _texts(written: dict[str, object], name: str) -> Collection[str] | None:
    values = written.get(name)
    if name not in written:
        return None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{name} is no list of texts")
    return values


def _unb64(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError("an account's pseudonym is not base64url") from error
