"""What the policy's automatic rules come to at an instant: the rules as values, and a plan of counts. Pure.

Every instant is UTC, and nothing is due early: a rule's `until` is the latest instant that may have come.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from keyvault.calendar import due_cutoff
from keyvault.due_rules import DueCount, DueRule
from keyvault.scopes import RETENTION_MONTHS, ScopeKind
from shredder.policy import Policy, Rule

ACCOUNT = "account"
SUBJECT_OF: Mapping[Rule, str] = {Rule.USER: "user", Rule.CONTACT: "contact", Rule.CLASS: "business"}
REASON_OF: Mapping[Rule, str] = {
    Rule.CALENDAR: "retention-period",
    Rule.USER: "user-inactive",
    Rule.CONTACT: "no-longer-valuable",
    Rule.CLASS: "class-period",
}
REASON_OF_CLOSED: Mapping[bool, str] = {True: "account-closed", False: "account-lapsed"}


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanEntry:
    """What is due of one kind, for one reason, since one month (`2026-11`): whole scopes, and single records of scopes that stay."""

    kind: ScopeKind
    reason: str
    month: str
    scopes: int = 0
    records: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All that is due at `at`, by kind, month and reason."""

    at: datetime
    entries: tuple[PlanEntry, ...]

    @property
    def count(self) -> int:
        """How many destructions that is: scopes and single records."""
        return sum(entry.scopes + entry.records for entry in self.entries)


def due_rules(policy: Policy, at: datetime) -> list[DueRule]:
    """Return every automatic rule of a policy as of `at`, those of the calendar first; each scope and record is due by one at most."""
    kinds: dict[Rule, set[ScopeKind]] = defaultdict(set)
    for kind, category in policy.categories.items():
        kinds[category.rule].add(kind)
    calendar = [
        DueRule(
            reason=REASON_OF[Rule.CALENDAR], kinds=frozenset({kind}), until=due_cutoff(at, _months_kept(policy, kind))
        )
        for kind in sorted(kinds[Rule.CALENDAR])
    ]
    of_accounts = [
        rule
        for closed, reason in REASON_OF_CLOSED.items()
        for rule in _of_accounts(frozenset(kinds[Rule.ACCOUNT]), calendar, at, closed=closed, reason=reason)
    ]
    of_others = [
        DueRule(reason=REASON_OF[rule], kinds=frozenset(kinds[rule]), until=at, subject=subject)
        for rule, subject in SUBJECT_OF.items()
    ]
    return calendar + of_accounts + of_others


def make_plan(
    policy: Policy, at: datetime, counts: Iterable[tuple[DueRule, Sequence[DueCount], Sequence[DueCount]]]
) -> Plan:
    """Put together what each rule found: of scopes, and of single records."""
    sums: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for rule, of_scopes, of_records in counts:
        for place, found in enumerate((of_scopes, of_records)):
            for item in found:
                month = item.month if rule.subject else _since(policy, item)
                sums[str(item.kind), month, rule.reason][place] += item.count
    entries = [
        PlanEntry(kind=ScopeKind(kind), month=month, reason=reason, scopes=whole, records=single)
        for (kind, month, reason), (whole, single) in sorted(sums.items())
    ]
    return Plan(at=at, entries=tuple(entries))


def _of_accounts(
    kinds: frozenset[ScopeKind], calendar: Sequence[DueRule], at: datetime, *, closed: bool, reason: str
) -> list[DueRule]:
    """Return what goes with an account: its scopes of `kinds`, and what a user deleted of those that otherwise the calendar ends."""
    rule = DueRule(reason=reason, kinds=kinds, until=at, subject=ACCOUNT, closed=closed)
    deleted = [
        DueRule(
            reason=reason,
            kinds=before.kinds,
            until=at,
            subject=ACCOUNT,
            closed=closed,
            deleted_after=before.until,
        )
        for before in calendar
    ]
    return [rule, *deleted]


def _months_kept(policy: Policy, kind: ScopeKind) -> int:
    months = policy.categories[kind].months
    return RETENTION_MONTHS if months is None else months


def _since(policy: Policy, item: DueCount) -> str:
    """Return the month in which account-months became due that are kept for fewer than the 25 months that their `due_at` is for."""
    return shifted(item.month, _months_kept(policy, item.kind) - RETENTION_MONTHS)


def shifted(month: str, by: int) -> str:
    """Return the month (`2026-11`) that is `by` months later, or earlier."""
    year, _, number = month.partition("-")
    of_year, index = divmod(int(year) * 12 + int(number) - 1 + by, 12)
    return f"{of_year:04}-{index + 1:02}"
