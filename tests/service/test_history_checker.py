"""The checker of histories sees what it is there to see, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.service import history
from tests.service.history import Call, Fence, History, Suspension

A, B = "consumer/acct-1/ada", "communications/acct-1/2026-10"
FENCE = Fence(scope=A, start=10, fenced_at=11)
RECORD = Fence(scope=B, record="r-1", start=10, fenced_at=11)
SUSPENDED = Suspension(scope=A, start=10, end=11, resume_start=20, resume_end=21)


def call(start: float, end: float, *scopes: str, op: str = "seal", **fields: Any) -> Call:
    return Call(who="w", op=op, start=start, end=end, scopes=scopes or (A,), **fields)


def made(*calls: Call, **fields: Any) -> History:
    return History(calls=calls, bound=3, **{"fences": [FENCE, RECORD], **fields})


@pytest.mark.parametrize(
    ("late", "wrong"),
    [
        (call(14.1, 14.2), 1),
        (call(14.1, 14.2, op="open"), 1),
        (call(14.1, 14.2, B, A), 1),
        (call(14.1, 14.2, B, record="r-1"), 1),
        (call(13.9, 20.0), 0),
        (call(14.1, 14.2, B, record="r-2"), 0),
        (call(14.1, 14.2, B), 0),
        (call(14.1, 14.2, outcome="refused", error="ScopeDestroyedError"), 0),
        (call(14.1, 14.2, outcome="unavailable", error="Unavailable"), 0),
    ],
)
def test_a_key_after_the_bound_is_found(late: Call, wrong: int) -> None:
    known_before = call(1, 2, *late.scopes, record=late.record)
    assert len(history.used_after_the_bound(made(known_before, late))) == wrong
    assert len(history.faults(made(known_before, late))) == wrong


@pytest.mark.parametrize(
    ("calls", "wrong"),
    [
        ([call(11.1, 12)], 1),
        ([call(11.1, 12, B, record="r-1")], 1),
        ([call(1, 2, B, A), call(11.1, 12, A)], 1),
        ([call(1, 2, A, record="r-2"), call(11.1, 12, A)], 1),
        ([call(1, 2), call(11.1, 12, op="rewrap")], 1),
        ([call(11.1, 12), call(1, 2)], 0),
        ([call(10.9, 12)], 0),
        ([call(1, 2), call(10.9, 12, op="rewrap")], 0),
        ([call(11.1, 12, B, record="r-2")], 0),
    ],
)
def test_a_key_after_the_fence_that_no_lease_explains_is_found(calls: list[Call], wrong: int) -> None:
    assert len(history.used_after_the_fence_by_nobodys_lease(made(*calls))) == wrong
    assert len(history.faults(made(*calls))) == wrong


@pytest.mark.parametrize(
    ("used", "wrong"),
    [
        (call(14.1, 14.2), 1),
        (call(14.1, 14.2, B, A), 1),
        (call(13.9, 14.2), 0),
        (call(14.1, 20.5), 0),
        (call(22.0, 23.0), 0),
        (call(14.1, 14.2, B), 0),
    ],
)
def test_a_key_of_a_suspended_scope_is_found(used: Call, wrong: int) -> None:
    judged = made(used, fences=[], suspensions=[SUSPENDED])
    assert len(history.used_while_suspended(judged)) == wrong
    assert len(history.faults(judged)) == wrong


@pytest.mark.parametrize(
    ("told", "wrong"),
    [
        (call(1, 2, error="ScopeDestroyedError"), 1),
        (call(1, 2, error="ScopeFencedError"), 1),
        (call(9, 10.5, error="ScopeFencedError"), 0),
        (call(12, 13, error="ScopeDestroyedError"), 0),
        (call(12, 13, B, error="ScopeDestroyedError"), 1),
        (call(12, 13, B, record="r-2", error="ScopeDestroyedError"), 1),
        (call(12, 13, B, record="r-1", error="ScopeDestroyedError"), 0),
        (call(1, 2, error="ScopeSuspendedError"), 1),
        (call(12, 13, error="ScopeSuspendedError"), 0),
        (call(22, 23, error="ScopeSuspendedError"), 1),
        (call(12, 13, B, error="ScopeSuspendedError"), 1),
        (call(1, 2, error="AlreadyDueError"), 1),
        (call(1, 2, error="UnknownScopeError"), 1),
        (call(1, 2, "made-up", error="UnknownScopeError"), 0),
        (call(12, 13, error="IncidentError"), 1),
        (call(12, 13, error="DecryptionFailedError"), 1),
    ],
)
def test_a_refusal_without_its_reason_is_found(told: Call, wrong: int) -> None:
    refused = Call(**{**{name: getattr(told, name) for name in Call.__slots__}, "outcome": "refused"})
    judged = made(refused, suspensions=[SUSPENDED], unknown={"made-up"})
    assert len(history.refused_for_no_reason(judged)) == wrong
    assert len(history.faults(judged)) == wrong


def test_what_was_never_answered_or_answered_twice_is_found() -> None:
    calls = [call(1, 2, of="a"), call(3, 4, of="a"), call(1, 2, of="b", outcome="refused", error="AlreadyDueError")]
    calls.append(call(1, 2, of="c", outcome="unavailable", error="Unavailable"))
    assert history.unanswered(calls, "seal", ["b"]) == ["seal of a was answered 2 times with success"]
    assert len(history.unanswered(calls, "seal", ["b", "c", "d"])) == 3
    assert len(history.unanswered(calls, "open", ["a"])) == 1


def test_a_call_is_read_back() -> None:
    one = call(1, 2.5, A, B, record="r", outcome="refused", error="ScopeDestroyedError", of="message 1")
    assert history.parse(history.line(one)) == one
