"""SIGKILL between every two steps of a request: approving it again, or the next sweep, finishes it, and nothing is done twice."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import count

from keyvault.home import Home
from keyvault.persons import Person
from keyvault.results import values_of
from keyvault.states import KeyState
from keyvault.store import outbox
from keyvault.store import requests as request_store
from shredder.destroy import Destroyer
from shredder.policy import Requester, RequestKind
from shredder.policy_file import load_policy
from shredder.request_execution import execute, execute_approved
from shredder.requests import Requests, RequestState
from shredder.submission import Submission
from tests.faults.killing import survives
from tests.homes import TestHome, in_dedicated_custody, in_ring_custody
from tests.ring_homes import MONTH, Ledger, assert_open

POLICY = load_policy(None)
ADA, GRACE = Person(identity="ada", display="Ada"), Person(identity="grace", display="Grace")
FEWEST_STEPS, MOST_STEPS, STRIDE = 8, 200, 3


def submission(step: int) -> Submission:
    names = tuple(f"consumer/acct-{step}/{number}" for number in range(2))
    return Submission(
        ticket=f"T-{step}", requester=Requester.CUSTOMER, kind=RequestKind.ANONYMIZE, scopes=names, reason="gdpr"
    )


def run(home: Home, step: int) -> None:
    """Submit, approve and execute, or whatever of it an earlier run has left to do."""
    requests = Requests(home, POLICY)
    view = requests.submit(submission(step), ADA)
    if view.state is not RequestState.DONE:
        requests.approve(view.row.id, GRACE)
        execute(home, POLICY, view.row.id)


@in_dedicated_custody
def test_a_request_killed_at_every_step(home: TestHome) -> None:
    steps = 0
    for step in count(1, STRIDE):
        assert step < MOST_STEPS
        steps = step
        names = submission(step).scopes
        with home.vault() as vault:
            values_of(vault.ensure_scopes([*names, f"consumer/acct-{step}/kept"]))
        finished = survives(home, "shredder", lambda opened, step=step: run(opened, step), step)  # type: ignore[misc]
        with home.opened() as opened:
            if step % 2:
                run(opened, step)
            else:
                resumed_by_the_sweep(opened, step)
        with home.vault() as vault:
            after = [info.state for info in values_of(vault.describe([*names, f"consumer/acct-{step}/kept"]))]
        assert after == [KeyState.DESTROYED, KeyState.DESTROYED, KeyState.ACTIVE]
        if finished:
            break
    assert steps > FEWEST_STEPS, "the steps were not counted"
    assert_once(home)


def resumed_by_the_sweep(home: Home, step: int) -> None:
    """Finish without anybody's approving again, where it was approved before the crash."""
    Destroyer(home).finish_pending()
    assert all(done.error is None for done in execute_approved(home, POLICY))
    run(home, step)


def assert_once(home: TestHome) -> None:
    with home.opened() as opened:
        rows = opened.database.read(lambda c: request_store.in_states(c, map(str, RequestState)))
        bodies = opened.database.read(lambda c: outbox.bodies(c, limit=100_000))
    assert {row.state for row in rows} == {RequestState.DONE}
    events = [json.loads(body) for _, body in bodies]
    for kind in ("request.received", "request.approved"):
        assert set(Counter(event["request"] for event in events if event["type"] == kind).values()) == {1}
    fenced = [event for event in events if event["type"] == "destroy.fenced"]
    assert {event["approvals"] for event in fenced} == {2}
    whole = [event for event in fenced if not event["records"]]
    assert set(Counter(scope for event in whole for scope in event["scopes"]).values()) == {1}
    singles = Counter((event["scopes"][0], tag) for event in fenced for tag in event["records"])
    assert set(singles.values()) <= {1}
    gone = Counter(scope for event in events if event["type"] == "key.destroyed" for scope in event["scopes"])
    assert set(gone.values()) == {1}


# --- requests that name the same, in rings ----------------------------------------------------------------------------

FIRST_STRIDE = 9


def widening() -> Iterator[int]:
    """Give steps that lie further and further apart: each costs a home's worth of rings, and a server has many."""
    step = 1
    while True:
        yield step
        step += FIRST_STRIDE + step // 3


def overlapping(step: int) -> list[Submission]:
    """Two requests that share a scope, and two about an account-month: a record of it, and the whole."""
    account = f"acct-{step}"
    month, people = f"communications/{account}/{MONTH}", [f"consumer/{account}/{number}" for number in range(3)]
    named = [(people[0], people[1]), (people[1], people[2]), (month,), (month,)]
    return [
        Submission(
            ticket=f"T-{step}-{number}",
            requester=Requester.CUSTOMER,
            kind=RequestKind.ANONYMIZE,
            scopes=scopes,
            records=("r-1",) if number == 2 else (),
        )
        for number, scopes in enumerate(named)
    ]


def run_overlapping(home: Home, step: int) -> None:
    """Approve all of them, and then carry them out, or whatever of it an earlier run has left to do."""
    requests = Requests(home, POLICY)
    views = [requests.submit(asked, ADA) for asked in overlapping(step)]
    for view in views:
        if view.state is RequestState.AWAITING_APPROVAL:
            requests.approve(view.row.id, GRACE)
    assert [done for done in execute_approved(home, POLICY) if done.state is not RequestState.DONE] == []


@in_ring_custody
def test_overlapping_requests_killed_in_rings(home: TestHome) -> None:
    ledger = Ledger(home=home)
    for step in widening():
        assert step < 10 * MOST_STEPS
        asked = overlapping(step)
        gone = sorted({scope for request in asked for scope in request.scopes})
        kept = [f"consumer/acct-{step}/kept", f"communications/acct-{step}-kept/{MONTH}"]
        ledger.create(*gone, *kept, records=("r-1",))
        finished = survives(home, "shredder", lambda opened, step=step: run_overlapping(opened, step), step)  # type: ignore[misc]
        with home.opened() as opened:
            run_overlapping(opened, step)
        with home.vault() as vault:
            after = [info.state for info in values_of(vault.describe([*gone, *kept]))]
        assert after == [KeyState.DESTROYED] * len(gone) + [KeyState.ACTIVE] * len(kept)
        ledger.gone |= {(scope, None) for scope in gone}
        if finished:
            break
    assert step > 3 * FIRST_STRIDE, "the steps were not counted"
    assert_open(home, ledger.left)
    assert_once(home)
