"""KeyVault: what the storage layer calls. Batches first; every item of a batch is its value or its own error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import BinaryIO, Self

from keyvault.admission import tag_of
from keyvault.creation import ScopeCreator
from keyvault.custody.base import Custody
from keyvault.custody.former import former, named_in
from keyvault.envelope import open_envelope, seal_envelope, split_envelope
from keyvault.errors import KeyVaultError, ScopeDestroyedError, UnknownScopeError
from keyvault.formats import wipe
from keyvault.home import Home
from keyvault.identity import decode_identity
from keyvault.issuing import Issuer
from keyvault.leased_issuing import LeasedIssuer
from keyvault.leased_keys import LeasedKeys
from keyvault.leases import LeaseAnchor
from keyvault.migration import ScopeMigrator
from keyvault.results import caught, value_of
from keyvault.scopes import Scope, ScopeKind
from keyvault.states import Action, KeyState
from keyvault.store import scopes as scope_store
from keyvault.store.scopes import ScopeRow
from keyvault.stream import open_stream_body, read_stream_header, seal_stream
from keyvault.suspension import move_records, move_scopes
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

PAGE = 500


class KeyVault:
    """Keys of scopes, and data sealed under them. Thread-safe; close it, or use it as a context manager."""

    def __init__(self, home: Home, *, leased: bool = False) -> None:
        """Serve the keys of an opened home; `keyvault.open_vault` does both.

        With `leased` what was admitted once is answered from memory until its lease ends (`lease_ttl` in the settings): a key may be given
        out for that long after its scope was fenced, and evidence of destructions says until when.
        """
        self._home = home
        self._custodies = home.custodies
        leases = LeaseAnchor(home.database, home.clock, node=home.node, ttl=home.settings.lease_ttl)
        self._creator = ScopeCreator(home.database, home.custody, home.keys, home.clock)
        base = (home.database, home.custodies, home.keys, home.clock, leases)
        refused = home.refused_purposes
        kept = LeasedKeys(home.clock, ttl=home.settings.lease_ttl)
        self._issuer = (
            LeasedIssuer(*base, log=home.log, kept=kept, refused=refused)
            if leased
            else Issuer(*base, log=home.log, refused=refused)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Wipe what is kept in memory; release the database and the engine."""
        self._issuer.close()
        self._home.close()

    # --- scopes ----------------------------------------------------------------------------------------------------

    def ensure_scopes(self, names: Sequence[str], *, renew: bool = False) -> list[ScopeInfo | KeyVaultError]:
        """Return each scope, created if it was not there; concurrent creators get the same one.

        `renew` gives a destroyed name a new generation, where the policy allows it. Errors an item: `InvalidScopeError`,
        `AlreadyDueError` (`SubjectEndedError` where facts say so), `NotYetOpenError`, `ScopeFencedError`, `ScopeDestroyedError`,
        `RenewalRefusedError`.
        """
        parsed = [caught(Scope.parse, name) for name in names]
        found = self._creator.ensure([scope for scope in parsed if isinstance(scope, Scope)], renew=renew)
        return [self._info(scope if isinstance(scope, KeyVaultError) else found[scope]) for scope in parsed]

    def describe(self, names: Sequence[str]) -> list[ScopeInfo | KeyVaultError]:
        """Return each scope's newest generation; `UnknownScopeError` where there is none."""
        parsed = [caught(self._lookup, name) for name in names]
        lookups = [lookup for lookup in parsed if isinstance(lookup, bytes)]
        rows = self._home.database.read(lambda connection: scope_store.newest_by_lookup(connection, lookups))
        unknown = UnknownScopeError("no scope of that name in this store")
        return [self._info(rows.get(item, unknown) if isinstance(item, bytes) else item) for item in parsed]

    def suspend(self, names: Sequence[str]) -> list[ScopeInfo | KeyVaultError]:
        """Let no key of these scopes be issued until they are resumed."""
        return self._move(names, Action.SUSPEND)

    def resume(self, names: Sequence[str]) -> list[ScopeInfo | KeyVaultError]:
        """Let keys of suspended scopes be issued again."""
        return self._move(names, Action.RESUME)

    def suspend_records(self, name: str, records: Sequence[str]) -> list[KeyState | KeyVaultError]:
        """Let no key of these records of an account-month be issued until they are resumed; return each one's state.

        Raises `UnknownScopeError`, `RecordsNotSupportedError`, `InvalidInputError`, or what the whole scope's state forbids.
        """
        return self._move_records(name, records, Action.SUSPEND)

    def resume_records(self, name: str, records: Sequence[str]) -> list[KeyState | KeyVaultError]:
        """Let keys of suspended records be issued again. Raises as `suspend_records`."""
        return self._move_records(name, records, Action.RESUME)

    def migrate_scopes(self, names: Sequence[str]) -> list[ScopeInfo | KeyVaultError]:
        """Move scopes of dedicated custody to ring custody, and return each; one that is there already stays as it is.

        All that was wrapped and sealed before still opens, under the key that the scope had, which is destroyed with it. Errors an
        item: `InvalidScopeError`, `UnknownScopeError`, `ScopeFencedError`, `ScopeDestroyedError`, `KeyMissingError`.
        """
        home = self._home
        parsed = [caught(Scope.parse, name) for name in names]
        migrator = ScopeMigrator(home.database, home.custodies, home.keys, home.clock)
        moved = migrator.migrate([scope for scope in parsed if isinstance(scope, Scope)])
        return [self._info(scope if isinstance(scope, KeyVaultError) else moved[scope]) for scope in parsed]

    def list_scopes(
        self, *, kind: ScopeKind | None = None, state: KeyState | None = None
    ) -> Iterator[tuple[ScopeInfo, str | KeyVaultError]]:
        """Yield every scope, with its name opened by its own key; without that key, the error stands in the name's place."""
        after = b""
        while rows := self._home.database.read(
            partial(scope_store.page, after=after, limit=PAGE, kind=kind, state=state)
        ):
            names = self._names(rows)
            yield from ((self._value(row), names[row.id]) for row in rows)
            after = rows[-1].id

    # --- data keys -------------------------------------------------------------------------------------------------

    def generate_data_keys(self, requests: Sequence[KeyRequest]) -> list[DataKey | KeyVaultError]:
        """Give fresh 32-byte data keys, in plaintext and wrapped."""
        return self._issuer.generate(requests)

    def wrap_data_keys(self, requests: Sequence[WrapRequest]) -> list[DataKey | KeyVaultError]:
        """Wrap data keys (16 to 64 bytes) that exist already, so that data under another service comes over as it is."""
        return self._issuer.wrap(requests)

    def unwrap_data_keys(self, requests: Sequence[UnwrapRequest]) -> list[bytearray | KeyVaultError]:
        """Give back data keys; the caller zeroes them.

        Errors an item: a `ScopeError`, `InvalidFormatError`, `DecryptionFailedError`, `KeyMissingError`.
        """
        return self._issuer.unwrap(requests)

    def rewrap_data_keys(self, requests: Sequence[RewrapRequest]) -> list[bytes | KeyVaultError]:
        """Return the wrapped keys under other scopes; the data keys stay what they are."""
        return self._issuer.rewrap(requests)

    # --- data ------------------------------------------------------------------------------------------------------

    def seal(
        self,
        plaintext: bytes,
        scopes: Sequence[str],
        *,
        associated_data: bytes = b"",
        purpose: str | None = None,
        record: str | None = None,
    ) -> bytes:
        """Return an envelope under all of `scopes`, with a data key of its own. Raises what `generate_data_keys` answers."""
        request = SealRequest(
            plaintext=plaintext,
            scopes=tuple(scopes),
            associated_data=associated_data,
            purpose=purpose,
            record=record,
        )
        return value_of(self.seal_many([request])[0])

    def open(self, envelope: bytes, *, associated_data: bytes = b"", purpose: str | None = None) -> bytes:
        """Return an envelope's plaintext. Raises what `unwrap_data_keys` answers."""
        request = OpenRequest(envelope=envelope, associated_data=associated_data, purpose=purpose)
        return value_of(self.open_many([request])[0])

    def seal_many(self, requests: Sequence[SealRequest]) -> list[bytes | KeyVaultError]:
        """Seal a batch, with one round for all its keys."""

        def seal(request: SealRequest, key: DataKey | KeyVaultError) -> bytes:
            data_key = value_of(key)
            try:
                return seal_envelope(data_key.plaintext, data_key.wrapped, request.plaintext, request.associated_data)
            finally:
                data_key.wipe()

        return [caught(seal, *item) for item in zip(requests, self._issuer.generate(requests), strict=True)]

    def open_many(self, requests: Sequence[OpenRequest]) -> list[bytes | KeyVaultError]:
        """Open a batch, with one round for all its keys."""
        split = [caught(split_envelope, request.envelope) for request in requests]
        wanted = [
            UnwrapRequest(wrapped=item.wrapped.raw, associated_data=request.associated_data, purpose=request.purpose)
            for item, request in zip(split, requests, strict=True)
            if not isinstance(item, KeyVaultError)
        ]
        keys = iter(self._issuer.unwrap(wanted))
        results: list[bytes | KeyVaultError] = []
        for item, request in zip(split, requests, strict=True):
            if isinstance(item, KeyVaultError):
                results.append(item)
                continue
            key = next(keys)
            if isinstance(key, KeyVaultError):
                results.append(key)
                continue
            results.append(caught(open_envelope, item, key, request.associated_data))
            wipe(key)
        return results

    def seal_stream(
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
        """Seal `source` into `sink`, in constant memory; `progress` is told the bytes of each segment."""
        request = KeyRequest(scopes=tuple(scopes), associated_data=associated_data, purpose=purpose, record=record)
        key = value_of(self._issuer.generate([request])[0])
        try:
            seal_stream(key.plaintext, key.wrapped, source, sink, associated_data, progress=progress)
        finally:
            key.wipe()

    def open_stream(
        self,
        source: BinaryIO,
        sink: BinaryIO,
        *,
        associated_data: bytes = b"",
        purpose: str | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        """Open a stream into `sink`. On any error the caller must throw away what `sink` got so far."""
        header = read_stream_header(source)
        request = UnwrapRequest(wrapped=header.wrapped.raw, associated_data=associated_data, purpose=purpose)
        key = value_of(self._issuer.unwrap([request])[0])
        try:
            open_stream_body(key, header, source, sink, associated_data, progress=progress)
        finally:
            wipe(key)

    # --- within ----------------------------------------------------------------------------------------------------

    def _lookup(self, name: str) -> bytes:
        return self._home.keys.lookup(Scope.parse(name).canonical)

    def _move(self, names: Sequence[str], action: Action) -> list[ScopeInfo | KeyVaultError]:
        parsed = [caught(self._lookup, name) for name in names]
        lookups = [lookup for lookup in parsed if isinstance(lookup, bytes)]
        moved = iter(move_scopes(self._home.database, self._home.clock, lookups, action))
        return [self._info(next(moved) if isinstance(item, bytes) else item) for item in parsed]

    def _move_records(self, name: str, records: Sequence[str], action: Action) -> list[KeyState | KeyVaultError]:
        lookup = self._lookup(name)
        row = self._home.database.read(lambda connection: scope_store.newest_by_lookup(connection, [lookup])).get(
            lookup
        )
        if row is None:
            raise UnknownScopeError("no scope of that name in this store")
        tags = [tag_of(row, record, self._home.keys.index) for record in records]
        return move_records(self._home.database, self._home.clock, row.id, tags, action)

    def _names(self, rows: Sequence[ScopeRow]) -> dict[bytes, str | KeyVaultError]:
        destroyed = ScopeDestroyedError("the name was destroyed with its key")
        names: dict[bytes, str | KeyVaultError] = {row.id: destroyed for row in rows if row.sealed_name is None}
        for code, custody in self._custodies.items():
            named = [named_in(row) for row in rows if row.sealed_name is not None]
            some = [row for row in named if row.custody == code]
            for row, opened in zip(some, custody.open_identities(some), strict=True):
                names[row.id] = opened if isinstance(opened, KeyVaultError) else decode_identity(opened).name
        return names

    def _info(self, result: ScopeRow | KeyVaultError) -> ScopeInfo | KeyVaultError:
        return result if isinstance(result, KeyVaultError) else self._value(result)

    def _value(self, row: ScopeRow) -> ScopeInfo:
        custody: Custody = self._custodies[row.custody]
        before = former(row)
        return ScopeInfo(
            id=row.id,
            generation=row.generation,
            kind=row.kind,
            period=row.period,
            custody=custody.name,
            holds_records=custody.holds_records and row.kind is ScopeKind.COMMUNICATIONS,
            state=row.state,
            created_at=row.created_at,
            due_at=row.due_at,
            fenced_at=row.fenced_at,
            destroyed_at=row.destroyed_at,
            destroy_id=row.destroy_id,
            former_custody=None if before is None else self._custodies[before.custody].name,
        )
