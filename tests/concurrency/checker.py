"""Judges a history; every function returns what is wrong in it, and nothing when all is well. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from tests.concurrency.history import Call

NOT_NOW = frozenset({"ScopeSuspendedError", "ScopeFencedError", "ScopeDestroyedError"})
EXPECTED: Mapping[str, frozenset[str]] = {
    "ensure": frozenset({"ScopeFencedError", "ScopeDestroyedError"}),
    "renew": frozenset({"ScopeFencedError"}),
    "seal": NOT_NOW | {"UnknownScopeError"},
    "generate": NOT_NOW | {"UnknownScopeError"},
    "open": NOT_NOW,
    "unwrap": NOT_NOW,
    "suspend": frozenset({"UnknownScopeError", "ScopeFencedError", "ScopeDestroyedError"}),
    "resume": frozenset({"UnknownScopeError", "ScopeFencedError", "ScopeDestroyedError"}),
    # NotProvenError: another run was at the same key; that destruction stays pending, and says so.
    "shred": frozenset({"UnknownScopeError", "NotProvenError"}),
}


def keys_after_the_end(calls: Iterable[Call]) -> list[str]:
    """Find calls that used a scope's key although an earlier call had ended by reporting the scope fenced or destroyed (G3, G4)."""
    calls = list(calls)
    shut_at: dict[str, float] = {}
    for call in calls:
        for scope in call.shut:
            shut_at[scope] = min(call.end, shut_at.get(scope, call.end))
    return [
        f"{call.who}: {call.op} used {scope} {call.start - shut_at[scope]:.4f} s after its end"
        for call in calls
        for scope in call.issued
        if scope in shut_at and call.start > shut_at[scope]
    ]


def keys_while_suspended(calls: Iterable[Call]) -> list[str]:
    """Find calls that used a key after a suspension had ended, while no resumption can have come between (G2)."""
    calls = list(calls)
    moves: dict[str, dict[str, list[Call]]] = defaultdict(lambda: {"suspend": [], "resume": []})
    for call in calls:
        if call.op in {"suspend", "resume"}:
            for sighting in call.seen:
                moves[sighting.id][call.op].append(call)
    return [
        f"{call.who}: {call.op} used {scope} while it was suspended"
        for call in calls
        for scope in call.issued
        for suspension in moves[scope]["suspend"]
        if suspension.end < call.start
        and not any(move.end > suspension.start and move.start < call.end for move in moves[scope]["resume"])
    ]


def duplicates(calls: Iterable[Call]) -> list[str]:
    """Find a generation of a name that has more than one scope, and a scope that has more than one name or generation (G1)."""
    ids: dict[tuple[str, int], set[str]] = defaultdict(set)
    places: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for call in calls:
        for sighting in call.seen:
            ids[sighting.name, sighting.generation].add(sighting.id)
            places[sighting.id].add((sighting.name, sighting.generation))
    return [
        f"{name} generation {number} is {sorted(found)}" for (name, number), found in ids.items() if len(found) > 1
    ] + [f"{scope} is {sorted(found)}" for scope, found in places.items() if len(found) > 1]


def unexpected_errors(calls: Iterable[Call], allowed: Mapping[str, frozenset[str]] = EXPECTED) -> list[str]:
    """Find answers that are none of the documented ones for what was asked."""
    return [
        f"{call.who}: {call.op} answered {told}: {message}"
        for call in calls
        for told, message in zip(call.told, call.messages, strict=True)
        if told not in allowed[call.op]
    ]


def wrong_counts(what: str, events: Mapping[str, int], expected: Sequence[str]) -> list[str]:
    """Find scopes that `events` (commitment → how often) does not name exactly once, and others that it names."""
    return [
        f"{what} tells {events.get(scope, 0)} times of {scope}" for scope in expected if events.get(scope, 0) != 1
    ] + [f"{what} tells of the unknown {scope}" for scope in events if scope not in set(expected)]
