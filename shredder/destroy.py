"""The destruction protocol as one thing to call: plan, fence, erase, prove, acknowledge, and finish what a crash left.

Whatever is fenced is finished by the next run of anybody; nothing else is ever destroyed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import groupby
from typing import NamedTuple

from sqlalchemy.engine import Connection

from keyvault.admission import tag_of
from keyvault.batches import uncollected
from keyvault.concurrency import one_ahead
from keyvault.custody.base import Custody
from keyvault.errors import (
    DestructionError,
    InvalidInputError,
    KeyVaultError,
    LogError,
    RestoreDetected,
    Unavailable,
    UnknownScopeError,
)
from keyvault.events import EventType, Value, make_event, new_event_id
from keyvault.home import Home
from keyvault.results import caught
from keyvault.scopes import Scope
from keyvault.states import KeyState, check_issuable
from keyvault.store import destructions, fenced_records, groups, intents, outbox, system
from keyvault.store import scopes as scope_store
from keyvault.store.dialects import chunks
from keyvault.store.fenced_records import RecordKey, RecordRow
from keyvault.store.scopes import ScopeRow
from keyvault.transit.base import audit_event
from shredder.current import require_current
from shredder.erase import PEOPLE, Key, Outcome, finish
from shredder.fence import LIVE, Cause, StillDue, fence, fence_records, stamp
from shredder.logging_ahead import LoggingAhead

GROUP = 1_000
BATCH = 10_000
"""Scopes that are erased before they are acknowledged together; rings are not cut in two."""
AT_ONCE = 2
"""Batches under way beside the one that is fenced: while one is erased, another is acknowledged."""
SETTLED_AT_ONCE = 10
"""Destructions of up to 1,000 scopes that are past their horizon, and whose rows are written together."""
REASON = re.compile(r"[a-z][a-z0-9-]{0,31}")
MAX_TICKET_BYTES = 256
DEFAULT_REASON = "customer-request"
_UNACKNOWLEDGED = "what this run did is done, but not acknowledged, because its evidence is not in the log yet"


Fenced = Mapping[Key, tuple[ScopeRow, bytes]]
"""What a run has fenced: its scope's row, and the id of its destruction."""


class PlannedAction(StrEnum):
    """What a run would do with a name."""

    DESTROY = "destroy"
    FINISH = "finish"
    NOTHING = "already destroyed"


class PlanItem(NamedTuple):
    """One name of a request; `row` is its newest generation. `record_tag` (8 bytes) where only a record of it is meant."""

    name: str
    action: PlannedAction
    row: ScopeRow
    record_tag: bytes = b""


@dataclass(frozen=True, kw_only=True, slots=True)
class DestroyStatus:
    """Where destructions stand. `unused_keys`: keys announced but never bound to a scope."""

    paused: bool
    pending: int
    pending_records: int
    unused_keys: int


class Destroyer:
    """Destroys scopes of an opened home; open it with the role `shredder`."""

    def __init__(self, home: Home) -> None:
        """Work on `home`, which the caller closes."""
        self._home = home

    @uncollected()
    def plan(self, names: Sequence[str]) -> list[PlanItem | KeyVaultError]:
        """Say for each name what a run would do: an item, or why the name cannot be destroyed. Changes nothing."""
        parsed = [caught(Scope.parse, name) for name in names]
        lookups = [self._home.keys.lookup(scope.canonical) if isinstance(scope, Scope) else None for scope in parsed]
        known = [lookup for lookup in lookups if lookup is not None]
        rows = self._home.database.read(lambda connection: scope_store.newest_by_lookup(connection, known))
        return [
            scope if isinstance(scope, KeyVaultError) else _planned(name, rows.get(lookup or b""))
            for name, scope, lookup in zip(names, parsed, lookups, strict=True)
        ]

    def destroy(
        self,
        names: Sequence[str],
        *,
        ticket: str,
        requested_by: str,
        reason: str = DEFAULT_REASON,
        progress: Callable[[int], None] | None = None,
    ) -> list[Outcome]:
        """Destroy the scopes of all `names`, or none: one that cannot be planned refuses the whole call.

        `ticket` is 1 to 256 bytes; `reason` a code of lower-case letters, digits and hyphens, at most 32. `progress` is told how
        many more scopes are done. Returns an outcome a scope; one that is pending carries its error and is finished by the next
        run. Raises `DestructionPausedError`, `InvalidInputError`, the first error of the plan, or `Unavailable`.
        """
        check_cause(ticket, reason)
        plan = []
        for item in self.plan(list(dict.fromkeys(names))):
            if isinstance(item, KeyVaultError):
                raise item
            plan.append(item)
        cause = Cause(reason=reason, ticket=ticket, requested_by=requested_by)
        return self.destroy_rows([item.row for item in plan], cause, progress)

    def destroy_rows(
        self,
        rows: Sequence[ScopeRow],
        cause: Cause,
        progress: Callable[[int], None] | None = None,
        still_due: StillDue | None = None,
    ) -> list[Outcome]:
        """Destroy scopes whose rows the caller has read and judged: requests and sweeps. As `destroy`, an outcome a scope.

        What is fenced or destroyed already is finished, or left; a row that changed since is judged by the database. `still_due` is
        asked at the fence, and the outcome of what it spares carries a `DestructionError`.
        """
        live = {row.id: row for row in rows if row.state in LIVE}

        def fenced(batch: Sequence[Key]) -> Fenced:
            some = [live[scope] for scope, _ in batch if scope in live]
            destroy_ids = fence(self._home, some, cause, still_due)
            return {(row.id, b""): (row, destroy_ids[row.id]) for row in some if row.id in destroy_ids}

        places = {row.id: row.ring_id for row in rows}
        return self._finish([(scope, b"") for scope in places], places, fenced, progress)

    def plan_records(self, name: str, records: Sequence[str]) -> list[PlanItem]:
        """Say for each record of an account-month what a run would do. Changes nothing.

        That a record was ever sealed cannot be known. Raises what `plan` answers for the name, `RecordsNotSupportedError`,
        `InvalidInputError`, and `ScopeFencedError` or `ScopeDestroyedError` when the whole scope is.
        """
        (item,) = self.plan([name])
        if isinstance(item, KeyVaultError):
            raise item
        if item.row.state is not KeyState.SUSPENDED:
            check_issuable(item.row.state, item.row.id)
        tags = {record: tag_of(item.row, record, self._home.keys.index) for record in dict.fromkeys(records)}
        keys = [(item.row.id, tag) for tag in tags.values()]
        marks = self._home.database.read(lambda connection: fenced_records.by_key(connection, keys))
        return [
            PlanItem(name=record, action=_action(marks.get((item.row.id, tag))), row=item.row, record_tag=tag)
            for record, tag in tags.items()
        ]

    def destroy_records(
        self,
        name: str,
        records: Sequence[str],
        *,
        ticket: str,
        requested_by: str,
        reason: str = DEFAULT_REASON,
        progress: Callable[[int], None] | None = None,
    ) -> list[Outcome]:
        """Destroy single records of one account-month; the rest of it stays. As `destroy`, an outcome a record."""
        check_cause(ticket, reason)
        plan = self.plan_records(name, records)
        cause = Cause(reason=reason, ticket=ticket, requested_by=requested_by)
        return self.destroy_tags(plan[0].row, [item.record_tag for item in plan], cause, progress) if plan else []

    def destroy_tags(
        self,
        row: ScopeRow,
        tags: Sequence[bytes],
        cause: Cause,
        progress: Callable[[int], None] | None = None,
        still_due: StillDue | None = None,
    ) -> list[Outcome]:
        """Destroy records of one account-month by their tags (8 bytes each), an outcome a record. Raises as `fence_records`."""
        fenced = fence_records(self._home, row, tags, cause, still_due)
        known = {key: (row, destroy_id) for key, destroy_id in fenced.items()}
        return self._finish([(row.id, tag) for tag in tags], {row.id: row.ring_id}, lambda _: known, progress)

    def finish_pending(self, progress: Callable[[int], None] | None = None) -> list[Outcome]:
        """Finish every destruction that is fenced and not acknowledged, and delete keys that no scope was bound to."""

        def work(connection: Connection) -> list[Key]:
            records = fenced_records.awaiting_destruction(connection)
            return [(scope, b"") for scope in scope_store.awaiting_destruction(connection)] + [
                mark.key for mark in records
            ]

        outcomes = self.finish_keys(self._home.database.read(work), progress)
        self.collect()
        self.forget_expired()
        self._settle()
        return outcomes

    def finish_keys(self, keys: Sequence[Key], progress: Callable[[int], None] | None = None) -> list[Outcome]:
        """Finish those of these scopes and records that are fenced, and destroy nothing else; an outcome each."""
        scopes = {scope for scope, _ in keys}
        places = self._home.database.read(lambda connection: scope_store.ring_ids(connection, scopes))
        return self._finish(keys, places, lambda _: {}, progress)

    def forget_expired(self) -> None:
        """Remove what was kept of destroyed scopes until their backup horizon: people's look-ups and openings, and sealed names."""
        now = self._home.clock.now()

        def work(connection: Connection) -> int:
            settled = groups.settle(connection, people=PEOPLE, now=now, limit=SETTLED_AT_ONCE)
            scope_store.forget_lookups(connection, kinds=PEOPLE, now=now)
            destructions.drop_openings(connection, now=now)
            return settled

        while self._home.database.write(work) == SETTLED_AT_ONCE:
            pass

    def collect(self) -> int:
        """Delete keys that were made for scopes which never came to be, with an event; return how many. Raises as `require_current`."""
        total = 0
        for custody in self._home.custodies.values():
            while references := custody.unused(GROUP):
                require_current(self._home)
                event = new_event_id()
                with audit_event(event):
                    custody.erase_unused(references)
                self._home.database.write(partial(self._forget_unused, custody, references, event))
                total += len(references)
        return total

    def pause(self) -> bool:
        """Stop every destruction, everywhere, before its fence; return whether it was running."""
        return self._home.database.write(lambda connection: system.set_paused(connection, paused=True))

    def unpause(self) -> bool:
        """Let destructions run again; return whether they were paused."""
        return self._home.database.write(lambda connection: system.set_paused(connection, paused=False))

    def status(self) -> DestroyStatus:
        """Return where destructions stand."""
        return self._home.database.read(
            lambda connection: DestroyStatus(
                paused=system.is_paused(connection),
                pending=scope_store.count_by_state(connection)[KeyState.DEACTIVATED],
                pending_records=fenced_records.count_by_state(connection)[KeyState.DEACTIVATED],
                unused_keys=intents.count(connection),
            )
        )

    def _forget_unused(
        self, custody: Custody, references: Sequence[str], event_id: str, connection: Connection
    ) -> None:
        custody.forget_unused(connection, references)
        payload: dict[str, Value] = {"custody": custody.name, "keys": list(references)}
        now = self._home.clock.now()
        event = make_event(EventType.UNUSED_KEYS_DELETED, payload, at=now, event_id=event_id)
        outbox.append(connection, [event])

    @uncollected()
    def _finish(
        self,
        keys: Sequence[Key],
        places: Mapping[bytes, bytes | None],
        fenced: Callable[[Sequence[Key]], Fenced],
        progress: Callable[[int], None] | None,
    ) -> list[Outcome]:
        """Fence and finish `keys`, batch by batch; those that are destroyed already keep their time.

        `places` are the rings of scopes; `fenced` fences what is live of a batch, while the batches before it are finished.
        """
        wanted = list(dict.fromkeys(keys))
        mine = 0
        outcomes: dict[Key, Outcome] = {}

        def jobs() -> Iterator[Callable[[], list[Outcome]]]:
            nonlocal mine
            for batch in _batches(wanted, places):
                known = fenced(batch)
                mine += len(known)
                yield partial(self._finish_batch, batch, known)

        with LoggingAhead(self._home) as logging:
            for finished in one_ahead(jobs(), threads=AT_ONCE):
                outcomes |= {outcome[:2]: outcome for outcome in finished}
                if len(outcomes) < len(wanted):
                    logging.begin()
                if progress is not None:
                    progress(len(finished))
        if mine < len(wanted):  # what this run has fenced, `finish` has committed, or confirmed
            self._home.database.confirm(self._home.node)
        self._home.database.forget_deleted()
        self._settle()
        return [outcomes[key] for key in wanted]

    def _settle(self) -> None:
        """Wait until the evidence is in the log: before that nothing is acknowledged to whoever asked."""
        try:
            self._home.log.settle()
        except Unavailable as error:
            raise Unavailable(f"{_UNACKNOWLEDGED} ({error}): run it again", retry_after=error.retry_after) from error
        except RestoreDetected as error:
            raise RestoreDetected(f"{_UNACKNOWLEDGED}: {error}") from error
        except KeyVaultError as error:
            raise LogError(f"{_UNACKNOWLEDGED} ({error}): run it again") from error

    def _finish_batch(self, keys: Sequence[Key], known: Fenced) -> list[Outcome]:
        """Finish the fenced ones among `keys`; `known` are those that this run has just fenced.

        Of the others the database is asked; what it says of another run's commits is confirmed before it is passed on.
        """
        pending = {key: destroy_id for key, (_, destroy_id) in known.items()}
        rows = {key[0]: row for key, (row, _) in known.items()}
        unknown = [key for key in keys if key not in known]
        settled: list[Outcome] = []
        if unknown:
            found, marks = self._home.database.read(partial(_look_up, keys=unknown))
            rows |= found
            for key in unknown:
                held: ScopeRow | RecordRow | None = marks.get(key) if key[1] else found.get(key[0])
                if held is not None and held.state is KeyState.DEACTIVATED:
                    pending[key] = held.destroy_id or b""
                else:
                    settled.append(_settled(key, held))
        if not pending:
            return settled
        return settled + finish(self._home, pending, rows, stamp(self._home, pending.values()))


def _batches(keys: Sequence[Key], places: Mapping[bytes, bytes | None]) -> Iterator[list[Key]]:
    """Cut into batches of some thousands, all of one ring in one of them."""
    ordered = sorted(keys, key=lambda key: places.get(key[0]) or b"")
    batch: list[Key] = []
    for ring_id, members in groupby(ordered, key=lambda key: places.get(key[0])):
        group = list(members)
        if batch and len(batch) + len(group) > BATCH:
            yield batch
            batch = []
        if not ring_id:  # keys of their own can be cut anywhere
            yield from map(list, chunks(group, GROUP))
            continue
        batch += group
    if batch:
        yield batch


def _look_up(
    connection: Connection, *, keys: Sequence[Key]
) -> tuple[dict[bytes, ScopeRow], dict[RecordKey, RecordRow]]:
    rows = scope_store.by_id(connection, {scope for scope, _ in keys})
    return rows, fenced_records.by_key(connection, [key for key in keys if key[1]])


def _settled(key: Key, held: ScopeRow | RecordRow | None) -> Outcome:
    scope, tag = key
    if held is not None and held.state is KeyState.DESTROYED:
        return Outcome(scope_id=scope, record_tag=tag, at=held.destroyed_at)
    what = f"a record of scope {scope.hex()}" if tag else f"scope {scope.hex()}"
    unmarked = KeyState.ACTIVE if tag else "unknown"
    state = unmarked if held is None else held.state
    return Outcome(scope_id=scope, record_tag=tag, error=DestructionError(f"{what} is {state} and was not destroyed"))


def _planned(name: str, row: ScopeRow | None) -> PlanItem | KeyVaultError:
    if row is None:
        return UnknownScopeError("no scope of that name in this store, so there is nothing to destroy")
    return PlanItem(name=name, action=_action(row), row=row)


def _action(held: ScopeRow | RecordRow | None) -> PlannedAction:
    """Say what a run would do with a scope, or with a record, which has a mark only if something was done with it."""
    return PlannedAction.DESTROY if held is None else _ACTIONS.get(held.state, PlannedAction.DESTROY)


_ACTIONS = {KeyState.DEACTIVATED: PlannedAction.FINISH, KeyState.DESTROYED: PlannedAction.NOTHING}


def check_cause(ticket: str, reason: str) -> None:
    """Raise `InvalidInputError` for a ticket or a reason code that `Destroyer.destroy` would refuse."""
    if not ticket.isprintable() or not ticket.strip() or len(ticket.encode()) > MAX_TICKET_BYTES:
        raise InvalidInputError(f"a ticket has 1 to {MAX_TICKET_BYTES} bytes of printable characters")
    if not REASON.fullmatch(reason):
        raise InvalidInputError("a reason is a code of lower-case letters, digits and hyphens, at most 32")
