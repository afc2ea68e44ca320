"""Each rule of the fold: what is legal has no finding, and each thing that is wrong is found and named."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shredder.audit.fold import Fold
from tests.entries import DAY, Entries, name16, name32, shown, tag, uuid

MONTH = {"kind": "communications", "period": "2026-11"}


@pytest.fixture
def log() -> Entries:
    return Entries()


def test_created_is_destroyed_pending_and_live(log: Entries) -> None:
    for scope in ("a", "b", "c"):
        log.created(scope)
    fence = log.fenced("a", "b")
    log.destroyed("a", fence=fence)
    ledger = log.ledger()
    assert not ledger.findings, shown(ledger.findings)
    assert (ledger.created, ledger.destroyed, ledger.live, ledger.without_request) == (3, 1, 1, 1)
    assert [(pending.scope, pending.entry) for pending in ledger.pending] == [(name32("b"), 3)]


def test_an_account_month_is_given_for_its_population(log: Entries) -> None:
    log.created("m", **MONTH)
    log.created("c")
    (month,) = log.ledger().months()
    assert month[:3] == (name32("m"), "2026-11", name32("account"))


# --- population ---------------------------------------------------------------------------------------------------


def created_twice(log: Entries) -> None:
    log.created("a", scope_id=name16("other"))


def id_of_another(log: Entries) -> None:
    log.created("b", scope_id=name16("a"))


def destroyed_and_never_created(log: Entries) -> None:
    log.fenced("b")


def suspended_and_never_created(log: Entries) -> None:
    log.of_scope("scope.suspended", "b")


def suspended_under_another_id(log: Entries) -> None:
    log.of_scope("scope.suspended", "a", scope_id=name16("b"))


def resumed_and_not_suspended(log: Entries) -> None:
    log.of_scope("scope.resumed", "a")


def moved_from_a_ring(log: Entries) -> None:
    log.of_scope("scope.migrated", "a", custody="ring", placement="A" * 40)


def renewed_and_never_destroyed(log: Entries) -> None:
    log.created("a2", generation=2)


def a_month_without_its_due_date(log: Entries) -> None:
    log.created("m", **MONTH, due_at=None)


def a_month_before_it_began(log: Entries) -> None:
    log.created("m", kind="communications", period="2027-01")


def a_consumer_with_a_period(log: Entries) -> None:
    log.created("c", period="2026-11")


def records_of_a_consumer(log: Entries) -> None:
    log.of_scope("record.suspended", "a", records=[tag("r")])


def an_event_twice(log: Entries) -> None:
    log.add("unused_keys.deleted", id=log.events[0]["id"], custody="dedicated", keys=["k-1"])


def a_clock_that_went_back(log: Entries) -> None:
    log.at -= 2 * timedelta(hours=1)
    log.created("b")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (created_twice, "created-twice"),
        (id_of_another, "id-used-twice"),
        (destroyed_and_never_created, "never-created"),
        (suspended_and_never_created, "never-created"),
        (suspended_under_another_id, "other-id"),
        (resumed_and_not_suspended, "impossible-step"),
        (moved_from_a_ring, "impossible-step"),
        (renewed_and_never_destroyed, "generation-without-former"),
        (a_month_without_its_due_date, "wrong-dates"),
        (a_month_before_it_began, "wrong-dates"),
        (a_consumer_with_a_period, "wrong-dates"),
        (records_of_a_consumer, "impossible-step"),
        (an_event_twice, "id-used-twice"),
        (a_clock_that_went_back, "clock-went-back"),
    ],
)
def test_lives_that_cannot_be(log: Entries, change: Callable[[Entries], None], code: str) -> None:
    log.created("a")
    assert not log.codes()
    change(log)
    assert log.codes() == [("entry 1", code)]


def test_a_renewal_follows_a_destruction(log: Entries) -> None:
    log.created("a")
    log.destroyed("a", fence=log.fenced("a"))
    log.created("a2", generation=2)
    assert not log.codes()
    log.created("a3", generation=2)
    assert log.codes() == [("entry 4", "generation-without-former")]


def test_a_renewal_does_not_precede_it(log: Entries) -> None:
    log.created("a2", generation=2)
    log.created("a")
    log.destroyed("a", fence=log.fenced("a"))
    assert log.codes() == [("entry 0", "generation-without-former")]


# --- destructions ---------------------------------------------------------------------------------------------------


def test_what_is_fenced_twice_is_found(log: Entries) -> None:
    log.created("a")
    log.fenced("a")
    log.fenced("a", destroy="d2")
    assert log.codes() == [("entry 2", "destroyed-twice")]


def test_a_destruction_without_its_fence_is_found(log: Entries) -> None:
    log.created("a")
    fence = {"destroy_id": name16("d"), "id": uuid("no such fence")}
    log.destroyed("a", fence=fence)
    assert log.codes() == [("entry 1", "no-fence")]
    assert log.ledger().live == 1


def test_a_fence_of_another_destruction_is_none(log: Entries) -> None:
    log.created("a")
    log.created("b")
    fence = log.fenced("a")
    log.fenced("b", destroy="d2")
    log.destroyed("b", fence=fence)
    assert log.codes() == [("entry 4", "no-fence")]


def test_what_is_destroyed_twice_is_found(log: Entries) -> None:
    log.created("a")
    fence = log.fenced("a")
    log.destroyed("a", fence=fence)
    log.destroyed("a", fence=fence)
    assert log.codes() == [("entry 3", "destroyed-twice")]


def dated(**fields: Any) -> dict[str, Any]:
    return {name: value.strftime("%Y-%m-%dT%H:%M:%S.%fZ") for name, value in fields.items()}


AT = Entries().at
ABSENT = {"key": "absent", "neighbour": "none", "retained_ciphertext": "refused"}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        (dated(horizon=AT + 89 * DAY), "wrong-dates"),
        (dated(fenced_at=AT - DAY, lease_bound=AT - DAY + timedelta(seconds=65)), "wrong-dates"),
        (dated(fenced_at=AT + DAY, lease_bound=AT + DAY + timedelta(seconds=65)), "wrong-dates"),
        (dated(lease_bound=AT), "wrong-dates"),
        (dated(lease_bound=AT + DAY), "wrong-dates"),
        ({"custody": ["dedicated"], "proof": ABSENT}, "wrong-custody"),
        ({"proof": {**ABSENT, "neighbour": "derivable"}}, "wrong-proof"),
        ({"proof": {**ABSENT, "key": "punctured", "former": ABSENT}}, "wrong-proof"),
        ({"proof": {**ABSENT, "retained_ciphertext": "decrypted"}}, "malformed"),
        ({"proof": {"key": "absent", "neighbour": "none"}}, "malformed"),
        ({"tool": "another 1.0"}, "malformed"),
    ],
)
def test_evidence_that_says_not_what_it_must(log: Entries, fields: dict[str, Any], code: str) -> None:
    log.created("a")
    log.destroyed("a", fence=log.fenced("a"), **fields)
    assert log.codes() == [("entry 2", code)]


def test_of_a_moved_scope_both_keys_must_be_gone(log: Entries) -> None:
    log.created("a", custody="dedicated")
    log.of_scope("scope.migrated", "a", custody="ring", placement="A" * 40)
    fence = log.fenced("a")
    log.destroyed("a", fence=fence)
    assert log.codes() == [("entry 3", "wrong-proof")]
    log.events[-1]["proof"] = {**ABSENT, "key": "punctured", "former": ABSENT}
    assert not log.codes()


def test_two_events_of_a_destruction_agree_on_its_fence(log: Entries) -> None:
    log.created("a")
    log.created("b")
    fence = log.fenced("a", "b")
    log.destroyed("a", fence=fence)
    log.at += timedelta(seconds=1)
    log.destroyed("b", fence=fence)
    assert log.codes() == [("entry 4", "wrong-dates")]


def test_a_log_has_one_engine(log: Entries) -> None:
    for scope in ("a", "b"):
        log.created(scope)
        log.destroyed(scope, fence=log.fenced(scope, destroy=scope), engine="embedded" if scope == "a" else "hashicorp")
    assert log.codes() == [("entry 5", "other-engine")]


def test_records_have_their_fence_too(log: Entries) -> None:
    log.created("m", **MONTH)
    log.of_scope("record.suspended", "m", records=[tag("r1")])
    fence = log.fenced("m", records=["r1", "r2"])
    log.destroyed("m", fence=fence, records=["r1"])
    ledger = log.ledger()
    assert not ledger.findings, shown(ledger.findings)
    assert ledger.records_destroyed == 1
    assert [pending.record for pending in ledger.pending] == [tag("r2")]
    log.destroyed("m", fence=fence, records=["r3"])
    log.destroyed("m", fence=fence, records=["r1"])
    log.of_scope("record.resumed", "m", records=[tag("r2")])
    log.fenced("m", records=["r1"], destroy="d2")
    assert log.codes() == [
        ("entry 4", "no-fence"),
        ("entry 5", "destroyed-twice"),
        ("entry 6", "impossible-step"),
        ("entry 7", "destroyed-twice"),
    ]


def test_what_failed_was_fenced(log: Entries) -> None:
    log.created("a")
    log.created("b")
    fence = log.fenced("a")
    failed = {
        "destroy_id": fence["destroy_id"],
        "erasure": uuid("run"),
        "errors": ["NotProvenError"],
        "fence": fence["id"],
        **dated(fenced_at=AT, lease_bound=AT + timedelta(seconds=65)),
        "records": [],
    }
    log.add("destroy.failed", scopes=[name32("a")], **failed)
    assert not log.codes()
    log.add("destroy.failed", scopes=[name32("b")], **failed)
    assert log.codes() == [("entry 4", "no-fence")]


# --- causes ---------------------------------------------------------------------------------------------------------


def approved_request(log: Entries) -> dict[str, Any]:
    log.policy()
    log.created("s")
    received = log.received()
    log.approved(received)
    return received


def test_a_request_with_its_approval_is_a_cause(log: Entries) -> None:
    received = approved_request(log)
    log.destroyed("s", fence=log.fenced_for(received, "s"))
    ledger = log.ledger()
    assert not ledger.findings, shown(ledger.findings)
    assert ledger.without_request == 0


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"approvals": 1, "approved_by": None}, "no-cause"),
        ({"approved_by": name32("mallory")}, "no-cause"),
        ({"requested_by": name32("mallory")}, "no-cause"),
        ({"ticket": name32("another")}, "no-cause"),
        ({"reason": "another"}, "no-cause"),
        ({"request": name16("unknown")}, "no-request"),
        ({"request": None}, "no-cause"),
        ({"policy": "p/0"}, "other-policy"),
    ],
)
def test_a_fence_says_what_was_approved(log: Entries, fields: dict[str, Any], code: str) -> None:
    received = approved_request(log)
    log.fenced_for(received, "s", **fields)
    assert log.codes() == [("entry 5", code)]


def test_what_nobody_approved_has_no_cause(log: Entries) -> None:
    log.policy()
    log.created("s")
    log.fenced_for(log.received(), "s")
    assert log.codes() == [("entry 4", "no-cause")]


def test_an_approval_that_comes_afterwards_is_none(log: Entries) -> None:
    log.policy()
    log.created("s")
    received = log.received()
    log.fenced_for(received, "s")
    log.approved(received)
    assert ("entry 4", "no-cause") in log.codes()


@pytest.mark.parametrize("reason", ["list-changed", "approval-expired"])
def test_an_approval_that_is_void_is_none(log: Entries, reason: str) -> None:
    received = approved_request(log)
    log.refused(received, reason)
    log.fenced_for(received, "s")
    assert log.codes() == [("entry 6", "no-cause")]


@pytest.mark.parametrize("ending", ["request.refused", "request.cancelled", "request.moved"])
def test_a_request_that_is_over_is_no_cause(log: Entries, ending: str) -> None:
    received = approved_request(log)
    if ending == "request.refused":
        log.refused(received, "legal-hold")
    else:
        more = {"cancelled_by": name32("ada")} if ending == "request.cancelled" else {"state": "done"}
        log.add(ending, policy="p/1", request=received["request"], **more)
    log.fenced_for(received, "s")
    assert log.codes() == [("entry 6", "impossible-step")]


def test_what_waits_for_billing_is_not_over_and_not_carried_out_before(log: Entries) -> None:
    received = approved_request(log)
    log.refused(received, "awaiting-billing")
    log.add("request.moved", policy="p/1", request=received["request"], state="approved")
    log.fenced_for(received, "s")
    assert not log.codes()
    del log.events[-2]
    assert log.codes() == [("entry 6", "no-cause")]


def test_nobody_approves_alone_as_two(log: Entries) -> None:
    log.policy()
    log.created("s")
    received = log.received()
    log.approved(received, approved_by=name32("ada"))
    assert log.codes() == [("entry 4", "same-person")]


def test_a_home_where_one_is_enough_says_so(log: Entries) -> None:
    log.policy()
    log.created("s")
    received = log.received()
    log.approved(received, approved_by=name32("ada"), approvals=1)
    log.fenced_for(received, "s", approvals=1, approved_by=None)
    assert not log.codes()


def test_an_approval_is_for_the_list_that_was_put_down(log: Entries) -> None:
    log.policy()
    log.created("s")
    received = log.received()
    log.approved(received, digest=name32("another list"))
    assert log.codes() == [("entry 4", "other-list")]


def test_what_is_destroyed_is_the_list_that_was_approved(log: Entries) -> None:
    received = approved_request(log)
    log.created("t")
    log.fenced_for(received, "t")
    assert log.codes() == [("entry 4", "other-list")]


def test_a_list_that_was_put_down_anew_is_approved_anew(log: Entries) -> None:
    received = approved_request(log)
    log.refused(received, "list-changed")
    again = {"digest": name32("new"), "items": "A" * 60, "pieces": 2, "request": received["request"]}
    log.add("request.listed", policy="p/1", piece=0, **again)
    log.add("request.listed", policy="p/1", piece=1, **again)
    log.approved({**received, "digest": name32("new")})
    assert not log.codes()
    log.add("request.listed", policy="p/1", piece=1, **again)
    assert log.codes() == [("entry 9", "list-incomplete")]


def test_break_glass_is_carried_out_first_and_owes_a_signature(log: Entries) -> None:
    log.policy()
    log.created("s")
    received = log.received(break_glass=True, state="approved")
    log.fenced_for(received, "s", approvals=1, approved_by=None)
    ledger = log.ledger()
    assert not ledger.findings, shown(ledger.findings)
    assert ledger.owed == [received["request"]]
    log.add("request.moved", policy="p/1", request=received["request"], state="done")
    log.approved(received, state="done")
    assert not log.codes()
    assert not log.ledger().owed


@pytest.mark.parametrize(
    "fields",
    [
        {"state": "approved"},
        {"state": "done"},
        {"kind": "hold"},
        {"break_glass": True},
        {"waits_for": "awaiting-billing"},
        {"state": "awaiting-billing"},
    ],
)
def test_a_request_cannot_stand_there_when_it_is_received(log: Entries, fields: dict[str, Any]) -> None:
    log.policy()
    log.received(**fields)
    assert ("entry 1", "impossible-step") in log.codes()


def test_a_refusal_says_why(log: Entries) -> None:
    log.policy()
    received = log.received(state="refused")
    assert not log.codes()
    followed(log)
    assert log.codes() == [("entry 1", "impossible-step")]
    refusal = log.refused(received, "not-entitled", by=name32("ada"))
    assert not log.codes()
    refusal["reason"] = "because"
    assert log.codes() == [("entry 23", "unknown-code")]


def followed(log: Entries) -> None:
    """Let a log go on, so that what is not there will not come."""
    for number in range(20):
        log.created(f"later {number}")


def test_a_request_has_its_whole_list(log: Entries) -> None:
    log.policy()
    received = log.received()
    listed = log.events[-1]
    listed["pieces"] = 2
    assert not log.codes()
    followed(log)
    assert log.codes() == [("entry 1", "list-incomplete")]
    log.listed(received, piece=1, pieces=2)
    assert not log.codes()
    log.events.remove(listed)
    assert ("entry 22", "list-incomplete") in log.codes()
    listed["pieces"], listed["digest"] = 1, name32("another")
    log.events[-1] = listed
    assert log.codes() == [("entry 22", "other-list")]


@pytest.mark.parametrize("state", ["awaiting-approval", "rejected", "expired"])
def test_a_refusal_leaves_a_request_where_its_reason_does(log: Entries, state: str) -> None:
    log.policy()
    received = log.received()
    log.refused(received, "legal-hold")
    assert not log.codes()
    log.events[-1]["state"] = state
    assert log.codes() == [("entry 3", "impossible-step")]


def test_what_facts_suspend_they_say(log: Entries) -> None:
    log.policy()
    log.created("a")
    log.facts(("account", "account", "not-in-good-standing"))
    log.of_scope("scope.suspended", "a", cause="facts", policy="p/1")
    assert not log.codes()
    del log.events[2]
    assert log.codes() == [("entry 2", "no-cause")]


def test_a_deletion_rests_on_no_policy(log: Entries) -> None:
    log.policy()
    log.created("a")
    log.of_scope("scope.suspended", "a", policy="p/1")
    assert log.codes() == [("entry 2", "other-policy")]


def test_an_automatic_destruction_is_due_by_the_rule_that_it_names(log: Entries) -> None:
    log.policy(months=1)
    log.created("m", **MONTH)
    log.at = datetime(2027, 1, 1, tzinfo=UTC)
    fence = log.swept("m", reason="retention-period")
    log.destroyed("m", fence=fence)
    assert not log.codes()


@pytest.mark.parametrize(
    ("fields", "at", "code"),
    [
        ({}, datetime(2026, 12, 31, 23, 59, 59, tzinfo=UTC), "not-due"),
        ({"reason": "account-closed"}, datetime(2027, 1, 1, tzinfo=UTC), "not-due"),
        ({"policy": "builtin/1"}, datetime(2027, 1, 1, tzinfo=UTC), "other-policy"),
        ({"policy": "p/2"}, datetime(2027, 1, 1, tzinfo=UTC), "other-policy"),
        ({"request": name16("r")}, datetime(2027, 1, 1, tzinfo=UTC), "no-cause"),
        ({"approved_by": name32("ada")}, datetime(2027, 1, 1, tzinfo=UTC), "no-cause"),
    ],
)
def test_an_automatic_destruction_that_no_rule_asks_for(
    log: Entries, fields: dict[str, Any], at: datetime, code: str
) -> None:
    log.policy(months=1)
    log.created("m", **MONTH)
    log.at = at
    log.swept("m", **{"reason": "retention-period", **fields})
    assert log.codes() == [("entry 2", code)]


def test_only_the_sweep_destroys_without_people(log: Entries) -> None:
    log.policy(months=1)
    for scope in ("m", "n"):
        log.created(scope, **MONTH)
    log.at = datetime(2027, 1, 1, tzinfo=UTC)
    log.swept("m", reason="retention-period")
    log.swept("n", reason="retention-period", destroy="d2", requested_by=name32("mallory"))
    assert log.codes() == [("entry 4", "no-cause")]


def test_what_was_fenced_anew_after_the_database_was_lost_is_stated(log: Entries) -> None:
    log.policy()
    log.created("a")
    fence = log.swept("a", reason="database-lost", requested_by=name32("rebuild"))
    ledger = log.ledger()
    assert not ledger.findings, shown(ledger.findings)
    assert ledger.lost == [fence["destroy_id"]]
    log.events[-1]["approved_by"] = name32("ada")
    assert ("entry 2", "no-cause") in log.codes()


# --- policy, facts, due dates -----------------------------------------------------------------------------------------


def test_policies_are_a_chain(log: Entries) -> None:
    log.policy()
    log.policy("p/2")
    assert not log.codes()
    log.policy("p/3", previous={"version": "p/1", "digest": name32("p/1")})
    assert log.codes() == [("entry 2", "policy-chain")]


def test_a_policy_says_everything_that_due_dates_need(log: Entries) -> None:
    categories = log.policy()["categories"]
    categories["consumer"]["grace_days"] = None
    assert log.codes() == [("entry 0", "policy-incomplete")]


def test_events_rest_on_the_policy_in_force(log: Entries) -> None:
    log.policy()
    log.policy("p/2")
    log.facts(("account", "account", "closed"))
    assert log.codes() == [("entry 2", "other-policy")]


def test_an_account_that_was_closed_makes_its_consumers_due_and_a_reactivation_does_not(log: Entries) -> None:
    log.policy()
    log.created("a")
    log.facts(("account", "account", "closed"))
    assert log.codes(after=DAY) == []
    assert log.codes(after=3 * DAY) == [("entry 1", "overdue")]
    log.swept("a", reason="account-closed")
    assert log.codes(after=3 * DAY) == []
    log.events.insert(3, log.events.pop())
    log.at += timedelta(hours=1)
    log.created("b")
    log.facts(("account", "account", "reactivated"))
    assert log.codes(after=3 * DAY) == []


def test_a_fact_that_was_removed_is_missed(log: Entries) -> None:
    log.policy()
    log.created("a")
    log.facts(("account", "account", "closed"))
    log.swept("a", reason="account-closed")
    assert not log.codes()
    del log.events[2]
    assert log.codes() == [("entry 2", "not-due")]


def test_an_account_month_is_due_by_the_calendar_and_overdue_after_the_grace(log: Entries) -> None:
    log.created("m", **MONTH)
    due = datetime(2029, 1, 1, tzinfo=UTC)
    assert not log.codes(after=due + timedelta(days=1, hours=23) - log.at)
    assert log.codes(after=due + 2 * DAY - log.at) == [("entry 0", "overdue")]


def test_a_policy_that_shortens_is_given_its_grace(log: Entries) -> None:
    log.created("m", **MONTH)
    log.at = datetime(2028, 6, 1, tzinfo=UTC)
    log.policy(months=1)
    assert not log.codes(after=DAY)
    assert log.codes(after=2 * DAY) == [("entry 0", "overdue")]


def test_what_a_user_deleted_goes_with_the_account(log: Entries) -> None:
    log.policy()
    log.created("m", **MONTH)
    log.created("n", **MONTH)
    log.of_scope("scope.suspended", "m")
    log.of_scope("record.suspended", "n", records=[tag("r")])
    log.facts(("account", "account", "closed"))
    assert log.codes(after=3 * DAY) == [("entry 1", "overdue"), ("entry 2", "overdue")]
    log.swept("m", reason="account-closed")
    log.swept("n", reason="account-closed", destroy="d2", records=["r"])
    assert not log.codes(after=3 * DAY)


@pytest.mark.parametrize(
    ("fact", "detail"),
    [
        (("account", "account", "signed-in"), ""),
        (("account", "account", "closed"), "why"),
        (("user", "u", "granted"), "not hexadecimal"),
        (("account", "account", "billed"), "yesterday"),
        (("business", "y", "classified"), "tax"),
    ],
)
def test_facts_that_cannot_be(log: Entries, fact: tuple[str, str, str], detail: str) -> None:
    log.policy()
    log.facts(fact, detail=detail)
    assert log.codes() == [("entry 1", "impossible-fact")]


def test_a_fact_is_recorded_once_and_not_before_it_happened(log: Entries) -> None:
    log.policy()
    log.facts(("account", "account", "closed"))
    log.facts(("account", "account", "closed"))
    log.facts(("account", "account", "opened"), at=log.at + DAY)
    log.facts(("user", "account", "created"))
    assert log.codes() == [(f"entry {entry}", "impossible-fact") for entry in (2, 3, 4)]


# --- the engine's own inventory -----------------------------------------------------------------------------------------


def test_slots_leave_room_for_so_many_scopes_that_the_log_does_not_know(log: Entries) -> None:
    for number in range(3):
        log.created(f"s{number}")
    log.created("own", custody="dedicated")
    log.at += DAY
    log.attested({"x": 256, "y": 0})
    ledger = log.ledger()
    assert not ledger.findings, shown(ledger.findings)
    assert ledger.attested is not None
    assert (ledger.attested.slots, ledger.attested.scopes, ledger.attested.room) == (256, 3, 253)
    assert ledger.attested.wrapped is None
    log.attested({"x": 256, "y": 0}, wrapped=2)
    assert (attested := log.ledger().attested) is not None
    assert attested.wrapped == 2


def test_more_scopes_than_slots_are_found(log: Entries) -> None:
    log.created("s")
    log.at += DAY
    log.attested({"x": 0})
    assert log.codes() == [("entry 1", "more-scopes-than-slots")]


def test_slots_never_get_fewer(log: Entries) -> None:
    log.attested({"x": 512, "y": 256})
    log.attested({"x": 256, "y": 256})
    log.attested({"x": 512})
    assert log.codes() == [("entry 1", "slots-fell"), ("entry 2", "slots-fell")]


def test_parts_of_an_attestation_follow_each_other(log: Entries) -> None:
    log.attested({"x": 256}, parts=2)
    log.attested({"y": 256}, parts=2, part=2)
    assert not log.codes()
    log.attested({"y": 256}, parts=2, part=2)
    assert log.codes() == [("entry 2", "attestation-parts")]


@pytest.mark.parametrize("count", ["missing", "returned", "unknown"])
def test_what_the_last_attestation_found_is_a_finding(log: Entries, count: str) -> None:
    log.attested({}, **{count: 1})
    assert log.codes() == [("entry 0", "inventory-differs")]
    log.attested({})
    assert not log.codes()


def test_entries_come_in_their_order(log: Entries) -> None:
    log.created("a")
    fold = Fold()
    with pytest.raises(ValueError, match="0 is"):
        fold.add(1, log.bytes[0])
    fold.add(0, log.bytes[0])
    with pytest.raises(ValueError, match="1 is"):
        fold.add(0, log.bytes[0])
