"""Facts that the platform reports, and what all facts about one subject come to. Pure.

`judge` looks at a set of facts, so that neither their order nor a repetition changes its verdict. Where facts contradict each other
nothing is destroyed: of two at the same instant the one wins that keeps the data. A report that is repeated every night postpones
nothing: of facts that say the same again, the earliest counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from keyvault.calendar import period_due_at
from keyvault.errors import ConfigurationError
from keyvault.scopes import ScopeKind, add_months
from keyvault.subjects import AccountStatus, SubjectKind
from shredder.policy import Policy, Rule


class FactType(StrEnum):
    """What happened, as the table `facts` spells it; the kind of its subject is another matter."""

    OPENED = "opened"
    NOT_IN_GOOD_STANDING = "not-in-good-standing"
    REACTIVATED = "reactivated"
    CLOSED = "closed"
    BILLED = "billed"
    CREATED = "created"
    SIGNED_IN = "signed-in"
    GRANTED = "granted"
    REMOVED = "removed"
    VALUABLE = "valuable"
    NO_LONGER_VALUABLE = "no-longer-valuable"
    CLASSIFIED = "classified"


REGISTERS = frozenset({FactType.BILLED, FactType.SIGNED_IN})
"""Types of which only the latest fact says anything."""
MAX_WAIT = timedelta(days=3_660)
"""How long what facts make due may wait at most."""


class UserStatus(StrEnum):
    """What the facts about a user come to. `ACTIVE`: access is left, or none was ever reported."""

    ACTIVE = "active"
    NO_ACCESS = "no-access"


class ContactStatus(StrEnum):
    """What the facts about a marketing contact come to."""

    VALUABLE = "valuable"
    NOT_VALUABLE = "not-valuable"


class BusinessStatus(StrEnum):
    """What the facts about a business year come to. `UNCLASSIFIED`: the policy knows no such class any more; it is never due."""

    CLASSIFIED = "classified"
    UNCLASSIFIED = "unclassified"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One fact about a subject; times aware, in UTC.

    `detail`: for access the account's pseudonym in hexadecimal, for billing the instant through which it went, for a class
    `CLASS/YYYY`, else empty. `not_before`: nothing is destroyed because of it before this.
    """

    type: FactType
    detail: str = ""
    at: datetime
    not_before: datetime

    @property
    def key(self) -> tuple[str, str, datetime]:
        """What tells it from the subject's other facts."""
        return self.type, self.detail, self.at


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a subject's facts come to: from when its scopes are suspended, when they are due, and until when its usage is billed.

    `suspend_at` of an account: the closure, else the loss of good standing. Of others: when the rule alone would have made them due,
    where they wait longer than that.
    """

    status: str
    suspend_at: datetime | None = None
    due_at: datetime | None = None
    billed_through: datetime | None = None


def judge(kind: SubjectKind, facts: Iterable[Fact], policy: Policy) -> Verdict:
    """Return what the facts about a subject of this kind come to under a policy.

    `ConfigurationError` when the policy does not say what its rule for the kind needs.
    """
    given = list(facts)
    if kind is SubjectKind.ACCOUNT:
        return _account(given, policy)
    if kind is SubjectKind.USER:
        return _user(given, policy)
    if kind is SubjectKind.CONTACT:
        return _contact(given)
    return _business(given, policy)


def merge(known: Sequence[Fact], reported: Iterable[Fact]) -> tuple[list[Fact], list[Fact]]:
    """Return what of the reported facts is new, and which known ones it supersedes; both about one subject."""
    kept = {fact.key: fact for fact in known}
    for fact in reported:
        kept.setdefault(fact.key, fact)
    for register in REGISTERS:
        entries = [fact for fact in kept.values() if fact.type is register]
        latest = _latest(entries)
        for fact in entries:
            if fact is not latest:
                del kept[fact.key]
    before = {fact.key for fact in known}
    return [fact for key, fact in kept.items() if key not in before], [fact for fact in known if fact.key not in kept]


def _latest(facts: Iterable[Fact]) -> Fact | None:
    """Return the latest; at the same instant the smallest detail, so that usage counts as billed the less far."""
    ordered = sorted(facts, key=lambda fact: fact.detail)
    return max(ordered, key=lambda fact: fact.at, default=None)


# --- accounts ---------------------------------------------------------------------------------------------------------

# At one instant an opening comes before everything, because it cannot come later; a reactivation after everything, because it keeps
# the data. A loss of good standing and a closure do not contradict each other.
_ORDER: Mapping[FactType, int] = {
    FactType.OPENED: 0,
    FactType.NOT_IN_GOOD_STANDING: 1,
    FactType.CLOSED: 1,
    FactType.REACTIVATED: 2,
}


def _account(facts: Sequence[Fact], policy: Policy) -> Verdict:
    standing = [(fact.at, _ORDER[fact.type], fact) for fact in facts if fact.type in _ORDER]
    active = max(((at, order) for at, order, _ in standing if order != 1), default=None)
    against = [fact for at, order, fact in standing if order == 1 and (active is None or (at, order) > active)]
    closures = [fact for fact in against if fact.type is FactType.CLOSED]
    billed = _latest(fact for fact in facts if fact.type is FactType.BILLED)
    billed_through = None if billed is None else datetime.fromisoformat(billed.detail)
    if not against:
        return Verdict(status=AccountStatus.ACTIVE, billed_through=billed_through)
    grace = _grace(policy)
    return Verdict(
        status=AccountStatus.CLOSED if closures else AccountStatus.LAPSED,
        suspend_at=min(fact.at for fact in closures or against),
        due_at=min(_due(fact, timedelta() if fact.type is FactType.CLOSED else grace) for fact in against),
        billed_through=billed_through,
    )


def _due(fact: Fact, grace: timedelta) -> datetime:
    return max(fact.at + grace, fact.not_before)


def _grace(policy: Policy) -> timedelta:
    """Return the longest grace of the categories that follow accounts: all of an account's scopes have one due date, never early."""
    days = [category.grace_days for category in policy.categories.values() if category.rule is Rule.ACCOUNT]
    if not days or None in days:
        raise ConfigurationError("the policy says no grace_days for what follows accounts: add them to its categories")
    return timedelta(days=max(day for day in days if day is not None))


# --- users ------------------------------------------------------------------------------------------------------------


def _user(facts: Sequence[Fact], policy: Policy) -> Verdict:
    """Due when no access is left or the months since the last sign-in are over, whichever comes last."""
    lost = _lost_access(facts)
    if lost is None:
        return Verdict(status=UserStatus.ACTIVE)
    seen = [fact for fact in facts if fact.type in {FactType.SIGNED_IN, FactType.CREATED}]
    if not seen:  # since when the months run is unknown
        return Verdict(status=UserStatus.NO_ACCESS)
    last = max(seen, key=lambda fact: (fact.at, fact.not_before))
    return _waiting(
        UserStatus.NO_ACCESS,
        max(*(fact.at for fact in lost), add_months(last.at, _user_months(policy))),
        max(fact.not_before for fact in [*lost, last]),
    )


def _lost_access(facts: Sequence[Fact]) -> list[Fact] | None:
    """Return, for each account that the user had access to, the removal; None while access is left, or none was ever reported."""
    by_account: dict[str, list[Fact]] = {}
    for fact in facts:
        if fact.type in {FactType.GRANTED, FactType.REMOVED}:
            by_account.setdefault(fact.detail, []).append(fact)
    lost = [_removal(given) for given in by_account.values()]
    removals = [fact for fact in lost if fact is not None]
    return removals if removals and len(removals) == len(lost) else None


def _removal(access: Sequence[Fact]) -> Fact | None:
    after = _after(access, FactType.REMOVED, FactType.GRANTED)
    return min(after, key=lambda fact: (_due(fact, timedelta()), fact.at), default=None)


def _user_months(policy: Policy) -> int:
    months = policy.categories[ScopeKind.USER].months
    if months is None:
        raise ConfigurationError("the policy says no months for users: add them to its category")
    return months


# --- contacts and business years --------------------------------------------------------------------------------------


def _contact(facts: Sequence[Fact]) -> Verdict:
    marks = _after(facts, FactType.NO_LONGER_VALUABLE, FactType.VALUABLE)
    if not marks:
        return Verdict(status=ContactStatus.VALUABLE)
    due = min(_due(fact, timedelta()) for fact in marks)
    return _waiting(ContactStatus.NOT_VALUABLE, min(fact.at for fact in marks), due)


def _business(facts: Sequence[Fact], policy: Policy) -> Verdict:
    """Of classes that were given at the same instant the one that is kept longest counts; one that is unknown is kept for ever."""
    classes = policy.categories[ScopeKind.BUSINESS].classes
    ends = {fact.detail: _end(fact.detail, classes) for fact in facts}
    latest = max(facts, key=lambda fact: (fact.at, ends[fact.detail] or _NEVER, fact.detail), default=None)
    end = None if latest is None else ends[latest.detail]
    if latest is None or end is None:
        return Verdict(status=BusinessStatus.UNCLASSIFIED)
    others = max((fact.at for fact in facts if fact.detail != latest.detail), default=None)
    again = [fact for fact in facts if fact.detail == latest.detail and (others is None or fact.at > others)]
    return _waiting(BusinessStatus.CLASSIFIED, end, min(fact.not_before for fact in again or [latest]))


_NEVER = datetime.max.replace(tzinfo=UTC)


def _end(detail: str, classes: Mapping[str, int]) -> datetime | None:
    name, _, year = detail.rpartition("/")
    months = classes.get(name)
    return None if months is None else period_due_at(year, months)


def _after(facts: Iterable[Fact], wanted: FactType, contrary: FactType) -> list[Fact]:
    """Return the wanted facts that come after every contrary one; one at the same instant as that does not."""
    given = list(facts)
    last = max((fact.at for fact in given if fact.type is contrary), default=None)
    return [fact for fact in given if fact.type is wanted and (last is None or fact.at > last)]


def _waiting(status: str, by_rule: datetime, not_before: datetime) -> Verdict:
    """Return a verdict whose due instant is not before `not_before`; what waits for that waits in suspension."""
    return Verdict(status=status, suspend_at=by_rule if not_before > by_rule else None, due_at=max(by_rule, not_before))
