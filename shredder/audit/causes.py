"""Why something was destroyed: the request and its approval, or the policy's own rule. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from msgspec import UNSET

from keyvault.events import POLICY_VERSION, b64
from shredder.audit.due import Due, Policies
from shredder.audit.events import (
    DestroyFenced,
    RequestApproved,
    RequestCancelled,
    RequestListed,
    RequestMoved,
    RequestReceived,
    RequestRefused,
)
from shredder.audit.finding import Findings
from shredder.audit.forms import moment
from shredder.audit.scopes import Scopes
from shredder.policy import Reason, RequestKind
from shredder.request_digest import digest_of

DEFAULT_REASON: Final = "customer-request"
LOST: Final = "database-lost"
"""The reason of what was fenced anew because its fence was lost with the database before it was in the log, and its cause with it."""
VOIDING: Final = frozenset({"list-changed", "approval-expired"})
"""Why an approval holds no more, while its request stays open."""
ENDING: Final = frozenset({*map(str, Reason), "rejected"}) - {str(Reason.AWAITING_BILLING)}
CARRIED_OUT: Final = frozenset({RequestKind.ANONYMIZE, RequestKind.DELETE})

Item = tuple[int, str]
"""A scope's number, and a record's tag or nothing: what a request names."""


@dataclass(slots=True)
class _Request:
    """A request. `digest`: of the list that was last put down. `over`: why nothing may be destroyed for it any more.

    `items`: what was destroyed for it since the approval that holds, `earlier` before that.
    """

    received: RequestReceived
    entry: int
    digest: str
    over: str | None = None
    refused: bool = False
    changed: bool = False
    pieces: int = 0
    approval: RequestApproved | None = None
    approved_at: int = 0
    earlier: list[Item] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)


class Causes:
    """Checks the cause of each fence."""

    def __init__(self, findings: Findings, scopes: Scopes, policies: Policies, due: Due) -> None:
        self._findings = findings
        self._scopes = scopes
        self._policies = policies
        self._due = due
        self._requests: dict[str, _Request] = {}
        self._rows: set[tuple[str, int]] = set()
        self._sweep: tuple[str, str] | None = None
        self.without_request = 0
        """Destructions that somebody ran without a request."""
        self.lost: list[str] = []
        """Ids of destructions whose cause was lost with the database."""

    # --- requests ------------------------------------------------------------------------------------------------

    def receive(self, event: RequestReceived) -> None:
        """Take in `request.received`."""
        if event.request in self._requests or (event.ticket, event.row) in self._rows:
            self._findings.add(
                "request-twice", f"request {event.request}, or its ticket's row {event.row}, was received before"
            )
            return
        if event.state not in _first_states(event):
            self._findings.add(
                "impossible-step",
                f"request {event.request}, to {event.kind}, cannot stand at {event.state} when it is received",
            )
        if event.waits_for is not UNSET and (event.waits_for is None) == (event.state == "awaiting-billing"):
            self._findings.add(
                "impossible-step", f"request {event.request} is {event.state}, and what it waits for says otherwise"
            )
        if moment(event.due_by) < moment(event.at):
            self._findings.add("wrong-dates", f"request {event.request} was to be answered before it was received")
        self._rows.add((event.ticket, event.row))
        over = event.state if event.state in {"refused", "done"} else None
        self._requests[event.request] = _Request(
            received=event, entry=self._findings.entry, digest=event.digest, over=over
        )

    def refuse(self, event: RequestRefused, destroy_ids: frozenset[str] | dict[str, int]) -> None:
        """Take in `request.refused`; `destroy_ids` are those of destructions so far."""
        request = self._find(event.request)
        if request is None:
            return
        at_once = request.over == "refused" and not request.refused
        request.refused = True
        if event.reason not in ENDING | VOIDING | {str(Reason.AWAITING_BILLING)}:
            self._findings.add(
                "unknown-code", f"request {event.request} is refused for {event.reason}, which is no reason"
            )
        if event.destroy_id is not None and (
            event.reason != Reason.ALREADY_DESTROYED or event.destroy_id not in destroy_ids
        ):
            self._findings.add(
                "no-fence",
                f"request {event.request} names the destruction {event.destroy_id}, which is not in the log before it",
            )
        if (event.by is None) != (event.reason in VOIDING) and event.reason in VOIDING | {"rejected"}:
            self._findings.add(
                "wrong-person",
                f"request {event.request}: {event.reason} is {'by a person' if event.by is None else 'by no person'}",
            )
        if at_once and event.by != request.received.submitted_by:
            self._findings.add(
                "wrong-person", f"request {event.request} was refused on receipt, by another than who handed it in"
            )
        if not at_once:
            self._check_open(request, "refused")
        if event.reason in VOIDING:
            if request.approval is None and not request.received.break_glass:
                self._findings.add(
                    "impossible-step", f"request {event.request} loses an approval that it did not have: {event.reason}"
                )
            self._void(request)
        elif event.reason in ENDING:
            request.over = "refused"

    def list_(self, event: RequestListed) -> None:
        """Take in `request.listed`: what is named from here on, in one piece after another."""
        request = self._find(event.request)
        if request is None:
            return
        if (
            event.piece != request.pieces
            or event.piece >= event.pieces
            or (event.piece and event.digest != request.digest)
        ):
            self._findings.add(
                "list-incomplete",
                f"request {event.request}: piece {event.piece} of {event.pieces} is not the next of its list",
            )
        request.pieces = (event.piece + 1) % event.pieces
        request.changed = request.changed or event.digest != request.digest
        request.digest = event.digest

    def move(self, event: RequestMoved) -> None:
        """Take in `request.moved`."""
        request = self._find(event.request)
        if request is None:
            return
        self._check_open(request, event.state)
        approved = request.approval is not None or request.received.break_glass
        if approved == (event.state == "awaiting-approval"):
            self._findings.add(
                "impossible-step",
                f"request {event.request} is {event.state}, and was {'approved' if approved else 'not approved'}",
            )
        if event.state == "done":
            request.over = "done"

    def approve(self, event: RequestApproved) -> None:
        """Take in `request.approved`."""
        request = self._find(event.request)
        if request is None:
            return
        if not (request.over == "done" and request.received.break_glass and request.approval is None):
            self._check_open(request, "approved")
        if event.digest != request.digest:
            self._findings.add(
                "other-list", f"request {event.request} was approved for another list than the one that was put down"
            )
        same = event.approved_by == request.received.submitted_by
        if same != (event.approvals == 1):
            self._findings.add(
                "same-person",
                f"request {event.request} has {event.approvals} approvals, {'one person' if same else 'two people'} behind it",
            )
        if request.received.break_glass and same:
            self._findings.add(
                "same-person", f"request {event.request} was executed first, and signed by the same person"
            )
        if event.state == "done" and not request.received.break_glass:
            self._findings.add("impossible-step", f"request {event.request} was done before it was approved")
        request.approval, request.approved_at = event, self._findings.entry

    def cancel(self, event: RequestCancelled) -> None:
        """Take in `request.cancelled`."""
        request = self._find(event.request)
        if request is not None:
            self._check_open(request, "cancelled")
            request.over = "cancelled"

    def _find(self, request_id: str) -> _Request | None:
        request = self._requests.get(request_id)
        if request is None:
            self._findings.add("no-request", f"request {request_id} is named, and no entry before has received it")
        return request

    def _check_open(self, request: _Request, what: str) -> None:
        if request.over is not None:
            self._findings.add(
                "impossible-step", f"request {request.received.request} is {what}, and was {request.over}"
            )

    def _void(self, request: _Request) -> None:
        request.changed, request.approval = True, None
        request.earlier += request.items
        request.items = []

    # --- fences --------------------------------------------------------------------------------------------------

    def check_fence(self, event: DestroyFenced, items: Sequence[Item]) -> None:
        """Note what is wrong with the cause of a fence, before its scopes and records are marked."""
        if event.approvals == 0 and event.reason == LOST and event.request is None and event.approved_by is None:
            self.lost.append(event.destroy_id)
            if event.policy not in {POLICY_VERSION, self._policies.current.version}:
                self._other_policy(event)
        elif event.approvals == 0:
            self._check_rule(event, items)
        elif event.request is not None:
            self._check_request(event, event.request, items)
        elif event.approvals == 1 and event.approved_by is None and event.policy == POLICY_VERSION:
            self.without_request += 1
        else:
            self._no_cause(event, "it says that it was approved, and names no request")

    def _check_rule(self, event: DestroyFenced, items: Sequence[Item]) -> None:
        if event.request is not None or event.approved_by is not None:
            self._no_cause(event, "the policy's rule is said to ask for it, and yet a request or an approval is named")
        if self._policies.since is None or event.policy != self._policies.current.version:
            self._other_policy(event)
        by = event.ticket, event.requested_by
        self._sweep = self._sweep or by
        if self._sweep != by:
            self._no_cause(
                event, "it was not run by the sweep: its ticket or its requester is another than in the log's first"
            )
        at = moment(event.at)
        for number, tag in items:
            reasons = self._due.reason_at(number, tag or None, at)
            if event.reason not in reasons:
                why = f"only for {', '.join(sorted(reasons))}" if reasons else "not"
                self._findings.add(
                    "not-due",
                    f"destruction {event.destroy_id} says {event.reason} of {self._what(number, tag)}, which was {why} due at {event.at}",
                )

    def _check_request(self, event: DestroyFenced, request_id: str, items: Sequence[Item]) -> None:
        request = self._find(request_id)
        if request is None:
            return
        received = request.received
        if event.policy != self._policies.current.version:
            self._other_policy(event)
        self._check_open(request, "carried out")
        if received.kind not in CARRIED_OUT:
            self._no_cause(event, f"its request {request_id} is to {received.kind}, which destroys nothing")
        said = event.ticket, event.requested_by, event.reason
        if said != (received.ticket, received.submitted_by, received.reason or DEFAULT_REASON):
            self._no_cause(event, f"its ticket, requester or reason is another than that of its request {request_id}")
        if (event.approvals, event.approved_by) not in _approvals(request):
            self._no_cause(event, f"its request {request_id} was not approved like that before")
        request.items += items

    def _other_policy(self, event: DestroyFenced) -> None:
        self._findings.add(
            "other-policy",
            f"destruction {event.destroy_id} rests on policy {event.policy!r}, and {self._policies.current.version!r} was in force",
        )

    def _no_cause(self, event: DestroyFenced, message: str) -> None:
        self._findings.add("no-cause", f"destruction {event.destroy_id}: {message}")

    def _what(self, number: int, tag: str) -> str:
        scope = f"scope {self._scopes.commitments[number]}"
        return f"record {tag} of {scope}" if tag else scope

    # --- at the end ----------------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Note what only the whole log shows: what was destroyed for a request that its approval was not for."""
        for request_id, request in self._requests.items():
            if request.received.state == "refused" and not request.refused:
                self._findings.add(
                    "impossible-step", f"request {request_id} was refused, and no entry says why", entry=request.entry
                )
            if request.items:
                self._check_list(request_id, request)

    def owed(self) -> list[str]:
        """Return the ids of requests that were executed under break-glass, and that nobody has signed yet."""
        return [name for name, found in self._requests.items() if found.received.break_glass and found.approval is None]

    def _check_list(self, request_id: str, request: _Request) -> None:
        """Compare what was destroyed with the list that was approved; others of a list may be still to go, or have gone otherwise before."""
        done = [*request.earlier, *request.items]
        whole = sum(not tag for _, tag in done)
        counts, said = (whole, len(done) - whole), (request.received.scopes, request.received.records)
        matches = request.digest in {self._digest(request, request.items), self._digest(request, done)}
        too_many = any(count > named for count, named in zip(counts, said, strict=True))
        if not request.changed and (too_many or matches != (counts == said)):
            self._findings.add(
                "other-list",
                f"request {request_id}: what was destroyed for it is not the list whose digest was approved",
                entry=request.approved_at or request.entry,
            )

    def _digest(self, request: _Request, items: Sequence[Item]) -> str:
        keys = [(_bytes(self._scopes.ids[number]), _bytes(tag)) for number, tag in items]
        return b64(digest_of(_bytes(request.received.request), request.received.kind, keys))


def _first_states(event: RequestReceived) -> frozenset[str]:
    """Return where such a request may stand when it is received."""
    if event.break_glass:
        return frozenset({"approved"}) if event.kind in CARRIED_OUT else frozenset()
    if event.kind in CARRIED_OUT:
        return frozenset({"awaiting-approval", "awaiting-billing", "refused"})
    return frozenset({"refused", "done"}) if event.kind is RequestKind.UNDELETE else frozenset({"refused"})


def _approvals(request: _Request) -> set[tuple[int, str | None]]:
    """Return what a fence for this request may say of its approvals: what is signed afterwards may say neither yet."""
    allowed: set[tuple[int, str | None]] = set()
    if request.received.break_glass:
        allowed.add((1, None))
    if request.approval is not None:
        two = request.approval.approvals == 2  # noqa: PLR2004 - people
        allowed.add((2, request.approval.approved_by) if two else (1, None))
    return allowed


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
