"""Requests: received, judged by the policy, shown to a second person, approved, and handed to the destruction protocol.

Each step is one transaction with its event. What is destroyed is what was approved: a digest of the exact list, which is read again
before every step, so that an approval never reaches anything that was not shown.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from functools import partial

from sqlalchemy.engine import Connection

from keyvault.errors import (
    ConfirmationNeededError,
    DestructionPausedError,
    InvalidInputError,
    ListChangedError,
    RequestError,
    SamePersonError,
    UnknownRequestError,
)
from keyvault.events import EventType, Value, b64, instant, make_event
from keyvault.home import Home
from keyvault.persons import Person
from keyvault.states import KeyState
from keyvault.store import outbox, system
from keyvault.store import requests as request_store
from keyvault.store import scopes as scope_store
from keyvault.store.requests import ItemKey, RequestRow
from keyvault.suspension import resume_items
from shredder.entitlement import Decision, Verdict
from shredder.policy import Policy, Reason, Requester, RequestKind
from shredder.request_events import listed, seal_content
from shredder.request_targets import Found, Radius, digest_of, find_again, find_submitted, radius_of
from shredder.submission import Submission

REQUEST_ID_BYTES = 16


class RequestState(StrEnum):
    """Where a request stands. `APPROVED` is being executed; an `EXPIRED` approval can be given anew."""

    REFUSED = "refused"
    AWAITING_APPROVAL = "awaiting-approval"
    AWAITING_BILLING = "awaiting-billing"
    APPROVED = "approved"
    DONE = "done"
    REJECTED = "rejected"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


OPEN = (
    RequestState.AWAITING_APPROVAL,
    RequestState.AWAITING_BILLING,
    RequestState.APPROVED,
    RequestState.EXPIRED,
)
UNDECIDED = (RequestState.AWAITING_APPROVAL, RequestState.AWAITING_BILLING, RequestState.EXPIRED)
REJECTED, LIST_CHANGED, APPROVAL_EXPIRED = "rejected", "list-changed", "approval-expired"
"""Beside the policy's reasons: what ends a request, or an approval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestView:
    """A request, and what carrying it out takes away. `destroyed_by`: the destruction (16 bytes) that was there first."""

    row: RequestRow
    radius: Radius
    destroyed_by: bytes | None = None

    @property
    def state(self) -> RequestState:
        """Where it stands."""
        return RequestState(self.row.state)

    @property
    def owes_approval(self) -> bool:
        """It was executed first, and nobody has signed it yet."""
        return self.row.break_glass and self.row.approved_by is None


class Requests:
    """The requests of an opened home; open it with the role `shredder`, since names are looked up with the system keys."""

    def __init__(self, home: Home, policy: Policy) -> None:
        """Work on `home`, which the caller closes, by `policy`."""
        self._home = home
        self._policy = policy

    # --- handing in ------------------------------------------------------------------------------------------------

    def submit(self, submission: Submission, person: Person, *, break_glass: bool = False) -> RequestView:
        """Take a person's request. As `submit_as`."""
        return self.submit_as(submission, self._pseudonym(person), break_glass=break_glass)

    def submit_as(self, submission: Submission, submitted_by: bytes, *, break_glass: bool = False) -> RequestView:
        """Take a request of who is known by a person's pseudonym alone (32 bytes), and return where it stands.

        The same again under the same ticket and row gets the same answer. An undelete is carried out at once, since it can be taken back.
        Raises `InvalidInputError` when the ticket has another request in that row, and what `find_submitted` raises.
        """
        earlier = self._earlier(submission)
        if earlier is not None:
            return self._view(earlier)
        found = find_submitted(self._home, self._policy, submission)
        verdict = found.verdict(self._policy, submission.requester, submission.kind)
        row = self._new_row(submission, submitted_by, found, verdict, break_glass=break_glass)
        receive = partial(
            self._receive, row=row, found=found, content=b64(seal_content(self._home.keys, row.id, row.content))
        )
        taken = self._home.database.write(receive)
        if not taken:  # another process was faster with the same ticket
            earlier = self._earlier(submission)
            return self._view(row if earlier is None else earlier)
        return RequestView(row=row, radius=radius_of(found), destroyed_by=found.destroyed_by)

    def next_row(self, ticket: str) -> int:
        """Return the first row of a ticket that is free."""
        pseudonym = self._home.keys.pseudonym_of("ticket", ticket)
        return self._home.database.read(lambda connection: request_store.last_row(connection, pseudonym)) + 1

    def _earlier(self, submission: Submission) -> RequestRow | None:
        ticket = self._home.keys.pseudonym_of("ticket", submission.ticket)
        found = self._home.database.read(lambda c: request_store.by_ticket(c, ticket, submission.row))
        if found is not None and found.content == request_store.NO_CONTENT:
            raise InvalidInputError(
                f"request {found.id.hex()} came with row {submission.row} of this ticket, and what it said is not kept any more, so that "
                "nobody knows whether this is the same again: see `keyvault request show`, and what is asked for beside it needs a ticket of its own"
            )
        if found is not None and found.content != self._content(submission):
            raise InvalidInputError(
                f"request {found.id.hex()} came with row {submission.row} of this ticket, and asked for something else: "
                "what is asked for now needs a ticket of its own"
            )
        return found

    def _content(self, submission: Submission) -> bytes:
        """Return what tells a submission from another of the same ticket: 32 bytes, made of the scopes' random ids and of no name.

        A name in it could be guessed at for as long as the request is kept, which is longer than the scope.
        """
        lookups = {self._home.keys.lookup(scope.canonical) for scope in submission.parsed}
        rows = self._home.database.read(lambda connection: scope_store.newest_by_lookup(connection, lookups))
        ids = [row.id for row in rows.values()]
        return self._home.keys.pseudonym_of("request", submission.content(ids, unknown=len(lookups) - len(ids)))

    def _new_row(
        self, submission: Submission, submitted_by: bytes, found: Found, verdict: Verdict, *, break_glass: bool
    ) -> RequestRow:
        keys, now = self._home.keys, self._home.clock.now()
        request_id = secrets.token_bytes(REQUEST_ID_BYTES)
        state = _first_state(submission.kind, verdict, break_glass=break_glass)
        return RequestRow(
            id=request_id,
            ticket=keys.pseudonym_of("ticket", submission.ticket),
            row=submission.row,
            content=self._content(submission),
            kind=str(submission.kind),
            requester=str(submission.requester),
            account=None if submission.account is None else keys.pseudonym_of("account", submission.account),
            code=submission.reason,
            state=str(state),
            refusal=None if verdict.reason is None else str(verdict.reason),
            digest=digest_of(request_id, submission.kind, found.items),
            received_at=now,
            due_by=now + timedelta(days=self._policy.answer_days),
            submitted_by=submitted_by,
            ended_at=None if state in OPEN else now,
            break_glass=break_glass and state is RequestState.APPROVED,
        )

    def _receive(self, connection: Connection, *, row: RequestRow, found: Found, content: str) -> bool:
        if not request_store.insert(connection, row):
            return False
        radius = radius_of(found)
        received: dict[str, Value] = {
            "request": b64(row.id),
            "ticket": b64(row.ticket),
            "row": row.row,
            "kind": row.kind,
            "requester": row.requester,
            "account": None if row.account is None else b64(row.account),
            "reason": row.code,
            "digest": b64(row.digest or b""),
            "scopes": radius.scopes,
            "records": radius.records,
            "submitted_by": b64(row.submitted_by),
            "due_by": instant(row.due_by),
            "state": row.state,
            "waits_for": row.refusal if row.state == RequestState.AWAITING_BILLING else None,
            "break_glass": row.break_glass,
            "content": content,
        }
        self._tell(connection, EventType.REQUEST_RECEIVED, received, at=row.received_at)
        self._list(connection, row, found, at=row.received_at)
        if row.state == RequestState.REFUSED:
            self._refused(
                connection,
                row,
                row.refusal or "",
                by=row.submitted_by,
                destroyed_by=found.destroyed_by,
                at=row.received_at,
            )
        if row.kind == RequestKind.UNDELETE and row.state == RequestState.DONE:
            resume_items(connection, self._home.clock, found.items)
        return True

    # --- deciding --------------------------------------------------------------------------------------------------

    def approve(self, request_id: bytes, person: Person, *, confirmed: int | None = None) -> RequestView:
        """Approve a request, and return where it stands: `APPROVED` is to be executed now, by `request_execution.execute`.

        What is approved is the list as it was last shown; where it is another by now, the new one is put down and `ListChangedError`
        raised. An approval of what was approved already changes nothing, and one of what was executed first is the signature owed.
        Raises `SamePersonError`, `ConfirmationNeededError`, `DestructionPausedError`, `RequestError` for a request that is over,
        `UnknownRequestError`.
        """
        row, items = self._load(request_id)
        approver = self._pseudonym(person)
        if row.state == RequestState.APPROVED and not (row.break_glass and row.approved_by is None):
            return self._view(row)
        self._check_two_people(row, approver)
        if row.break_glass and row.approved_by is None:
            return self._view(self._home.database.write(partial(self._sign, row=row, approver=approver)))
        if row.state not in UNDECIDED:
            raise RequestError(f"request {row.id.hex()} is {row.state}: there is nothing to approve")
        found = find_again(self._home, self._policy, row, items)
        verdict = found.verdict(self._policy, Requester(row.requester), RequestKind(row.kind))
        if verdict.decision is Decision.REFUSE:
            refuse = partial(self._refuse, row=row, verdict=verdict, by=approver, destroyed_by=found.destroyed_by)
            return self._view(self._home.database.write(refuse), destroyed_by=found.destroyed_by)
        if digest_of(row.id, row.kind, found.items) != row.digest:
            self._home.database.write(partial(self._put_list, row=row, found=found))
            raise ListChangedError(
                f"request {row.id.hex()} is now about {len(found.items)} scopes and records, not {len(items)} as when it was last shown, "
                "or about others: see `keyvault request show`, and approve it once more"
            )
        self.check_limits(radius_of(found), confirmed)
        state = RequestState.AWAITING_BILLING if verdict.decision is Decision.WAIT else RequestState.APPROVED
        return self._view(self._home.database.write(partial(self._sign, row=row, approver=approver, state=state)))

    def reject(self, request_id: bytes, person: Person) -> RequestView:
        """Refuse what nobody has approved and executed; for approvers. Raises as `approve`, `SamePersonError` not among it."""
        return self._end(request_id, person, RequestState.REJECTED)

    def cancel(self, request_id: bytes, person: Person) -> RequestView:
        """Take a request back before it is executed. Raises as `reject`."""
        return self._end(request_id, person, RequestState.CANCELLED)

    def check_limits(self, radius: Radius, confirmed: int | None) -> None:
        """Raise `ConfirmationNeededError` where the policy wants the exact count as confirmation and has not got it.

        Raises `DestructionPausedError` while destructions are paused.
        """
        counted, paused = self._home.database.read(
            lambda connection: (scope_store.count_by_state(connection), system.is_paused(connection))
        )
        if paused:
            raise DestructionPausedError("destructions are paused: run `keyvault destroy resume` when they may go on")
        live = counted[KeyState.ACTIVE] + counted[KeyState.SUSPENDED]
        if confirmed is not None and confirmed != radius.count:
            raise ConfirmationNeededError(
                f"{confirmed} was confirmed, but this is about {radius.count} scopes and records: nothing was done; look at it again"
            )
        if confirmed is None and self._policy.limits.needs_confirmation(radius.count, live):
            raise ConfirmationNeededError(
                f"this destroys {radius.count} of {live} live scopes, which is more than the policy lets go unconfirmed: nothing was done; "
                f"if that is right, say so with --confirm {radius.count}"
            )

    def _check_two_people(self, row: RequestRow, approver: bytes) -> None:
        if row.submitted_by != approver:
            return
        if self._home.settings.approvals > 1 or row.break_glass:
            raise SamePersonError(
                f"request {row.id.hex()} was made by the same person: somebody else with the role approver must approve it"
            )

    def _sign(
        self, connection: Connection, *, row: RequestRow, approver: bytes, state: RequestState | None = None
    ) -> RequestRow:
        """Put an approval down. What changed the request since it was read makes the approval void."""
        self._locked(connection, row)
        now = self._home.clock.now()
        stays = state is None or state is RequestState.AWAITING_BILLING
        columns = {
            "state": row.state if state is None else str(state),
            "approved_by": approver,
            "approved_at": now,
            "refusal": row.refusal if stays else None,
        }
        changed = replace(row, **columns)  # type: ignore[arg-type]  # each value is of its column's type
        request_store.change(connection, row.id, **columns)
        payload: dict[str, Value] = {
            "request": b64(row.id),
            "digest": b64(row.digest or b""),
            "approved_by": b64(approver),
            "approvals": 2 if approver != row.submitted_by else 1,
            "state": changed.state,
        }
        self._tell(connection, EventType.REQUEST_APPROVED, payload, at=now)
        return changed

    def _refuse(
        self, connection: Connection, *, row: RequestRow, verdict: Verdict, by: bytes, destroyed_by: bytes | None
    ) -> RequestRow:
        self._locked(connection, row)
        reason, now = str(verdict.reason), self._home.clock.now()
        self._refused(connection, row, reason, by=by, destroyed_by=destroyed_by, at=now)
        return self._change(connection, row, RequestState.REFUSED, refusal=reason, at=now)

    def _put_list(self, connection: Connection, *, row: RequestRow, found: Found) -> None:
        self._locked(connection, row)
        changed = replace(row, digest=digest_of(row.id, row.kind, found.items))
        self._list(connection, changed, found, at=self._home.clock.now())
        request_store.change(connection, row.id, digest=changed.digest)

    def _end(self, request_id: bytes, person: Person, state: RequestState) -> RequestView:
        row, _ = self._load(request_id)
        if row.state not in UNDECIDED:
            raise RequestError(f"request {row.id.hex()} is {row.state}: it cannot be {state} any more")
        by = self._pseudonym(person)

        def work(connection: Connection) -> RequestRow:
            self._locked(connection, row)
            now = self._home.clock.now()
            if state is RequestState.REJECTED:
                self._refused(connection, row, REJECTED, by=by, state=state, at=now)
            else:
                payload: dict[str, Value] = {"request": b64(row.id), "cancelled_by": b64(by)}
                self._tell(connection, EventType.REQUEST_CANCELLED, payload, at=now)
            return self._change(connection, row, state, at=now)

        return self._view(self._home.database.write(work))

    # --- looking ---------------------------------------------------------------------------------------------------

    def show(self, request_id: bytes) -> RequestView:
        """Return a request. `UnknownRequestError`."""
        return self._view(self._load(request_id)[0])

    def listed(
        self,
        states: Sequence[RequestState] = OPEN,
        *,
        owed: bool = True,
        overdue: bool = False,
        after: bytes | None = None,
        limit: int | None = None,
    ) -> list[RequestView]:
        """Return requests in some states and (`owed`) those that owe an approval, the first due in front.

        `overdue`: only those not answered in time. `after`: only what comes after the request of this id, and of that at most `limit`; it
        raises `UnknownRequestError`.
        """
        wanted = partial(
            request_store.page,
            states=[str(state) for state in states],
            owed=owed,
            due_until=self._home.clock.now() if overdue else None,
            after=None if after is None else self._load(after)[0],
            limit=limit,
        )
        return [self._view(row) for row in self._home.database.read(wanted)]

    # --- within ----------------------------------------------------------------------------------------------------

    def _pseudonym(self, person: Person) -> bytes:
        return self._home.keys.pseudonym_of("person", person.identity)

    def _load(self, request_id: bytes) -> tuple[RequestRow, list[ItemKey]]:
        row, items = self._home.database.read(
            lambda connection: (
                request_store.by_id(connection, request_id),
                request_store.items(connection, request_id),
            )
        )
        if row is None:
            raise UnknownRequestError(f"there is no request {request_id.hex()}: `keyvault request list` shows them")
        return row, items

    def _locked(self, connection: Connection, row: RequestRow) -> None:
        if request_store.by_id(connection, row.id, lock=True) != row:
            raise RequestError(f"request {row.id.hex()} was changed meanwhile by somebody else: look at it again")

    def _change(
        self,
        connection: Connection,
        row: RequestRow,
        state: RequestState,
        *,
        at: datetime,
        refusal: str | None = None,
    ) -> RequestRow:
        ended: datetime | None = None if state in OPEN else at
        request_store.change(connection, row.id, state=str(state), refusal=refusal, ended_at=ended)
        return replace(row, state=str(state), refusal=refusal, ended_at=ended)

    def _refused(
        self,
        connection: Connection,
        row: RequestRow,
        reason: str,
        *,
        by: bytes,
        at: datetime,
        destroyed_by: bytes | None = None,
        state: RequestState = RequestState.REFUSED,
    ) -> None:
        payload: dict[str, Value] = {
            "request": b64(row.id),
            "reason": reason,
            "state": str(state),
            "by": b64(by),
            "destroy_id": b64(destroyed_by)
            if destroyed_by is not None and reason == Reason.ALREADY_DESTROYED
            else None,
        }
        self._tell(connection, EventType.REQUEST_REFUSED, payload, at=at)

    def _list(self, connection: Connection, row: RequestRow, found: Found, *, at: datetime) -> None:
        """Put down what a request is about, with its events."""
        request_store.put_items(connection, row.id, found.items)
        events = listed(self._home.keys, row.id, row.digest or b"", found.items, at=at, policy=self._policy.version)
        outbox.append(connection, list(events))

    def _tell(self, connection: Connection, kind: EventType, payload: dict[str, Value], *, at: datetime) -> None:
        """Write an event; `at` is the instant that the request's row has, too."""
        outbox.append(connection, [make_event(kind, payload, at=at, policy=self._policy.version)])

    def _view(self, row: RequestRow, *, destroyed_by: bytes | None = None) -> RequestView:
        items = self._home.database.read(lambda connection: request_store.items(connection, row.id))
        wanted = {scope for scope, _ in items}
        rows = self._home.database.read(lambda connection: scope_store.by_id(connection, wanted))
        if destroyed_by is None and row.refusal == Reason.ALREADY_DESTROYED:
            destroyed_by = next((scope.destroy_id for scope in rows.values() if scope.destroy_id), None)
        radius = radius_of(Found(items=tuple(items), rows=rows, situations=()))
        return RequestView(row=row, radius=radius, destroyed_by=destroyed_by)


def _first_state(kind: RequestKind, verdict: Verdict, *, break_glass: bool) -> RequestState:
    if verdict.decision is Decision.REFUSE:
        return RequestState.REFUSED
    if kind is RequestKind.UNDELETE:
        return RequestState.DONE
    if verdict.decision is Decision.WAIT:
        return RequestState.AWAITING_BILLING
    return RequestState.APPROVED if break_glass else RequestState.AWAITING_APPROVAL
