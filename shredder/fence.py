"""Step 1 of the destruction protocol: the fence. After its commit no node issues a key of these scopes or records again.

One transaction marks them, copies the openings of people's commitments for certificates, and writes `destroy.fenced`. A second
one stamps `fenced_at` from the database's clock; a crash between them lets the next run stamp it, later, which only lengthens
the bound that certificates state.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial

from sqlalchemy.engine import Connection

from keyvault.concurrency import one_ahead
from keyvault.custody.former import named_in
from keyvault.errors import (
    DestructionPausedError,
    KeyMissingError,
    KeyVaultError,
    ScopeDestroyedError,
    ScopeFencedError,
)
from keyvault.events import (
    MAX_SCOPES_PER_EVENT,
    POLICY_VERSION,
    EventType,
    Value,
    b64,
    make_event,
    new_event_id,
)
from keyvault.home import Home
from keyvault.scopes import KIND_RULES
from keyvault.states import KeyState, check_issuable
from keyvault.store import destructions, fenced_records, outbox, system
from keyvault.store import scopes as scope_store
from keyvault.store.destructions import Destruction
from keyvault.store.dialects import chunks
from keyvault.store.fenced_records import RecordKey
from keyvault.store.scopes import ScopeRow

DESTROY_ID_BYTES = 16
BACKUP_HORIZON = timedelta(days=90)
"""How long a backup may live, and so how long openings and look-ups of destroyed scopes are kept."""
LIVE = (KeyState.ACTIVE, KeyState.SUSPENDED)

StillDue = Callable[[Connection, Collection[bytes]], Collection[bytes]]
"""Asked in the transaction of the fence: which of these scopes (by id), or of these records of one scope (by tag), are still to go."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cause:
    """Why a group is destroyed. `ticket` and the people go into the log as pseudonyms only; bytes are pseudonyms already (32 bytes).

    `approvals`: of how many people, the requester counted in; 0 where the policy's own rule asks. `request`: the id of the request that
    was approved. `policy`: the version of the retention policy that it rests on.
    """

    reason: str
    ticket: str | bytes
    requested_by: str | bytes
    approved_by: str | bytes | None = None
    approvals: int = 1
    request: bytes | None = None
    policy: str = POLICY_VERSION


def fence(home: Home, rows: Sequence[ScopeRow], cause: Cause, still_due: StillDue | None = None) -> dict[bytes, bytes]:
    """Fence live scopes in groups of at most 1,000, ring by ring; return the id of each one's destruction, by its own.

    Scopes that `still_due` does not name any more are left alone.

    Left out are those that another run has fenced first, and those that were moved to a ring since `rows` were read: they are fenced,
    but their rows must be read again. Raises `DestructionPausedError` while destructions are paused: that group
    and those after it are untouched. While one group is written, the openings of the next are sealed.
    """
    ordered = sorted(rows, key=lambda row: (row.custody, row.ring_id or b"", row.slot or 0))
    fenced: dict[bytes, bytes] = {}

    def prepared(group: Sequence[ScopeRow]) -> Callable[[], dict[bytes, bytes]]:
        mark = partial(
            _mark,
            group=group,
            destruction=_new_destruction(home, cause),
            stated=_stated(home, cause),
            openings=_openings(home, group),
            still_due=still_due,
        )
        return partial(home.database.write, mark)

    for marked in one_ahead(map(prepared, chunks(ordered, MAX_SCOPES_PER_EVENT))):
        fenced |= marked
    return fenced


def fence_records(
    home: Home, row: ScopeRow, tags: Sequence[bytes], cause: Cause, still_due: StillDue | None = None
) -> dict[RecordKey, bytes]:
    """Fence records of a scope in groups of at most 1,000; return the id of each one's destruction.

    Records that `still_due` does not name any more are left alone.

    Raises `DestructionPausedError`, and `ScopeFencedError` or `ScopeDestroyedError` when the whole scope is.
    """
    fenced: dict[RecordKey, bytes] = {}
    for some in chunks(tags, MAX_SCOPES_PER_EVENT):
        keys = [(row.id, tag) for tag in some]
        fenced |= home.database.write(
            partial(
                _mark_records,
                row=row,
                keys=keys,
                destruction=_new_destruction(home, cause),
                stated=_stated(home, cause),
                still_due=still_due,
            )
        )
    return fenced


def stamp(home: Home, destroy_ids: Iterable[bytes]) -> Mapping[bytes, Destruction]:
    """Write `fenced_at`, and the instant by which every cached key has expired, where they are not written yet.

    Returns these destructions, stamped.
    """
    allowance = lease_allowance(home)
    ids = sorted(set(destroy_ids))

    def work(connection: Connection) -> Mapping[bytes, Destruction]:
        now = home.clock.now() if home.clock.simulated else home.database.transaction_clock()
        stamped = destructions.stamp_fence(connection, ids, fenced_at=now, lease_bound=now + allowance)
        # Always something to commit: a standby that confirms it has confirmed the fence before it, too.
        system.beat(connection, home.node, now)
        return stamped

    return home.database.write(work)


def lease_allowance(home: Home) -> timedelta:
    """Return how long after its fence a cached key may still be used: one lease, and what clocks may differ by."""
    return timedelta(seconds=home.settings.lease_ttl + home.settings.clock_skew)


def _new_destruction(home: Home, cause: Cause) -> Destruction:
    return Destruction(
        id=secrets.token_bytes(DESTROY_ID_BYTES),
        reason=cause.reason,
        ticket=_pseudonym(home, "ticket", cause.ticket),
        requested_by=_pseudonym(home, "person", cause.requested_by),
        fence_event=new_event_id(),
        created_at=home.clock.now(),
    )


def _pseudonym(home: Home, what: str, value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else home.keys.pseudonym_of(what, value)


def _mark(
    connection: Connection,
    *,
    group: Sequence[ScopeRow],
    destruction: Destruction,
    stated: Mapping[str, Value],
    openings: Mapping[bytes, bytes],
    still_due: StillDue | None,
) -> dict[bytes, bytes]:
    """Fence what is still live of the group; return what was, and still sits where its row says, with `destruction`'s id."""
    check_not_paused(connection)
    ids: Collection[bytes] = [row.id for row in group]
    if still_due is not None:
        ids = still_due(connection, ids)
    destructions.insert(connection, replace(destruction, scopes=len(ids)))
    places = scope_store.fence(connection, ids, destruction.id, grouped=True)
    if not places:
        destructions.remove(connection, destruction.id)
        return {}
    if len(places) < len(ids):
        destructions.count(connection, destruction.id, len(places))
    kept = {scope: sealed for scope, sealed in openings.items() if scope in places}
    destructions.keep_openings(connection, kept, until=destruction.created_at + BACKUP_HORIZON)
    _tell(connection, destruction, stated, [row for row in group if row.id in places], [])
    return {row.id: destruction.id for row in group if places.get(row.id) == (row.custody, row.ring_id, row.slot)}


def _mark_records(
    connection: Connection,
    *,
    row: ScopeRow,
    keys: Sequence[RecordKey],
    destruction: Destruction,
    stated: Mapping[str, Value],
    still_due: StillDue | None,
) -> dict[RecordKey, bytes]:
    """Fence the records that are not fenced yet; return which were, by `destruction`'s id."""
    check_not_paused(connection)
    locked = scope_store.by_id(connection, [row.id], lock=True)[row.id]
    if locked.state not in LIVE:
        check_issuable(locked.state, row.id)
    marked = fenced_records.by_key(connection, keys, lock=True)
    live = [key for key in keys if key not in marked or marked[key].state in LIVE]
    if still_due is not None:
        wanted = set(still_due(connection, [tag for _, tag in live]))
        live = [key for key in live if key[1] in wanted]
    if not live:
        return {}
    destructions.insert(connection, destruction)
    fenced_records.put(
        connection, live, before=[KeyState.SUSPENDED], after=KeyState.DEACTIVATED, destroy_id=destruction.id
    )
    _tell(connection, destruction, stated, [locked], [tag for _, tag in live])
    return dict.fromkeys(live, destruction.id)


def check_not_paused(connection: Connection) -> None:
    """Raise `DestructionPausedError` while destructions are paused, and keep that so until the transaction ends."""
    if system.is_paused(connection, lock=True):
        raise DestructionPausedError("destructions are paused: run `keyvault destroy resume` when they may go on")


def _stated(home: Home, cause: Cause) -> Mapping[str, Value]:
    """Return what `destroy.fenced` says of a cause beside its destruction, `policy` included."""
    approver = cause.approved_by
    return {
        "approvals": cause.approvals,
        "approved_by": None if approver is None else b64(_pseudonym(home, "person", approver)),
        "request": None if cause.request is None else b64(cause.request),
        "policy": cause.policy,
    }


def _tell(
    connection: Connection,
    destruction: Destruction,
    stated: Mapping[str, Value],
    rows: Sequence[ScopeRow],
    tags: Sequence[bytes],
) -> None:
    payload: dict[str, Value] = {
        "destroy_id": b64(destruction.id),
        "reason": destruction.reason,
        "ticket": b64(destruction.ticket),
        "requested_by": b64(destruction.requested_by),
        **stated,
        "scopes": [b64(row.commitment) for row in rows],
        "records": [b64(tag) for tag in tags],
    }
    event = make_event(
        EventType.DESTROY_FENCED,
        payload,
        at=destruction.created_at,
        event_id=destruction.fence_event,
        policy=str(stated["policy"]),
    )
    outbox.append(connection, [event])


def _openings(home: Home, group: Sequence[ScopeRow]) -> dict[bytes, bytes]:
    """Open each commitment while its key still can, and seal the opening under the journal key, by scope id.

    Not of kinds that name no person: their salts stay, and who asks knows the name. A key that is gone already has no opening left to copy; that must not keep its scope from being destroyed. Another run that was
    faster has copied it.
    """
    sealed: dict[bytes, bytes] = {}
    for code, custody in home.custodies.items():
        named = [named_in(row) for row in group if KIND_RULES[row.kind].names_person]
        rows = [row for row in named if row.custody == code]
        for row, opened in zip(rows, custody.open_identities(rows), strict=True):
            if isinstance(opened, KeyMissingError | ScopeFencedError | ScopeDestroyedError):
                continue
            if isinstance(opened, KeyVaultError):
                raise opened
            sealed[row.id] = home.keys.seal_journal(bytes(opened), b"opening" + row.id)
    return sealed
