"""When scopes are due, recomputed from the log alone: policies in force, facts, and the rules of `shredder.facts`. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Final

from keyvault.calendar import period_due_at
from keyvault.errors import KeyVaultError
from keyvault.events import POLICY_VERSION
from keyvault.scopes import RETENTION_MONTHS, SUBJECTS, ScopeKind
from keyvault.subjects import AccountStatus, SubjectKind
from shredder.audit.events import FactsRecorded, FactStated, PolicyChanged
from shredder.audit.finding import Findings
from shredder.audit.forms import CLOCKS, moment
from shredder.audit.profiles import Profile
from shredder.audit.scopes import Scopes, State
from shredder.facts import MAX_WAIT, Fact, FactType, Verdict, judge
from shredder.plan import REASON_OF, REASON_OF_CLOSED
from shredder.policy import Category, Limits, Owner, Policy, Rule

_TYPES: Final[Mapping[SubjectKind, frozenset[FactType]]] = {
    SubjectKind.ACCOUNT: frozenset(
        {FactType.OPENED, FactType.NOT_IN_GOOD_STANDING, FactType.REACTIVATED, FactType.CLOSED, FactType.BILLED}
    ),
    SubjectKind.USER: frozenset({FactType.CREATED, FactType.SIGNED_IN, FactType.GRANTED, FactType.REMOVED}),
    SubjectKind.CONTACT: frozenset({FactType.VALUABLE, FactType.NO_LONGER_VALUABLE}),
    SubjectKind.BUSINESS: frozenset({FactType.CLASSIFIED}),
}
_RULES: Final[Mapping[ScopeKind, Rule]] = {
    ScopeKind.COMMUNICATIONS: Rule.CALENDAR,
    ScopeKind.CONSUMER: Rule.ACCOUNT,
    ScopeKind.CUSTOMER: Rule.ACCOUNT,
    ScopeKind.USER: Rule.USER,
    ScopeKind.MARKETING: Rule.CONTACT,
    ScopeKind.BUSINESS: Rule.CLASS,
}
"""The one rule that a kind's period, or the facts about its subjects, leave."""
_COUNTS: Final[Mapping[Rule, str]] = {Rule.CALENDAR: "months", Rule.USER: "months", Rule.ACCOUNT: "grace_days"}
"""What a rule counts by, and so what a category must say."""
_NO_LIMITS: Final = Limits(scopes=0, percent=0, percent_from=0, clock_jump_days=0)
_BUILTIN: Final = {
    ScopeKind.COMMUNICATIONS: Category(
        name=str(ScopeKind.COMMUNICATIONS), owner=Owner.CUSTOMER, rule=Rule.CALENDAR, months=RETENTION_MONTHS
    )
}
"""What is due before any policy is recorded: the calendar alone."""


_period_due_at: Final = lru_cache(maxsize=4_096)(period_due_at)


class Policies:
    """The policy in force, as `policy.changed` put it there."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self.current = _policy(POLICY_VERSION, b"", _BUILTIN)
        self.since: datetime | None = None
        self._named: tuple[str, str] | None = None

    def change(self, event: PolicyChanged) -> None:
        """Take in `policy.changed`."""
        previous = None if event.previous is None else (event.previous.version, event.previous.digest)
        if previous != self._named:
            self._findings.add("policy-chain", "`previous` is not the policy that was in force")
        if previous is not None and previous[1] == event.digest:
            self._findings.add("policy-chain", "the policy that it puts into force was in force already")
        if not _is_complete(event):
            self._findings.add(
                "policy-incomplete",
                f"the policy {event.version} does not say by which rule and numbers each kind is due",
            )
        self._named = (event.version, event.digest)
        self.since = moment(event.at)
        categories = {kind: _category(kind, event) for kind in event.categories}
        self.current = _policy(event.version, event.digest.encode(), {**_BUILTIN, **categories})

    def months(self, kind: ScopeKind) -> int | None:
        """Return for how many months after its period the calendar keeps a kind; None where it does not decide."""
        category = self.current.categories.get(kind)
        return category.months if category is not None and category.rule is Rule.CALENDAR else None


def _is_complete(event: PolicyChanged) -> bool:
    for kind, rule in _RULES.items():
        category = event.categories.get(kind)
        counts = (
            {"months": None, "grace_days": None}
            if category is None
            else {"months": category.months, "grace_days": category.grace_days}
        )
        needed = _COUNTS.get(rule)
        if (
            category is None
            or category.rule is not rule
            or any((counts[name] is None) == (name == needed) for name in counts)
        ):
            return False
        if sorted(set(category.refused_purposes)) != category.refused_purposes or (
            rule is not Rule.CLASS and category.classes
        ):
            return False
    return True


def _policy(version: str, digest: bytes, categories: Mapping[ScopeKind, Category]) -> Policy:
    """Build a policy of what due dates are worked out from; what else a policy says is not in the log."""
    return Policy(
        version=version,
        contact="",
        answer_days=0,
        approval_days=0,
        facts_days=0,
        limits=_NO_LIMITS,
        categories=categories,
        refusals={},
        digest=digest,
    )


def _category(kind: ScopeKind, event: PolicyChanged) -> Category:
    stated = event.categories[kind]
    return Category(
        name=str(kind),
        owner=Owner.COMPANY,
        rule=_RULES[kind],
        months=stated.months,
        grace_days=stated.grace_days,
        classes=stated.classes,
    )


class Facts:
    """All facts that were recorded, and what they come to under the policy in force."""

    def __init__(self, findings: Findings, policies: Policies) -> None:
        self._findings = findings
        self._policies = policies
        self._facts: dict[str, dict[tuple[str, str, datetime], Fact]] = {}
        self._kinds: dict[str, SubjectKind] = {}
        self._verdicts: dict[str, Verdict] = {}
        self._judged_by: Policy | None = None

    def record(self, event: FactsRecorded) -> None:
        """Take in `facts.recorded`."""
        at, not_before = moment(event.at), moment(event.not_before)
        if not at <= not_before <= at + MAX_WAIT:
            self._findings.add("wrong-dates", "not_before is earlier than the report, or later than anything may wait")
        for stated in event.facts:
            problem = self._problem(stated, at)
            if problem is None:
                self._add(stated, not_before)
            else:
                self._findings.add(
                    "impossible-fact", f"fact {stated.type} about {stated.kind} {stated.subject}: {problem}"
                )

    def verdict(self, subject: str) -> Verdict | None:
        """Return what the facts about a subject come to; None without facts."""
        if subject not in self._facts:
            return None
        if self._judged_by is not self._policies.current:
            self._verdicts, self._judged_by = {}, self._policies.current
        if subject not in self._verdicts:
            self._verdicts[subject] = self._judged(subject)
        return self._verdicts[subject]

    @property
    def known(self) -> Collection[str]:
        """Return the subjects about which there are facts."""
        return self._facts.keys()

    def _judged(self, subject: str) -> Verdict:
        try:
            return judge(self._kinds[subject], self._facts[subject].values(), self._policies.current)
        except (KeyVaultError, KeyError) as error:
            self._findings.add("policy-incomplete", f"the facts about {subject} cannot be judged: {error}")
            return Verdict(status="unknown")

    def _problem(self, stated: FactStated, reported: datetime) -> str | None:
        if stated.type not in _TYPES[stated.kind]:
            return "it is not said of such a subject"
        if self._kinds.setdefault(stated.subject, stated.kind) is not stated.kind:
            return "the subject was of another kind"
        if moment(stated.at) > reported + CLOCKS:
            return "it happened after it was reported"
        if (stated.type, stated.detail, moment(stated.at)) in self._facts.get(stated.subject, {}):
            return "it was recorded before"
        return _detail_problem(stated)

    def _add(self, stated: FactStated, not_before: datetime) -> None:
        fact = Fact(type=stated.type, detail=stated.detail, at=moment(stated.at), not_before=not_before)
        self._facts.setdefault(stated.subject, {})[fact.key] = fact
        self._verdicts.pop(stated.subject, None)


def _detail_problem(stated: FactStated) -> str | None:
    """Say what is wrong with a fact's detail: its form is that of `Fact.detail`."""
    try:
        match stated.type:
            case FactType.GRANTED | FactType.REMOVED:
                good = len(bytes.fromhex(stated.detail)) == 32 and stated.detail == stated.detail.lower()  # noqa: PLR2004
            case FactType.BILLED:
                good = datetime.fromisoformat(stated.detail).tzinfo is not None
            case FactType.CLASSIFIED:
                name, _, year = stated.detail.rpartition("/")
                good = bool(name) and period_due_at(year, 0) is not None and len(year) == 4  # noqa: PLR2004 - YYYY
            case _:
                good = not stated.detail
    except ValueError:
        good = False
    return None if good else "its detail is not what such a fact says"


class Due:
    """Which scopes and records are due at an instant, and by which rule."""

    def __init__(self, scopes: Scopes, policies: Policies, facts: Facts) -> None:
        self._scopes = scopes
        self._policies = policies
        self._facts = facts

    def reason_at(self, number: int, tag: str | None, at: datetime) -> set[str]:
        """Return the reason codes by which the policy's own rules make a scope, or a record of it, due at `at`."""
        kind = self._scopes.kind(number)
        calendar = self.by_calendar(number)
        if calendar is not None and calendar <= at:
            return {REASON_OF[Rule.CALENDAR]} if tag is None else set()
        due = self.by_facts(number, tag)
        if due is None or due > at:
            return set()
        verdict = self._facts.verdict(self._scopes.accounts[number])
        if SUBJECTS[kind] == SubjectKind.ACCOUNT:
            return {REASON_OF_CLOSED[verdict is not None and verdict.status == AccountStatus.CLOSED]}
        category = self._policies.current.categories.get(kind)
        return set() if category is None else {REASON_OF[category.rule]}

    def may_be_withheld(self, number: int, at: datetime) -> bool:
        """Tell whether facts suspend a scope at `at`.

        Of users, contacts and business years any facts will do: from when they wait depends on the policy, and they are judged by the next
        one before that is recorded.
        """
        kind = self._scopes.kind(number)
        verdict = self._facts.verdict(self._scopes.accounts[number])
        if verdict is None or kind is ScopeKind.COMMUNICATIONS:
            return False
        if SUBJECTS[kind] != SubjectKind.ACCOUNT:
            return True
        return verdict.suspend_at is not None and verdict.suspend_at <= at + CLOCKS

    def by_calendar(self, number: int) -> datetime | None:
        """Return when the calendar makes a scope due; None where it does not decide."""
        return self._by_calendar(self._scopes.profiles[number])

    def _by_calendar(self, profile: Profile) -> datetime | None:
        months = self._policies.months(profile.kind)
        return None if months is None or profile.period is None else _period_due_at(profile.period, months)

    def by_facts(self, number: int, tag: str | None = None) -> datetime | None:
        """Return when facts make a scope, or a record of it, due; of account-months only what a user deleted goes by facts."""
        verdict = self._facts.verdict(self._scopes.accounts[number])
        if verdict is None or verdict.due_at is None:
            return None
        if self._policies.months(self._scopes.kind(number)) is None:
            return None if tag is not None else verdict.due_at
        whole = self._scopes.states[number] == State.SUSPENDED
        if tag is None:
            return verdict.due_at if whole else None
        mark = self._scopes.records.get((number, tag))
        return verdict.due_at if mark is not None and mark.state is State.SUSPENDED and not whole else None

    def overdue(self, at: datetime) -> Iterator[tuple[int, str, datetime]]:
        """Give what is live and has been due by `at`: a scope's number, a record's tag or nothing, and since when."""
        late = self._late(at)
        known, profiles, accounts = self._facts.known, self._scopes.profiles, self._scopes.accounts
        if late or known:
            for number in self._scopes.live():
                if profiles[number] in late or accounts[number] in known:
                    due = self.since(number)
                    if due is not None and due <= at:
                        yield number, "", due
        for (number, tag), mark in self._scopes.records.items():
            if mark.state is State.SUSPENDED and self._scopes.is_live(number):
                due = self.record_since(number, tag)
                if due is not None and due <= at:
                    yield number, tag, due

    def _late(self, at: datetime) -> set[Profile]:
        """Return the profiles whose scopes the calendar makes due by `at`."""
        dates = ((profile, self._by_calendar(profile)) for profile in set(self._scopes.profiles))
        return {profile for profile, due in dates if due is not None and due <= at}

    def since(self, number: int) -> datetime | None:
        """Return since when a scope ought to be gone: not before its policy was in force, nor before a user deleted it; None where not at all."""
        facts = self.by_facts(number)
        if facts is not None:
            facts = max(facts, self._scopes.suspended.get(number, facts))
        dates = [date for date in (self.by_calendar(number), facts) if date is not None]
        return self._under_policy(min(dates)) if dates else None

    def record_since(self, number: int, tag: str) -> datetime | None:
        """As `since`, of a record that a user deleted."""
        due = self.by_facts(number, tag)
        return None if due is None else self._under_policy(max(due, self._scopes.records[number, tag].since))

    def _under_policy(self, due: datetime) -> datetime:
        return due if self._policies.since is None else max(due, self._policies.since)
