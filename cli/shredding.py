"""The steps of one `shred`: a request, its approval and its execution, and what is said when the policy refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from cli.app import App
from cli.failures import Refused

if TYPE_CHECKING:
    from keyvault.home import Home
    from keyvault.persons import Person
    from shredder.destroy import PlanItem
    from shredder.erase import Outcome
    from shredder.policy import Policy
    from shredder.request_execution import Execution
    from shredder.requests import RequestView
    from shredder.submission import Submission


class Shredding:
    """The steps of one `shred`: what is still there is requested, approved and executed; the rest is finished, or was."""

    def __init__(self, app: App, home: Home, policy: Policy, person: Person) -> None:
        """Work on `home`, which the caller closes, as `person`."""
        self._app = app
        self._home = home
        self._policy = policy
        self._person = person

    def submit(
        self,
        items: Sequence[PlanItem],
        asked: Callable[[Sequence[str], Callable[[str], int]], Submission],
        confirmed: int | None,
        *,
        break_glass: bool,
    ) -> RequestView | None:
        """Hand the request in; None where nothing is left to ask for."""
        from shredder.destroy import PlannedAction
        from shredder.request_targets import Radius
        from shredder.requests import Requests, RequestState

        live = [item for item in items if item.action is PlannedAction.DESTROY]
        wanted = [item.name for item in live]
        if not wanted:
            return None
        requests = Requests(self._home, self._policy)
        records = sum(bool(item.record_tag) for item in live)
        requests.check_limits(Radius(scopes=len(wanted) - records, records=records, accounts=0), confirmed)
        view = requests.submit(asked(wanted, requests.next_row), self._person, break_glass=break_glass)
        if view.state is RequestState.REFUSED:
            from cli.requests import refusal_text

            refusal = f"refused, and nothing was destroyed: {refusal_text(self._policy, view)}"
            raise Refused(" ".join([refusal, *_ways_out(self._policy, live)]))
        return view

    def carry_out(
        self, items: Sequence[PlanItem], view: RequestView | None, confirmed: int | None, *, break_glass: bool
    ) -> list[Outcome]:
        """Approve and execute, and finish what was fenced before; return an outcome for each item."""
        from shredder.destroy import Destroyer, PlannedAction
        from shredder.request_execution import execute
        from shredder.requests import Requests

        destroyer = Destroyer(self._home)
        rest = [item for item in items if item.action is not PlannedAction.DESTROY]
        outcomes: list[Outcome] = []
        with self._app.progress("destroying", len(items)) as advance:
            if view is not None:
                if not break_glass:
                    Requests(self._home, self._policy).approve(view.row.id, self._person, confirmed=confirmed)
                execution = execute(self._home, self._policy, view.row.id, advance)
                if execution.refusal is not None:
                    raise Refused(_stopped_text(execution))
                outcomes += execution.outcomes
            outcomes += destroyer.finish_keys([(item.row.id, item.record_tag) for item in rest], advance)
        return outcomes


def _ways_out(policy: Policy, items: Sequence[PlanItem]) -> Iterator[str]:
    """Say of each category that a customer decides nothing over, how its data do go."""
    from shredder.policy import Requester

    for kind in sorted({item.row.kind for item in items}):
        early = policy.categories[kind].early
        if not early:
            yield f"Nobody can ask for {kind} scopes before they are due: `keyvault sweep` destroys them then."
        elif Requester.CUSTOMER not in early:
            senders = " or ".join(sorted(f"`--from {requester}`" for requester in early))
            yield (
                f"`shred` asks for a customer; for {kind} scopes run "
                f"`keyvault request submit --ticket T --kind anonymize --scope NAME` with {senders}, and `keyvault request approve`."
            )


def _stopped_text(execution: Execution) -> str:
    """Say why a request was not carried out, or not to its end, and what went before that."""
    what = f"request {execution.request.hex()} is {execution.state} ({execution.refusal})"
    if not execution.outcomes:
        return f"{what}, and nothing was destroyed: see `keyvault request show`"
    gone = sum(outcome.error is None for outcome in execution.outcomes)
    return (
        f"{what} since facts came in while it was carried out: {gone} of {len(execution.outcomes)} were destroyed before that; "
        "see `keyvault request show`"
    )


def submission_of_customer(
    wanted: Sequence[str], next_row: Callable[[str], int], *, ticket: str, reason: str | None, month: str | None
) -> Submission:
    """Return what a customer's request asks for: these scopes, or these records of the account-month `month`."""
    from shredder.policy import Requester, RequestKind
    from shredder.submission import Submission

    return Submission(
        ticket=ticket,
        requester=Requester.CUSTOMER,
        kind=RequestKind.ANONYMIZE,
        scopes=(month,) if month else tuple(wanted),
        records=tuple(wanted) if month else (),
        reason=reason,
        row=next_row(ticket),
    )
