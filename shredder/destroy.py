"""The destruction protocol as one thing to call: plan, fence, erase, prove, acknowledge, and finish what a crash left.

Whatever is fenced is finished by the next run of anybody; nothing else is ever destroyed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from itertools import groupby

from sqlalchemy.engine import Connection

from keyvault.custody.base import Custody
from keyvault.errors import (
    DestructionError,
    InvalidInputError,
    KeyVaultError,
    UnknownScopeError,
)
from keyvault.events import EventType, Value, make_event, new_event_id
from keyvault.home import Home
from keyvault.results import caught
from keyvault.scopes import KIND_RULES, Scope
from keyvault.states import KeyState
from keyvault.store import destructions, intents, outbox, system
from keyvault.store import scopes as scope_store
from keyvault.store.scopes import ScopeRow
from keyvault.transit.base import audit_event
from shredder.erase import Outcome, finish
from shredder.fence import Cause, fence

GROUP = 1_000
REASON = re.compile(r"[a-z][a-z0-9-]{0,31}")
MAX_TICKET_BYTES = 256
DEFAULT_REASON = "customer-request"


class PlannedAction(StrEnum):
    """What a run would do with a name."""

    DESTROY = "destroy"
    FINISH = "finish"
    NOTHING = "already destroyed"


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanItem:
    """One name of a request; `row` is its newest generation."""

    name: str
    action: PlannedAction
    row: ScopeRow


@dataclass(frozen=True, kw_only=True, slots=True)
class DestroyStatus:
    """Where destructions stand. `unused_keys`: keys announced but never bound to a scope."""

    paused: bool
    pending: int
    unused_keys: int


class Destroyer:
    """Destroys scopes of an opened home; open it with the role `shredder`."""

    def __init__(self, home: Home) -> None:
        """Work on `home`, which the caller closes."""
        self._home = home

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
        live = [item.row for item in plan if item.action is PlannedAction.DESTROY]
        cause = Cause(reason=reason, ticket=ticket, requested_by=requested_by)
        fence(self._home, live, cause)
        return self._finish([item.row.id for item in plan], progress)

    def finish_pending(self, progress: Callable[[int], None] | None = None) -> list[Outcome]:
        """Finish every destruction that is fenced and not acknowledged, and delete keys that no scope was bound to."""
        outcomes: list[Outcome] = []
        tried: set[bytes] = set()
        while rows := self._pending(tried):
            tried.update(row.id for row in rows)
            outcomes += self._finish([row.id for row in rows], progress)
        self.collect()
        self.forget_expired()
        return outcomes

    def forget_expired(self) -> None:
        """Remove what was kept of destroyed people until their backup horizon: look-ups and openings."""
        now = self._home.clock.now()
        people = [kind for kind, rules in KIND_RULES.items() if rules.names_person]

        def work(connection: Connection) -> None:
            scope_store.forget_lookups(connection, kinds=people, now=now)
            destructions.drop_openings(connection, now=now)

        self._home.database.write(work)

    def collect(self) -> int:
        """Delete keys that were made for scopes which never came to be, with an event; return how many."""
        total = 0
        for custody in self._home.custodies.values():
            while references := custody.unused(GROUP):
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

    def _pending(self, tried: set[bytes]) -> list[ScopeRow]:
        rows = self._home.database.read(
            lambda connection: scope_store.awaiting_destruction(connection, limit=GROUP + len(tried))
        )
        return [row for row in rows if row.id not in tried]

    def _finish(self, ids: Sequence[bytes], progress: Callable[[int], None] | None) -> list[Outcome]:
        """Finish the fenced ones among `ids`; the others are destroyed already and keep their time."""
        rows = self._home.database.read(lambda connection: scope_store.by_id(connection, ids))
        fenced = sorted(
            (row for row in rows.values() if row.state is KeyState.DEACTIVATED), key=lambda row: row.destroy_id or b""
        )
        causes = self._home.database.read(
            lambda connection: destructions.by_id(connection, list({row.destroy_id or b"" for row in fenced}))
        )
        outcomes: dict[bytes, Outcome] = {}
        for destroy_id, members in groupby(fenced, key=lambda row: row.destroy_id or b""):
            done = finish(self._home, causes[destroy_id], list(members))
            outcomes |= {outcome.scope_id: outcome for outcome in done}
            if progress is not None:
                progress(len(done))
        self._home.database.confirm(self._home.node)
        self._home.database.forget_deleted()
        return [outcomes.get(scope) or _settled(rows[scope]) for scope in dict.fromkeys(ids)]


def _settled(row: ScopeRow) -> Outcome:
    if row.state is KeyState.DESTROYED:
        return Outcome(scope_id=row.id, at=row.destroyed_at)
    return Outcome(
        scope_id=row.id, error=DestructionError(f"scope {row.id.hex()} is {row.state} and was not destroyed")
    )


def _planned(name: str, row: ScopeRow | None) -> PlanItem | KeyVaultError:
    if row is None:
        return UnknownScopeError("no scope of that name in this store, so there is nothing to destroy")
    actions = {KeyState.DEACTIVATED: PlannedAction.FINISH, KeyState.DESTROYED: PlannedAction.NOTHING}
    return PlanItem(name=name, action=actions.get(row.state, PlannedAction.DESTROY), row=row)


def check_cause(ticket: str, reason: str) -> None:
    """Raise `InvalidInputError` for a ticket or a reason code that `Destroyer.destroy` would refuse."""
    if not ticket.strip() or len(ticket.encode()) > MAX_TICKET_BYTES:
        raise InvalidInputError(f"a ticket has 1 to {MAX_TICKET_BYTES} bytes")
    if not REASON.fullmatch(reason):
        raise InvalidInputError("a reason is a code of lower-case letters, digits and hyphens, at most 32")
