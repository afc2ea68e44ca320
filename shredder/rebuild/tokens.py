"""Tokens of the service, as events make them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from keyvault.errors import KeyVaultError
from keyvault.events import EventType
from keyvault.limits import limits_digest
from keyvault.store.tokens import TokenRow
from keyvault.system_keys import SystemKeys
from keyvault.token_events import TokenContent, open_content
from shredder.rebuild.entries import Entry
from shredder.rebuild.rows import Rows

_TYPES = frozenset({EventType.TOKEN_ISSUED, EventType.TOKEN_REVOKED})


class TokenTables:
    """What a batch of entries makes of tokens. Raises `LogError`."""

    def __init__(self, keys: SystemKeys, tokens: Mapping[bytes, TokenRow]) -> None:
        """The rows are those that the database has of what `references` names."""
        self.tokens = Rows(tokens)
        self._keys = keys

    def apply(self, entry: Entry) -> None:
        """Take an entry up; one that is about other tables changes nothing."""
        if entry.type == EventType.TOKEN_ISSUED:
            self._issued(entry)
        elif entry.type == EventType.TOKEN_REVOKED:
            self._revoked(entry)

    def _issued(self, entry: Entry) -> None:
        token_id = entry.data("token")
        content = self._content(entry, token_id)
        if limits_digest(content.limits) != entry.optional_data("limits"):
            raise entry.wrong("the limits that it seals are not those that it states")
        self.tokens.now[token_id] = TokenRow(
            id=token_id,
            name=content.name,
            role=entry.text("role"),
            secret_hash=content.secret_hash,
            owner=entry.data("owner"),
            limits=content.limits,
            rate=None if entry.fields.get("rate") is None else entry.number("rate"),
            created_at=entry.at,
            expires_at=entry.moment("expires_at"),
        )

    def _revoked(self, entry: Entry) -> None:
        row = self.tokens.now.get(entry.data("token"))
        if row is None:
            raise entry.wrong("it is of a token that was not issued before it")
        self.tokens.now[row.id] = replace(row, revoked_at=entry.at)

    def _content(self, entry: Entry, token_id: bytes) -> TokenContent:
        try:
            return open_content(self._keys, token_id, entry.data("content"))
        except KeyVaultError as error:
            raise entry.wrong("what it seals does not open: the engine's journal key is another's") from error


def references(entries: Iterable[Entry]) -> set[bytes]:
    """Return the ids of the tokens that entries are about."""
    return {entry.data("token") for entry in entries if entry.type in _TYPES}
