"""Requests on both pairs of engine and store: judged, approved for an exact list, carried out once, and refused with reasons."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from keyvault import KeyVault
from keyvault.errors import (
    AccountInactiveError,
    ConfirmationNeededError,
    DestructionError,
    DestructionPausedError,
    InvalidInputError,
    ListChangedError,
    RequestError,
    SamePersonError,
    UnknownRequestError,
)
from keyvault.home import Home
from keyvault.persons import Person
from keyvault.results import values_of
from keyvault.states import KeyState, SuspendedBy
from keyvault.store import outbox, subjects
from keyvault.store import requests as request_store
from keyvault.store import scopes as scope_store
from keyvault.store.subjects import SubjectRow
from keyvault.testing import ManualClock
from shredder.destroy import Destroyer
from shredder.policy import Requester, RequestKind
from shredder.policy_file import load_policy
from shredder.request_execution import execute, execute_approved
from shredder.requests import Requests, RequestState, RequestView
from shredder.submission import Submission
from tests.homes import TestHome, in_dedicated_custody, in_ring_custody

POLICY = load_policy(None)
NOW = datetime.now(UTC)
MONTH = f"communications/acct-001/{NOW:%Y-%m}"
ANN, BOB, OTHER = "consumer/acct-001/ann", "consumer/acct-001/bob", "consumer/acct-002/ann"
SETTINGS, GREETINGS = "customer/acct-001/settings", "customer/acct-001/greetings/main"
ADA, GRACE = Person(identity="ada", display="Ada"), Person(identity="grace", display="Grace")


class Desk:
    """A home with two approvals, an injected clock and short ways to say things."""

    def __init__(self, on_disk: TestHome, home: Home) -> None:
        self.on_disk = on_disk
        self.clock = ManualClock(NOW)
        self.home = replace(home, clock=self.clock, settings=replace(home.settings, approvals=2))
        self.requests = Requests(self.home, POLICY)

    def make(self, *names: str) -> None:
        with self.on_disk.vault() as vault:
            values_of(vault.ensure_scopes(names))

    def submit(self, *scopes: str, kind: str = "anonymize", by: str = "customer", **rest: Any) -> RequestView:
        ticket = rest.pop("ticket", f"T-{len(self.events('request.received'))}")
        asked = Submission(ticket=ticket, requester=Requester(by), kind=RequestKind(kind), scopes=scopes, **rest)
        return self.requests.submit(asked, ADA)

    def approve(self, view: RequestView, **rest: Any) -> RequestView:
        return self.requests.approve(view.row.id, GRACE, **rest)

    def state(self, name: str) -> KeyState:
        return values_of(KeyVault(self.home).describe([name]))[0].state

    def subject(self, status: str, *, account: str = "acct-001", billed: bool = False) -> SubjectRow:
        return SubjectRow(
            id=self.home.keys.pseudonym_of("account", account),
            kind="account",
            status=status,
            suspend_at=None if status == "active" else NOW - timedelta(days=3),
            billed_through=NOW - timedelta(days=2) if billed else None,
        )

    def account(self, status: str, *, account: str = "acct-001", billed: bool = False) -> None:
        row = self.subject(status, account=account, billed=billed)
        self.home.database.write(lambda connection: subjects.put(connection, [row]))

    def events(self, kind: str) -> list[dict[str, Any]]:
        bodies = self.home.database.read(lambda connection: outbox.bodies(connection, limit=10_000))
        return [event for _, body in bodies if (event := json.loads(body))["type"] == kind]


@pytest.fixture
def desk(home: TestHome) -> Iterator[Desk]:
    with home.opened() as opened:
        yield Desk(home, opened)


def test_two_people_destroy_exactly_what_was_approved(desk: Desk) -> None:
    desk.make(ANN, BOB)
    view = desk.submit(ANN)
    assert (view.state, view.radius.scopes, view.radius.accounts) == (RequestState.AWAITING_APPROVAL, 1, 1)
    with pytest.raises(SamePersonError):
        desk.requests.approve(view.row.id, ADA)
    assert desk.state(ANN) is KeyState.ACTIVE
    assert desk.approve(view).state is RequestState.APPROVED
    done = execute(desk.home, POLICY, view.row.id)
    assert (done.state, len(done.outcomes), desk.state(ANN), desk.state(BOB)) == (
        RequestState.DONE,
        1,
        KeyState.DESTROYED,
        KeyState.ACTIVE,
    )
    (fenced,) = desk.events("destroy.fenced")
    (approved,) = desk.events("request.approved")
    assert (fenced["approvals"], fenced["request"]) == (2, approved["request"])
    assert fenced["approved_by"] == approved["approved_by"] != fenced["requested_by"]
    assert fenced["policy"] == approved["policy"] == POLICY.version
    with pytest.raises(RequestError, match="is done"):
        desk.approve(view)


@in_ring_custody
def test_records_are_destroyed_and_the_month_stays(desk: Desk) -> None:
    desk.make(MONTH)
    view = desk.submit(MONTH, records=("r-1", "r-2"))
    assert (view.radius.scopes, view.radius.records) == (0, 2)
    desk.approve(view)
    assert execute(desk.home, POLICY, view.row.id).state is RequestState.DONE
    assert desk.state(MONTH) is KeyState.ACTIVE
    again = desk.submit(MONTH, records=("r-1",))
    (fenced,) = desk.events("destroy.fenced")
    assert (again.row.refusal, again.destroyed_by is not None, len(fenced["records"])) == ("already-destroyed", True, 2)


@in_dedicated_custody
def test_the_same_ticket_gets_the_same_answer_and_no_other_content(desk: Desk) -> None:
    desk.make(ANN, BOB)
    first = desk.submit(ANN, BOB, ticket="T")
    assert desk.submit(BOB, ANN, ticket="T").row == first.row
    with pytest.raises(InvalidInputError, match="asked for something else"):
        desk.submit(ANN, ticket="T")
    assert desk.submit(ANN, ticket="T", row=2).row.id != first.row.id
    assert len(desk.events("request.received")) == 2
    stored = desk.home.database.read(lambda c: request_store.in_states(c, map(str, RequestState)))
    assert {len(row.ticket) for row in stored} == {32}, "pseudonyms"


@in_dedicated_custody
def test_a_name_that_was_renewed_is_other_content(desk: Desk) -> None:
    """The answer of before was about another scope; and what is kept with a request says nothing of names."""
    desk.make(ANN)
    view = desk.submit(ANN, ticket="T")
    desk.approve(view)
    assert execute(desk.home, POLICY, view.row.id).state is RequestState.DONE
    assert desk.submit(ANN, ticket="T").row.id == view.row.id
    values_of(KeyVault(desk.home).ensure_scopes([ANN], renew=True))
    with pytest.raises(InvalidInputError, match="needs a ticket of its own"):
        desk.submit(ANN, ticket="T")
    unknown = desk.submit("consumer/acct-001/nobody", ticket="U")
    assert unknown.row.refusal == "unknown-scope"
    assert desk.submit("consumer/acct-001/nobody", ticket="U").row == unknown.row


@in_dedicated_custody
@pytest.mark.parametrize(
    ("scopes", "kind", "by", "reason"),
    [
        ((ANN,), "anonymize", "consumer", "consumer-direct"),
        ((ANN,), "extend", "customer", "extension"),
        ((ANN,), "hold", "company", "legal-hold"),
        ((ANN,), "restore", "customer", "restore-from-backup"),
        ((ANN,), "anonymize", "company", "not-entitled"),
        ((SETTINGS,), "anonymize", "customer", "active-account"),
        (("user/u-1",), "delete", "user", "retention-required"),
        (("consumer/acct-001/nobody",), "delete", "customer", "unknown-scope"),
        ((ANN, "consumer/acct-001/nobody"), "anonymize", "customer", "unknown-scope"),
    ],
)
def test_refusals_change_nothing_and_are_in_the_log(
    desk: Desk, scopes: tuple[str, ...], kind: str, by: str, reason: str
) -> None:
    desk.make(ANN, SETTINGS, "user/u-1")
    view = desk.submit(*scopes, kind=kind, by=by)
    assert (view.state, view.row.refusal) == (RequestState.REFUSED, reason)
    (refused,) = desk.events("request.refused")
    assert (refused["reason"], refused["destroy_id"]) == (reason, None)
    assert all(desk.state(name) is KeyState.ACTIVE for name in (ANN, SETTINGS))
    with pytest.raises(RequestError, match="nothing to approve"):
        desk.approve(view)


@in_dedicated_custody
def test_types_that_the_policy_lists_go_while_the_account_is_active(desk: Desk) -> None:
    desk.make(GREETINGS, SETTINGS)
    assert desk.submit(GREETINGS).state is RequestState.AWAITING_APPROVAL
    desk.account("closed")
    late = desk.submit(SETTINGS)
    assert late.state is RequestState.AWAITING_APPROVAL
    desk.account("active")
    assert desk.approve(late).row.refusal == "active-account", "the type is read from the sealed name"


def test_a_whole_account_goes_once_its_usage_is_billed(desk: Desk) -> None:
    desk.make(ANN, BOB, MONTH, OTHER)
    assert desk.submit(account="acct-001", kind="delete").row.refusal == "active-account"
    assert desk.submit(account="nobody", kind="delete").row.refusal == "unknown-scope"
    desk.account("closed")
    view = desk.submit(account="acct-001", kind="delete")
    assert (view.state, view.radius.scopes) == (RequestState.AWAITING_BILLING, 3)
    assert desk.approve(view).state is RequestState.AWAITING_BILLING
    assert execute_approved(desk.home, POLICY) == []
    desk.account("closed", billed=True)
    (done,) = execute_approved(desk.home, POLICY)
    assert (done.request, done.state, len(done.outcomes)) == (view.row.id, RequestState.DONE, 3)
    assert [desk.state(name) for name in (ANN, BOB, MONTH)] == [KeyState.DESTROYED] * 3
    assert desk.state(OTHER) is KeyState.ACTIVE
    again = desk.submit(account="acct-001", kind="delete")
    assert (again.row.refusal, again.destroyed_by is not None) == ("already-destroyed", True)


@in_dedicated_custody
def test_what_waited_unapproved_asks_for_approval_once_billed(desk: Desk) -> None:
    desk.make(ANN)
    desk.account("closed")
    view = desk.submit(account="acct-001", kind="delete")
    desk.account("closed", billed=True)
    (moved,) = execute_approved(desk.home, POLICY)
    assert (moved.state, desk.state(ANN)) == (RequestState.AWAITING_APPROVAL, KeyState.ACTIVE)
    desk.approve(view)
    assert execute(desk.home, POLICY, view.row.id).state is RequestState.DONE


@in_dedicated_custody
def test_a_list_that_changed_voids_the_approval(desk: Desk) -> None:
    desk.make(ANN)
    desk.account("lapsed", billed=True)
    view = desk.submit(account="acct-001", kind="delete")
    desk.make(BOB)
    with pytest.raises(ListChangedError, match="not 1 as when it was last shown"):
        desk.approve(view)
    assert desk.requests.show(view.row.id).radius.scopes == 2
    desk.approve(view)
    desk.make("consumer/acct-001/carl")
    void = execute(desk.home, POLICY, view.row.id)
    assert (void.state, void.refusal) == (RequestState.AWAITING_APPROVAL, "list-changed")
    assert desk.requests.show(view.row.id).row.approved_by is None
    # Bob was made while the account had lapsed, and nothing has suspended Ann yet.
    assert [desk.state(name) for name in (ANN, BOB)] == [KeyState.ACTIVE, KeyState.SUSPENDED]
    desk.approve(view)
    assert len(execute(desk.home, POLICY, view.row.id).outcomes) == 3


@in_dedicated_custody
def test_an_altered_list_is_not_executed(desk: Desk) -> None:
    desk.make(ANN, BOB)
    view = desk.submit(ANN)
    desk.approve(view)
    other = KeyVault(desk.home).describe([BOB])
    items = [(values_of(other)[0].id, b"")]
    desk.home.database.write(lambda connection: request_store.put_items(connection, view.row.id, items))
    assert execute(desk.home, POLICY, view.row.id).refusal == "list-changed"
    assert (desk.state(ANN), desk.state(BOB)) == (KeyState.ACTIVE, KeyState.ACTIVE)


@in_dedicated_custody
def test_an_approval_expires(desk: Desk) -> None:
    desk.make(ANN)
    view = desk.submit(ANN)
    desk.approve(view)
    desk.clock.advance(timedelta(days=POLICY.approval_days))
    (expired,) = execute_approved(desk.home, POLICY)
    assert (expired.state, expired.refusal, desk.state(ANN)) == (
        RequestState.EXPIRED,
        "approval-expired",
        KeyState.ACTIVE,
    )
    desk.approve(view)
    desk.clock.advance(timedelta(days=POLICY.approval_days) - timedelta(seconds=1))
    assert execute(desk.home, POLICY, view.row.id).state is RequestState.DONE


@in_dedicated_custody
def test_an_approval_that_was_given_is_carried_out_by_the_next_run(desk: Desk) -> None:
    desk.make(ANN, BOB)
    view = desk.submit(ANN)
    desk.approve(view)
    assert desk.requests.approve(view.row.id, ADA).state is RequestState.APPROVED, "anybody may finish it"
    assert [done.state for done in execute_approved(desk.home, POLICY)] == [RequestState.DONE]
    assert execute_approved(desk.home, POLICY) == []
    assert len(desk.events("request.approved")) == len(desk.events("destroy.fenced")) == 1


@in_dedicated_custody
def test_reactivation_stops_what_was_approved(desk: Desk) -> None:
    desk.make(ANN)
    desk.account("closed", billed=True)
    view = desk.submit(account="acct-001", kind="delete")
    desk.approve(view)
    desk.account("active")
    done = execute(desk.home, POLICY, view.row.id)
    assert (done.state, done.refusal, desk.state(ANN)) == (RequestState.REFUSED, "active-account", KeyState.ACTIVE)


def slip_in(monkeypatch: pytest.MonkeyPatch, method: str, change: Callable[[], object]) -> None:
    """Let something happen once between the last check of a request and its fence."""
    original = getattr(Destroyer, method)

    def late(self: Destroyer, *args: Any) -> Any:
        monkeypatch.undo()
        change()
        return original(self, *args)

    monkeypatch.setattr(Destroyer, method, late)


def test_a_reactivation_right_before_the_fence_saves_the_account(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.make(ANN, MONTH)
    desk.account("closed", billed=True)
    view = desk.submit(account="acct-001", kind="delete")
    desk.approve(view)
    slip_in(monkeypatch, "destroy_rows", lambda: desk.account("active"))
    (stopped,) = execute_approved(desk.home, POLICY)
    assert (stopped.state, stopped.refusal) == (RequestState.REFUSED, "active-account")
    assert [type(outcome.error) for outcome in stopped.outcomes] == [DestructionError] * 2
    assert [desk.state(name) for name in (ANN, MONTH)] == [KeyState.ACTIVE] * 2
    assert [event["reason"] for event in desk.events("request.refused")] == ["active-account"]
    assert desk.events("destroy.fenced") == []
    assert desk.requests.show(view.row.id).row.ended_at is not None
    assert execute_approved(desk.home, POLICY) == [], "it is over"


@in_dedicated_custody
def test_a_reactivation_after_the_question_waits_for_the_fence(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.make(ANN)
    desk.account("closed", billed=True)
    view = desk.submit(account="acct-001", kind="delete")
    desk.approve(view)
    original = scope_store.fence
    late: list[Future[None]] = []

    def fence(*args: Any, **named: Any) -> Any:
        late.append(pool.submit(desk.account, "active"))
        with pytest.raises(TimeoutError):
            late[0].result(timeout=0.5)
        return original(*args, **named)

    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(scope_store, "fence", fence)
        assert execute(desk.home, POLICY, view.row.id).state is RequestState.DONE
        assert late[0].result(timeout=30) is None
    (fenced,) = desk.events("destroy.fenced")
    assert (len(fenced["scopes"]), desk.state(ANN)) == (1, KeyState.DESTROYED)


@in_dedicated_custody
def test_an_end_that_needs_billing_right_before_the_fence_lets_it_wait(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.make(ANN)
    desk.account("closed", billed=True)
    view = desk.submit(account="acct-001", kind="delete")
    desk.approve(view)
    slip_in(monkeypatch, "destroy_rows", lambda: desk.account("closed"))
    (waits,) = execute_approved(desk.home, POLICY)
    assert (waits.state, waits.refusal, desk.state(ANN)) == (
        RequestState.AWAITING_BILLING,
        "awaiting-billing",
        KeyState.ACTIVE,
    )
    assert [event["reason"] for event in desk.events("request.refused")] == ["awaiting-billing"]
    desk.account("closed", billed=True)
    (done,) = execute_approved(desk.home, POLICY)
    assert (done.state, desk.state(ANN)) == (RequestState.DONE, KeyState.DESTROYED)


@in_ring_custody
def test_facts_right_before_the_fence_save_records(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.make(MONTH)
    desk.account("active", billed=True)
    with_end = replace(desk.subject("active"), billed_through=NOW + timedelta(days=40))
    desk.home.database.write(lambda connection: subjects.put(connection, [with_end]))
    view = desk.submit(MONTH, kind="delete", records=("r-1",))
    assert view.state is RequestState.AWAITING_APPROVAL
    desk.approve(view)
    slip_in(monkeypatch, "destroy_tags", lambda: desk.account("active"))
    (waits,) = execute_approved(desk.home, POLICY)
    assert (waits.state, len(waits.outcomes)) == (RequestState.AWAITING_BILLING, 1)
    assert "is active and was not destroyed" in str(waits.outcomes[0].error)
    assert desk.events("destroy.fenced") == []


@in_dedicated_custody
def test_an_approval_that_another_run_voids_right_before_the_fence_destroys_nothing(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.make(ANN)
    desk.account("lapsed", billed=True)
    view = desk.submit(account="acct-001", kind="delete")
    desk.approve(view)

    def another_run() -> None:
        desk.make(BOB)
        assert execute(desk.home, POLICY, view.row.id).refusal == "list-changed"

    slip_in(monkeypatch, "destroy_rows", another_run)
    stopped = execute(desk.home, POLICY, view.row.id)
    assert (stopped.state, stopped.refusal) == (RequestState.AWAITING_APPROVAL, "list-changed")
    # Bob was made while the account had lapsed, and nothing has suspended Ann yet.
    assert [desk.state(name) for name in (ANN, BOB)] == [KeyState.ACTIVE, KeyState.SUSPENDED]
    assert len(desk.events("request.refused")) == 1


@in_dedicated_custody
def test_a_new_generation_is_not_reached_by_an_old_request(desk: Desk) -> None:
    desk.make(ANN, BOB)
    view = desk.submit(ANN)
    desk.approve(view)
    Destroyer(desk.home).destroy([ANN], ticket="T-other", requested_by="sweep")
    values_of(KeyVault(desk.home).ensure_scopes([ANN], renew=True))
    assert execute(desk.home, POLICY, view.row.id).state is RequestState.DONE
    assert desk.state(ANN) is KeyState.ACTIVE


@in_dedicated_custody
def test_ending_a_request(desk: Desk) -> None:
    desk.make(ANN)
    first, second = desk.submit(ANN), desk.submit(ANN)
    assert desk.requests.reject(first.row.id, GRACE).state is RequestState.REJECTED
    assert desk.requests.cancel(second.row.id, ADA).state is RequestState.CANCELLED
    assert [event["reason"] for event in desk.events("request.refused")] == ["rejected"]
    assert len(desk.events("request.cancelled")) == 1
    for view in (first, second):
        with pytest.raises(RequestError):
            desk.approve(view)
        with pytest.raises(RequestError, match="cannot be cancelled"):
            desk.requests.cancel(view.row.id, ADA)
    with pytest.raises(UnknownRequestError):
        desk.requests.show(bytes(16))
    assert desk.requests.listed() == []


@in_dedicated_custody
def test_overdue_requests_are_found(desk: Desk) -> None:
    desk.make(ANN)
    view = desk.submit(ANN)
    assert view.row.due_by - view.row.received_at == timedelta(days=POLICY.answer_days)
    assert desk.requests.listed(overdue=True) == []
    desk.clock.advance(timedelta(days=POLICY.answer_days))
    assert [found.row.id for found in desk.requests.listed(overdue=True)] == [view.row.id]


@in_dedicated_custody
def test_more_than_the_limit_needs_the_exact_count(desk: Desk) -> None:
    names = [f"consumer/acct-001/{number}" for number in range(3)]
    desk.make(*names)
    low = replace(POLICY, limits=replace(POLICY.limits, scopes=2))
    desk.requests = Requests(desk.home, low)
    view = desk.submit(*names)
    for confirmed in (None, 2, 4):
        with pytest.raises(ConfirmationNeededError):
            desk.approve(view, confirmed=confirmed)
    assert desk.approve(view, confirmed=3).state is RequestState.APPROVED


@in_dedicated_custody
def test_nothing_is_approved_while_destructions_are_paused(desk: Desk) -> None:
    desk.make(ANN)
    view = desk.submit(ANN)
    Destroyer(desk.home).pause()
    with pytest.raises(DestructionPausedError):
        desk.approve(view)
    Destroyer(desk.home).unpause()
    desk.approve(view)
    Destroyer(desk.home).pause()
    (stopped,) = execute_approved(desk.home, POLICY)
    assert (type(stopped.error), stopped.state) == (DestructionPausedError, RequestState.APPROVED)


@in_dedicated_custody
def test_break_glass_owes_another_persons_signature(desk: Desk) -> None:
    desk.make(ANN)
    asked = Submission(ticket="T", requester=Requester.CUSTOMER, kind=RequestKind.ANONYMIZE, scopes=(ANN,))
    view = desk.requests.submit(asked, ADA, break_glass=True)
    assert execute(desk.home, POLICY, view.row.id).state is RequestState.DONE
    (fenced,) = desk.events("destroy.fenced")
    assert (fenced["approvals"], fenced["approved_by"]) == (1, None)
    assert [found.owes_approval for found in desk.requests.listed()] == [True]
    with pytest.raises(SamePersonError):
        desk.requests.approve(view.row.id, ADA)
    assert desk.approve(view).state is RequestState.DONE
    assert desk.requests.listed() == []


# --- undelete ---------------------------------------------------------------------------------------------------------


def test_what_a_user_deleted_comes_back_while_the_account_is_active(desk: Desk) -> None:
    desk.make(ANN, BOB)
    vault = KeyVault(desk.home)
    values_of(vault.suspend([ANN, BOB]))
    assert desk.submit(ANN, kind="undelete").state is RequestState.DONE
    assert (desk.state(ANN), desk.state(BOB)) == (KeyState.ACTIVE, KeyState.SUSPENDED)
    desk.account("lapsed")
    assert desk.submit(BOB, kind="undelete").row.refusal == "account-inactive"
    assert isinstance(vault.resume([BOB])[0], AccountInactiveError)
    desk.account("active")
    assert desk.submit(account="acct-001", kind="undelete").state is RequestState.DONE
    assert desk.state(BOB) is KeyState.ACTIVE


@in_ring_custody
def test_records_come_back_too(desk: Desk) -> None:
    desk.make(MONTH)
    vault = KeyVault(desk.home)
    values_of(vault.suspend_records(MONTH, ["r-1", "r-2"]))
    assert desk.submit(MONTH, kind="undelete", records=("r-1",)).state is RequestState.DONE
    assert [len(event["records"]) for event in desk.events("record.resumed")] == [1]
    desk.account("closed")
    with pytest.raises(AccountInactiveError):
        vault.resume_records(MONTH, ["r-2"])


@in_dedicated_custody
def test_what_facts_suspended_is_not_resumed_by_hand(desk: Desk) -> None:
    desk.make(ANN)
    (info,) = values_of(KeyVault(desk.home).describe([ANN]))
    desk.home.database.write(
        lambda c: scope_store.change_state(
            c, [info.id], before=[KeyState.ACTIVE], after=KeyState.SUSPENDED, suspended_by=SuspendedBy.FACTS
        )
    )
    assert isinstance(KeyVault(desk.home).resume([ANN])[0], AccountInactiveError)
    assert desk.submit(ANN, kind="undelete").row.refusal == "account-inactive"
    assert desk.submit(ANN).state is RequestState.AWAITING_APPROVAL, "what is suspended can still be anonymized"
