"""Carrying out what was approved, in groups, through the destruction protocol. Whoever comes next finishes what a crash left.

Until a request is done it stays `approved`, and running it again destroys what is left of exactly the same list.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy.engine import Connection

from keyvault.errors import KeyVaultError, RequestError
from keyvault.events import EventType, Value, b64, make_event
from keyvault.home import Home
from keyvault.store import outbox
from keyvault.store import requests as request_store
from keyvault.store import scopes as scope_store
from keyvault.store.dialects import chunks
from keyvault.store.requests import ItemKey, RequestRow
from keyvault.store.scopes import ScopeRow
from shredder.destroy import BATCH, DEFAULT_REASON, Destroyer
from shredder.entitlement import Decision, Verdict
from shredder.erase import Outcome
from shredder.fence import LIVE, Cause
from shredder.policy import Policy, Requester, RequestKind
from shredder.request_targets import Found, digest_of, find_again, find_left
from shredder.requests import APPROVAL_EXPIRED, LIST_CHANGED, RequestState

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """What came of one request. `state`: where it stands now; `refusal`: why it was not carried out; `error`: what stopped it."""

    request: bytes
    state: RequestState
    outcomes: Sequence[Outcome] = ()
    refusal: str | None = None
    error: KeyVaultError | None = None


def execute(home: Home, policy: Policy, request_id: bytes, progress: Progress | None = None) -> Execution:
    """Carry out one approved request, or finish it. What is done already stays as it is, without anything done twice.

    Right before, the approval is checked once more: it is void when it is too old, when the list is not the one it was given for, or
    when an account has got another scope; the policy is asked once more, too. Raises `DestructionPausedError`, `Unavailable` and what
    else the destruction protocol raises; the request then stays approved. `RequestError` for one that is not approved.
    """
    row, items = home.database.read(partial(_load, request_id=request_id))
    if row is None or row.state != RequestState.APPROVED:
        raise RequestError(f"request {request_id.hex()} is not approved: see `keyvault request show`")
    stopped = _check_approval(home, policy, row, items) or _check_policy(home, policy, row, items)
    if stopped is not None:
        return stopped
    outcomes = _destroy(home, items, _cause(row, policy), progress)
    if any(outcome.error is not None for outcome in outcomes):
        return Execution(request=row.id, state=RequestState.APPROVED, outcomes=outcomes)
    home.database.write(partial(_move, home=home, row=row, state=RequestState.DONE))
    return Execution(request=row.id, state=RequestState.DONE, outcomes=outcomes)


def execute_approved(home: Home, policy: Policy, progress: Progress | None = None) -> list[Execution]:
    """Carry out all that is approved, and what waited for billing and is billed by now. An error of one request is in its place."""
    waiting, approved = home.database.read(
        lambda connection: (
            request_store.in_states(connection, [RequestState.AWAITING_BILLING]),
            request_store.in_states(connection, [RequestState.APPROVED]),
        )
    )
    executions = []
    for row in waiting:
        moved = _caught(row, partial(_after_billing, home, policy, row))
        if moved is None:
            continue
        if moved.error is None and moved.state is RequestState.APPROVED:
            approved.append(row)
        else:
            executions.append(moved)
    return executions + [
        found for row in approved if (found := _caught(row, partial(execute, home, policy, row.id, progress)))
    ]


def _caught(row: RequestRow, work: Callable[[], Execution | None]) -> Execution | None:
    try:
        return work()
    except KeyVaultError as error:
        return Execution(request=row.id, state=RequestState(row.state), error=error)


def _after_billing(home: Home, policy: Policy, row: RequestRow) -> Execution | None:
    """Let a request go on whose usage is billed: to its execution where it is approved, else to its approval; None: it still waits."""
    items = home.database.read(lambda connection: request_store.items(connection, row.id))
    found = find_again(home, policy, row, items)
    verdict = _verdict(policy, row, found)
    if verdict.decision is Decision.WAIT:
        return None
    if verdict.decision is Decision.REFUSE:
        return _refuse(home, policy, row, verdict, found)
    state = RequestState.AWAITING_APPROVAL if row.approved_by is None else RequestState.APPROVED
    home.database.write(partial(_move, home=home, row=row, state=state))
    return Execution(request=row.id, state=state)


def _load(connection: Connection, *, request_id: bytes) -> tuple[RequestRow | None, list[ItemKey]]:
    return request_store.by_id(connection, request_id), request_store.items(connection, request_id)


def _verdict(policy: Policy, row: RequestRow, found: Found) -> Verdict:
    return found.verdict(policy, Requester(row.requester), RequestKind(row.kind))


def _check_approval(home: Home, policy: Policy, row: RequestRow, items: Sequence[ItemKey]) -> Execution | None:
    """Void an approval that does not hold any more; None when it does."""
    given = row.approved_at or row.received_at
    if given + timedelta(days=policy.approval_days) <= home.clock.now():
        return _void(home, policy, row, RequestState.EXPIRED, APPROVAL_EXPIRED)
    if digest_of(row.id, row.kind, items) != row.digest:
        return _void(home, policy, row, RequestState.AWAITING_APPROVAL, LIST_CHANGED)
    if row.account is None:
        return None
    now = find_again(home, policy, row, items)
    if set(now.items) <= set(items):
        return None
    return _void(home, policy, row, RequestState.AWAITING_APPROVAL, LIST_CHANGED, found=now)


def _check_policy(home: Home, policy: Policy, row: RequestRow, items: Sequence[ItemKey]) -> Execution | None:
    """Ask the policy about what is left to do: facts may have come in since the approval."""
    found = find_left(home, policy, row, items)
    verdict = _verdict(policy, row, found)
    if verdict.decision is Decision.REFUSE:
        return _refuse(home, policy, row, verdict, found)
    if verdict.decision is Decision.WAIT:
        home.database.write(
            partial(_move, home=home, row=row, state=RequestState.AWAITING_BILLING, refusal=str(verdict.reason))
        )
        return Execution(request=row.id, state=RequestState.AWAITING_BILLING, refusal=str(verdict.reason))
    return None


def _void(
    home: Home, policy: Policy, row: RequestRow, state: RequestState, reason: str, *, found: Found | None = None
) -> Execution:
    def work(connection: Connection) -> None:
        columns: dict[str, Any] = {"approved_by": None, "approved_at": None}
        if found is not None:
            request_store.put_items(connection, row.id, found.items)
            columns["digest"] = digest_of(row.id, row.kind, found.items)
        _move(connection, home=home, row=row, state=state, refusal=reason, **columns)
        _tell(connection, home=home, policy=policy, row=row, reason=reason)

    home.database.write(work)
    return Execution(request=row.id, state=state, refusal=reason)


def _refuse(home: Home, policy: Policy, row: RequestRow, verdict: Verdict, found: Found) -> Execution:
    reason = str(verdict.reason)

    def work(connection: Connection) -> None:
        _move(connection, home=home, row=row, state=RequestState.REFUSED, refusal=reason)
        _tell(connection, home=home, policy=policy, row=row, reason=reason, destroyed_by=found.destroyed_by)

    home.database.write(work)
    return Execution(request=row.id, state=RequestState.REFUSED, refusal=reason)


def _move(
    connection: Connection,
    *,
    home: Home,
    row: RequestRow,
    state: RequestState,
    refusal: str | None = None,
    **columns: Any,
) -> None:
    """Change a request's state, unless another run, or a person, was faster."""
    current = request_store.by_id(connection, row.id, lock=True)
    if current is None or current.state not in {row.state, state}:
        raise RequestError(f"request {row.id.hex()} was changed meanwhile by somebody else: look at it again")
    over = state in {RequestState.DONE, RequestState.REFUSED}
    ended = home.clock.now() if over else None
    request_store.change(connection, row.id, state=str(state), refusal=refusal, ended_at=ended, **columns)


def _tell(
    connection: Connection,
    *,
    home: Home,
    policy: Policy,
    row: RequestRow,
    reason: str,
    destroyed_by: bytes | None = None,
) -> None:
    payload: dict[str, Value] = {
        "request": b64(row.id),
        "reason": reason,
        "by": None,
        "destroy_id": None if destroyed_by is None else b64(destroyed_by),
    }
    event = make_event(EventType.REQUEST_REFUSED, payload, at=home.clock.now(), policy=policy.version)
    outbox.append(connection, [event])


def _cause(row: RequestRow, policy: Policy) -> Cause:
    second = row.approved_by if row.approved_by != row.submitted_by else None
    return Cause(
        reason=row.code or DEFAULT_REASON,
        ticket=row.ticket,
        requested_by=row.submitted_by,
        approved_by=second,
        approvals=1 if second is None else 2,
        request=row.id,
        policy=policy.version,
    )


def _destroy(home: Home, items: Sequence[ItemKey], cause: Cause, progress: Progress | None) -> list[Outcome]:
    destroyer = Destroyer(home)
    outcomes: list[Outcome] = []
    whole = [scope for scope, tag in items if not tag]
    for group in chunks(whole, BATCH):
        rows = home.database.read(partial(scope_store.by_id, ids=group))
        outcomes += destroyer.destroy_rows(list(rows.values()), cause, progress)
    for scope in dict.fromkeys(scope for scope, tag in items if tag):
        tags = [tag for of, tag in items if of == scope and tag]
        row = home.database.read(partial(scope_store.by_id, ids=[scope]))[scope]
        outcomes += _destroy_records(destroyer, row, tags, cause, progress)
    return outcomes


def _destroy_records(
    destroyer: Destroyer, row: ScopeRow, tags: Sequence[bytes], cause: Cause, progress: Progress | None
) -> list[Outcome]:
    """Destroy records; where their whole month was destroyed meanwhile, they are gone with it."""
    if row.state in LIVE:
        return destroyer.destroy_tags(row, tags, cause, progress)
    (outcome,) = destroyer.destroy_rows([row], cause, progress)
    return [Outcome(scope_id=row.id, record_tag=tag, at=outcome.at, error=outcome.error) for tag in tags]
