"""An attacker with everything that lives long: the log, the database, the engine, and the index, journal and pseudonym keys.

It guesses a name, and looks for whatever confirms the guess: hashes under every key and every salt that it can open, and the name itself.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import json
from base64 import urlsafe_b64decode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy as sa

from keyvault.errors import KeyVaultError
from keyvault.home import Home
from keyvault.scopes import ScopeKind
from keyvault.states import KeyState
from keyvault.store.scopes import ScopeRow
from keyvault.store.tables import metadata
from keyvault.system_keys import SystemKeys
from shredder.log.checkpoint import read_unverified
from shredder.log.directory import LogDirectory

PSEUDONYMS = ("account", "user", "contact", "business", "ticket", "person", "request", "scope", "consumer")
KEY_BYTES = 32
SHORTEST = 8
"""The shortest hash that is kept: a record's tag."""

Statement = Mapping[str, Any]


class Journal:
    """Every part that was sealed under the journal key, with what it takes beside that key to open it."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        """Write down from here on what is sealed."""
        self.sealed: dict[bytes, bytes] = {}
        original = SystemKeys.seal_journal

        def seal(keys: SystemKeys, data: bytes, associated_data: bytes) -> bytes:
            sealed = original(keys, data, associated_data)
            self.sealed[sealed] = associated_data
            return sealed

        patch.setattr(SystemKeys, "seal_journal", seal)


class Attacker:
    """Guesses names in a home. `journal` makes sure that no sealed part is left out for not knowing how it is opened."""

    def __init__(self, home: Home, journal: Journal) -> None:
        """Take all keys of the home that are not a scope's."""
        self._home = home
        self._journal = journal
        self._long_lived = (home.keys.index, home.keys.journal, home.keys.pseudonym, home.keys.log_public)
        self.opened: set[bytes] = set()

    def log(self) -> list[Statement]:
        """Return what the log says."""
        directory = LogDirectory(self._home.log_directory)
        size = read_unverified(directory.checkpoint() or b"").size
        return [json.loads(entry) for entry in directory.entries(0, size)]

    def database(self) -> list[Statement]:
        """Return all rows of all tables; of events, what they say."""

        def work(connection: sa.Connection) -> list[Statement]:
            rows = [
                dict(row._mapping) for table in metadata.sorted_tables for row in connection.execute(sa.select(table))
            ]
            return [json.loads(row["body"]) if row.keys() >= {"body", "event_id"} else row for row in rows]

        return self._home.database.read(work)

    def confirms(self, name: str, statements: Iterable[Statement]) -> list[Statement]:
        """Return the statements from which the guess is confirmed."""
        return [statement for statement in statements if self._confirmed(name, statement)]

    def _confirmed(self, name: str, statement: Statement) -> bool:
        material = set(binaries(statement))
        for sealed in material & self._journal.sealed.keys():
            plain = self._home.keys.open_journal(sealed, self._journal.sealed[sealed])
            self.opened.add(sealed)
            material |= {plain, *windows(plain), *binaries(_parsed(plain))}
        if (own := self._own_key(statement)) is not None:
            material |= {own, *windows(own)}
        keys = {*self._long_lived, *(value for value in material if len(value) == KEY_BYTES)}
        hashes = set(guesses(name, keys))
        short = {value[:length] for value in hashes for length in (SHORTEST, 16)}
        whole = material | {json.dumps(statement, default=repr).encode()}
        return bool((hashes | short) & material) or any(form in value for value in whole for form in forms(name))

    def _own_key(self, statement: Statement) -> bytes | None:
        """Open a scope's sealed name with its own key, if the engine still has it."""
        row = _row_of(self._home, statement, self._journal)
        if row is None:
            return None
        (opened,) = self._home.custodies[row.custody].open_identities([row])
        return None if isinstance(opened, KeyVaultError) else bytes(opened)


def _row_of(home: Home, statement: Statement, journal: Journal) -> ScopeRow | None:
    """Rebuild a scope's row from its creation; of rows of the database the sealed name is the same."""
    if statement.get("type") != "scope.created":
        return None
    (scope_id,), (sealed,) = list(binaries(statement["scope_id"])), [statement["placement"]]
    placement = json.loads(home.keys.open_journal(_unpadded(sealed), journal.sealed[_unpadded(sealed)]))
    code = next(code for code, custody in home.custodies.items() if custody.name == statement["custody"])
    return ScopeRow(
        id=scope_id,
        generation=statement["generation"],
        custody=code,
        kind=ScopeKind(statement["kind"]),
        lookup=None,
        commitment=b"",
        sealed_name=statement["sealed"],
        state=KeyState.ACTIVE,
        created_at=home.clock.now(),
        key_ref=placement["key_ref"],
        ring_id=bytes.fromhex(placement["ring"]) if placement["ring"] else None,
        slot=placement["slot"],
    )


def forms(name: str) -> tuple[bytes, ...]:
    """Return the ways in which a consumer's name may be written into a hash, or into the clear."""
    _, account, consumer = name.split("/")
    return (name.encode(), consumer.encode(), f"{account}/{consumer}".encode())


def guesses(name: str, keys: Iterable[bytes]) -> Iterator[bytes]:
    """Give every hash of the name that somebody may have stored."""
    texts = [*forms(name), *(what.encode() + b"\0" + form for what in PSEUDONYMS for form in forms(name))]
    texts += [b"request\0" + content for content in contents(name)]
    for text in texts:
        yield hashlib.sha256(text).digest()
        for key in keys:
            yield hmac.digest(key, text, "sha256")
            yield hashlib.sha256(key + text).digest()
            yield hashlib.sha256(text + key).digest()


def contents(name: str) -> Iterator[bytes]:
    """Give requests about the name alone, as their content was once hashed."""
    for kind in ("anonymize", "delete", "undelete", "hold"):
        for requester in ("customer", "company", "consumer"):
            yield json.dumps([kind, requester, [name], [], None, None], separators=(",", ":")).encode()


def binaries(value: object) -> Iterator[bytes]:
    """Give every binary value in a statement, however it is written."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from binaries(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from binaries(item)
    elif isinstance(value, bytes):
        yield value
    elif isinstance(value, str) and len(value) >= SHORTEST:
        with suppress(ValueError):
            yield bytes.fromhex(value)
        with suppress(binascii.Error, ValueError):
            yield _unpadded(value)


def windows(data: bytes) -> Iterator[bytes]:
    """Give each run of 32 bytes: a salt or a hash may be anywhere."""
    for start in range(len(data) - KEY_BYTES + 1):
        yield data[start : start + KEY_BYTES]


def _unpadded(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _parsed(data: bytes) -> object:
    try:
        return json.loads(data)
    except ValueError:
        return None
