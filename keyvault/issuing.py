"""Issuing data keys: generate, wrap, unwrap and rewrap, in batches.

Order of every call: take a lease anchor, read the scopes' state on the primary, get the shares, and answer only within the lease.
Requests for the same scopes share one wrapping key, and so one round of the custody.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from sqlalchemy.engine import Connection

from keyvault.admission import Marks, Targets, address_request, admit_request, admit_wrapped, check_logged
from keyvault.batches import uncollected
from keyvault.clock import Clock
from keyvault.custody.base import Custody
from keyvault.errors import KeyVaultError
from keyvault.formats import NONCE_BYTES, random_pieces, wipe
from keyvault.leases import AnswerLease, LeaseAnchor
from keyvault.log import LogGate
from keyvault.results import caught, value_of
from keyvault.scopes import REFUSED_PURPOSES, RefusedPurposes
from keyvault.store import fenced_records, issuable
from keyvault.store import log as log_store
from keyvault.store.database import Database
from keyvault.store.issuable import IssuableScope
from keyvault.system_keys import SystemKeys
from keyvault.transit.base import DATA_KEY_BYTES
from keyvault.values import DataKey, KeyRequest, RewrapRequest, UnwrapRequest, WrapRequest
from keyvault.wrapped import WrappedKey, check_wrappable, parse_wrapped
from keyvault.wrapping import TargetKeys, WrappingKeys, WrappingKeySource, target_keys, wiped

LOG_ATTEMPTS = 5
"""A name may get a new generation while the one before is waited for."""

Admitted: TypeAlias = tuple[WrappedKey, Targets]


class Issuer:
    """Issues data keys of scopes whose state allows it. Thread-safe."""

    def __init__(
        self,
        database: Database,
        custodies: Mapping[int, Custody],
        keys: SystemKeys,
        clock: Clock,
        leases: LeaseAnchor,
        *,
        log: LogGate,
        refused: RefusedPurposes = REFUSED_PURPOSES,
    ) -> None:
        """`custodies` by custody byte; `log` takes creations up before the first key of a scope is issued."""
        self._refused = refused
        self._database = database
        self._wrapping_keys = WrappingKeySource(custodies)
        self._keys = keys
        self._clock = clock
        self._leases = leases
        self._log = log

    def generate(
        self, requests: Sequence[KeyRequest], lease: AnswerLease | None = None
    ) -> list[DataKey | KeyVaultError]:
        """Give fresh 32-byte data keys; `lease` is told until when they may be kept."""
        return self._wrap(requests, new_data_keys(len(requests)), lease)

    def wrap(self, requests: Sequence[WrapRequest], lease: AnswerLease | None = None) -> list[DataKey | KeyVaultError]:
        """Wrap data keys that exist already."""
        return self._wrap(requests, [bytearray(request.data_key) for request in requests], lease)

    def unwrap(
        self, requests: Sequence[UnwrapRequest], lease: AnswerLease | None = None
    ) -> list[bytearray | KeyVaultError]:
        """Give back data keys; `lease` is told until when they may be kept."""
        return self._unwrap([caught(parse_wrapped, request.wrapped) for request in requests], requests, lease)

    def rewrap(self, requests: Sequence[RewrapRequest]) -> list[bytes | KeyVaultError]:
        """Move data keys under other scopes without giving them out.

        Always from the primary, and within one lease from the first reading to the end: what is moved outlives the scope it was under.
        """
        anchor = self._leases.take()
        opened = self._unwrap(
            [caught(parse_wrapped, request.wrapped) for request in requests],
            [UnwrapRequest(wrapped=r.wrapped, associated_data=r.associated_data, purpose=r.purpose) for r in requests],
        )
        ready = [(r, key) for r, key in zip(requests, opened, strict=True) if isinstance(key, bytearray)]
        try:
            moved = iter(self._wrap([r for r, _ in ready], [key for _, key in ready]))
        finally:
            for _, key in ready:
                wipe(key)
        self._leases.check(anchor)
        return [_without_plaintext(next(moved)) if isinstance(key, bytearray) else key for key in opened]

    def close(self) -> None:
        """Wipe what is kept in memory: nothing here."""

    @uncollected()
    def _wrap(
        self, requests: Sequence[KeyRequest], keys: Sequence[bytearray], lease: AnswerLease | None = None
    ) -> list[DataKey | KeyVaultError]:
        anchor = self._leases.take()
        admitted = self._admit_requests(requests)
        names = [item if isinstance(item, KeyVaultError) else target_keys(item) for item in admitted]
        groups = {
            name: targets
            for name, targets in zip(names, admitted, strict=True)
            if not isinstance(name, KeyVaultError) and not isinstance(targets, KeyVaultError)
        }
        wrapping_keys = self._wrapping_keys.fresh(groups)
        nonces = random_pieces(len(requests), NONCE_BYTES)
        results: list[DataKey | KeyVaultError] = []
        with wiped(wrapping_keys):
            for name, key, nonce, request in zip(names, keys, nonces, requests, strict=True):
                try:
                    wrapping_key = value_of(wrapping_keys[value_of(name)])
                    check_wrappable(key, request.associated_data)
                    wrapped = wrapping_key.wrap_under(nonce, key, request.associated_data)
                    results.append(DataKey(key, wrapped))
                except KeyVaultError as error:
                    results.append(error)
            self._leases.check(anchor)
            if lease is not None:
                lease.rest_on(self._leases.end(anchor))
            self._after_wrapping(anchor, requests, names, groups, wrapping_keys)
        return results

    @uncollected()
    def _unwrap(
        self,
        parsed: Sequence[WrappedKey | KeyVaultError],
        requests: Sequence[UnwrapRequest],
        lease: AnswerLease | None = None,
    ) -> list[bytearray | KeyVaultError]:
        anchor = self._leases.take()
        admitted = self._admit_wrapped(parsed, requests)
        wrapping_keys = self._wrapping_keys.recovered(item for item in admitted if not isinstance(item, KeyVaultError))

        def unwrap(item: Admitted | KeyVaultError, request: UnwrapRequest) -> bytearray:
            wrapped, _ = value_of(item)
            return value_of(wrapping_keys[wrapped.header.encoded]).unwrap(wrapped, request.associated_data)

        with wiped(wrapping_keys):
            results = [caught(unwrap, item, request) for item, request in zip(admitted, requests, strict=True)]
            self._leases.check(anchor)
            if lease is not None:
                lease.rest_on(self._leases.end(anchor))
            self._after_unwrapping(anchor, requests, admitted, wrapping_keys)
        return results

    def _after_wrapping(
        self,
        anchor: float,
        requests: Sequence[KeyRequest],
        names: Sequence[TargetKeys | KeyVaultError],
        groups: Mapping[TargetKeys, Targets],
        wrapping_keys: WrappingKeys[TargetKeys],
    ) -> None:
        """Take keys over from `wrapping_keys`, which are wiped otherwise: none here."""

    def _after_unwrapping(
        self,
        anchor: float,
        requests: Sequence[UnwrapRequest],
        admitted: Sequence[Admitted | KeyVaultError],
        wrapping_keys: WrappingKeys[bytes],
    ) -> None:
        """Take keys over from `wrapping_keys`, which are wiped otherwise: none here."""

    # --- what may be issued -------------------------------------------------------------------------------------------

    def _admit_requests(self, requests: Sequence[KeyRequest]) -> list[Targets | KeyVaultError]:
        lookups = self._keys.lookups({name for request in requests for name in request.scopes})

        def work(connection: Connection) -> tuple[list[Targets | KeyVaultError], Marks, set[bytes]]:
            found = issuable.newest_by_lookup(connection, lookups.values())
            rows = {name: found[lookup] for name, lookup in lookups.items() if lookup in found}
            addressed = [caught(address_request, request, rows, self._keys.index) for request in requests]
            return (
                addressed,
                _marks(connection, addressed),
                log_store.held(connection, [row.id for row in rows.values()]),
            )

        addressed, marks, held = self._database.read(work)
        unlogged = None
        for _ in range(LOG_ATTEMPTS):
            if not held or unlogged is not None:
                break
            unlogged = caught(self._log.settle)
            addressed, marks, held = self._database.read(work)
        now = self._clock.now()
        admitted: list[Targets | KeyVaultError] = []
        for targets, request in zip(addressed, requests, strict=True):
            try:
                admit_request(value_of(targets), request.purpose, marks, now, self._refused)
                if held:
                    check_logged(value_of(targets), held, unlogged)
                admitted.append(targets)
            except KeyVaultError as error:
                admitted.append(error)
        return admitted

    def _admit_wrapped(
        self, parsed: Sequence[WrappedKey | KeyVaultError], requests: Sequence[UnwrapRequest]
    ) -> list[Admitted | KeyVaultError]:
        references = [ref for item in parsed if isinstance(item, WrappedKey) for ref in item.header.scopes]

        def work(connection: Connection) -> tuple[dict[bytes, IssuableScope], Marks]:
            rows = issuable.by_id(connection, {ref.scope_id for ref in references})
            records = {(ref.scope_id, ref.record_tag) for ref in references if ref.record_tag}
            return rows, fenced_records.by_key(connection, records)

        rows, marks = self._database.read(work)

        def admit(item: WrappedKey | KeyVaultError, request: UnwrapRequest) -> Admitted:
            wrapped = value_of(item)
            return wrapped, admit_wrapped(wrapped, rows, request.purpose, marks, self._refused)

        return [caught(admit, item, request) for item, request in zip(parsed, requests, strict=True)]


def new_data_keys(count: int) -> list[bytearray]:
    """Return fresh 32-byte data keys."""
    random = bytearray(os.urandom(DATA_KEY_BYTES * count))
    keys = [random[start : start + DATA_KEY_BYTES] for start in range(0, len(random), DATA_KEY_BYTES)]
    wipe(random)
    return keys


def _marks(connection: Connection, addressed: Sequence[Targets | KeyVaultError]) -> Marks:
    records = {
        (row.id, tag) for targets in addressed if not isinstance(targets, KeyVaultError) for row, tag in targets if tag
    }
    return fenced_records.by_key(connection, records)


def _without_plaintext(result: DataKey | KeyVaultError) -> bytes | KeyVaultError:
    if isinstance(result, KeyVaultError):
        return result
    result.wipe()
    return result.wrapped
