"""Issuing data keys: generate, wrap, unwrap and rewrap, in batches.

Order of every call: take a lease anchor, read the scopes' state on the primary, get the shares, and answer only within the lease.
Requests for the same scopes share one wrapping key, and so one round of the custody.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from keyvault.admission import Rows, admit_request, admit_wrapped
from keyvault.clock import Clock
from keyvault.custody.base import Custody
from keyvault.errors import KeyVaultError
from keyvault.leases import LeaseAnchor
from keyvault.results import caught, value_of
from keyvault.scopes import Scope
from keyvault.store import scopes as scope_store
from keyvault.store.database import Database
from keyvault.system_keys import SystemKeys
from keyvault.transit.base import DATA_KEY_BYTES
from keyvault.values import DataKey, KeyRequest, RewrapRequest, UnwrapRequest, WrapRequest
from keyvault.wrapped import WrappedKey, WrappingKey, parse_wrapped
from keyvault.wrapping import WrappingKeySource, scope_ids

Admitted: TypeAlias = tuple[WrappedKey, Rows]


class Issuer:
    """Issues data keys of scopes whose state allows it. Thread-safe."""

    def __init__(
        self,
        database: Database,
        custodies: Mapping[int, Custody],
        keys: SystemKeys,
        clock: Clock,
        leases: LeaseAnchor,
    ) -> None:
        """`custodies` by custody byte."""
        self._database = database
        self._wrapping_keys = WrappingKeySource(custodies)
        self._keys = keys
        self._clock = clock
        self._leases = leases

    def generate(self, requests: Sequence[KeyRequest]) -> list[DataKey | KeyVaultError]:
        """Give fresh 32-byte data keys."""
        return self._wrap(requests, [bytearray(secrets.token_bytes(DATA_KEY_BYTES)) for _ in requests])

    def wrap(self, requests: Sequence[WrapRequest]) -> list[DataKey | KeyVaultError]:
        """Wrap data keys that exist already."""
        return self._wrap(requests, [bytearray(request.data_key) for request in requests])

    def unwrap(self, requests: Sequence[UnwrapRequest]) -> list[bytearray | KeyVaultError]:
        """Give back data keys."""
        parsed = [caught(parse_wrapped, request.wrapped) for request in requests]
        anchor = self._leases.take()
        admitted = self._admit_wrapped(parsed, requests)
        with self._wrapping_keys.recovered(a for a in admitted if not isinstance(a, KeyVaultError)) as wrapping_keys:

            def unwrap(item: Admitted | KeyVaultError, request: UnwrapRequest) -> bytearray:
                wrapped, _ = value_of(item)
                return value_of(wrapping_keys[wrapped.header.encoded]).unwrap(wrapped, request.associated_data)

            results = [caught(unwrap, item, request) for item, request in zip(admitted, requests, strict=True)]
        self._leases.check(anchor)
        return results

    def rewrap(self, requests: Sequence[RewrapRequest]) -> list[bytes | KeyVaultError]:
        """Move data keys under other scopes without giving them out."""
        opened = self.unwrap(
            [UnwrapRequest(wrapped=r.wrapped, associated_data=r.associated_data, purpose=r.purpose) for r in requests]
        )
        ready = [(r, key) for r, key in zip(requests, opened, strict=True) if isinstance(key, bytearray)]
        moved = iter(self._wrap([r for r, _ in ready], [key for _, key in ready]))
        return [_without_plaintext(next(moved)) if isinstance(key, bytearray) else key for key in opened]

    def _wrap(self, requests: Sequence[KeyRequest], keys: Sequence[bytearray]) -> list[DataKey | KeyVaultError]:
        anchor = self._leases.take()
        admitted = self._admit_requests(requests)
        with self._wrapping_keys.fresh(
            rows for rows in admitted if not isinstance(rows, KeyVaultError)
        ) as wrapping_keys:

            def wrap(rows: Rows | KeyVaultError, key: bytearray, request: KeyRequest) -> DataKey:
                wrapping_key: WrappingKey = value_of(wrapping_keys[scope_ids(value_of(rows))])
                return DataKey(plaintext=key, wrapped=wrapping_key.wrap(key, request.associated_data))

            results = [caught(wrap, *item) for item in zip(admitted, keys, requests, strict=True)]
        self._leases.check(anchor)
        return results

    def _admit_requests(self, requests: Sequence[KeyRequest]) -> list[Rows | KeyVaultError]:
        parsed = {name: caught(Scope.parse, name) for name in {n for request in requests for n in request.scopes}}
        scopes = {name: scope for name, scope in parsed.items() if isinstance(scope, Scope)}
        lookups = {name: self._keys.lookup(scope.canonical) for name, scope in scopes.items()}
        found = self._database.read(lambda connection: scope_store.newest_by_lookup(connection, lookups.values()))
        rows = {name: found[lookup] for name, lookup in lookups.items() if lookup in found}
        now = self._clock.now()

        def admit(request: KeyRequest) -> Rows:
            for name in request.scopes:
                value_of(parsed[name])
            return admit_request(request, scopes, rows, now)

        return [caught(admit, request) for request in requests]

    def _admit_wrapped(
        self, parsed: Sequence[WrappedKey | KeyVaultError], requests: Sequence[UnwrapRequest]
    ) -> list[Admitted | KeyVaultError]:
        ids = {ref.scope_id for item in parsed if isinstance(item, WrappedKey) for ref in item.header.scopes}
        rows = self._database.read(lambda connection: scope_store.by_id(connection, ids))

        def admit(item: WrappedKey | KeyVaultError, request: UnwrapRequest) -> Admitted:
            wrapped = value_of(item)
            return wrapped, admit_wrapped(wrapped, rows, request.purpose)

        return [caught(admit, item, request) for item, request in zip(parsed, requests, strict=True)]


def _without_plaintext(result: DataKey | KeyVaultError) -> bytes | KeyVaultError:
    if isinstance(result, KeyVaultError):
        return result
    result.wipe()
    return result.wrapped
