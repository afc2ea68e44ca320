"""The embedded engine: named keys, log key and sealed state in one SQLite file of its own.

For trying the project out and for small use on one machine. It keeps Vault's rules, so that what works here works there.
A removed key's bytes are in none of its files when the call returns (`_keyfile` says how); what a disk or a file backup
keeps is beyond it.

Ciphertext: `embedded:vN:` and the base64 of nonce (12 bytes), AES-256-GCM ciphertext and tag (16 bytes). The cipher's
associated data is the label, the key's name and the caller's associated data, each after its length in 4 bytes.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvault.errors import CheckAndSetError, CiphertextRefusedError, InvalidInputError, KeyMissingError, KeyVaultError
from keyvault.transit._checks import (
    check_key_name,
    check_min_versions,
    check_state_folder,
    check_state_path,
    check_state_value,
)
from keyvault.transit._keyfile import KeyFile, new_slots, wipe_slots
from keyvault.transit.base import (
    DATA_KEY_BYTES,
    Ciphertext,
    EngineDataKey,
    KeyInfo,
    Plaintext,
    StateEntry,
    TransitEngine,
)

_NONCE_BYTES = 12
_TAG_BYTES = 16
_KEY_LABEL = b"keyvault/embedded/key/1"
_STATE_LABEL = b"keyvault/embedded/state/1"
_TEXT = re.compile(r"embedded:v([1-9][0-9]{0,8}):([A-Za-z0-9+/=]+)", re.ASCII)

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class _Key(NamedTuple):
    latest: int
    min_available: int
    min_decryption: int
    min_encryption: int


class EmbeddedEngine(TransitEngine):
    """The engine over the file `path`; with `create`, the file (mode 0600) and its folder (0700) are made if missing.

    Threads take turns and processes wait for each other, 10 seconds at most, then `Unavailable`. `ConfigurationError`
    when the file is missing, truncated, foreign or readable by other users.
    """

    kind = "embedded"

    def __init__(self, path: Path, *, create: bool = False) -> None:
        self._file = KeyFile(path, create=create)

    # --- named keys: batches ---------------------------------------------------------------------------------

    def create_keys(self, names: Sequence[str]) -> list[KeyVaultError | None]:
        """Create keys, all in one transaction."""

        def create(connection: sqlite3.Connection, name: str) -> None:
            check_key_name(name)
            if _find(connection, name) is None:
                connection.execute("INSERT INTO named_key VALUES (?, 0, 0, 1, 0)", (name,))
                _add_version(connection, name, 1)

        with self._file.write() as connection:
            return _each(names, lambda name: create(connection, name))

    def encrypt(self, items: Sequence[Plaintext]) -> list[str | KeyVaultError]:
        """Encrypt each under its key's newest version."""
        with self._file.read() as connection:
            return _each(items, lambda item: _seal_text(connection, item.name, item.data, item.associated_data))

    def decrypt(self, items: Sequence[Ciphertext]) -> list[bytearray | KeyVaultError]:
        """Decrypt each under the version its text names."""
        with self._file.read() as connection:
            return _each(items, lambda item: _open_text(connection, item))

    def generate_data_keys(self, names: Sequence[str]) -> list[EngineDataKey | KeyVaultError]:
        """Give fresh data keys, their ciphertext bound to no associated data (as Vault's `datakey`)."""

        def generate(connection: sqlite3.Connection, name: str) -> EngineDataKey:
            plaintext = bytearray(secrets.token_bytes(DATA_KEY_BYTES))
            return EngineDataKey(plaintext=plaintext, text=_seal_text(connection, name, plaintext, b""))

        with self._file.read() as connection:
            return _each(names, lambda name: generate(connection, name))

    def read_keys(self, names: Sequence[str]) -> list[KeyInfo | KeyVaultError | None]:
        """Describe each key. Deletion needs no permission here, so `deletion_allowed` is always true."""

        def read(connection: sqlite3.Connection, name: str) -> KeyInfo | None:
            check_key_name(name)
            key = _find(connection, name)
            return key and KeyInfo(
                latest_version=key.latest,
                min_available_version=key.min_available,
                min_decryption_version=key.min_decryption,
                min_encryption_version=key.min_encryption,
                deletion_allowed=True,
            )

        with self._file.read() as connection:
            return _each(names, lambda name: read(connection, name))

    def delete_keys(self, names: Sequence[str]) -> list[KeyVaultError | None]:
        """Delete keys, all in one transaction; nothing survives a crash half deleted, so an absent name needs no second go."""

        def delete(connection: sqlite3.Connection, name: str) -> None:
            check_key_name(name)
            _remove_versions(connection, name, below=None)
            connection.execute("DELETE FROM named_key WHERE name = ?", (name,))

        with self._file.write() as connection:
            return _each(names, lambda name: delete(connection, name))

    # --- named keys: one at a time -----------------------------------------------------------------------------

    def list_keys(self) -> list[str]:
        """Return all names, sorted."""
        with self._file.read() as connection:
            return [row[0] for row in connection.execute("SELECT name FROM named_key ORDER BY name")]

    def rotate(self, name: str) -> None:
        """Add a version."""
        with self._file.write() as connection:
            _add_version(connection, name, _get(connection, name).latest + 1)

    def set_min_versions(self, name: str, *, decryption: int, encryption: int) -> None:
        """Set the minimum versions; `InvalidInputError` beyond the newest version or below what trimming left."""
        check_min_versions(decryption=decryption, encryption=encryption)
        with self._file.write() as connection:
            key = _get(connection, name)
            if not max(1, key.min_available) <= decryption <= key.latest or encryption > key.latest:
                raise InvalidInputError("minimum versions must lie between the lowest available and the newest version")
            connection.execute(
                "UPDATE named_key SET min_decryption = ?, min_encryption = ? WHERE name = ?",
                (decryption, encryption, name),
            )

    def trim(self, name: str, *, min_available: int) -> None:
        """Remove older versions' material; `InvalidInputError` above either minimum version, or below an earlier trim."""
        with self._file.write() as connection:
            key = _get(connection, name)
            if not max(1, key.min_available) <= min_available <= min(key.min_decryption, key.min_encryption):
                raise InvalidInputError("trim to no more than both minimum versions, and no less than trimmed before")
            _remove_versions(connection, name, below=min_available)
            connection.execute("UPDATE named_key SET min_available = ? WHERE name = ?", (min_available, name))

    # --- the log key -----------------------------------------------------------------------------------------------

    def create_log_key(self) -> None:
        """Create the log key unless it exists."""
        with self._file.write() as connection:
            if connection.execute("SELECT 1 FROM log_key").fetchone() is None:
                connection.execute("INSERT INTO log_key VALUES (1, ?)", new_slots(connection, 1))

    def log_public_key(self) -> bytes:
        """Return the public half, 32 bytes."""
        return self._log_key().public_key().public_bytes_raw()

    def sign(self, message: bytes) -> bytes:
        """Sign with the log key, 64 bytes."""
        return self._log_key().sign(message)

    def _log_key(self) -> Ed25519PrivateKey:
        query = "SELECT material FROM log_key JOIN slot ON slot.id = log_key.slot"
        with self._file.read() as connection:
            row = connection.execute(query).fetchone()
        if row is None:
            raise KeyMissingError("this engine has no log key; `keyvault init` makes one")
        return Ed25519PrivateKey.from_private_bytes(row[0])

    # --- sealed state ----------------------------------------------------------------------------------------------

    def put_state(self, path: str, value: str, *, expected_version: int) -> int:
        """Write by check-and-set; the value before it is gone when this returns."""
        check_state_path(path)
        encoded = check_state_value(value)
        with self._file.write() as connection:
            row = connection.execute("SELECT version, slot FROM state WHERE path = ?", (path,)).fetchone()
            version, old = row or (0, None)
            if version != expected_version:
                raise CheckAndSetError(f"the state entry has version {version}, not {expected_version}; read it again")
            slots = new_slots(connection, 1)
            sealed = _seal(_material(connection, slots[0]), encoded, _bind(_STATE_LABEL, path.encode()))
            connection.execute("REPLACE INTO state VALUES (?, ?, ?, ?)", (path, version + 1, slots[0], sealed))
            wipe_slots(connection, [] if old is None else [old])
            return int(version) + 1

    def get_state(self, path: str) -> StateEntry | None:
        """Read an entry, or None."""
        check_state_path(path)
        query = "SELECT version, material, sealed FROM state JOIN slot ON slot.id = state.slot WHERE path = ?"
        with self._file.read() as connection:
            row = connection.execute(query, (path,)).fetchone()
        if row is None:
            return None
        version, material, sealed = row
        value = _open(material, sealed, _bind(_STATE_LABEL, path.encode()))
        return StateEntry(value=value.decode(), version=version)

    def delete_state(self, path: str) -> None:
        """Remove an entry; absent is no error."""
        check_state_path(path)
        with self._file.write() as connection:
            rows = connection.execute("SELECT slot FROM state WHERE path = ?", (path,)).fetchall()
            connection.execute("DELETE FROM state WHERE path = ?", (path,))
            wipe_slots(connection, (row[0] for row in rows))

    def list_state(self, folder: str) -> list[str]:
        """Return what lies directly under a folder (the empty string: the root)."""
        prefix = check_state_folder(folder) + "/" if folder else ""
        # "0" follows "/" in ASCII, so the range holds exactly the paths under the folder.
        last = prefix[:-1] + "0" if prefix else "\x7f"
        with self._file.read() as connection:
            rows = connection.execute("SELECT path FROM state WHERE path >= ? AND path < ?", (prefix, last)).fetchall()
        below = (row[0].removeprefix(prefix).partition("/") for row in rows)
        return sorted({head + slash for head, slash, _ in below})

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _each(items: Iterable[_In], work: Callable[[_In], _Out]) -> list[_Out | KeyVaultError]:
    def attempt(item: _In) -> _Out | KeyVaultError:
        try:
            return work(item)
        except KeyVaultError as error:
            return error

    return [attempt(item) for item in items]


def _find(connection: sqlite3.Connection, name: str) -> _Key | None:
    query = "SELECT latest, min_available, min_decryption, min_encryption FROM named_key WHERE name = ?"
    row = connection.execute(query, (name,)).fetchone()
    return row and _Key(*row)


def _get(connection: sqlite3.Connection, name: str) -> _Key:
    check_key_name(name)
    key = _find(connection, name)
    if key is None:
        raise KeyMissingError(f"the engine has no key {name}")
    return key


def _add_version(connection: sqlite3.Connection, name: str, version: int) -> None:
    (slot,) = new_slots(connection, 1)
    connection.execute("INSERT INTO key_version VALUES (?, ?, ?)", (name, version, slot))
    connection.execute("UPDATE named_key SET latest = ? WHERE name = ?", (version, name))


def _remove_versions(connection: sqlite3.Connection, name: str, *, below: int | None) -> None:
    condition = "name = ? AND (? IS NULL OR version < ?)"
    rows = connection.execute(f"SELECT slot FROM key_version WHERE {condition}", (name, below, below)).fetchall()  # noqa: S608 - a constant
    connection.execute(f"DELETE FROM key_version WHERE {condition}", (name, below, below))  # noqa: S608 - the same
    wipe_slots(connection, (row[0] for row in rows))


def _material(connection: sqlite3.Connection, slot: int) -> bytes:
    return bytes(connection.execute("SELECT material FROM slot WHERE id = ?", (slot,)).fetchone()[0])


def _version_material(connection: sqlite3.Connection, name: str, version: int) -> bytes:
    query = "SELECT material FROM key_version JOIN slot ON slot.id = key_version.slot WHERE name = ? AND version = ?"
    return bytes(connection.execute(query, (name, version)).fetchone()[0])


def _seal_text(connection: sqlite3.Connection, name: str, data: bytes | bytearray, associated_data: bytes) -> str:
    version = _get(connection, name).latest
    material = _version_material(connection, name, version)
    sealed = _seal(material, data, _bind(_KEY_LABEL, name.encode(), associated_data))
    return f"embedded:v{version}:{base64.b64encode(sealed).decode()}"


def _open_text(connection: sqlite3.Connection, item: Ciphertext) -> bytearray:
    key = _get(connection, item.name)
    match = _TEXT.fullmatch(item.text)
    if match is None:
        raise CiphertextRefusedError("not a ciphertext of the embedded engine")
    version = int(match[1])
    if not key.min_decryption <= version <= key.latest:
        raise CiphertextRefusedError(f"version {version} of key {item.name} does not decrypt: too old or too new")
    try:
        sealed = base64.b64decode(match[2], validate=True)
    except binascii.Error as error:
        raise CiphertextRefusedError("not a ciphertext of the embedded engine") from error
    material = _version_material(connection, item.name, version)
    return bytearray(_open(material, sealed, _bind(_KEY_LABEL, item.name.encode(), item.associated_data)))


def _bind(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def _seal(material: bytes, data: bytes | bytearray, associated_data: bytes) -> bytes:
    nonce = secrets.token_bytes(_NONCE_BYTES)
    return nonce + AESGCM(material).encrypt(nonce, bytes(data), associated_data)


def _open(material: bytes, sealed: bytes, associated_data: bytes) -> bytes:
    if len(sealed) < _NONCE_BYTES + _TAG_BYTES:
        raise CiphertextRefusedError("the ciphertext is too short")
    try:
        return AESGCM(material).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], associated_data)
    except InvalidTag as error:
        raise CiphertextRefusedError(
            "the ciphertext was altered, or belongs to another key or other associated data"
        ) from error
