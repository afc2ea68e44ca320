"""`AsyncRemoteKeyVault`: `RemoteKeyVault` for programs on asyncio."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, BinaryIO, Self, TypeVar

import httpx2

from keyvault.client import forks
from keyvault.client.asking import Lost, Reply, Send, Steps
from keyvault.client.core import RENEWED_AT_ONCE, ClientCore
from keyvault.client.options import ClientOptions
from keyvault.client.pushes import Pushes
from keyvault.client.transports import AsyncConnections
from keyvault.clock import Clock, SystemClock
from keyvault.errors import KeyVaultError
from keyvault.formats import wipe
from keyvault.results import value_of
from keyvault.states import KeyState
from keyvault.stream import open_stream_body, read_stream_header, seal_stream
from keyvault.values import (
    DataKey,
    KeyRequest,
    OpenRequest,
    RewrapRequest,
    ScopeInfo,
    SealRequest,
    UnwrapRequest,
    WrapRequest,
)

R = TypeVar("R")


class AsyncRemoteKeyVault:
    """The methods of `RemoteKeyVault` as coroutines. For one event loop; close it, or use it as an asynchronous context manager."""

    def __init__(self, options: ClientOptions, clock: Clock | None = None) -> None:
        """As `keyvault.connect_async`."""
        self._options = options
        self._clock = clock or SystemClock()
        self._closed = False
        self._begin()
        forks.follow(self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"AsyncRemoteKeyVault({', '.join(self._options.urls)})"

    async def close(self) -> None:
        """Wipe what is kept in memory; close the connections."""
        self._closed = True
        self._core.kept.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._connections.close()

    # --- scopes ----------------------------------------------------------------------------------------------------

    async def ensure_scopes(self, names: Sequence[str], *, renew: bool = False) -> list[ScopeInfo | KeyVaultError]:
        """As `KeyVault.ensure_scopes`."""
        return await self._run(self._core.calls.ensure_scopes(names, renew=renew))

    async def describe(self, names: Sequence[str]) -> list[ScopeInfo | KeyVaultError]:
        """As `KeyVault.describe`."""
        return await self._run(self._core.calls.scopes("describe", names))

    async def suspend(self, names: Sequence[str]) -> list[ScopeInfo | KeyVaultError]:
        """As `KeyVault.suspend`."""
        return await self._run(self._core.calls.scopes("suspend", names))

    async def resume(self, names: Sequence[str]) -> list[ScopeInfo | KeyVaultError]:
        """As `KeyVault.resume`."""
        return await self._run(self._core.calls.scopes("resume", names))

    async def suspend_records(self, name: str, records: Sequence[str]) -> list[KeyState | KeyVaultError]:
        """As `KeyVault.suspend_records`."""
        return await self._run(self._core.calls.records("suspend", name, records))

    async def resume_records(self, name: str, records: Sequence[str]) -> list[KeyState | KeyVaultError]:
        """As `KeyVault.resume_records`."""
        return await self._run(self._core.calls.records("resume", name, records))

    # --- data keys -------------------------------------------------------------------------------------------------

    async def generate_data_keys(self, requests: Sequence[KeyRequest]) -> list[DataKey | KeyVaultError]:
        """As `KeyVault.generate_data_keys`: always fresh ones."""
        return [key for key, _ in await self._run(self._core.calls.generate(requests))]

    async def wrap_data_keys(self, requests: Sequence[WrapRequest]) -> list[DataKey | KeyVaultError]:
        """As `KeyVault.wrap_data_keys`."""
        return [key for key, _ in await self._run(self._core.calls.wrap(requests))]

    async def unwrap_data_keys(self, requests: Sequence[UnwrapRequest]) -> list[bytearray | KeyVaultError]:
        """As `KeyVault.unwrap_data_keys`; the caller gets copies of what is kept."""
        return await self._run(self._core.unwrap(requests))

    async def rewrap_data_keys(self, requests: Sequence[RewrapRequest]) -> list[bytes | KeyVaultError]:
        """As `KeyVault.rewrap_data_keys`."""
        return [wrapped for wrapped, _ in await self._run(self._core.calls.rewrap(requests))]

    # --- data ------------------------------------------------------------------------------------------------------

    async def seal(
        self,
        plaintext: bytes,
        scopes: Sequence[str],
        *,
        associated_data: bytes = b"",
        purpose: str | None = None,
        record: str | None = None,
    ) -> bytes:
        """As `KeyVault.seal`."""
        request = SealRequest(
            plaintext=plaintext, scopes=tuple(scopes), associated_data=associated_data, purpose=purpose, record=record
        )
        return value_of((await self.seal_many([request]))[0])

    async def open(self, envelope: bytes, *, associated_data: bytes = b"", purpose: str | None = None) -> bytes:
        """As `KeyVault.open`."""
        kept = self._core.opening.one(envelope, associated_data, purpose)
        if kept is not None:
            return value_of(kept)
        request = OpenRequest(envelope=envelope, associated_data=associated_data, purpose=purpose)
        return value_of((await self.open_many([request]))[0])

    async def seal_many(self, requests: Sequence[SealRequest]) -> list[bytes | KeyVaultError]:
        """As `KeyVault.seal_many`; messages may share data keys, within `Reuse`."""
        return await self._run(self._core.sealing.many(requests))

    async def open_many(self, requests: Sequence[OpenRequest]) -> list[bytes | KeyVaultError]:
        """As `KeyVault.open_many`."""
        return await self._run(self._core.opening.many(requests))

    async def seal_stream(
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
        """As `KeyVault.seal_stream`; reads and writes in a thread."""
        request = KeyRequest(scopes=tuple(scopes), associated_data=associated_data, purpose=purpose, record=record)
        key = value_of((await self.generate_data_keys([request]))[0])
        try:
            await asyncio.to_thread(
                seal_stream, key.plaintext, key.wrapped, source, sink, associated_data, progress=progress
            )
        finally:
            key.wipe()

    async def open_stream(
        self,
        source: BinaryIO,
        sink: BinaryIO,
        *,
        associated_data: bytes = b"",
        purpose: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """As `KeyVault.open_stream`; reads and writes in a thread."""
        header = await asyncio.to_thread(read_stream_header, source)
        request = UnwrapRequest(wrapped=header.wrapped.raw, associated_data=associated_data, purpose=purpose)
        key = value_of((await self.unwrap_data_keys([request]))[0])
        try:
            await asyncio.to_thread(open_stream_body, key, header, source, sink, associated_data, progress=progress)
        finally:
            wipe(key)

    # --- within ----------------------------------------------------------------------------------------------------

    def begin_anew(self) -> None:
        """In a forked child: wipe what the parent kept, and leave its connections alone."""
        self._core.kept.forget()
        self._parents = self._connections, self._tasks
        self._begin()

    def _begin(self) -> None:
        self._connections = AsyncConnections(self._options)
        self._core = ClientCore(self._options, self._clock)
        self._core.kept.wake = lambda: self._start(self._renew())
        self._tasks: set[asyncio.Task[None]] = set()
        self._listens = False

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, steps: Steps[R]) -> R:
        """Take steps, and return what they come to."""
        said: Reply | Lost | None = None
        try:
            while True:
                step = steps.send(said)
                if self._closed:
                    raise KeyVaultError("this client was closed: connect again")
                if isinstance(step, Send):
                    said = await self._connections.send(step)
                else:
                    said = None
                    await asyncio.sleep(step.seconds)
        except StopIteration as done:
            result: R = done.value
            return result
        finally:
            steps.close()
            if not self._listens and len(self._core.kept) > 0:
                self._listens = True
                self._start(self._listen())

    async def _renew(self) -> None:
        while batch := self._core.kept.take_due(RENEWED_AT_ONCE):
            await self._run(self._core.renew(batch))  # `close` cancels it

    async def _listen(self) -> None:
        pushes = Pushes(self._options, self._core.kept)
        while True:
            # Whatever ends a stream, another is begun; the bound does not rest on it.
            with contextlib.suppress(httpx2.TransportError, KeyVaultError):
                async with self._connections.events(pushes.listen()) as (status, events):
                    if pushes.opened(status):
                        async for event in events:
                            pushes.heard(event.event, event.data)
            await asyncio.sleep(pushes.ended())
