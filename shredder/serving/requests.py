"""The calls of whoever hands requests in, and reads what became of them. Approving them, and taking them back, are left to people."""

from __future__ import annotations

from keyvault.errors import InvalidInputError, KeyVaultError, ScopeError
from keyvault.home import Home
from keyvault.service.access import Caller
from keyvault.service.calls import Call
from keyvault.service.failures import to_wire
from keyvault.tokens import Role
from shredder.answers import words_of
from shredder.policy import Policy, Requester, RequestKind
from shredder.policy_file import home_policy
from shredder.requests import OPEN, REQUEST_ID_BYTES, Requests, RequestState, RequestView
from shredder.serving.wire import (
    RequestAnswer,
    RequestAnswers,
    RequestFilter,
    RequestName,
    RequestPage,
    SubmissionItem,
    Submissions,
)
from shredder.submission import Submission, choice

NOT_FOUND = 404


def request_calls(home: Home) -> list[Call]:
    """Return the requesters' calls."""
    desk = RequestDesk(home)
    return [
        Call(
            path="/v1/requests",
            role=Role.REQUESTER,
            asked=Submissions,
            answered=RequestAnswers,
            work=desk.submit,
            summary="Hand requests in, and get the policy's answer to each.",
        ),
        Call(
            path="/v1/requests",
            method="GET",
            role=Role.REQUESTER,
            asked=RequestFilter,
            answered=RequestPage,
            work=desk.listed,
            summary="List requests, the first due in front.",
            statuses=(NOT_FOUND,),
        ),
        Call(
            path="/v1/requests/{id}",
            method="GET",
            role=Role.REQUESTER,
            asked=RequestName,
            answered=RequestAnswer,
            work=desk.show,
            summary="Show a request, and what carrying it out takes away.",
            statuses=(NOT_FOUND,),
        ),
    ]


class RequestDesk:
    """Takes and shows requests of a home. Thread-safe."""

    def __init__(self, home: Home) -> None:
        """Keep them in `home`, which the caller closes."""
        self._home = home

    def submit(self, caller: Caller, body: Submissions) -> RequestAnswers:
        """Take each request by itself, as of the person who answers for the caller's token."""
        policy, requests = self._desk()
        return RequestAnswers(requests=[_taken(policy, requests, caller, item) for item in body.requests])

    def listed(self, _caller: Caller, wanted: RequestFilter) -> RequestPage:
        """List requests. `InvalidInputError`, `UnknownRequestError` for what they are to come after."""
        if wanted.all and wanted.state is not None:
            raise InvalidInputError("all requests, or those in one state: not both")
        policy, requests = self._desk()
        states = tuple(RequestState) if wanted.all else OPEN if wanted.state is None else (wanted.state,)
        views = requests.listed(
            states,
            owed=wanted.state is None,
            overdue=wanted.overdue,
            after=None if wanted.after is None else _parse_id(wanted.after),
            limit=wanted.limit + 1,
        )
        shown = [answer_of(policy, view) for view in views[: wanted.limit]]
        return RequestPage(requests=shown, next=shown[-1].id if len(views) > wanted.limit else None)

    def show(self, _caller: Caller, wanted: RequestName) -> RequestAnswer:
        """Show a request. `InvalidInputError`, `UnknownRequestError`."""
        policy, requests = self._desk()
        return answer_of(policy, requests.show(_parse_id(wanted.id)))

    def _desk(self) -> tuple[Policy, Requests]:
        policy = home_policy(self._home)
        return policy, Requests(self._home, policy)


def answer_of(policy: Policy, view: RequestView) -> RequestAnswer:
    """Return a request as it travels."""
    row, radius = view.row, view.radius
    words = words_of(policy, row.refusal)
    return RequestAnswer(
        id=row.id.hex(),
        state=view.state,
        kind=row.kind,
        requester=row.requester,
        reason=row.refusal,
        text=words.text,
        reply=words.reply,
        destroy_id=view.destroyed_by.hex() if view.destroyed_by else None,
        code=row.code,
        scopes=radius.scopes,
        records=radius.records,
        accounts=radius.accounts,
        kinds={str(kind): count for kind, count in radius.kinds.items()},
        irreversible=row.kind != RequestKind.UNDELETE,
        received_at=row.received_at,
        due_by=row.due_by,
        approved_at=row.approved_at,
        ended_at=row.ended_at,
        break_glass=row.break_glass,
        owes_approval=view.owes_approval,
    )


def _taken(policy: Policy, requests: Requests, caller: Caller, item: SubmissionItem) -> RequestAnswer:
    try:
        return answer_of(policy, requests.submit_as(_submission(item), caller.owner))
    except (
        InvalidInputError,
        ScopeError,
    ) as error:  # its own fault; anything else ends the call, which can be repeated
        return _failed(error)


def _failed(error: KeyVaultError) -> RequestAnswer:
    return RequestAnswer(error=to_wire(error))


def _submission(item: SubmissionItem) -> Submission:
    return Submission(
        ticket=item.ticket,
        requester=choice(Requester, item.requester, "from"),
        kind=choice(RequestKind, item.kind, "kind"),
        scopes=item.scopes,
        records=item.records,
        account=item.account,
        reason=item.reason,
        row=item.row,
    )


def _parse_id(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != REQUEST_ID_BYTES or found.hex() != text.lower():
        raise InvalidInputError(f"a request's id has {2 * REQUEST_ID_BYTES} hexadecimal digits")
    return found
