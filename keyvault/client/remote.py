"""`RemoteKeyVault`: what the storage layer calls where keys come from the service."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Self, TypeVar

import httpx2

from keyvault.client import forks
from keyvault.client.asking import Lost, Reply, Send, Steps
from keyvault.client.core import RENEWED_AT_ONCE, ClientCore
from keyvault.client.options import ClientOptions
from keyvault.client.pushes import Pushes
from keyvault.client.transports import Connections
from keyvault.clock import Clock, SystemClock
from keyvault.errors import KeyVaultError
from keyvault.results import value_of
from keyvault.sealing import Sealer
from keyvault.states import KeyState
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


class RemoteKeyVault(Sealer):
    """The service's keys, with the methods of `KeyVault`, but for `list_scopes` and `migrate_scopes`, which the service does not offer.

    Data is sealed and opened in this process, and never travels. Data keys are kept in memory for the lease that the service gives with
    them. Each method raises `Unavailable` when no node of the service answers in time, `TokenRefusedError`, `NotPermittedError`, or what
    `KeyVault` raises. Thread-safe, also in forked children; close it, or use it as a context manager.
    """

    def __init__(self, options: ClientOptions, clock: Clock | None = None) -> None:
        """As `keyvault.connect`."""
        self._options = options
        self._clock = clock or SystemClock()
        self._closed = threading.Event()
        self._begin()
        forks.follow(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"RemoteKeyVault({', '.join(self._options.urls)})"

    def close(self) -> None:
        """Wipe what is kept in memory; close the connections."""
        self._closed.set()
        self._core.kept.close()
        self._connections.close()

    # --- scopes ----------------------------------------------------------------------------------------------------

    def ensure_scopes(self, names: Sequence[str], *, renew: bool = False) -> list[ScopeInfo | KeyVaultError]:
        """As `KeyVault.ensure_scopes`."""
        return self._run(self._core.calls.ensure_scopes(names, renew=renew))

    def describe(self, names: Sequence[str]) -> list[ScopeInfo | KeyVaultError]:
        """As `KeyVault.describe`."""
        return self._run(self._core.calls.scopes("describe", names))

    def suspend(self, names: Sequence[str]) -> list[ScopeInfo | KeyVaultError]:
        """As `KeyVault.suspend`."""
        return self._run(self._core.calls.scopes("suspend", names))

    def resume(self, names: Sequence[str]) -> list[ScopeInfo | KeyVaultError]:
        """As `KeyVault.resume`."""
        return self._run(self._core.calls.scopes("resume", names))

    def suspend_records(self, name: str, records: Sequence[str]) -> list[KeyState | KeyVaultError]:
        """As `KeyVault.suspend_records`."""
        return self._run(self._core.calls.records("suspend", name, records))

    def resume_records(self, name: str, records: Sequence[str]) -> list[KeyState | KeyVaultError]:
        """As `KeyVault.resume_records`."""
        return self._run(self._core.calls.records("resume", name, records))

    # --- data keys -------------------------------------------------------------------------------------------------

    def generate_data_keys(self, requests: Sequence[KeyRequest]) -> list[DataKey | KeyVaultError]:
        """As `KeyVault.generate_data_keys`: always fresh ones."""
        return [key for key, _ in self._run(self._core.calls.generate(requests))]

    def wrap_data_keys(self, requests: Sequence[WrapRequest]) -> list[DataKey | KeyVaultError]:
        """As `KeyVault.wrap_data_keys`."""
        return [key for key, _ in self._run(self._core.calls.wrap(requests))]

    def unwrap_data_keys(self, requests: Sequence[UnwrapRequest]) -> list[bytearray | KeyVaultError]:
        """As `KeyVault.unwrap_data_keys`; the caller gets copies of what is kept."""
        return self._run(self._core.unwrap(requests))

    def rewrap_data_keys(self, requests: Sequence[RewrapRequest]) -> list[bytes | KeyVaultError]:
        """As `KeyVault.rewrap_data_keys`."""
        return [wrapped for wrapped, _ in self._run(self._core.calls.rewrap(requests))]

    # --- data ------------------------------------------------------------------------------------------------------

    def open(self, envelope: bytes, *, associated_data: bytes = b"", purpose: str | None = None) -> bytes:
        """As `KeyVault.open`."""
        kept = self._core.opening.one(envelope, associated_data, purpose)
        if kept is not None:
            return value_of(kept)
        return super().open(envelope, associated_data=associated_data, purpose=purpose)

    def seal_many(self, requests: Sequence[SealRequest]) -> list[bytes | KeyVaultError]:
        """As `KeyVault.seal_many`; messages may share data keys, within `Reuse`."""
        return self._run(self._core.sealing.many(requests))

    def open_many(self, requests: Sequence[OpenRequest]) -> list[bytes | KeyVaultError]:
        """As `KeyVault.open_many`."""
        return self._run(self._core.opening.many(requests))

    # --- within ----------------------------------------------------------------------------------------------------

    def begin_anew(self) -> None:
        """In a forked child: wipe what the parent kept, and leave its connections alone."""
        self._core.kept.forget()
        self._parents = self._connections  # to close them would take locks that nobody may give back
        self._begin()

    def _begin(self) -> None:
        self._connections = Connections(self._options, self._clock)
        self._core = ClientCore(self._options, self._clock)
        self._core.kept.wake = self._start_renewing
        self._listens = False

    def _run(self, steps: Steps[R]) -> R:
        """Take steps, and return what they come to."""
        said: Reply | Lost | None = None
        try:
            while True:
                step = steps.send(said)
                if self._closed.is_set():
                    raise KeyVaultError("this client was closed: connect again")
                if isinstance(step, Send):
                    said = self._connections.send(step)
                else:
                    said = None
                    time.sleep(step.seconds)
        except StopIteration as done:
            result: R = done.value
            return result
        finally:
            steps.close()
            if not self._listens and len(self._core.kept) > 0:
                self._start_listening()

    def _start_renewing(self) -> None:
        threading.Thread(target=self._renew, name="keyvault-renewal", daemon=True).start()

    def _renew(self) -> None:
        core = self._core
        while (batch := core.kept.take_due(RENEWED_AT_ONCE)) and not self._closed.is_set():
            with contextlib.suppress(KeyVaultError):  # none but that the client was closed
                self._run(core.renew(batch))

    def _start_listening(self) -> None:
        self._listens = True
        threading.Thread(target=self._listen, name="keyvault-push", daemon=True).start()

    def _listen(self) -> None:
        pushes = Pushes(self._options, self._core.kept)
        while not self._closed.is_set():
            # Whatever ends a stream, another is begun; the bound does not rest on it.
            with (
                contextlib.suppress(httpx2.TransportError, KeyVaultError),
                self._connections.events(pushes.listen()) as (status, events),
            ):
                if pushes.opened(status):
                    for event in events:
                        pushes.heard(event.event, event.data)
            self._closed.wait(pushes.ended())
