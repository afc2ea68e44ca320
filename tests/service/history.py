"""What clients, and whoever destroyed and suspended meanwhile, did; and what is wrong in it: nothing, when all is well. Pure.

All calls are stamped by a clock that the processes of one machine share. Only what is certain is reported: a call's effect lies somewhere
between its start and its end, so a success counts as too late when even its start was.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Outcome = Literal["ok", "refused", "unavailable"]
GONE = frozenset({"ScopeFencedError", "ScopeDestroyedError"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One item of a call, under `scopes` by name. `start` and `end` in seconds of CLOCK_BOOTTIME; `error` the class of a refusal.

    `of` names the thing that was sealed or opened.
    """

    who: str
    op: str
    start: float
    end: float
    scopes: tuple[str, ...]
    record: str | None = None
    outcome: Outcome = "ok"
    error: str | None = None
    of: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fence:
    """A destruction of a scope, or of one record of it: it was committed after `start`, and not after `fenced_at`."""

    scope: str
    record: str | None = None
    start: float
    fenced_at: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Suspension:
    """A scope was suspended by a call between `start` and `end`, and resumed by one between `resume_start` and `resume_end`."""

    scope: str
    start: float
    end: float
    resume_start: float
    resume_end: float


@dataclass(frozen=True, kw_only=True)
class History:
    """All calls, and what they are judged by. `bound`: a lease and the skew, in seconds; `unknown`: scopes that were never created."""

    calls: Sequence[Call]
    fences: Sequence[Fence]
    suspensions: Sequence[Suspension] = ()
    bound: float
    unknown: Collection[str] = ()

    def fences_of(self, call: Call) -> list[Fence]:
        return [
            fence
            for scope in call.scopes
            for fence in self._fenced.get(scope, ())
            if fence.record in {None, call.record}
        ]

    def suspensions_of(self, call: Call) -> list[Suspension]:
        return [each for each in self.suspensions if each.scope in call.scopes]

    @cached_property
    def _fenced(self) -> Mapping[str, list[Fence]]:
        found: dict[str, list[Fence]] = {}
        for fence in self.fences:
            found.setdefault(fence.scope, []).append(fence)
        return found

    @cached_property
    def first_asked(self) -> Mapping[tuple[tuple[str, ...], str | None], float]:
        """When somebody first asked for a key under the same scopes and record: what nobody asked for, nobody can have kept."""
        found: dict[tuple[tuple[str, ...], str | None], float] = {}
        for call in self.calls:
            place = call.scopes, call.record
            found[place] = min(call.start, found.get(place, call.start))
        return found


def used_after_the_bound(history: History) -> list[str]:
    """Find keys that were handed out, or used from a cache, after the fence and the last lease (G3)."""
    return [
        _told(call, fence.scope, call.start - fence.fenced_at, "after its fence")
        for call in _successes(history)
        for fence in history.fences_of(call)
        if call.start > fence.fenced_at + history.bound
    ]


def used_after_the_fence_by_nobodys_lease(history: History) -> list[str]:
    """Find keys that were handed out after the fence although no lease from before can have been behind them (G3).

    Nobody keeps what nobody asked for before the fence; and a key is never moved (`rewrap`) by what was kept.
    """
    return [
        _told(call, fence.scope, call.start - fence.fenced_at, "without a lease, after its fence")
        for call in _successes(history)
        for fence in history.fences_of(call)
        if call.start > fence.fenced_at
        and (call.op == "rewrap" or history.first_asked[call.scopes, call.record] > fence.fenced_at)
    ]


def used_while_suspended(history: History) -> list[str]:
    """Find keys that were handed out after a suspension and the last lease, while nothing had resumed the scope (G2)."""
    return [
        _told(call, each.scope, call.start - each.end, "after it was suspended")
        for call in _successes(history)
        for each in history.suspensions_of(call)
        if call.start > each.end + history.bound and call.end < each.resume_start
    ]


def refused_for_no_reason(history: History) -> list[str]:
    """Find refusals whose reason was not so when they were given."""
    return [
        f"{call.who}: {call.op} of {call.scopes} was refused with {call.error}, which was not so"
        for call in history.calls
        if call.outcome == "refused" and not _is_fit(call, history)
    ]


def unanswered(calls: Iterable[Call], op: str, things: Collection[str]) -> list[str]:
    """Find things for which an operation was never answered by success or refusal, or more than once by success."""
    settled: dict[str, int] = {}
    succeeded: dict[str, int] = {}
    for call in calls:
        if call.op == op and call.outcome != "unavailable":
            settled[call.of] = settled.get(call.of, 0) + 1
            succeeded[call.of] = succeeded.get(call.of, 0) + (call.outcome == "ok")
    return [f"{op} of {thing} was never answered" for thing in things if thing not in settled] + [
        f"{op} of {thing} was answered {count} times with success" for thing, count in succeeded.items() if count > 1
    ]


def faults(history: History) -> list[str]:
    """Return everything that is wrong."""
    return (
        used_after_the_bound(history)
        + used_after_the_fence_by_nobodys_lease(history)
        + used_while_suspended(history)
        + refused_for_no_reason(history)
    )


def line(call: Call) -> str:
    """Return a call as a line of a file."""
    return json.dumps(dataclasses.asdict(call), separators=(",", ":")) + "\n"


def parse(text: str) -> Call:
    """Read what `line` wrote."""
    fields = json.loads(text)
    return Call(**{**fields, "scopes": tuple(fields["scopes"])})


def _successes(history: History) -> Iterable[Call]:
    return (call for call in history.calls if call.outcome == "ok")


def _is_fit(call: Call, history: History) -> bool:
    if call.error in GONE:
        return any(fence.start < call.end for fence in history.fences_of(call))
    if call.error == "ScopeSuspendedError":
        return any(each.start < call.end and call.start < each.resume_end for each in history.suspensions_of(call))
    if call.error == "UnknownScopeError":
        return any(scope in history.unknown for scope in call.scopes)
    return False


def _told(call: Call, scope: str, seconds: float, when: str) -> str:
    return f"{call.who}: {call.op} of {call.of} used {scope} {seconds:.4f} s {when}"
