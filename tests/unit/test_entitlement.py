"""Every case of the decision table, against a second, naive statement of the policy (design, section 5)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from keyvault.scopes import ScopeKind
from keyvault.subjects import AccountStatus
from shredder.entitlement import Decision, Situation, Standing, Target, Verdict, decide, joined
from shredder.policy import Reason, Requester, RequestKind
from shredder.policy_file import load_policy
from tests.request_matrix import PAGE, page, situations

POLICY = load_policy(None)
CARRIED_OUT = Verdict(decision=Decision.CARRY_OUT)


def expected(kind: str, requester: str, request: str, situation: Situation) -> str:  # noqa: C901, PLR0911, PLR0912 - the policy, sentence by sentence
    """The policy as it is written for people, without the table of the product."""
    if requester == "consumer":
        return "consumer-direct"  # "must not act on a request that comes directly from a consumer"
    if request in {"extend", "hold", "restore"}:  # "no extension, no legal hold"; backups: disasters only
        return {"extend": "extension", "hold": "legal-hold", "restore": "restore-from-backup"}[request]
    if situation.standing == "unknown":
        return "unknown-scope"
    if situation.standing in {"fenced", "destroyed"}:
        return "already-destroyed"
    if request == "undelete":
        if requester != "customer" or kind in {"user", "marketing", "business"}:
            return "not-entitled"  # "user-deleted data can be undeleted": the customer's
        if situation.account != "active" or situation.standing == "withheld":
            return "account-inactive"  # "while the account is active"
        return "yes"
    if kind in {"user", "business"}:
        return "retention-required"  # sooner: no
    if kind == "marketing":
        return "yes" if requester == "individual" else "not-entitled"  # "the individual's own request"
    if requester != "customer":
        return "not-entitled"  # "customer's ticket"
    everything = situation.target == "account"
    if situation.account == "active" and everything:
        return "active-account"  # "no more permanent deletion than the platform offers"
    if situation.account == "active" and kind == "customer" and not situation.early_type:
        return "active-account"  # "for the types the policy lists; otherwise not while the account is active"
    if (everything or request == "delete") and not situation.billed:
        return "awaiting-billing"  # "only once the account has been billed for the associated usage"
    return "yes"  # "anonymize: any time, by the customer's ticket"


CASES = [
    (kind, requester, request, situation)
    for kind in ScopeKind
    for requester in Requester
    for request in RequestKind
    for situation in situations(kind)
]


def test_every_case_is_as_the_policy_says() -> None:
    wrong = []
    for kind, requester, request, situation in CASES:
        verdict = decide(POLICY, kind=kind, requester=requester, request=request, situation=situation)
        said = "yes" if verdict.reason is None else str(verdict.reason)
        if said != expected(kind, requester, request, situation):
            wrong.append((kind, requester, request, situation, said))
    assert wrong == []
    assert len(CASES) > 6_000


def test_only_billing_waits_and_every_reason_occurs() -> None:
    verdicts = {
        decide(POLICY, kind=kind, requester=requester, request=request, situation=situation)
        for kind, requester, request, situation in CASES
    }
    assert {verdict.reason for verdict in verdicts if verdict.decision is Decision.WAIT} == {Reason.AWAITING_BILLING}
    assert {verdict.reason for verdict in verdicts} == {None, *Reason}
    assert set(Reason) == set(POLICY.refusals)


def test_the_page_shows_every_case() -> None:
    assert PAGE.read_text() == page(POLICY), "run `python -m tests.request_matrix`"


def test_another_policy_decides_otherwise() -> None:
    business = replace(POLICY.categories[ScopeKind.BUSINESS], early=frozenset({Requester.COMPANY}))
    policy = replace(POLICY, categories={**POLICY.categories, ScopeKind.BUSINESS: business})
    case = {"kind": ScopeKind.BUSINESS, "request": RequestKind.DELETE, "situation": Situation(standing=Standing.LIVE)}
    assert decide(policy, requester=Requester.COMPANY, **case) == CARRIED_OUT  # type: ignore[arg-type]
    assert decide(policy, requester=Requester.CUSTOMER, **case).reason is Reason.NOT_ENTITLED  # type: ignore[arg-type]


@pytest.mark.parametrize("account", AccountStatus)
def test_anonymizing_a_whole_account_does_not_get_around_billing(account: AccountStatus) -> None:
    situation = Situation(standing=Standing.LIVE, target=Target.ACCOUNT, account=account)
    verdict = decide(
        POLICY,
        kind=ScopeKind.CONSUMER,
        requester=Requester.CUSTOMER,
        request=RequestKind.ANONYMIZE,
        situation=situation,
    )
    assert verdict.decision is not Decision.CARRY_OUT


def test_one_refusal_refuses_all_and_waiting_comes_before_doing() -> None:
    refused = Verdict(decision=Decision.REFUSE, reason=Reason.UNKNOWN_SCOPE)
    waits = Verdict(decision=Decision.WAIT, reason=Reason.AWAITING_BILLING)
    assert joined([CARRIED_OUT, waits, refused]) == refused
    assert joined([CARRIED_OUT, waits]) == waits
    assert joined([CARRIED_OUT]) == joined([]) == CARRIED_OUT
