"""The engine over HashiCorp Vault, or OpenBao: transit for the keys, KV version 2 for sealed state.

A batch goes out as concurrent calls, each with the audit event of the caller.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from keyvault.errors import (
    CheckAndSetError,
    CiphertextRefusedError,
    KeyMissingError,
    KeyVaultError,
    PermissionDeniedError,
    TransitError,
)
from keyvault.transit._calls import VaultCalls
from keyvault.transit._checks import (
    check_key_name,
    check_min_versions,
    check_state_folder,
    check_state_path,
    check_state_value,
)
from keyvault.transit._login import AppRoleCredentials, TokenCredentials
from keyvault.transit.base import Ciphertext, EngineDataKey, KeyInfo, Plaintext, StateEntry, TransitEngine
from keyvault.transit.vault_settings import VaultSettings

__all__ = [
    "KEY_TYPE",
    "LOG_KEY",
    "LOG_KEY_TYPE",
    "AppRoleCredentials",
    "HashicorpEngine",
    "TokenCredentials",
    "VaultSettings",
]

KEY_TYPE = "aes256-gcm96"
LOG_KEY = "log"
LOG_KEY_TYPE = "ed25519"
WRAPPING_POLICIES = ["response-wrapping"]
"""Of a token that holds a wrapped answer and can do nothing else."""

_First = TypeVar("_First")
_Second = TypeVar("_Second")

# Vault itself reads "v0" and "v01" as "v1"; one ciphertext has one text here.
_TEXT = re.compile(r"vault:v[1-9][0-9]*:[A-Za-z0-9+/]+={0,2}", re.ASCII)


class HashicorpEngine(TransitEngine):
    """The engine that `settings` describe, with the rights of `credentials`. Nothing is sent before the first call.

    Every call may raise `Unavailable` (sealed, down, not trusted, overloaded) and `PermissionDeniedError`. In a batch,
    items that were not tried because Vault became unavailable have that error. `clock` gives seconds, for the token's age.
    """

    kind = "hashicorp"

    def __init__(
        self,
        settings: VaultSettings,
        credentials: AppRoleCredentials | TokenCredentials,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._calls = VaultCalls(settings, credentials, clock=clock)
        self._client = self._calls.client
        self._transit = self._client.secrets.transit
        self._kv = self._client.secrets.kv.v2

    # --- named keys: batches ---------------------------------------------------------------------------------

    def create_keys(self, names: Sequence[str]) -> list[KeyVaultError | None]:
        """Create keys, neither exportable nor open to plaintext backup."""
        return self._calls.batch(names, self._create)

    def encrypt(self, items: Sequence[Plaintext]) -> list[str | KeyVaultError]:
        """Encrypt each; text is `vault:vN:` and base64."""
        return self._calls.batch(items, self._encrypt)

    def decrypt(self, items: Sequence[Ciphertext]) -> list[bytearray | KeyVaultError]:
        """Decrypt each."""
        return self._calls.batch(items, self._decrypt)

    def generate_data_keys(self, names: Sequence[str]) -> list[EngineDataKey | KeyVaultError]:
        """Let Vault generate data keys; their ciphertext is bound to no associated data."""
        return self._calls.batch(names, self._generate)

    def read_keys(self, names: Sequence[str]) -> list[KeyInfo | KeyVaultError | None]:
        """Describe each key. A missing mount is an error, never an absent key."""
        return self._calls.batch(names, self._read)

    def delete_keys(self, names: Sequence[str]) -> list[KeyVaultError | None]:
        """Allow deletion and delete; absent names are created and deleted once more."""
        return self._calls.batch(names, self._delete)

    def _create(self, name: str) -> None:
        self._key_call("create keys", name, self._transit.create_key, key_type=KEY_TYPE)

    def _encrypt(self, item: Plaintext) -> str:
        try:
            data = self._key_call(
                "encrypt",
                item.name,
                self._transit.encrypt_data,
                plaintext=_encode(item.data),
                associated_data=_encode(item.associated_data) or None,
            )
        except PermissionDeniedError:
            # To a role without `create`, Vault answers 403 where the key is not there.
            if self._read(item.name) is None:
                raise KeyMissingError(f"Vault has no key {item.name}") from None
            raise
        return str(data["ciphertext"])

    def _decrypt(self, item: Ciphertext) -> bytearray:
        check_key_name(item.name)
        if not _TEXT.fullmatch(item.text):
            raise CiphertextRefusedError("not a ciphertext of Vault's transit engine")
        data = self._key_call(
            "decrypt",
            item.name,
            self._transit.decrypt_data,
            ciphertext=item.text,
            associated_data=_encode(item.associated_data) or None,
        )
        return _decode(data["plaintext"])

    def _generate(self, name: str) -> EngineDataKey:
        data = self._key_call("generate data keys", name, self._transit.generate_data_key, key_type="plaintext")
        return EngineDataKey(plaintext=_decode(data["plaintext"]), text=data["ciphertext"])

    def _read(self, name: str) -> KeyInfo | None:
        try:
            data = self._key_call("read keys", name, self._transit.read_key)
        except KeyMissingError:
            return None
        return KeyInfo(
            latest_version=data["latest_version"],
            min_available_version=data["min_available_version"],
            min_decryption_version=data["min_decryption_version"],
            min_encryption_version=data["min_encryption_version"],
            deletion_allowed=data["deletion_allowed"],
        )

    def _delete(self, name: str) -> None:
        if not self._delete_if_there(name):
            self._create(name)
            self._delete_if_there(name)

    def _delete_if_there(self, name: str) -> bool:
        try:
            self._key_call("allow deletion", name, self._transit.update_key_configuration, deletion_allowed=True)
            self._key_call("delete keys", name, self._transit.delete_key)
        except KeyMissingError:
            return False
        return True

    # --- named keys: one at a time -----------------------------------------------------------------------------

    def list_keys(self) -> list[str]:
        """Return all names, sorted."""
        return self._list("list keys", lambda: self._transit.list_keys(mount_point=self._settings.transit_mount))

    def rotate(self, name: str) -> None:
        """Add a version."""
        self._key_call("rotate keys", name, self._transit.rotate_key)

    def set_min_versions(self, name: str, *, decryption: int, encryption: int) -> None:
        """Set the minimum versions; `InvalidInputError` beyond the newest version or below what trimming left."""
        check_min_versions(decryption=decryption, encryption=encryption)
        # Not update_key_configuration: it refuses two equal minimum versions, which Vault takes.
        self._key_call(
            "set minimum versions",
            name,
            lambda *, name, mount_point: self._client.write_data(
                f"{mount_point}/keys/{name}/config",
                data={"min_decryption_version": decryption, "min_encryption_version": encryption},
            ),
        )

    def trim(self, name: str, *, min_available: int) -> None:
        """Remove older versions' material; `InvalidInputError` above either minimum version, or below an earlier trim."""
        self._key_call("trim keys", name, self._transit.trim_key, min_version=min_available)

    # --- the log key -----------------------------------------------------------------------------------------------

    def create_log_key(self) -> None:
        """Create the log key in its own mount unless it exists."""
        self._log_call("create the log key", self._transit.create_key, key_type=LOG_KEY_TYPE)

    def log_public_key(self) -> bytes:
        """Return the public half, 32 bytes."""
        data = self._log_call("read the log key", self._transit.read_key)
        return bytes(_decode(data["keys"][str(data["latest_version"])]["public_key"]))

    def sign(self, message: bytes) -> bytes:
        """Sign with the log key, 64 bytes."""
        data = self._log_call("sign with the log key", self._transit.sign_data, hash_input=_encode(message))
        return bytes(_decode(data["signature"].rpartition(":")[2]))

    # --- sealed state ----------------------------------------------------------------------------------------------

    def put_state(self, path: str, value: str, *, expected_version: int) -> int:
        """Write by check-and-set; KV keeps one version."""
        check_state_path(path)
        check_state_value(value)
        try:
            data = self._state_call(
                "write state", self._kv.create_or_update_secret, path, secret={"value": value}, cas=expected_version
            )
        except PermissionDeniedError as error:
            # A role that may only create, or only update, is refused where the other would be needed.
            entry = self.get_state(path)
            if (entry.version if entry else 0) != expected_version:
                raise CheckAndSetError("the state entry has another version than expected; read it again") from error
            raise
        return int(data["version"])

    def get_state(self, path: str) -> StateEntry | None:
        """Read an entry, or None."""
        check_state_path(path)
        try:
            data = self._state_call("read state", self._kv.read_secret_version, path, raise_on_deleted_version=True)
        except KeyMissingError:
            return None
        value = (data.get("data") or {}).get("value")
        if not isinstance(value, str):
            raise TransitError("a state entry in Vault was not written by this program")
        return StateEntry(value=value, version=data["metadata"]["version"])

    def delete_state(self, path: str) -> None:
        """Remove an entry with its metadata; absent is no error."""
        check_state_path(path)
        self._state_call("delete state", self._kv.delete_metadata_and_all_versions, path)

    def list_state(self, folder: str) -> list[str]:
        """Return what lies directly under a folder (the empty string: the root)."""
        path = check_state_folder(folder)
        return self._list("list state", lambda: self._kv.list_secrets(path=path, mount_point=self._settings.kv_mount))

    def wrapped_answers(self) -> int:
        """Count the tokens that do nothing but hold an answer; those that end meanwhile are left out."""
        accessors = self._accessors()
        looked_up = dict(zip(accessors, self._calls.batch(accessors, self._policies_of), strict=True))
        failed = {accessor: found for accessor, found in looked_up.items() if isinstance(found, KeyVaultError)}
        if failed and (left := failed.keys() & set(self._accessors())):
            raise failed[min(left)]
        return sum(found == WRAPPING_POLICIES for found in looked_up.values())

    def _accessors(self) -> list[str]:
        return self._list("list tokens' accessors", self._client.auth.token.list_accessors)

    def _policies_of(self, accessor: str) -> list[str]:
        found = self._calls.call("look up accessors", lambda: self._client.auth.token.lookup_accessor(accessor))
        return list(found["policies"])

    def overlap(self, first: Callable[[], _First], second: Callable[[], _Second]) -> tuple[_First, _Second]:
        """Do both at the same time."""
        return self._calls.overlap(first, second)

    def close(self) -> None:
        """End the threads, after the batches under way, and close the connections."""
        self._calls.close()

    # --- calls -------------------------------------------------------------------------------------------------------

    def _key_call(self, doing: str, name: str, method: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
        check_key_name(name)
        mount = self._settings.transit_mount
        return self._calls.call(
            f"{doing} in {mount}", lambda: method(name=name, mount_point=mount, **arguments), key=name
        )

    def _log_call(self, doing: str, method: Callable[..., Any], **arguments: Any) -> dict[str, Any]:
        mount = self._settings.log_mount
        return self._calls.call(f"{doing} in {mount}", lambda: method(name=LOG_KEY, mount_point=mount, **arguments))

    def _state_call(self, doing: str, method: Callable[..., Any], path: str, **arguments: Any) -> dict[str, Any]:
        mount = self._settings.kv_mount
        where = f"{mount}/{path.partition('/')[0]}"
        return self._calls.call(f"{doing} in {where}", lambda: method(path=path, mount_point=mount, **arguments))

    def _list(self, doing: str, work: Callable[[], Any]) -> list[str]:
        try:
            return sorted(self._calls.call(doing, work)["keys"])
        except KeyMissingError:
            return []


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _decode(text: str) -> bytearray:
    return bytearray(base64.b64decode(text))
