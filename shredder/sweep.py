"""The sweep: destroys what the retention policy's automatic rules make due, and nothing that they do not.

In this order: the lease, the clock, the steps that facts and requests need, what earlier runs left pending, the plan, its limits,
group after group, each asked about once more in the transaction of its fence, the notices, and the unused slots of rings that are closed.
Killed anywhere, the next run goes on from what is committed: what is fenced is finished, and the rest is found again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import partial
from itertools import groupby
from typing import TypeVar

from sqlalchemy.engine import Connection

from keyvault.due_rules import DueRule
from keyvault.errors import ConfirmationNeededError, DestructionPausedError, Unavailable
from keyvault.home import Home
from keyvault.states import KeyState
from keyvault.store import due, fenced_records, system
from keyvault.store import scopes as scope_store
from keyvault.store.fenced_records import RecordKey
from keyvault.store.scopes import ScopeRow
from shredder.destroy import Destroyer
from shredder.erase import Outcome
from shredder.fence import LIVE, Cause
from shredder.notices import Delivery, deliver
from shredder.plan import Plan, due_rules, make_plan
from shredder.policy import Policy
from shredder.sweep_lease import SweepLease, held
from shredder.trusted_time import trusted_now
from shredder.unused_slots import UnusedSlots, destroy_unused_slots

GROUP = 30_000
"""Scopes or records that are looked up together; rings are not cut in two. The destroyer has several batches of them under way."""
TICKET = "sweep"
REQUESTED_BY = "policy"
NO_RECORD: RecordKey = (b"", b"")

T = TypeVar("T")
Step = Callable[[Home, Policy], Sequence[str]]
"""What has to be done before anything is counted: suspending what facts suspend, executing what was approved. Says what it could not do."""
Progress = Callable[[int], None]


@dataclass(kw_only=True, slots=True)
class SweepReport:
    """What a sweep did. `finished`: of destructions that earlier runs had begun; `spared`: due when planned, and not any more at the fence.

    `problems`: what the steps before it could not do. `slots`: unused ones of closed rings. `notices`: what the storage layer was told.
    """

    plan: Plan
    problems: tuple[str, ...]
    finished: list[Outcome]
    destroyed: int = 0
    spared: int = 0
    failed: list[Outcome] = field(default_factory=list)
    slots: UnusedSlots = field(default_factory=UnusedSlots)
    notices: Delivery = field(default_factory=lambda: Delivery(given=0))

    @property
    def complete(self) -> bool:
        """Whether nothing is left to a next run: no request, no destruction, no slot, and no notice."""
        return not (
            self.problems
            or self.slots.problems
            or self.failed
            or self.notices.left
            or any(outcome.error for outcome in self.finished)
        )


def plan_sweep(home: Home, policy: Policy, at: datetime) -> Plan:
    """Count all that is due at `at` (aware, UTC; may lie in the future) as facts are known now. Changes nothing."""

    def work(connection: Connection) -> Plan:
        return make_plan(
            policy,
            at,
            [
                (rule, due.count_scopes(connection, rule), due.count_records(connection, rule))
                for rule in due_rules(policy, at)
            ],
        )

    return home.database.read(work)


def sweep(
    home: Home,
    policy: Policy,
    *,
    steps: Sequence[Step] = (),
    confirm: int | None = None,
    trust_clock: date | None = None,
    progress: Callable[[int], Progress] | None = None,
) -> SweepReport:
    """Destroy all that is due now, in a home opened as `shredder`.

    `confirm`: the exact count of a plan that is beyond the policy's limits. `trust_clock`: today's date (UTC), when the clock is right
    although it is far ahead of the last trusted time. `progress` is told the count once it is known, and gives what is told of each
    portion. Raises `SweepRunningError`, `DestructionPausedError`, `ClockAheadError`, `ConfirmationNeededError` before anything is
    destroyed; and `Unavailable`, `DestructionPausedError` or `SweepRunningError` in between: the next run goes on from there.
    """
    with held(home) as lease:
        _check_not_paused(home)
        at = trusted_now(home, policy.limits, trust_clock)
        problems = tuple(problem for step in steps for problem in step(home, policy))
        report = SweepReport(plan=Plan(at=at, entries=()), problems=problems, finished=Destroyer(home).finish_pending())
        _stop_if_unavailable(report.finished)
        report.plan = plan_sweep(home, policy, at)
        _check_limits(home, policy, report.plan, confirm)
        _Run(home, policy, lease, report, (progress or _silent)(report.plan.count)).run()
        report.notices = deliver(home)
        home.database.write(partial(_end, rules=due_rules(policy, at), at=at))
        report.slots = destroy_unused_slots(
            home, at, lease.check
        )  # last: where it cannot go on, all else is done, and told
    return report


class _Run:
    """One sweep's groups. `left` is what the plan still allows: what became due since then waits for the next sweep."""

    def __init__(self, home: Home, policy: Policy, lease: SweepLease, report: SweepReport, progress: Progress) -> None:
        self._home = home
        self._policy = policy
        self._lease = lease
        self._report = report
        self._progress = progress
        self._destroyer = Destroyer(home)
        self._left = report.plan.count

    def run(self) -> None:
        for rule in due_rules(self._policy, self._report.plan.at):
            if self._left:
                self._run_rule(rule)

    def _run_rule(self, rule: DueRule) -> None:
        cause = Cause(
            reason=rule.reason,
            ticket=TICKET,
            requested_by=REQUESTED_BY,
            approvals=0,
            policy=self._policy.version,
        )
        for rows in self._groups(rule):
            some = self._allowed(rows)
            still = partial(_still_due_scopes, rule)
            self._note(self._destroyer.destroy_rows(some, cause, self._progress, still))
        for row, tags in self._record_groups(rule):
            some_tags = self._allowed(tags)
            of_record = partial(_still_due_tags, rule, row.id)
            self._note(self._destroyer.destroy_tags(row, some_tags, cause, self._progress, of_record))

    def _groups(self, rule: DueRule) -> Iterator[list[ScopeRow]]:
        """Give what is due, read when it is asked for, whole rings together."""
        batch: list[bytes] = []
        size = 0
        for ring_id, count in self._home.database.read(lambda connection: due.rings(connection, rule)):
            if ring_id is None:
                yield from self._keys_of_their_own(rule)
                continue
            if batch and size + count > GROUP:
                yield self._rows(rule, batch)
                batch, size = [], 0
            batch.append(ring_id)
            size += count
        if batch:
            yield self._rows(rule, batch)

    def _rows(self, rule: DueRule, ring_ids: Sequence[bytes]) -> list[ScopeRow]:
        def work(connection: Connection) -> list[ScopeRow]:
            return list(scope_store.by_id(connection, due.ids_in_rings(connection, rule, ring_ids)).values())

        return self._home.database.read(work)

    def _keys_of_their_own(self, rule: DueRule) -> Iterator[list[ScopeRow]]:
        def work(connection: Connection) -> list[ScopeRow]:
            ids = due.ids_in_no_ring(connection, rule, after=after, limit=GROUP)
            return list(scope_store.by_id(connection, ids).values())

        after = b""
        while rows := self._home.database.read(work):
            yield rows
            after = max(row.id for row in rows)

    def _record_groups(self, rule: DueRule) -> Iterator[tuple[ScopeRow, list[bytes]]]:
        """Give due records scope by scope."""

        def work(connection: Connection) -> tuple[list[RecordKey], dict[bytes, ScopeRow]]:
            keys = due.records(connection, rule, after=after, limit=GROUP)
            return keys, scope_store.by_id(connection, {scope for scope, _ in keys})

        after = NO_RECORD
        while (found := self._home.database.read(work))[0]:
            keys, rows = found
            for scope_id, group in groupby(keys, key=lambda key: key[0]):
                yield rows[scope_id], [tag for _, tag in group]
            after = keys[-1]

    def _allowed(self, group: list[T]) -> list[T]:
        """Return as much of a group as the plan counted, after a look at whether this sweep may go on."""
        self._lease.check()
        some = group[: self._left]
        self._left -= len(some)
        return some

    def _note(self, outcomes: Sequence[Outcome]) -> None:
        unfinished = [outcome for outcome in outcomes if outcome.error is not None]
        spared = self._home.database.read(partial(_spared, outcomes=unfinished))
        failed = [outcome for outcome in unfinished if (outcome.scope_id, outcome.record_tag) not in spared]
        self._report.destroyed += len(outcomes) - len(unfinished)
        self._report.spared += len(spared)
        self._report.failed += failed
        _stop_if_unavailable(failed)


def _spared(connection: Connection, *, outcomes: Sequence[Outcome]) -> set[RecordKey]:
    """Return which of these were not fenced at all: whole scopes that live, records that nothing or a user marks."""
    rows = scope_store.by_id(connection, {outcome.scope_id for outcome in outcomes if not outcome.record_tag})
    keys = [(outcome.scope_id, outcome.record_tag) for outcome in outcomes if outcome.record_tag]
    marks = fenced_records.by_key(connection, keys)
    live = {(row.id, b"") for row in rows.values() if row.state in LIVE}
    return live | {key for key in keys if key not in marks or marks[key].state is KeyState.SUSPENDED}


def _still_due_scopes(rule: DueRule, connection: Connection, ids: Collection[bytes]) -> set[bytes]:
    return due.still_due_scopes(connection, rule, ids)


def _still_due_tags(rule: DueRule, scope_id: bytes, connection: Connection, tags: Collection[bytes]) -> set[bytes]:
    return due.still_due_tags(connection, rule, scope_id, tags)


def _check_not_paused(home: Home) -> None:
    if home.database.read(system.is_paused):
        raise DestructionPausedError(
            "destructions are paused, and nothing was swept: run `keyvault destroy resume` when they may go on"
        )


def _check_limits(home: Home, policy: Policy, plan: Plan, confirm: int | None) -> None:
    if confirm is not None and confirm != plan.count:
        raise ConfirmationNeededError(
            f"{plan.count} are due, not the {confirm} that were confirmed, and nothing was destroyed: look at `keyvault sweep --plan` again"
        )
    if not plan.count or confirm is not None:
        return
    states = home.database.read(scope_store.count_by_state)
    live = sum(states[state] for state in LIVE)
    if policy.limits.needs_confirmation(plan.count, live):
        raise ConfirmationNeededError(
            f"{plan.count} are due, of {live} live scopes: more than the policy's limits let go unconfirmed, and nothing was destroyed. "
            f"Look at `keyvault sweep --plan`, and if that is right run `keyvault sweep --confirm {plan.count}`"
        )


def _stop_if_unavailable(outcomes: Sequence[Outcome]) -> None:
    """Raise the first error that passes: what follows would meet it, too."""
    for outcome in outcomes:
        if isinstance(outcome.error, Unavailable):
            raise outcome.error


def _end(connection: Connection, *, rules: Sequence[DueRule], at: datetime) -> None:
    """Trust the time of this sweep, and leave settled subjects alone from now on."""
    system.trust(connection, at)
    due.settle(connection, rules)


def _silent(_count: int) -> Progress:
    return lambda _done: None
