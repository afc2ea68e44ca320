"""KeyVault: what the storage layer calls. Batches first; every item of a batch is its value or its own error."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Self

from keyvault.admission import tag_of
from keyvault.creation import ScopeCreator
from keyvault.custody.base import Custody
from keyvault.custody.former import former, named_in
from keyvault.ending_watch import EndingReader, EndingWatch
from keyvault.errors import KeyVaultError, ScopeDestroyedError, UnknownScopeError
from keyvault.home import Home
from keyvault.identity import decode_identity
from keyvault.issuing import Issuer
from keyvault.leased_issuing import LeasedIssuer
from keyvault.leased_keys import LeasedKeys
from keyvault.leases import AnswerLease, LeaseAnchor
from keyvault.migration import ScopeMigrator
from keyvault.results import caught
from keyvault.scopes import Scope, ScopeKind
from keyvault.sealing import Sealer
from keyvault.states import Action, KeyState
from keyvault.store import scopes as scope_store
from keyvault.store.endings import Endings
from keyvault.store.scopes import ScopeRow
from keyvault.suspension import move_records, move_scopes
from keyvault.values import (
    DataKey,
    KeyRequest,
    RewrapRequest,
    ScopeInfo,
    UnwrapRequest,
    WrapRequest,
)

PAGE = 500


class KeyVault(Sealer):
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
        self._kept = kept = LeasedKeys(home.clock, ttl=home.settings.lease_ttl)
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

    def generate_data_keys(
        self, requests: Sequence[KeyRequest], lease: AnswerLease | None = None
    ) -> list[DataKey | KeyVaultError]:
        """Give fresh 32-byte data keys, in plaintext and wrapped; `lease` is told until when they may be kept."""
        return self._issuer.generate(requests, lease)

    def generate_kept(self, requests: Sequence[KeyRequest], lease: AnswerLease) -> list[DataKey | KeyVaultError] | None:
        """As `generate_data_keys`, from what is kept under a lease alone, for callers that must not wait; None where that does not do."""
        issuer = self._issuer
        return issuer.generate_kept(requests, lease) if isinstance(issuer, LeasedIssuer) else None

    def wrap_data_keys(
        self, requests: Sequence[WrapRequest], lease: AnswerLease | None = None
    ) -> list[DataKey | KeyVaultError]:
        """Wrap data keys (16 to 64 bytes) that exist already, so that data under another service comes over as it is."""
        return self._issuer.wrap(requests, lease)

    def unwrap_data_keys(
        self, requests: Sequence[UnwrapRequest], lease: AnswerLease | None = None
    ) -> list[bytearray | KeyVaultError]:
        """Give back data keys; the caller zeroes them. `lease` is told until when they may be kept.

        Errors an item: a `ScopeError`, `InvalidFormatError`, `DecryptionFailedError`, `KeyMissingError`.
        """
        return self._issuer.unwrap(requests, lease)

    def unwrap_kept(
        self, requests: Sequence[UnwrapRequest], lease: AnswerLease
    ) -> list[bytearray | KeyVaultError] | None:
        """As `unwrap_data_keys`, from what is kept under a lease alone, for callers that must not wait; None where that does not do."""
        issuer = self._issuer
        return issuer.unwrap_kept(requests, lease) if isinstance(issuer, LeasedIssuer) else None

    def rewrap_data_keys(self, requests: Sequence[RewrapRequest]) -> list[bytes | KeyVaultError]:
        """Return the wrapped keys under other scopes; the data keys stay what they are."""
        return self._issuer.rewrap(requests)

    def lease_left(self, lease: AnswerLease) -> float:
        """Return for how many seconds, from now, an answer may be kept: 0 where it may not."""
        left = lease.expires - self._home.clock.monotonic()
        return left if 0 < left < math.inf else 0.0

    def kept_keys(self) -> int:
        """Return how many wrapping keys are in memory under a lease."""
        return len(self._kept)

    def watch_endings(self, told: Callable[[Endings], None], needed: Callable[[], bool]) -> EndingWatch:
        """Return a watch, to be started and closed, that wipes what is kept of what ends elsewhere, and then tells it.

        It looks while something is kept here, or `needed` says so.
        """

        def ended(endings: Endings) -> None:
            self.drop_kept(endings)
            told(endings)

        issuer = self._issuer
        return EndingWatch(
            EndingReader(self._home.database, self._home.clock),
            ended,
            lambda: needed() or (isinstance(issuer, LeasedIssuer) and issuer.keeps),
        )

    def drop_kept(self, endings: Endings) -> None:
        """Wipe what is kept in memory of what has ended elsewhere, before its lease does."""
        if isinstance(self._issuer, LeasedIssuer):
            self._issuer.drop(endings.scopes, endings.records, everything=endings.everything)
        for custody in self._custodies.values():
            custody.forget(None if endings.everything else endings.rings)

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
