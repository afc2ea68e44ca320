"""Issuing from memory, for as long as a lease: for callers that seal many messages under the same scopes."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from keyvault.admission import Targets
from keyvault.clock import Clock
from keyvault.custody.base import Custody
from keyvault.errors import DecryptionFailedError, InvalidInputError, KeyVaultError, Unavailable
from keyvault.formats import NONCE_BYTES, check_associated_data, random_pieces, wipe
from keyvault.issuing import Admitted, Issuer, new_data_keys
from keyvault.leased_keys import LeasedKey, LeasedKeys
from keyvault.leased_refresh import Refresher, Wanted
from keyvault.leases import AnswerLease, LeaseAnchor
from keyvault.log import LogGate
from keyvault.results import caught
from keyvault.scopes import REFUSED_PURPOSES, RefusedPurposes
from keyvault.store.database import Database
from keyvault.store.fenced_records import RecordKey
from keyvault.system_keys import SystemKeys
from keyvault.values import DataKey, KeyRequest, UnwrapRequest
from keyvault.wrapped import WrappedKey, WrappingKey, parse_wrapped
from keyvault.wrapping import TargetKeys, WrappingKeys

R = TypeVar("R")

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
        self._refresher = Refresher(self._admit_anew, clock, ttl=kept.ttl)

    def close(self) -> None:
        """Wipe what is kept in memory."""
        self._refresher.close()
        self._kept.close()

    @property
    def keeps(self) -> bool:
        """Whether anything is kept now."""
        return len(self._kept) > 0

    def drop(self, scopes: Collection[bytes], records: Collection[RecordKey], *, everything: bool) -> None:
        """Wipe what is kept of these scopes (by id) and records, or all that is kept."""
        if everything:
            self._kept.drop_all()
        elif scopes or records:
            self._kept.drop_scopes(scopes, records)

    def generate(
        self, requests: Sequence[KeyRequest], lease: AnswerLease | None = None
    ) -> list[DataKey | KeyVaultError]:
        """Give fresh 32-byte data keys, from what is kept where it is kept."""
        keys = new_data_keys(len(requests))
        results, left, soonest = self._wrap_kept(self._kept.usable(), requests, keys)
        if left:
            made = self._ask_for_rest(
                self._wrap, len(requests), [requests[index] for index in left], [keys[index] for index in left], lease
            )
            for index, result in zip(left, made, strict=True):
                results[index] = result
        if not self._rests(soonest, lease):
            return self._wrap(requests, keys, lease)
        self._refresh_requested(requests, soonest)
        return results

    def generate_kept(self, requests: Sequence[KeyRequest], lease: AnswerLease) -> list[DataKey | KeyVaultError] | None:
        """As `generate`, without waiting for anything; None unless all can be answered from what is kept."""
        keys = new_data_keys(len(requests))
        results, left, soonest = self._wrap_kept(self._kept.at_hand(), requests, keys)
        if left or not self._rests(soonest, lease):
            for key in keys:
                wipe(key)
            return None
        self._refresh_requested(requests, soonest)
        return results

    def _wrap_kept(
        self, kept_keys: Mapping[Hashable, LeasedKey], requests: Sequence[KeyRequest], keys: Sequence[bytearray]
    ) -> tuple[list[DataKey | KeyVaultError], list[int], float]:
        """Return the data keys under what is kept, the indices of those that it does not answer, and when the first lease used ends."""
        nonces = random_pieces(len(requests), NONCE_BYTES)
        kept, now, soonest = kept_keys.get, self._clock.now(), math.inf
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
        return results, left, soonest

    def unwrap(
        self, requests: Sequence[UnwrapRequest], lease: AnswerLease | None = None
    ) -> list[bytearray | KeyVaultError]:
        """Give back data keys, from what is kept where it is kept."""
        parsed = [caught(parse_wrapped, request.wrapped) for request in requests]
        results, soonest = _unwrap_kept(self._kept.usable(), parsed, requests)
        left = [index for index in range(len(requests)) if index not in results]
        if left:
            made = self._ask_for_rest(
                self._unwrap,
                len(requests),
                [parsed[index] for index in left],
                [requests[index] for index in left],
                lease,
            )
            results |= zip(left, made, strict=True)
        if not self._rests(soonest, lease):
            _wipe_all(results.values())
            return self._unwrap(parsed, requests, lease)
        self._refresh_parsed(parsed, requests, soonest)
        return [results[index] for index in range(len(requests))]

    def unwrap_kept(
        self, requests: Sequence[UnwrapRequest], lease: AnswerLease
    ) -> list[bytearray | KeyVaultError] | None:
        """As `unwrap`, without waiting for anything; None unless all can be answered from what is kept."""
        parsed = [caught(parse_wrapped, request.wrapped) for request in requests]
        results, soonest = _unwrap_kept(self._kept.at_hand(), parsed, requests)
        if len(results) < len(requests) or not self._rests(soonest, lease):
            _wipe_all(results.values())
            return None
        self._refresh_parsed(parsed, requests, soonest)
        return list(results.values())

    def _rests(self, soonest: float, lease: AnswerLease | None) -> bool:
        """Tell whether what was answered from memory still stands, and say until when. Asked last: what was not kept may have taken long."""
        if not self._kept.still_usable(soonest):
            return False
        if lease is not None:
            lease.rest_on(soonest)
        return True

    def _ask_for_rest(
        self, ask: Callable[..., list[R | KeyVaultError]], asked: int, *arguments: Any
    ) -> list[R | KeyVaultError]:
        """Ask for what is not kept. Of a batch of which something is kept, that is answered although the rest is not available."""
        try:
            return ask(*arguments)
        except Unavailable as error:
            left = len(arguments[0])
            if left == asked:
                raise
            return [error] * left

    def _refresh_requested(self, requests: Sequence[KeyRequest], soonest: float) -> None:
        if self._kept.nears_its_end(soonest):
            self._refresh({(request.scopes, request.record, request.purpose): request for request in requests})

    def _refresh_parsed(
        self, parsed: Sequence[WrappedKey | KeyVaultError], requests: Sequence[UnwrapRequest], soonest: float
    ) -> None:
        if self._kept.nears_its_end(soonest):
            named = zip(parsed, requests, strict=True)
            self._refresh({(p.header.encoded, r.purpose): r for p, r in named if isinstance(p, WrappedKey)})

    def _refresh(self, used: Wanted) -> None:
        """Have admitted anew what of this nears the end of its lease."""
        names = self._kept.to_refresh(used.keys())
        if names:
            self._refresher.ask({name: used[name] for name in names})

    def _admit_anew(self, wanted: Wanted) -> bool:
        """Keep what is still allowed for another lease, and drop what is not any more; return whether all could be asked."""
        new = {name: what for name, what in wanted.items() if isinstance(what, KeyRequest)}
        old = {name: what for name, what in wanted.items() if isinstance(what, UnwrapRequest)}
        results: dict[Hashable, object] = {}
        if new:
            results |= zip(new, self._wrap(list(new.values()), new_data_keys(len(new))), strict=True)
        if old:
            asked = list(old.values())
            parsed = [caught(parse_wrapped, request.wrapped) for request in asked]
            results |= zip(old, self._unwrap(parsed, asked), strict=True)
        answered = True
        for name, result in results.items():
            if isinstance(result, DataKey):
                wipe(result.plaintext)
            elif isinstance(result, bytearray):
                wipe(result)
            elif isinstance(result, Unavailable):
                answered = False
            elif not isinstance(result, DecryptionFailedError | InvalidInputError):  # what the caller sent, not the key
                self._kept.drop(name)
        return answered

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


def _unwrap_kept(
    kept: Mapping[Hashable, LeasedKey],
    parsed: Sequence[WrappedKey | KeyVaultError],
    requests: Sequence[UnwrapRequest],
) -> tuple[dict[int, bytearray | KeyVaultError], float]:
    """Return by index what can be answered from what is kept, and when the first lease used ends."""
    results: dict[int, bytearray | KeyVaultError] = {}
    soonest = math.inf
    for index, (item, request) in enumerate(zip(parsed, requests, strict=True)):
        if isinstance(item, KeyVaultError):
            results[index] = item
        elif found := kept.get((item.header.encoded, request.purpose)):
            opened = caught(found.key.unwrap, item, request.associated_data)
            if isinstance(opened, bytearray | DecryptionFailedError | InvalidInputError):
                results[index] = opened
                soonest = min(soonest, found.expires)
    return results, soonest


def _wipe_all(results: Iterable[object]) -> None:
    for opened in results:
        if isinstance(opened, bytearray):
            wipe(opened)


_NOT_KEPT = KeyVaultError("not kept under a lease")
_NOTHING_KEPT = (None, math.inf, None)
