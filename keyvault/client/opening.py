"""Opening envelopes with keys that are kept, and with keys of the service where they are not."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeAlias, cast

from keyvault.client.asking import Steps
from keyvault.client.calls import ServiceCalls
from keyvault.client.kept_keys import KeptKeys, Lease
from keyvault.clock import Clock
from keyvault.envelope import Envelope, EnvelopeKey, split_envelope
from keyvault.errors import DecryptionFailedError, InvalidInputError, KeyVaultError
from keyvault.formats import MAGIC_BYTES, Format, wipe
from keyvault.results import caught, value_of
from keyvault.values import OpenRequest, UnwrapRequest

SIZES = 4
"""Sizes of wrapped keys that are tried before one is taken apart: each number of scopes has its own, with a record and without."""

Name: TypeAlias = tuple[bytes, bytes, str | None]
"""The envelope's bytes through the end of its wrapped key, the associated data, and the purpose."""


class Opening:
    """Opens envelopes. Thread-safe."""

    def __init__(self, calls: ServiceCalls, kept: KeptKeys, clock: Clock) -> None:
        """Keep keys in `kept`."""
        self._calls = calls
        self._kept = kept
        self._clock = clock
        self._ends: tuple[int, ...] = ()

    def one(self, envelope: bytes, associated_data: bytes, purpose: str | None) -> bytes | KeyVaultError | None:
        """Open an envelope whose key is kept; None where the service must be asked."""
        return self._from_memory(((envelope, associated_data, purpose),))[0]

    def many(self, requests: Sequence[OpenRequest]) -> Steps[list[bytes | KeyVaultError]]:
        """Open a batch: what is kept from memory, the rest with one round for all its keys."""
        results = self._from_memory([(one.envelope, one.associated_data, one.purpose) for one in requests])
        missing = [index for index, result in enumerate(results) if result is None]
        if missing:
            fetched = yield from self._fetch([requests[index] for index in missing])
            for index, result in zip(missing, fetched, strict=True):
                results[index] = result
        return cast("list[bytes | KeyVaultError]", results)

    def _from_memory(self, wanted: Iterable[tuple[bytes, bytes, str | None]]) -> list[bytes | KeyVaultError | None]:
        """Open envelopes with kept keys; None where the service must be asked.

        Wrapped keys are not taken apart: that one is the very one whose key is kept says all there is to say of it. This runs for every
        message that is opened, so it calls little.
        """
        get, ends, now, soonest = self._kept.get, self._ends, self._clock.monotonic(), math.inf
        results: list[bytes | KeyVaultError | None] = []
        for envelope, associated_data, purpose in wanted:
            for end in ends:
                kept = get((envelope[:end], associated_data, purpose))
                if kept is not None:
                    break
            else:
                results.append(None)
                continue
            if kept.look_at <= now and not self._kept.looked_at(kept, now):
                results.append(None)
                continue
            soonest = min(soonest, kept.expires)
            try:
                results.append(kept.key.open(envelope))
            except (DecryptionFailedError, InvalidInputError) as error:
                results.append(error)
            except KeyVaultError:
                results.append(None)  # another thread has wiped the key
        if self._clock.monotonic() >= soonest:
            return [None] * len(results)
        return results

    def _fetch(self, requests: Sequence[OpenRequest]) -> Steps[list[bytes | KeyVaultError]]:
        """Open what was not opened with keys that the service gives; each is asked for once."""
        split = [caught(split_envelope, request.envelope) for request in requests]
        named = [_name(item, request) for item, request in zip(split, requests, strict=True)]
        wanted = {
            name: UnwrapRequest(wrapped=name[0][MAGIC_BYTES:], associated_data=name[1], purpose=name[2])
            for name in named
            if not isinstance(name, KeyVaultError)
        }
        drops = self._kept.drops
        answers = yield from self._calls.unwrap(list(wanted.values()))
        keys = {name: _envelope_key(name, item) for name, (item, _) in zip(wanted, answers, strict=True)}

        def open_one(name: Name | KeyVaultError, request: OpenRequest) -> bytes:
            return value_of(keys[value_of(name)]).open(request.envelope)

        results = [caught(open_one, *item) for item in zip(named, requests, strict=True)]
        for (name, asked), (_, lease) in zip(wanted.items(), answers, strict=True):
            self._keep(name, asked, keys[name], lease, drops)
        return results

    def _keep(
        self, name: Name, asked: UnwrapRequest, key: EnvelopeKey | KeyVaultError, lease: Lease, drops: int
    ) -> None:
        if isinstance(key, KeyVaultError):
            return
        end = len(name[0])
        if end not in self._ends:
            self._ends = (end, *self._ends)[:SIZES]
        self._kept.keep(name, asked, key, asked.wrapped, lease, drops=drops)


def _name(item: Envelope | KeyVaultError, request: OpenRequest) -> Name | KeyVaultError:
    if isinstance(item, KeyVaultError):
        return item
    return Format.ENVELOPE.value + item.wrapped.raw, bytes(request.associated_data), request.purpose


def _envelope_key(name: Name, item: bytearray | KeyVaultError) -> EnvelopeKey | KeyVaultError:
    if isinstance(item, KeyVaultError):
        return item
    try:
        return caught(EnvelopeKey, item, name[0][MAGIC_BYTES:], name[1])
    finally:
        wipe(item)
