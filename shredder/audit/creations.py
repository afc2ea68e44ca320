"""Creations of scopes in columns: what a million entries `scope.created` say, in the least that the fold needs of it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from keyvault.events import POLICY_VERSION
from shredder.audit.columns import column_of
from shredder.audit.events import ScopeCreated
from shredder.audit.forms import (
    CLOCK_STEP,
    are_bytes_16,
    are_bytes_32,
    are_instants,
    are_uuids,
    moment,
)
from shredder.audit.profiles import ProfileKey, profile_of

MINUTE = len("2026-11-24T20:43")


@dataclass(frozen=True, kw_only=True, slots=True)
class Creations:
    """Scopes that entries one behind the other created. None of them was made earlier than one before it by more than `CLOCK_STEP`.

    Columns have a text an entry, with a line feed between two: `events` their ids, `scopes` the commitments, `ids` and `accounts` those of the
    scopes. `stated`: what the entries state of the scopes, each once; `places`: the place in it of each entry's. `problems`: the place of each
    scope that cannot have been created then, and why. `first_at` and `last_at`: `at` of the first and the last entry. `in_rings`: how
    many came to be in rings, minute by minute (`2026-11-24T20:43`) in the order of the entries.
    """

    count: int
    events: bytes
    scopes: bytes
    ids: bytes
    accounts: bytes
    stated: Sequence[ProfileKey]
    places: Sequence[int]
    problems: Sequence[tuple[int, str]]
    first_at: str
    last_at: str
    in_rings: Sequence[tuple[str, int]]


def runs_of(created: Sequence[ScopeCreated]) -> Iterator[Creations]:
    """Put what entries say, in their order, into columns: all into the same if their times allow it. `ValueError` says which form is wrong."""
    ats = [event.at for event in created]
    if not are_instants(ats):
        raise ValueError("its `at` is no instant as it is written here")
    if len(created) > 1 and ats != sorted(ats) and moment(max(ats)) - moment(min(ats)) > CLOCK_STEP:
        for event in created:
            yield from runs_of([event])
    elif created:
        yield _run_of(created, ats)


def _run_of(created: Sequence[ScopeCreated], ats: Sequence[str]) -> Creations:
    count = len(created)
    events = column_of([event.id for event in created])
    scopes = column_of([event.scope for event in created])
    ids = column_of([event.scope_id for event in created])
    accounts = column_of([event.account for event in created])
    if not (
        are_bytes_32(accounts, count)
        and are_bytes_32(scopes, count)
        and are_bytes_16(ids, count)
        and are_uuids(events, count)
    ):
        raise ValueError("one of account, scope, scope_id and id has not the form that it must have")
    if not all([event.policy == POLICY_VERSION for event in created]):  # noqa: C419 - a list is faster
        raise ValueError(f"its policy is {POLICY_VERSION}, whatever policy is in force")
    stated = [(event.kind, event.period, event.due_at, event.custody, event.generation) for event in created]
    places = {key: place for place, key in enumerate(dict.fromkeys(stated))}
    for _, _, due_at, _, _ in places:
        if due_at is not None:
            moment(due_at)
    return Creations(
        count=count,
        events=events,
        scopes=scopes,
        ids=ids,
        accounts=accounts,
        stated=list(places),
        places=list(map(places.__getitem__, stated)),
        problems=_problems(stated, places, ats),
        first_at=ats[0],
        last_at=ats[-1],
        in_rings=_in_rings(created, ats),
    )


def _problems(
    stated: Sequence[ProfileKey], different: Iterable[ProfileKey], ats: Sequence[str]
) -> list[tuple[int, str]]:
    """Return the place of each scope that cannot have been created then, and why."""
    ends = min(ats), max(ats)
    if all(profile_of(key).problem_at(end) is None for key in different for end in ends):
        return []
    problems = [profile_of(key).problem_at(at) for key, at in zip(stated, ats, strict=True)]
    return [(place, problem) for place, problem in enumerate(problems) if problem is not None]


def _in_rings(created: Sequence[ScopeCreated], ats: Sequence[str]) -> list[tuple[str, int]]:
    minutes = [at[:MINUTE] for event, at in zip(created, ats, strict=True) if event.custody == "ring"]
    return [(minute, len(list(group))) for minute, group in groupby(minutes)]
