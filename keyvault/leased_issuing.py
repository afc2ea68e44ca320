"""Issuing from memory, for as long as a lease: for callers that seal many messages under the same scopes."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from datetime import datetime

from keyvault.admission import Targets
from keyvault.clock import Clock
from keyvault.custody.base import Custody
from keyvault.errors import DecryptionFailedError, InvalidInputError, KeyVaultError
from keyvault.formats import NONCE_BYTES, check_associated_data, random_pieces, wipe
from keyvault.issuing import Admitted, Issuer, new_data_keys
from keyvault.leased_keys import LeasedKeys
from keyvault.leases import LeaseAnchor
from keyvault.log import LogGate
from keyvault.results import caught
from keyvault.scopes import REFUSED_PURPOSES, RefusedPurposes
from keyvault.store.database import Database
from keyvault.system_keys import SystemKeys
from keyvault.values import DataKey, KeyRequest, UnwrapRequest
from keyvault.wrapped import WrappedKey, WrappingKey, parse_wrapped
from keyvault.wrapping import TargetKeys, WrappingKeys

_new_tuple = tuple.__new__


class LeasedIssuer(Issuer):
    """Keeps the wrapping keys that it admitted, and answers with them until their lease ends (G3). Thread-safe."""

    def __init__(
        self,
        database: Database,
        custodies: Mapping[int, Custody],
        keys: SystemKeys,
        clock: Clock,
        leases: LeaseAnchor,
        *,
        log: LogGate,
        kept: LeasedKeys,
        refused: RefusedPurposes = REFUSED_PURPOSES,
    ) -> None:
        """As `Issuer`; `kept` is this issuer's own."""
        super().__init__(database, custodies, keys, clock, leases, log=log, refused=refused)
        self._kept = kept

    def close(self) -> None:
        """Wipe what is kept in memory."""
        self._kept.close()

    def generate(self, requests: Sequence[KeyRequest]) -> list[DataKey | KeyVaultError]:
        """Give fresh 32-byte data keys, from what is kept where it is kept."""
        keys, nonces = new_data_keys(len(requests)), random_pieces(len(requests), NONCE_BYTES)
        kept, now, soonest = self._kept.usable().get, self._clock.now(), math.inf
        results: list[DataKey | KeyVaultError] = []
        left: list[int] = []
        for request, key, nonce in zip(requests, keys, nonces, strict=True):
            found = kept((request.scopes, request.record, request.purpose))
            wrapping_key, expires, due_at = found or _NOTHING_KEPT
            if wrapping_key is None or (due_at is not None and due_at <= now):
                left.append(len(results))
                results.append(_NOT_KEPT)
                continue
            if expires < soonest:  # noqa: PLR1730 - `min` would be one more call for every key
                soonest = expires
            try:
                if associated_data := request.associated_data:
                    check_associated_data(associated_data)
                wrapped = wrapping_key.wrap_under(nonce, key, associated_data)
                results.append(_new_tuple(DataKey, (key, wrapped)))  # DataKey's own constructor takes twice as long
            except KeyVaultError as error:
                left.append(len(results))  # another thread has dropped the key, or the request is malformed
                results.append(error)
        if not self._kept.still_usable(soonest):
            return self._wrap(requests, keys)
        if left:
            made = self._wrap([requests[index] for index in left], [keys[index] for index in left])
            for index, result in zip(left, made, strict=True):
                results[index] = result
        return results

    def unwrap(self, requests: Sequence[UnwrapRequest]) -> list[bytearray | KeyVaultError]:
        """Give back data keys, from what is kept where it is kept."""
        parsed = [caught(parse_wrapped, request.wrapped) for request in requests]
        kept, soonest = self._kept.usable(), math.inf
        results: dict[int, bytearray | KeyVaultError] = {}
        for index, (item, request) in enumerate(zip(parsed, requests, strict=True)):
            if isinstance(item, KeyVaultError):
                results[index] = item
            elif found := kept.get((item.header.encoded, request.purpose)):
                opened = caught(found.key.unwrap, item, request.associated_data)
                if isinstance(opened, bytearray | DecryptionFailedError | InvalidInputError):
                    results[index] = opened
                    soonest = min(soonest, found.expires)
        if not self._kept.still_usable(soonest):
            for opened in results.values():
                if isinstance(opened, bytearray):
                    wipe(opened)
            return self._unwrap(parsed, requests)
        left = [index for index in range(len(requests)) if index not in results]
        if left:
            made = self._unwrap([parsed[index] for index in left], [requests[index] for index in left])
            results |= zip(left, made, strict=True)
        return [results[index] for index in range(len(requests))]

    def _after_wrapping(
        self,
        anchor: float,
        requests: Sequence[KeyRequest],
        names: Sequence[TargetKeys | KeyVaultError],
        groups: Mapping[TargetKeys, Targets],
        wrapping_keys: WrappingKeys[TargetKeys],
    ) -> None:
        """Keep each wrapping key under the form of the request that it was admitted for."""
        keys: list[tuple[Hashable, WrappingKey, datetime | None]] = []
        for request, name in zip(requests, names, strict=True):
            if isinstance(name, KeyVaultError):
                continue
            key = wrapping_keys.pop(name, None)
            if key is not None and not isinstance(key, KeyVaultError):
                due = min([row.due_at for row, _ in groups[name] if row.due_at is not None], default=None)
                keys.append(((request.scopes, request.record, request.purpose), key, due))
        self._kept.keep_all(keys, anchor=anchor)

    def _after_unwrapping(
        self,
        anchor: float,
        requests: Sequence[UnwrapRequest],
        admitted: Sequence[Admitted | KeyVaultError],
        wrapping_keys: WrappingKeys[bytes],
    ) -> None:
        """Keep each wrapping key under the header that it belongs to."""
        keys: list[tuple[Hashable, WrappingKey, datetime | None]] = []
        for request, item in zip(requests, admitted, strict=True):
            if isinstance(item, KeyVaultError):
                continue
            wrapped: WrappedKey = item[0]
            key = wrapping_keys.pop(wrapped.header.encoded, None)
            if key is not None and not isinstance(key, KeyVaultError):
                keys.append(((wrapped.header.encoded, request.purpose), key, None))
        self._kept.keep_all(keys, anchor=anchor)


_NOT_KEPT = KeyVaultError("not kept under a lease")
_NOTHING_KEPT = (None, math.inf, None)
