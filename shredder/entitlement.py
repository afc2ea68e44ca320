"""Who may ask for what: one table of rules over the policy. Pure; docs/request-matrix.md shows every case."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from keyvault.scopes import SUBJECTS, ScopeKind
from keyvault.subjects import AccountStatus, SubjectKind
from shredder.policy import Category, Owner, Policy, Reason, Requester, RequestKind

ACCOUNT_KINDS = tuple(kind for kind, subject in SUBJECTS.items() if subject == SubjectKind.ACCOUNT)
"""The kinds of scope that belong to an account, and go when all of it is deleted."""


class Standing(StrEnum):
    """What is with a scope or a record. `SUSPENDED`: by a user's deletion; `WITHHELD`: by facts, or because it waits to be destroyed."""

    LIVE = "live"
    SUSPENDED = "suspended"
    WITHHELD = "withheld"
    FENCED = "fenced"
    DESTROYED = "destroyed"
    UNKNOWN = "unknown"


class Target(StrEnum):
    """What a request names: whole scopes, single records of an account-month, or everything of an account."""

    SCOPE = "scope"
    RECORDS = "records"
    ACCOUNT = "account"


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """What a request meets.

    `account`: of the account that the scope belongs to; no matter for other kinds. `billed`: the usage is billed through what it must
    be, an account-month's end, or the end of the account's good standing. `early_type`: the scope is of a type that the policy lists.
    """

    standing: Standing
    target: Target = Target.SCOPE
    account: AccountStatus = AccountStatus.ACTIVE
    billed: bool = False
    early_type: bool = False


class Decision(StrEnum):
    """What becomes of a request."""

    CARRY_OUT = "carry out"
    WAIT = "wait"
    REFUSE = "refuse"


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """A decision, and the policy's reason for anything but carrying out."""

    decision: Decision
    reason: Reason | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Case:
    category: Category
    requester: Requester
    request: RequestKind
    situation: Situation

    @property
    def undeletes(self) -> bool:
        return self.request is RequestKind.UNDELETE

    @property
    def active(self) -> bool:
        return self.situation.account is AccountStatus.ACTIVE

    @property
    def whole(self) -> bool:
        return self.situation.target is Target.ACCOUNT

    @property
    def customers(self) -> bool:
        return self.category.owner is Owner.CUSTOMER


def _held_by_type(case: _Case) -> bool:
    return case.category.early_types is not None and not case.situation.early_type


def _awaits_billing(case: _Case) -> bool:
    """Tell whether usage is to be billed first: of what is deleted, and of all of an account whatever the request calls it."""
    deletes = case.request is RequestKind.DELETE or (case.whole and not case.undeletes)
    return deletes and case.customers and not case.situation.billed


RULES: tuple[tuple[Callable[[_Case], bool], Reason], ...] = (
    (lambda case: case.requester is Requester.CONSUMER, Reason.CONSUMER_DIRECT),
    (lambda case: case.request is RequestKind.EXTEND, Reason.EXTENSION),
    (lambda case: case.request is RequestKind.HOLD, Reason.LEGAL_HOLD),
    (lambda case: case.request is RequestKind.RESTORE, Reason.RESTORE_FROM_BACKUP),
    (lambda case: case.situation.standing is Standing.UNKNOWN, Reason.UNKNOWN_SCOPE),
    (lambda case: case.situation.standing in {Standing.FENCED, Standing.DESTROYED}, Reason.ALREADY_DESTROYED),
    (lambda case: not case.undeletes and not case.category.early, Reason.RETENTION_REQUIRED),
    (lambda case: not case.undeletes and case.requester not in case.category.early, Reason.NOT_ENTITLED),
    (lambda case: case.undeletes and not case.customers, Reason.NOT_ENTITLED),
    (lambda case: case.undeletes and case.requester is not Requester.CUSTOMER, Reason.NOT_ENTITLED),
    (lambda case: case.undeletes and not case.active, Reason.ACCOUNT_INACTIVE),
    (lambda case: case.undeletes and case.situation.standing is Standing.WITHHELD, Reason.ACCOUNT_INACTIVE),
    (lambda case: not case.undeletes and case.whole and case.active, Reason.ACTIVE_ACCOUNT),
    (
        lambda case: not case.undeletes and case.customers and case.active and _held_by_type(case),
        Reason.ACTIVE_ACCOUNT,
    ),
    (_awaits_billing, Reason.AWAITING_BILLING),
)
"""The first rule that applies decides; where none does, the request is carried out."""


def decide(
    policy: Policy, *, kind: ScopeKind, requester: Requester, request: RequestKind, situation: Situation
) -> Verdict:
    """Return what the policy says to a request about a scope of `kind`."""
    case = _Case(category=policy.categories[kind], requester=requester, request=request, situation=situation)
    for applies, reason in RULES:
        if applies(case):
            waits = reason is Reason.AWAITING_BILLING
            return Verdict(decision=Decision.WAIT if waits else Decision.REFUSE, reason=reason)
    return Verdict(decision=Decision.CARRY_OUT)


def joined(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on a request that names several things: refused when one of them is, and waiting when one waits."""
    found = list(verdicts)
    for decision in (Decision.REFUSE, Decision.WAIT):
        for verdict in found:
            if verdict.decision is decision:
                return verdict
    return Verdict(decision=Decision.CARRY_OUT)
