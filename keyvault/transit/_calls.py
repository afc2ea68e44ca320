"""Calls to Vault with valid credentials: one at a time or in concurrent batches, their errors told apart.

Vault answers 400 to most things, so its texts decide; they were measured on Vault 1.21.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, TypeVar

from hvac.exceptions import Forbidden, InvalidPath, VaultError

from keyvault.errors import (
    CheckAndSetError,
    CiphertextRefusedError,
    ConfigurationError,
    InvalidInputError,
    KeyMissingError,
    KeyVaultError,
    NotProvenError,
    PermissionDeniedError,
    TransitError,
    Unavailable,
)
from keyvault.transit._http import open_client, open_pool
from keyvault.transit._login import AppRoleCredentials, Session, TokenCredentials
from keyvault.transit.vault_settings import VaultSettings

_ERRORS_BY_TEXT: tuple[tuple[type[KeyVaultError], tuple[str, ...]], ...] = (
    (
        KeyMissingError,
        (
            "key not found",  # encryption, signing, and rotate's bare one
            "no existing key named",
            "could not delete key; not found",
            "invalid key name",  # trim's words for a key that is not there; names are checked before they are sent
        ),
    ),
    (
        CiphertextRefusedError,
        (
            "disallowed by policy (too old)",
            "message authentication failed",
            "invalid ciphertext",
            "missing ciphertext",
        ),
    ),
    (CheckAndSetError, ("check-and-set parameter did not match",)),
    # It was allowed just before: another run has deleted the key meanwhile and made it anew, to delete what may be left of it.
    (NotProvenError, ("deletion is not allowed for this key",)),
    (
        InvalidInputError,
        ("min decryption version", "min encryption version", "min encryption/decryption", "minimum available version"),
    ),
)

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class VaultCalls:
    """One pool, one login and as many threads as the pool has connections. Nothing is sent before the first call.

    `client` is for use inside the functions given to `call`. `clock` gives seconds, for the token's age.
    """

    def __init__(
        self,
        settings: VaultSettings,
        credentials: AppRoleCredentials | TokenCredentials,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self._pool = open_pool(settings)
        self.client: Any = open_client(settings, self._pool)
        self._session = Session(
            settings=settings,
            client=self.client,
            login_client=open_client(settings, self._pool),
            credentials=credentials,
            clock=clock,
        )
        self._closed = False
        self._threads = ThreadPoolExecutor(settings.pool_size, thread_name_prefix="keyvault-transit")

    def call(self, doing: str, work: Callable[[], Any], *, key: str = "") -> dict[str, Any]:
        """Run `work`, which calls hvac once, and return the `data` of Vault's answer.

        `doing` says in messages what was tried, as a verb and a path pattern, `key` to which key. Raises what the error
        tree has for Vault's answer: `KeyMissingError` also for a path without an entry, `ConfigurationError` for a
        missing mount.
        """
        self._check_open()
        try:
            return self._authorised(doing, work).get("data") or {}
        except VaultError as error:
            raise self._told_apart(error, f"{doing} (key {key})" if key else doing) from error

    def _check_open(self) -> None:
        if self._closed:
            raise TransitError("the engine over Vault is closed")

    def _authorised(self, doing: str, work: Callable[[], Any]) -> dict[str, Any]:
        self._session.ensure()
        generation = self._session.generation
        answer: dict[str, Any]
        try:
            answer = work()
        except Forbidden:
            self._session.recover(generation, doing=doing)
        else:
            return answer
        try:
            answer = work()
        except Forbidden as error:
            raise PermissionDeniedError(
                f"the Vault role {self._session.role} may not {doing}; write its policy again with `keyvault init`"
            ) from error
        return answer

    def _told_apart(self, error: VaultError, doing: str) -> KeyVaultError:
        said = "; ".join(error.errors or [])
        if isinstance(error, InvalidPath):
            # An entry that is not there has an empty list; words mean that the path itself leads nowhere.
            if not said:
                return KeyMissingError(f"Vault cannot {doing}: nothing of that name")
            return ConfigurationError(
                f"Vault at {self.settings.addr} cannot {doing}: {said}; see `keyvault doctor` for mounts and namespace"
            )
        for kind, texts in _ERRORS_BY_TEXT:
            if any(text in said for text in texts):
                return kind(f"Vault refuses to {doing}: {said}")
        return TransitError(f"Vault refuses to {doing}: {said or type(error).__name__}")

    def batch(self, items: Sequence[_In], work: Callable[[_In], _Out]) -> list[_Out | KeyVaultError]:
        """Run `work` on each item, concurrently and in the caller's context; results in input order.

        A thread stops at its first `Unavailable`, so that a server that is down costs one time-out and not a thousand; what
        is then left untried has that error.
        """
        self._check_open()
        if len(items) <= 1:
            return [_attempt(item, work) for item in items]
        waiting = deque(enumerate(items))
        done: dict[int, _Out | KeyVaultError] = {}

        def take() -> None:
            while waiting:
                try:
                    index, item = waiting.popleft()
                except IndexError:
                    return
                done[index] = outcome = _attempt(item, work)
                if isinstance(outcome, Unavailable):
                    return

        threads = min(len(items), self.settings.pool_size)
        for worker in [self._threads.submit(copy_context().run, take) for _ in range(threads)]:
            worker.result()
        if waiting:
            down = next(outcome for outcome in done.values() if isinstance(outcome, Unavailable))
            done.update((index, down) for index, _ in waiting)
        return [done[index] for index in range(len(items))]

    def overlap(self, first: Callable[[], _In], second: Callable[[], _Out]) -> tuple[_In, _Out]:
        """Run `first` in a thread beside `second`; wait for both. When both fail, the error of `first` is raised."""
        self._check_open()
        running = self._threads.submit(copy_context().run, first)
        try:
            done = second()
        finally:
            before = running.result()
        return before, done

    def close(self) -> None:
        """End the threads, after the batches under way, and close the connections; may be called twice."""
        self._threads.shutdown()
        self._closed = True
        self._pool.close()


def _attempt(item: _In, work: Callable[[_In], _Out]) -> _Out | KeyVaultError:
    try:
        return work(item)
    except KeyVaultError as error:
        return error
