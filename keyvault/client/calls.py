"""The calls of the service as steps: batches in parts, answers with the lease of their part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import msgspec

from keyvault.client import messages
from keyvault.client.asking import Asker, Steps
from keyvault.client.kept_keys import Lease
from keyvault.errors import KeyVaultError
from keyvault.formats import check_associated_data
from keyvault.results import caught
from keyvault.service import wire
from keyvault.states import KeyState
from keyvault.values import DataKey, KeyRequest, RewrapRequest, ScopeInfo, UnwrapRequest, WrapRequest

B = TypeVar("B", bound=msgspec.Struct)
Item = TypeVar("Item")
Request = TypeVar("Request", KeyRequest, WrapRequest, RewrapRequest, UnwrapRequest)
R = TypeVar("R")


NO_LEASE = Lease(0.0, 0.0)
Leased: TypeAlias = tuple[R, Lease]


class ServiceCalls:
    """Calls. Each raises what `Asker.ask` raises; keys of parts that were answered before are wiped then."""

    def __init__(self, asker: Asker) -> None:
        """Ask by way of `asker`."""
        self._asker = asker

    def ensure_scopes(self, names: Sequence[str], *, renew: bool) -> Steps[list[ScopeInfo | KeyVaultError]]:
        """Create scopes where they are not there."""
        return self._scopes("ensure", lambda part: wire.EnsureScopes(names=list(part), renew=renew), names)

    def scopes(self, verb: str, names: Sequence[str]) -> Steps[list[ScopeInfo | KeyVaultError]]:
        """Describe, suspend or resume scopes."""
        return self._scopes(verb, lambda part: wire.ScopeNames(names=list(part)), names)

    def records(self, verb: str, name: str, records: Sequence[str]) -> Steps[list[KeyState | KeyVaultError]]:
        """Suspend or resume records."""

        def make(part: Sequence[str]) -> wire.RecordNames:
            return wire.RecordNames(scope=name, records=list(part))

        parts = yield from self._asked(f"/v1/records/{verb}", make, records, wire.RecordAnswers)
        return [item for part, answer, _ in parts for item in messages.records(answer, len(part))]

    def generate(self, requests: Sequence[KeyRequest]) -> Steps[list[Leased[DataKey | KeyVaultError]]]:
        """Ask for fresh data keys."""

        def read(part: Sequence[KeyRequest], answer: wire.KeyAnswers) -> list[DataKey | KeyVaultError]:
            return messages.data_keys(answer, [None] * len(part))

        return self._keys("generate", messages.generate, requests, read)

    def wrap(self, requests: Sequence[WrapRequest]) -> Steps[list[Leased[DataKey | KeyVaultError]]]:
        """Ask to wrap data keys."""

        def read(part: Sequence[WrapRequest], answer: wire.KeyAnswers) -> list[DataKey | KeyVaultError]:
            return messages.data_keys(answer, [request.data_key for request in part])

        return self._keys("wrap", messages.wrap, requests, read)

    def unwrap(self, requests: Sequence[UnwrapRequest]) -> Steps[list[Leased[bytearray | KeyVaultError]]]:
        """Ask for data keys again."""

        def read(part: Sequence[UnwrapRequest], answer: wire.KeyAnswers) -> list[bytearray | KeyVaultError]:
            return messages.plaintexts(answer, len(part))

        return self._keys("unwrap", messages.unwrap, requests, read)

    def rewrap(self, requests: Sequence[RewrapRequest]) -> Steps[list[Leased[bytes | KeyVaultError]]]:
        """Ask to move wrapped keys."""

        def read(part: Sequence[RewrapRequest], answer: wire.KeyAnswers) -> list[bytes | KeyVaultError]:
            return messages.wrapped(answer, len(part))

        return self._keys("rewrap", messages.rewrap, requests, read)

    # --- within ----------------------------------------------------------------------------------------------------

    def _scopes(
        self, verb: str, make: Callable[[Sequence[str]], msgspec.Struct], names: Sequence[str]
    ) -> Steps[list[ScopeInfo | KeyVaultError]]:
        parts = yield from self._asked(f"/v1/scopes/{verb}", make, names, wire.ScopeAnswers)
        return [item for part, answer, _ in parts for item in messages.scopes(answer, len(part))]

    def _keys(
        self,
        verb: str,
        make: Callable[[Sequence[Request]], msgspec.Struct],
        requests: Sequence[Request],
        read: Callable[[Sequence[Request], wire.KeyAnswers], list[R | KeyVaultError]],
    ) -> Steps[list[Leased[R | KeyVaultError]]]:
        """Ask for keys; associated data that no service takes is its item's own error, and not the whole batch's."""
        refused = [caught(check_associated_data, request.associated_data) for request in requests]
        good = [request for request, error in zip(requests, refused, strict=True) if error is None]
        parts = yield from self._asked(f"/v1/keys/{verb}", make, good, wire.KeyAnswers)
        answered = iter(
            [(item, Lease(anchor, answer.lease)) for part, answer, anchor in parts for item in read(part, answer)]
        )
        return [next(answered) if error is None else (error, NO_LEASE) for error in refused]

    def _asked(
        self, path: str, make: Callable[[Sequence[Item]], msgspec.Struct], items: Sequence[Item], answered: type[B]
    ) -> Steps[list[tuple[Sequence[Item], B, float]]]:
        done: list[tuple[Sequence[Item], B, float]] = []
        try:
            for part, content in messages.parts(make, items):
                answer, anchor = yield from self._asker.ask(path, content, answered)
                done.append((part, answer, anchor))
        except BaseException:
            for _, answer, _ in done:
                messages.wipe_keys(answer)
            raise
        return done
