"""`RemoteKeyVault`: what the storage layer calls where keys come from the service."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TypeVar

import httpx2
import msgspec

from keyvault.client import messages
from keyvault.errors import ConfigurationError, KeyVaultError, ServiceError, Unavailable
from keyvault.sealing import Sealer
from keyvault.service import wire
from keyvault.service.failures import from_wire
from keyvault.states import KeyState
from keyvault.values import DataKey, KeyRequest, RewrapRequest, ScopeInfo, UnwrapRequest, WrapRequest

T = TypeVar("T", bound=msgspec.Struct)

TIMEOUT = 10.0


class RemoteKeyVault(Sealer):
    """The service's keys, with the methods of `KeyVault`. Thread-safe; close it, or use it as a context manager."""

    def __init__(self, url: str, *, token: str, ca_file: Path | str | None = None) -> None:
        """As `keyvault.connect`."""
        self._client = httpx2.Client(
            base_url=url,
            headers={"authorization": f"Bearer {token}", "content-type": "application/json"},
            verify=_verification(ca_file),
            timeout=TIMEOUT,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def ensure_scopes(self, names: Sequence[str], *, renew: bool = False) -> list[ScopeInfo | KeyVaultError]:
        """As `KeyVault.ensure_scopes`."""
        body = wire.EnsureScopes(names=list(names), renew=renew)
        return messages.scopes(self._ask("/v1/scopes/ensure", body, wire.ScopeAnswers))

    def describe(self, names: Sequence[str]) -> list[ScopeInfo | KeyVaultError]:
        """As `KeyVault.describe`."""
        return self._scopes("/v1/scopes/describe", names)

    def suspend(self, names: Sequence[str]) -> list[ScopeInfo | KeyVaultError]:
        """As `KeyVault.suspend`."""
        return self._scopes("/v1/scopes/suspend", names)

    def resume(self, names: Sequence[str]) -> list[ScopeInfo | KeyVaultError]:
        """As `KeyVault.resume`."""
        return self._scopes("/v1/scopes/resume", names)

    def suspend_records(self, name: str, records: Sequence[str]) -> list[KeyState | KeyVaultError]:
        """As `KeyVault.suspend_records`."""
        return self._records("/v1/records/suspend", name, records)

    def resume_records(self, name: str, records: Sequence[str]) -> list[KeyState | KeyVaultError]:
        """As `KeyVault.resume_records`."""
        return self._records("/v1/records/resume", name, records)

    def generate_data_keys(self, requests: Sequence[KeyRequest]) -> list[DataKey | KeyVaultError]:
        """As `KeyVault.generate_data_keys`."""
        answers = self._ask("/v1/keys/generate", messages.generate(requests), wire.KeyAnswers)
        return messages.data_keys(answers, [None] * len(requests))

    def wrap_data_keys(self, requests: Sequence[WrapRequest]) -> list[DataKey | KeyVaultError]:
        """As `KeyVault.wrap_data_keys`."""
        answers = self._ask("/v1/keys/wrap", messages.wrap(requests), wire.KeyAnswers)
        return messages.data_keys(answers, [request.data_key for request in requests])

    def unwrap_data_keys(self, requests: Sequence[UnwrapRequest]) -> list[bytearray | KeyVaultError]:
        """As `KeyVault.unwrap_data_keys`."""
        return messages.plaintexts(self._ask("/v1/keys/unwrap", messages.unwrap(requests), wire.KeyAnswers))

    def rewrap_data_keys(self, requests: Sequence[RewrapRequest]) -> list[bytes | KeyVaultError]:
        """As `KeyVault.rewrap_data_keys`."""
        return messages.wrapped(self._ask("/v1/keys/rewrap", messages.rewrap(requests), wire.KeyAnswers))

    def _scopes(self, path: str, names: Sequence[str]) -> list[ScopeInfo | KeyVaultError]:
        return messages.scopes(self._ask(path, wire.ScopeNames(names=list(names)), wire.ScopeAnswers))

    def _records(self, path: str, name: str, records: Sequence[str]) -> list[KeyState | KeyVaultError]:
        body = wire.RecordNames(scope=name, records=list(records))
        return messages.records(self._ask(path, body, wire.RecordAnswers))

    def _ask(self, path: str, body: msgspec.Struct, answered: type[T]) -> T:
        try:
            response = self._client.post(path, content=wire.encoder.encode(body))
        except httpx2.TransportError as error:
            raise Unavailable(f"the key service does not answer ({type(error).__name__}): try again") from error
        if response.status_code == httpx2.codes.OK:
            return _decoded(response.content, answered)
        raise from_wire(_decoded(response.content, wire.Problem).error)


def _decoded(content: bytes, answered: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=answered)
    except msgspec.DecodeError as error:
        raise ServiceError("what answers is not a key service of this version: check the URL") from error


def _verification(ca_file: Path | str | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:
        raise ConfigurationError(f"{ca_file} is not a file of certificates (PEM) that can be read") from error
