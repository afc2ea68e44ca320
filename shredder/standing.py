"""Standing: scopes are suspended while facts about their subject say so, and resumed when none says so any more. No key is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from sqlalchemy.engine import Connection

from keyvault.events import POLICY_VERSION, EventType, b64, make_event
from keyvault.home import Home
from keyvault.states import KeyState, SuspendedBy
from keyvault.store import outbox
from keyvault.store import scopes as scope_store
from keyvault.store import subjects as subject_store
from keyvault.store.dialects import chunks
from keyvault.store.subjects import ScopeMark

GROUP = 1_000
"""Scopes that are moved in one transaction."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How many scopes were suspended, and how many resumed."""

    suspended: int = 0
    resumed: int = 0

    def __add__(self, other: Standing) -> Standing:
        return Standing(suspended=self.suspended + other.suspended, resumed=self.resumed + other.resumed)


def apply_standing(
    home: Home, subjects: Sequence[bytes] | None = None, *, policy_version: str = POLICY_VERSION
) -> Standing:
    """Suspend and resume the scopes of these subjects (ids, 32 bytes each) as facts about them say; of all, where none are given.

    In groups, each a transaction with its events, which rest on `policy_version`: after a crash the next call goes on. What a user deleted,
    what waits for its destruction, and communication records are left alone. Raises `Unavailable`.
    """
    done = Standing()
    for among in _groups(subjects):
        done += Standing(
            suspended=_all(home, partial(_suspend, home=home, among=among, policy_version=policy_version)),
            resumed=_all(home, partial(_resume, home=home, among=among, policy_version=policy_version)),
        )
    return done


def _groups(subjects: Sequence[bytes] | None) -> Iterator[Sequence[bytes] | None]:
    if subjects is None:
        yield None
    else:
        yield from chunks(sorted(set(subjects)))


def _all(home: Home, work: Callable[[Connection], int]) -> int:
    """Do `work` until there is nothing left; a group that is not full says so, unless others were at the same scopes."""
    total = 0
    while moved := home.database.write(work):
        total += moved
    return total


def _suspend(connection: Connection, *, home: Home, among: Sequence[bytes] | None, policy_version: str) -> int:
    now = home.clock.now()
    marks = subject_store.lock_suspendable(connection, now=now, among=among, limit=GROUP)
    scope_store.change_state(
        connection,
        [scope_id for scope_id, _ in marks],
        before=[KeyState.ACTIVE],
        after=KeyState.SUSPENDED,
        suspended_by=SuspendedBy.FACTS,
    )
    return _tell(connection, home, EventType.SCOPE_SUSPENDED, marks, policy_version)


def _resume(connection: Connection, *, home: Home, among: Sequence[bytes] | None, policy_version: str) -> int:
    marks = subject_store.lock_resumable(connection, among=among, limit=GROUP)
    scope_store.change_state(
        connection, [scope_id for scope_id, _ in marks], before=[KeyState.SUSPENDED], after=KeyState.ACTIVE
    )
    return _tell(connection, home, EventType.SCOPE_RESUMED, marks, policy_version)


def _tell(
    connection: Connection, home: Home, event_type: EventType, marks: Sequence[ScopeMark], policy_version: str
) -> int:
    at = home.clock.now()
    more = {"cause": SuspendedBy.FACTS.code} if event_type is EventType.SCOPE_SUSPENDED else {}
    payloads = [{"scope": b64(commitment), "scope_id": b64(scope_id), **more} for scope_id, commitment in marks]
    outbox.append(connection, [make_event(event_type, payload, at=at, policy=policy_version) for payload in payloads])
    return len(marks)
