"""Moving scopes from dedicated custody to ring custody.

A scope stays what it is: id, name, generation, state and commitment. One transaction gives its row a place in a ring, with its
event; before that its own key was tried, and the ring. A crash before the commit leaves a slot that is never used, a crash after it
nothing to do. What was sealed before stays under the scope's own key (`keyvault.custody.former`), which lives until the scope is
destroyed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection

from keyvault.clock import Clock
from keyvault.creation import sealed_placement
from keyvault.custody.base import Custody, Placement, Target
from keyvault.errors import InvalidFormatError, InvalidInputError, KeyVaultError, Unavailable, UnknownScopeError
from keyvault.events import Event, EventType, b64, make_event
from keyvault.formats import MAGIC_BYTES, Format, sniff, wipe
from keyvault.results import caught
from keyvault.scopes import Scope
from keyvault.states import KeyState, check_issuable
from keyvault.store import log as log_store
from keyvault.store import outbox
from keyvault.store import scopes as scope_store
from keyvault.store.database import Database
from keyvault.store.dialects import chunks
from keyvault.store.scopes import ScopeRow
from keyvault.system_keys import SystemKeys
from keyvault.values import RewrapRequest
from keyvault.wrapped import CustodyCode, parse_wrapped

ATTEMPTS = 5

Results = dict[Scope, ScopeRow | KeyVaultError]


class ScopeMigrator:
    """Moves scopes to ring custody. Needs the issuer's rights."""

    def __init__(self, database: Database, custodies: Mapping[int, Custody], keys: SystemKeys, clock: Clock) -> None:
        """`custodies` by custody byte."""
        self._database = database
        self._dedicated = custodies[CustodyCode.DEDICATED]
        self._ring = custodies[CustodyCode.RING]
        self._keys = keys
        self._clock = clock

    def migrate(self, scopes: Sequence[Scope]) -> Results:
        """Return each scope's row in ring custody; one that is there already stays as it is.

        Errors a scope: `UnknownScopeError`, `ScopeFencedError`, `ScopeDestroyedError`, `KeyMissingError`, and what its engine raises.
        """
        results: Results = {}
        for _ in range(ATTEMPTS):
            left = [scope for scope in dict.fromkeys(scopes) if scope not in results]
            for group in chunks(left):
                results |= self._migrate(group)
            if all(scope in results for scope in left):
                return results
        busy = Unavailable("the rings that would take this scope keep being closed: try again")
        return {scope: results.get(scope, busy) for scope in scopes}

    def _migrate(self, scopes: Sequence[Scope]) -> Results:
        """Try to move; a scope that is in neither values nor errors is to be tried again."""
        lookups = {scope: self._keys.lookup(scope.canonical) for scope in scopes}
        found = self._database.read(lambda connection: scope_store.newest_by_lookup(connection, lookups.values()))
        results: Results = {scope: caught(_movable, found.get(lookup)) for scope, lookup in lookups.items()}
        moving = {scope: row for scope, row in results.items() if isinstance(row, ScopeRow) and not _is_moved(row)}
        planned = self._planned(moving)
        moved = {scope: row for scope, row in planned.items() if isinstance(row, ScopeRow)}
        done = self._database.write(partial(self._move, moved=moved)) if moved else {}
        settled = {scope: result for scope, result in results.items() if scope not in moving}
        failed = {scope: error for scope, error in planned.items() if isinstance(error, KeyVaultError)}
        return settled | failed | done

    def _planned(self, rows: Mapping[Scope, ScopeRow]) -> Results:
        """Return each row with a place in a ring, once its own key has opened its name, and the ring has given a key for it."""
        names = self._dedicated.open_identities(list(rows.values()))
        for name in names:
            if isinstance(name, bytearray):
                wipe(name)
        results: Results = {
            scope: name for scope, name in zip(rows, names, strict=True) if isinstance(name, KeyVaultError)
        }
        usable = [scope for scope in rows if scope not in results]
        for scope, placement in zip(usable, self._ring.prepare(usable) if usable else [], strict=True):
            results[scope] = placement if isinstance(placement, KeyVaultError) else _placed(rows[scope], placement)
        placed = {scope: row for scope, row in results.items() if isinstance(row, ScopeRow)}
        shares = self._ring.fresh_shares([Target(row) for row in placed.values()])
        for scope, share in zip(placed, shares, strict=True):
            if isinstance(share, KeyVaultError):
                results[scope] = share
            else:
                wipe(share.secret)
        return results

    def _move(self, connection: Connection, moved: Mapping[Scope, ScopeRow]) -> Results:
        """Write what may still be moved; whose ring was closed meanwhile is left out."""
        placements = {scope: Placement(ring_id=row.ring_id, slot=row.slot) for scope, row in moved.items()}
        # Rings before scopes, as creators lock them.
        bound = self._ring.bind(connection, list(placements.values()))
        locked = scope_store.by_id(connection, [row.id for row in moved.values()], lock=True)
        results: Results = {}
        events: dict[Scope, Event] = {}
        for scope, planned in moved.items():
            row = caught(_movable, locked.get(planned.id))
            if isinstance(row, KeyVaultError) or _is_moved(row):
                results[scope] = row
            elif placements[scope] in bound:
                results[scope] = after = _placed(row, placements[scope])
                place: dict[str, Any] = {"custody": after.custody, "ring_id": after.ring_id, "slot": after.slot}
                scope_store.change_state(
                    connection,
                    [row.id],
                    before=[row.state],
                    after=row.state,
                    suspended_by=row.suspended_by,
                    **place,
                )
                events[scope] = self._event(after)
        last = outbox.append(connection, list(events.values()))
        if last is not None:  # what is in a ring's slot must be known to whoever has the log
            log_store.hold_creations(connection, {moved[scope].created_at for scope in events}, last)
        return results

    def _event(self, row: ScopeRow) -> Event:
        payload = {
            "scope": b64(row.commitment),
            "scope_id": b64(row.id),
            "custody": self._ring.name,
            "placement": sealed_placement(self._keys, row),
        }
        return make_event(EventType.SCOPE_MIGRATED, payload, at=self._clock.now())


def moving_request(wrapped: bytes, names: Mapping[bytes, str], associated_data: bytes = b"") -> RewrapRequest | None:
    """Return what moves a wrapped key to where its own scopes are now, or None when nothing of it is anywhere else.

    `names` are those of scopes in ring custody, by id. Raises `InvalidFormatError` for anything but a wrapped key, envelopes and
    streams among it, and `InvalidInputError` for one that cannot be moved.
    """
    if len(wrapped) >= MAGIC_BYTES and (found := sniff(wrapped)) is not Format.WRAPPED_KEY:
        raise InvalidFormatError(
            f"{found.name.lower()}s cannot be moved: their data is bound to the wrapped key in front of it; they stay readable under the "
            "scope's former key until the scope is destroyed"
        )
    references = parse_wrapped(wrapped).header.scopes
    if all(reference.custody is CustodyCode.RING for reference in references):
        return None
    for reference in references:
        if reference.scope_id not in names:
            raise InvalidInputError(f"its scope {reference.scope_id.hex()} is not among those named, or was not moved")
        if reference.record_tag:
            raise InvalidInputError(
                "it names a single record, of which it does not hold the id: move it with rewrap_data_keys and the record's id"
            )
    scopes = tuple(names[reference.scope_id] for reference in references)
    return RewrapRequest(wrapped=wrapped, scopes=scopes, associated_data=associated_data)


def _movable(row: ScopeRow | None) -> ScopeRow:
    if row is None:
        raise UnknownScopeError("no scope of that name in this store")
    if row.state is not KeyState.SUSPENDED:
        check_issuable(row.state, row.id)
    return row


def _is_moved(row: ScopeRow) -> bool:
    return row.custody == CustodyCode.RING


def _placed(row: ScopeRow, placement: Placement) -> ScopeRow:
    return row._replace(custody=CustodyCode.RING.value, ring_id=placement.ring_id, slot=placement.slot)
