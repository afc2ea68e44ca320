"""What travels to and from those who report facts and hand in requests, beside the types of `keyvault.service.wire`."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from msgspec import Meta, Raw, field

from keyvault.service.wire import Answered, Asked, Batch, ErrorAnswer, ItemProblem
from shredder.fact_lines import FIELDS, FORMS
from shredder.facts import MAX_WAIT
from shredder.policy import Requester, RequestKind
from shredder.requests import RequestState

MAX_SUBMISSIONS = 1_000
"""Requests of one call: each is read, judged and committed by itself."""
MAX_PAGE = 1_000
MAX_WAIT_HOURS = int(MAX_WAIT.total_seconds()) // 3_600

_FACT: dict[str, Any] = {
    "type": "object",
    "description": "One fact, as a line of a file of facts has it.",
    "properties": {
        **{name: {"type": "string"} for name in FIELDS},
        "type": {"enum": list(FORMS)},
        "year": {"type": ["string", "integer"]},
    },
    "required": ["type", "at"],
    "additionalProperties": False,
}

Fact = Annotated[Raw, Meta(extra_json_schema=_FACT)]
"""Read as a line of a file is, so that what is wrong with one is said of that one."""


class Facts(Asked):
    """Facts to record. `strict`: all or, if any is malformed, none. `wait_hours`: how long what they make due waits, if not as the policy says."""

    facts: Batch[Fact]
    strict: bool = False
    wait_hours: Annotated[int, Meta(ge=0, le=MAX_WAIT_HOURS)] | None = None


class FactsAnswer(Answered):
    """What became of facts. `known`: reported before, or superseded by a later one. `malformed`: those that were not recorded."""

    new: int
    known: int
    subjects_changed: int
    scopes_suspended: int
    scopes_resumed: int
    malformed: list[ItemProblem]


class SubmissionItem(Asked, kw_only=True):
    """What somebody asks for: scopes, or records of one account-month, or everything of an account. `reason`: a code."""

    ticket: str
    row: int = 1
    requester: Annotated[str, Meta(extra_json_schema={"enum": list(Requester)})] = field(name="from")
    kind: Annotated[str, Meta(extra_json_schema={"enum": list(RequestKind)})]
    scopes: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    account: str | None = None
    reason: str | None = None


class Submissions(Asked):
    """Requests to hand in."""

    requests: Annotated[list[SubmissionItem], Meta(min_length=1, max_length=MAX_SUBMISSIONS)]


class RequestAnswer(Answered):
    """A request, as `keyvault request show --json` has it, or its error. `reason`: why it is refused, as a code; `reply`: what to send back."""

    id: str | None = None
    state: RequestState | None = None
    kind: str | None = None
    requester: str | None = field(name="from", default=None)
    reason: str | None = None
    text: str | None = None
    reply: str | None = None
    destroy_id: str | None = None
    code: str | None = None
    scopes: int | None = None
    records: int | None = None
    accounts: int | None = None
    kinds: dict[str, int] | None = None
    irreversible: bool | None = None
    received_at: datetime | None = None
    due_by: datetime | None = None
    approved_at: datetime | None = None
    ended_at: datetime | None = None
    break_glass: bool | None = None
    owes_approval: bool | None = None
    error: ErrorAnswer | None = None


class RequestAnswers(Answered):
    """An answer a submission."""

    requests: list[RequestAnswer]


class RequestFilter(Asked):
    """Which requests to list: those that are open and those that owe an approval, or those in one state, or all; or what is overdue of them.

    `after`: the id of the last one that was listed before.
    """

    state: RequestState | None = None
    all: bool = False
    overdue: bool = False
    after: str | None = None
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 100


class RequestPage(Answered):
    """Requests, the first due in front. `next`: what to give as `after` for more of them; left out when there are none."""

    requests: list[RequestAnswer]
    next: str | None = None


class RequestName(Asked):
    """A request's id: 32 hexadecimal digits."""

    id: str
