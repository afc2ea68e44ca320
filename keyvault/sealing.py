"""Sealing and opening data where the data is: only data keys are asked for, in this process or from a service."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import BinaryIO

from keyvault.envelope import open_envelope, seal_envelope, split_envelope
from keyvault.errors import KeyVaultError
from keyvault.formats import wipe
from keyvault.results import caught, value_of
from keyvault.stream import open_stream_body, read_stream_header, seal_stream
from keyvault.values import DataKey, KeyRequest, OpenRequest, SealRequest, UnwrapRequest


class Sealer(ABC):
    """Seals and opens with the data keys that `generate_data_keys` and `unwrap_data_keys` give."""

    @abstractmethod
    def generate_data_keys(self, requests: Sequence[KeyRequest]) -> list[DataKey | KeyVaultError]:
        """Give fresh 32-byte data keys, in plaintext and wrapped."""

    @abstractmethod
    def unwrap_data_keys(self, requests: Sequence[UnwrapRequest]) -> list[bytearray | KeyVaultError]:
        """Give back data keys; the caller zeroes them."""

    def seal(
        self,
        plaintext: bytes,
        scopes: Sequence[str],
        *,
        associated_data: bytes = b"",
        purpose: str | None = None,
        record: str | None = None,
    ) -> bytes:
        """Return an envelope under all of `scopes`, with a data key of its own. Raises what `generate_data_keys` answers."""
        request = SealRequest(
            plaintext=plaintext,
            scopes=tuple(scopes),
            associated_data=associated_data,
            purpose=purpose,
            record=record,
        )
        return value_of(self.seal_many([request])[0])

    def open(self, envelope: bytes, *, associated_data: bytes = b"", purpose: str | None = None) -> bytes:
        """Return an envelope's plaintext. Raises what `unwrap_data_keys` answers."""
        request = OpenRequest(envelope=envelope, associated_data=associated_data, purpose=purpose)
        return value_of(self.open_many([request])[0])

    def seal_many(self, requests: Sequence[SealRequest]) -> list[bytes | KeyVaultError]:
        """Seal a batch, with one round for all its keys."""

        def seal(request: SealRequest, key: DataKey | KeyVaultError) -> bytes:
            data_key = value_of(key)
            try:
                return seal_envelope(data_key.plaintext, data_key.wrapped, request.plaintext, request.associated_data)
            finally:
                data_key.wipe()

        return [caught(seal, *item) for item in zip(requests, self.generate_data_keys(requests), strict=True)]

    def open_many(self, requests: Sequence[OpenRequest]) -> list[bytes | KeyVaultError]:
        """Open a batch, with one round for all its keys."""
        split = [caught(split_envelope, request.envelope) for request in requests]
        wanted = [
            UnwrapRequest(wrapped=item.wrapped.raw, associated_data=request.associated_data, purpose=request.purpose)
            for item, request in zip(split, requests, strict=True)
            if not isinstance(item, KeyVaultError)
        ]
        keys = iter(self.unwrap_data_keys(wanted))
        results: list[bytes | KeyVaultError] = []
        for item, request in zip(split, requests, strict=True):
            if isinstance(item, KeyVaultError):
                results.append(item)
                continue
            key = next(keys)
            if isinstance(key, KeyVaultError):
                results.append(key)
                continue
            results.append(caught(open_envelope, item, key, request.associated_data))
            wipe(key)
        return results

    def seal_stream(
        self,
        source: BinaryIO,
        sink: BinaryIO,
        scopes: Sequence[str],
        *,
        associated_data: bytes = b"",
        purpose: str | None = None,
        record: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Seal `source` into `sink`, in constant memory; `progress` is told the bytes of each segment."""
        request = KeyRequest(scopes=tuple(scopes), associated_data=associated_data, purpose=purpose, record=record)
        key = value_of(self.generate_data_keys([request])[0])
        try:
            seal_stream(key.plaintext, key.wrapped, source, sink, associated_data, progress=progress)
        finally:
            key.wipe()

    def open_stream(
        self,
        source: BinaryIO,
        sink: BinaryIO,
        *,
        associated_data: bytes = b"",
        purpose: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Open a stream into `sink`. On any error the caller must throw away what `sink` got so far."""
        header = read_stream_header(source)
        request = UnwrapRequest(wrapped=header.wrapped.raw, associated_data=associated_data, purpose=purpose)
        key = value_of(self.unwrap_data_keys([request])[0])
        try:
            open_stream_body(key, header, source, sink, associated_data, progress=progress)
        finally:
            wipe(key)
