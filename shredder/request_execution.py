"""Carrying out what was approved, in groups, through the destruction protocol. Whoever comes next finishes what a crash left.

Until a request is done it stays `approved`, and running it again destroys what is left of exactly the same list.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
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
from shredder.fence import LIVE, Cause, StillDue
from shredder.policy import Policy, Requester, RequestKind
from shredder.request_events import listed, moved
from shredder.request_targets import Found, digest_of, find_again, find_left, left_of, types_left
from shredder.requests import APPROVAL_EXPIRED, LIST_CHANGED, RequestState

Progress = Callable[[int], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Execution:
    """What came of one request. `state`: where it stands now; `refusal`: why it was not carried out; `error`: what stopped it.

    With a refusal and `outcomes`, facts came in while it was carried out: what was not fenced by then was left alone.
    """

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
        standing = "unknown" if row is None else row.state
        raise RequestError(
            f"request {request_id.hex()} is {standing}, and nothing is to be carried out: see `keyvault request show`"
        )
    stopped = _check_approval(home, policy, row, items) or _check_policy(home, policy, row, items)
    if stopped is not None:
        return stopped
    gate = _Gate(policy=policy, row=row, types=types_left(home, policy, row, items))
    outcomes = _destroy(home, items, _cause(row, policy), gate, progress)
    if any(outcome.error is not None for outcome in outcomes):
        return _unfinished(home, policy, row, items, outcomes)
    home.database.write(partial(_step, home=home, policy=policy, row=row, state=RequestState.DONE))
    return Execution(request=row.id, state=RequestState.DONE, outcomes=outcomes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gate:
    """Asked in the transaction of each fence whether the approval and the facts still say so; else the whole group stays.

    The request and the accounts' facts stay as they are until that transaction ends. An account without facts is active, which lets
    nothing go that facts could save. `types` are those of the scopes, by id.
    """

    policy: Policy
    row: RequestRow
    types: Mapping[bytes, str]

    def scopes(self, connection: Connection, ids: Collection[bytes]) -> Collection[bytes]:
        """Answer for whole scopes."""
        return ids if self._open(connection, [(scope, b"") for scope in ids]) else ()

    def records_of(self, scope_id: bytes) -> StillDue:
        """Return what answers for records of a scope."""

        def records(connection: Connection, tags: Collection[bytes]) -> Collection[bytes]:
            return tags if self._open(connection, [(scope_id, tag) for tag in tags]) else ()

        return records

    def _open(self, connection: Connection, keys: Sequence[ItemKey]) -> bool:
        current = request_store.by_id(connection, self.row.id, lock=True)
        if current is None or (current.state, current.digest) != (self.row.state, self.row.digest):
            return False
        found = left_of(connection, policy=self.policy, request=self.row, items=keys, types=self.types, keep=True)
        return _verdict(self.policy, self.row, found).decision is Decision.CARRY_OUT


def _unfinished(
    home: Home, policy: Policy, row: RequestRow, items: Sequence[ItemKey], outcomes: Sequence[Outcome]
) -> Execution:
    """Say where a request stands of which something is left: by its facts it may be over, or wait; else it stays approved."""
    current = home.database.read(lambda connection: request_store.by_id(connection, row.id)) or row
    if current.state != row.state:
        return Execution(request=row.id, state=RequestState(current.state), outcomes=outcomes, refusal=current.refusal)
    stopped = _check_policy(home, policy, row, items)
    if stopped is None:
        return Execution(request=row.id, state=RequestState.APPROVED, outcomes=outcomes)
    return replace(stopped, outcomes=outcomes)


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
    home.database.write(partial(_step, home=home, policy=policy, row=row, state=state))
    return Execution(request=row.id, state=state)


def _step(connection: Connection, *, home: Home, policy: Policy, row: RequestRow, state: RequestState) -> None:
    """Move a request on, where nobody refuses, approves or cancels it, with its event."""
    now = home.clock.now()
    if _move(connection, row=row, state=state, at=now):
        outbox.append(connection, [moved(row.id, str(state), at=now, policy=policy.version)])


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
    return _wait(home, policy, row, verdict) if verdict.decision is Decision.WAIT else None


def _wait(home: Home, policy: Policy, row: RequestRow, verdict: Verdict) -> Execution:
    """Let an approved request wait for billing; its approval stays."""
    state, reason = RequestState.AWAITING_BILLING, str(verdict.reason)

    def work(connection: Connection) -> None:
        now = home.clock.now()
        if _move(connection, row=row, state=state, refusal=reason, at=now):
            _tell(connection, policy=policy, row=row, state=state, reason=reason, at=now)

    home.database.write(work)
    return Execution(request=row.id, state=state, refusal=reason)


def _void(
    home: Home, policy: Policy, row: RequestRow, state: RequestState, reason: str, *, found: Found | None = None
) -> Execution:
    def work(connection: Connection) -> None:
        now = home.clock.now()
        columns: dict[str, Any] = {"approved_by": None, "approved_at": None}
        if found is not None:
            columns["digest"] = digest_of(row.id, row.kind, found.items)
        if not _move(connection, row=row, state=state, refusal=reason, at=now, **columns):
            return
        _tell(connection, policy=policy, row=row, state=state, reason=reason, at=now)
        if found is not None:
            request_store.put_items(connection, row.id, found.items)
            new = listed(home.keys, row.id, columns["digest"], found.items, at=now, policy=policy.version)
            outbox.append(connection, list(new))

    home.database.write(work)
    return Execution(request=row.id, state=state, refusal=reason)


def _refuse(home: Home, policy: Policy, row: RequestRow, verdict: Verdict, found: Found) -> Execution:
    reason = str(verdict.reason)

    def work(connection: Connection) -> None:
        now, state = home.clock.now(), RequestState.REFUSED
        if _move(connection, row=row, state=state, refusal=reason, at=now):
            _tell(
                connection, policy=policy, row=row, state=state, reason=reason, at=now, destroyed_by=found.destroyed_by
            )

    home.database.write(work)
    return Execution(request=row.id, state=RequestState.REFUSED, refusal=reason)


def _move(
    connection: Connection,
    *,
    row: RequestRow,
    state: RequestState,
    at: datetime,
    refusal: str | None = None,
    **columns: Any,
) -> bool:
    """Change a request's state; return False where another run has done so. Raises `RequestError` when it was changed otherwise."""
    current = request_store.by_id(connection, row.id, lock=True)
    if current is None or current.state not in {row.state, state}:
        raise RequestError(f"request {row.id.hex()} was changed meanwhile by somebody else: look at it again")
    if current.state != row.state:
        return False
    over = state in {RequestState.DONE, RequestState.REFUSED}
    ended = at if over else None
    request_store.change(connection, row.id, state=str(state), refusal=refusal, ended_at=ended, **columns)
    return True


def _tell(
    connection: Connection,
    *,
    policy: Policy,
    row: RequestRow,
    state: RequestState,
    reason: str,
    at: datetime,
    destroyed_by: bytes | None = None,
) -> None:
    payload: dict[str, Value] = {
        "request": b64(row.id),
        "reason": reason,
        "state": str(state),
        "by": None,
        "destroy_id": None if destroyed_by is None else b64(destroyed_by),
    }
    event = make_event(EventType.REQUEST_REFUSED, payload, at=at, policy=policy.version)
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


def _destroy(
    home: Home, items: Sequence[ItemKey], cause: Cause, gate: _Gate, progress: Progress | None
) -> list[Outcome]:
    destroyer = Destroyer(home)
    outcomes: list[Outcome] = []
    whole = [scope for scope, tag in items if not tag]
    for group in chunks(whole, BATCH):
        rows = home.database.read(partial(scope_store.by_id, ids=group))
        outcomes += destroyer.destroy_rows(list(rows.values()), cause, progress, gate.scopes)
    for scope in dict.fromkeys(scope for scope, tag in items if tag):
        tags = [tag for of, tag in items if of == scope and tag]
        row = home.database.read(partial(scope_store.by_id, ids=[scope]))[scope]
        outcomes += _destroy_records(destroyer, row, tags, cause, gate=gate, progress=progress)
    return outcomes


def _destroy_records(
    destroyer: Destroyer,
    row: ScopeRow,
    tags: Sequence[bytes],
    cause: Cause,
    *,
    gate: _Gate,
    progress: Progress | None,
) -> list[Outcome]:
    """Destroy records; where their whole month was destroyed meanwhile, they are gone with it."""
    if row.state in LIVE:
        return destroyer.destroy_tags(row, tags, cause, progress, gate.records_of(row.id))
    (outcome,) = destroyer.destroy_rows([row], cause, progress)
    return [Outcome(scope_id=row.id, record_tag=tag, at=outcome.at, error=outcome.error) for tag in tags]
