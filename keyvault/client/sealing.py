"""Sealing envelopes with data keys of the service, and going on with those within `Reuse`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from keyvault.client.asking import Steps
from keyvault.client.calls import ServiceCalls
from keyvault.client.kept_keys import KeptKeys, Lease
from keyvault.client.reused_keys import ReusedKey, groups
from keyvault.clock import Clock
from keyvault.envelope import EnvelopeKey
from keyvault.errors import KeyVaultError
from keyvault.results import caught
from keyvault.values import DataKey, KeyRequest, Reuse, SealRequest

Name: TypeAlias = tuple[tuple[str, ...], str | None, str | None, bytes]
"""Scopes, record, purpose, associated data: all that a wrapped key is bound to, or that was looked at before it was given."""
_ASKED = KeyVaultError("the service must be asked")


class Sealing:
    """Seals envelopes. Thread-safe."""

    def __init__(self, calls: ServiceCalls, kept: KeptKeys, clock: Clock, reuse: Reuse | None) -> None:
        """Keep keys in `kept`; without `reuse` every envelope has a key of its own."""
        self._calls = calls
        self._kept = kept
        self._clock = clock
        self._reuse = reuse

    def many(self, requests: Sequence[SealRequest]) -> Steps[list[bytes | KeyVaultError]]:
        """Seal a batch: under kept keys while they last, the rest with one round for all its keys."""
        results: list[bytes | KeyVaultError] = []
        missing: list[int] = []
        now, soonest = self._clock.monotonic(), math.inf
        for index, request in enumerate(requests):
            sealed = None if self._reuse is None else self._seal_kept(request, now)
            if sealed is None:
                missing.append(index)
                results.append(_ASKED)
                continue
            results.append(sealed[0])
            soonest = min(soonest, sealed[1])
        if self._clock.monotonic() >= soonest:
            missing = list(range(len(requests)))
        if missing:
            fetched = yield from self._fetch([requests[index] for index in missing])
            for index, result in zip(missing, fetched, strict=True):
                results[index] = result
        return results

    def renew(self, asked: Sequence[KeyRequest]) -> Steps[list[KeyVaultError | None]]:
        """Put fresh keys in the place of kept ones; return each one's error, if it has one."""
        drops = self._kept.drops
        made = yield from self._calls.generate(asked)
        for request, (item, lease) in zip(asked, made, strict=True):
            if isinstance(item, DataKey) and self._reuse is not None:
                self._keep(request, item.wrapped, _envelope_key(request, item), lease, drops, messages=0, size=0)
        return [item if isinstance(item, KeyVaultError) else None for item, _ in made]

    def _seal_kept(self, request: SealRequest, now: float) -> tuple[bytes | KeyVaultError, float] | None:
        kept = self._kept.find(_name(request), now)
        if kept is None or not isinstance(kept.key, ReusedKey) or not kept.key.spend(len(request.plaintext)):
            return None
        if kept.key.runs_low:
            self._kept.renew_soon(kept)
        try:
            return kept.key.seal(request.plaintext), kept.expires
        except KeyVaultError:
            return None  # wiped by another thread, or more than an envelope holds: the long way tells

    def _fetch(self, requests: Sequence[SealRequest]) -> Steps[list[bytes | KeyVaultError]]:
        shared = groups([(_name(request), request) for request in requests], self._reuse)
        asked = [_key_request(requests[group[0]]) for group in shared]
        drops = self._kept.drops
        made = yield from self._calls.generate(asked)
        results: list[bytes | KeyVaultError] = [_ASKED] * len(requests)
        for group, request, (item, lease) in zip(shared, asked, made, strict=True):
            key = _envelope_key(request, item)
            for index in group:
                results[index] = key if isinstance(key, KeyVaultError) else caught(key.seal, requests[index].plaintext)
            if isinstance(item, DataKey):
                size = sum(len(requests[index].plaintext) for index in group)
                self._keep(request, item.wrapped, key, lease, drops, messages=len(group), size=size)
        return results

    def _keep(
        self,
        request: KeyRequest,
        wrapped: bytes,
        key: EnvelopeKey | KeyVaultError,
        lease: Lease,
        drops: int,
        *,
        messages: int,
        size: int,
    ) -> None:
        if isinstance(key, KeyVaultError) or self._reuse is None:
            return
        reused = ReusedKey(key, self._reuse, messages=messages, size=size)
        if reused.is_used_up:
            reused.wipe()
        else:
            self._kept.keep(_name(request), request, reused, wrapped, lease, drops=drops)


def _name(request: KeyRequest) -> Name:
    return tuple(request.scopes), request.record, request.purpose, bytes(request.associated_data)


def _key_request(request: SealRequest) -> KeyRequest:
    return KeyRequest(
        scopes=request.scopes,
        associated_data=request.associated_data,
        purpose=request.purpose,
        record=request.record,
    )


def _envelope_key(request: KeyRequest, item: DataKey | KeyVaultError) -> EnvelopeKey | KeyVaultError:
    if isinstance(item, KeyVaultError):
        return item
    try:
        return caught(EnvelopeKey, item.plaintext, item.wrapped, request.associated_data)
    finally:
        item.wipe()
