"""Two processes at one request, or at two that name the same: nothing is destroyed twice, and whoever is late is told so."""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from keyvault import KeyVault
from keyvault.home import Home, open_home
from keyvault.persons import Person
from keyvault.results import caught, values_of
from keyvault.states import KeyState
from keyvault.store import outbox
from shredder.destroy import Destroyer
from shredder.policy import Requester, RequestKind
from shredder.policy_file import load_policy
from shredder.request_execution import Execution, execute
from shredder.requests import Requests, RequestState, RequestView
from shredder.submission import Submission
from tests.forking import let_threads_end
from tests.homes import TestHome, in_dedicated_custody, in_ring_custody
from tests.ring_homes import Ledger, assert_open, month

POLICY = load_policy(None)
ADA, GRACE, MARY = (Person(identity=name, display=name) for name in ("ada", "grace", "mary"))
ANN, BOB, CARL, DORA = (f"consumer/acct-1/{name}" for name in ("ann", "bob", "carl", "dora"))
MONTH = month("acct-1")
PATIENCE = 60
FORK = multiprocessing.get_context("fork")

Job = Callable[[Home, Callable[[], object]], object]
"""What a process does in its home; it calls its second argument where it is to wait for the other."""


class Desk(Requests):
    """Requests of a process that waits for the other one between its look at a request and its signature."""

    def __init__(self, home: Home, meet: Callable[[], object]) -> None:
        super().__init__(home, POLICY)
        self._meet = meet

    def check_limits(self, *args: Any) -> None:
        super().check_limits(*args)
        self._meet()


def opened(home: TestHome) -> Home:
    found = open_home(home.path, role="shredder")
    return replace(found, settings=replace(found.settings, approvals=2))


def at_once(home: TestHome, *jobs: Job) -> list[str]:
    """Do jobs in a process each; return what each came to, or the error with its text."""
    barrier, answers = FORK.Barrier(len(jobs)), FORK.Queue()

    def child(number: int, job: Job) -> None:
        own = opened(home)
        found = caught(lambda _: job(own, lambda: barrier.wait(PATIENCE)), None)
        answers.put((number, f"{type(found).__name__}: {found}" if isinstance(found, Exception) else str(found)))
        own.close()

    processes = [FORK.Process(target=child, args=(number, job)) for number, job in enumerate(jobs)]
    let_threads_end()
    for process in processes:
        process.start()
    told = dict(answers.get(timeout=2 * PATIENCE) for _ in processes)
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    return [told[number] for number in range(len(jobs))]


def make(home: TestHome, *names: str) -> None:
    with home.vault() as vault:
        values_of(vault.ensure_scopes(names))


def submitted(home: Home, ticket: str, *scopes: str, records: tuple[str, ...] = ()) -> RequestView:
    asked = Submission(
        ticket=ticket, requester=Requester.CUSTOMER, kind=RequestKind.ANONYMIZE, scopes=scopes, records=records
    )
    return Requests(home, POLICY).submit(asked, ADA)


def approved(home: Home, ticket: str, *scopes: str, records: tuple[str, ...] = ()) -> bytes:
    view = submitted(home, ticket, *scopes, records=records)
    Requests(home, POLICY).approve(view.row.id, GRACE)
    return view.row.id


def events(home: Home, kind: str) -> list[dict[str, Any]]:
    bodies = home.database.read(lambda connection: outbox.bodies(connection, limit=100_000))
    return [event for _, body in bodies if (event := json.loads(body))["type"] == kind]


def gone_once(home: Home, *, scopes: int, records: int = 0) -> None:
    """Assert that so many scopes and records are gone, each fenced once and destroyed once."""
    whole = [event for event in events(home, "destroy.fenced") if not event["records"]]
    assert_once(whole, "scopes", scopes)
    assert_once(events(home, "key.destroyed"), "scopes", scopes)
    for kind in ("destroy.fenced", "record.destroyed"):
        assert_once(events(home, kind), "records", records)


def assert_once(found: Sequence[Mapping[str, Any]], members: str, count: int) -> None:
    counted = Counter(member for event in found for member in event[members])
    assert (len(counted), set(counted.values()) - {1}) == (count, set()), members


def states(home: Home, *names: str) -> list[KeyState]:
    return [info.state for info in values_of(KeyVault(home).describe(names))]


def late_fence(meet: Callable[[], object], request_id: bytes, home: Home) -> RequestState:
    """Execute a request; both processes have made their last check when they come to their fences."""

    class Late(Destroyer):
        def destroy_rows(self, *args: Any) -> Any:
            meet()
            return super().destroy_rows(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shredder.request_execution.Destroyer", Late)
        done: Execution = execute(home, POLICY, request_id)
    assert all(outcome.at is not None for outcome in done.outcomes), done.outcomes
    return done.state


@in_dedicated_custody
def test_of_two_approvals_at_once_one_holds_and_the_other_is_told(home: TestHome) -> None:
    desk = opened(home)
    make(home, ANN, BOB)
    request = submitted(desk, "T-1", ANN).row.id

    def approving(person: Person) -> Job:
        def job(own: Home, meet: Callable[[], object]) -> RequestState:
            view = Desk(own, meet).approve(request, person)
            assert view.state is RequestState.APPROVED
            return execute(own, POLICY, request).state

        return job

    told = sorted(at_once(home, approving(GRACE), approving(MARY)))
    assert told[0].startswith(f"RequestError: request {request.hex()} was changed meanwhile by somebody else")
    assert told[1] == "done"
    assert states(desk, ANN, BOB) == [KeyState.DESTROYED, KeyState.ACTIVE]
    assert len(events(desk, "request.approved")) == 1
    gone_once(desk, scopes=1)
    desk.close()


def test_of_two_executions_at_once_nothing_is_done_twice(home: TestHome) -> None:
    desk = opened(home)
    make(home, ANN, BOB, CARL)
    request = approved(desk, "T-1", ANN, BOB)

    def job(own: Home, meet: Callable[[], object]) -> RequestState:
        return late_fence(meet, request, own)

    assert at_once(home, job, job) == ["done", "done"]
    assert states(desk, ANN, BOB, CARL) == [KeyState.DESTROYED, KeyState.DESTROYED, KeyState.ACTIVE]
    gone_once(desk, scopes=2)
    desk.close()


@in_ring_custody
def test_requests_that_name_the_same_scope_are_both_carried_out(home: TestHome) -> None:
    ledger = Ledger(home=home)
    ledger.create(ANN, BOB, CARL, DORA)
    desk = opened(home)
    first, second = approved(desk, "T-1", ANN, BOB), approved(desk, "T-2", BOB, CARL)

    def job(request: bytes) -> Job:
        return lambda own, meet: late_fence(meet, request, own)

    assert at_once(home, job(first), job(second)) == ["done", "done"]
    assert states(desk, ANN, BOB, CARL, DORA) == [*[KeyState.DESTROYED] * 3, KeyState.ACTIVE]
    gone_once(desk, scopes=3)
    desk.close()
    ledger.gone |= {(name, None) for name in (ANN, BOB, CARL)}
    assert_open(home, ledger.left)


@in_ring_custody
@pytest.mark.parametrize("month_first", [True, False])
def test_a_month_and_a_record_of_it_may_be_asked_for_in_any_order(home: TestHome, month_first: bool) -> None:
    ledger = Ledger(home=home)
    ledger.create(MONTH, ANN, records=("r-1", "r-2"))
    desk = opened(home)
    requests = [approved(desk, "T-1", MONTH), approved(desk, "T-2", MONTH, records=("r-1", "r-3"))]
    for request in requests if month_first else reversed(requests):
        assert execute(desk, POLICY, request).state is RequestState.DONE
    assert states(desk, MONTH, ANN) == [KeyState.DESTROYED, KeyState.ACTIVE]
    gone_once(desk, scopes=1, records=0 if month_first else 2)
    desk.close()
    ledger.gone.add((MONTH, None))
    assert_open(home, ledger.left)
