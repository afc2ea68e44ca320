"""A real home's log: it verifies, and whatever is changed in it is found, unless nobody could know it from the log."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from keyvault.events import EventType, canonical, instant
from shredder.audit.events import STRUCTS
from shredder.audit.fold import Fold, Ledger
from tests.entries import shown
from tests.histories import end_of, make_history

ANYWHERE = {"id", "at"}
"""An id that nothing refers to, and a time that is another by less than what the fold allows clocks and transactions."""
SEALED_AND_NAMED = {
    "account": "a pseudonym that no fact and no later generation refers to",
    "placement": "sealed under the journal key",
    "sealed": "sealed under the scope's own key",
    "content": "sealed under the journal key",
    "items": "sealed under the journal key",
    "erasure": "a run's id: Vault's audit log has it, the log has not",
    "tool": "the program's version",
}
UNKNOWABLE: dict[str, set[str]] = {
    "scope.created": {"scope_id", "kind", "period", "generation"},
    "scope.suspended": {"policy", "cause"},
    "scope.resumed": {"policy"},
    "record.suspended": {"records"},
    "destroy.fenced": {"reason", "requested_by", "ticket", "scopes", "records"},
    "destroy.failed": {"errors", "fenced_at", "lease_bound"},
    "key.destroyed": {"fenced_at", "lease_bound", "proof.key", "proof.neighbour", "scopes"},
    "record.destroyed": {"fenced_at", "lease_bound", "proof.neighbour", "records"},
    "slots.destroyed": {"proof.neighbour"},
    "policy.changed": {"digest", "facts_days", "categories"},
    "facts.recorded": {"facts", "not_before"},
    "request.received": {
        *("digest", "due_by", "kind", "reason", "records", "request", "requester", "row", "scopes", "state"),
        *("submitted_by", "ticket", "waits_for"),
    },
    "request.refused": {"by", "destroy_id", "reason"},
    "request.approved": {"approved_by", "state"},
    "request.cancelled": {"cancelled_by"},
    "ring.changed": {
        "capacity",
        "closed_at",
        "destroyed_at",
        "epoch",
        "highest_version",
        "incarnation",
        "month",
        "opened_at",
        "ring",
    },
    "request.listed": {"digest"},
    "token.issued": {*("accounts", "expires_at", "kinds", "limits", "owner", "purposes", "rate", "role", "token")},
    "token.revoked": {"revoked_by"},
}
"""Fields of which not every change can be found: what nothing else in the log refers to, the order of a list, and numbers of a policy by
which nothing was due yet. docs/auditors.md tells an auditor."""


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    with pytest.MonkeyPatch.context() as patch:
        return make_history(tmp_path_factory.mktemp("history"), patch)


def ledger_of(entries: Sequence[bytes], at: datetime) -> Ledger:
    fold = Fold()
    for first in range(0, len(entries), 7):
        fold.add_bundle(first, entries[first : first + 7])
    return fold.finish(at=at)


def seen(ledger: Ledger) -> tuple[object, ...]:
    """What a verification prints beside its findings."""
    numbers = ledger.created, ledger.destroyed, ledger.live, ledger.records_destroyed, ledger.without_request
    room = None if ledger.attested is None else ledger.attested.room
    return numbers, len(ledger.pending), tuple(ledger.owed), ledger.policy, room


def type_of(entry: bytes) -> str:
    return str(json.loads(entry)["type"])


def test_a_real_history_has_nothing_wrong(history: list[bytes]) -> None:
    ledger = ledger_of(history, end_of(history))
    assert not ledger.findings, shown(ledger.findings)
    assert ledger.created == ledger.destroyed > 10
    assert (ledger.live, list(ledger.pending)) == (0, [])
    assert ledger.without_request == 3
    assert len(ledger.owed) == 1
    assert len(list(ledger.months())) == 3


def test_it_has_nothing_wrong_at_any_time_on_its_way(history: list[bytes]) -> None:
    for size in range(1, len(history) + 1):
        ledger = ledger_of(history[:size], end_of(history[:size]))
        wrong = [finding for finding in ledger.findings if finding.code != "overdue"]
        assert not wrong, shown(wrong)


def test_every_type_of_event_is_known() -> None:
    assert {str(kind) for kind in EventType} <= set(STRUCTS)


def test_an_entry_that_is_left_out_is_missed(history: list[bytes]) -> None:
    """Not of those that undo or tell what nothing rests on: without them the log is another, and legal; its tree is not."""
    legal = {
        *("destroy.failed", "scope.suspended", "scope.resumed", "record.resumed", "record.suspended", "facts.recorded"),
        *(
            "request.received",
            "request.refused",
            "request.cancelled",
            "request.listed",
            "request.moved",
            "ring.changed",
        ),
        "request.approved",
        *("token.issued", "token.revoked"),
        "slots.destroyed",  # an attestation after that would say so, by the room that it leaves
    }
    at = end_of(history)
    before = seen(ledger_of(history, at))
    kept = set()
    for index, entry in enumerate(history):
        ledger = ledger_of(history[:index] + history[index + 1 :], at)
        if not ledger.findings and seen(ledger) == before:
            kept.add(type_of(entry))
    assert kept <= legal


def test_an_entry_that_is_there_twice_is_found(history: list[bytes]) -> None:
    for index, entry in enumerate(history):
        ledger = ledger_of([*history[: index + 1], *history[index:]], end_of(history))
        assert (f"entry {index + 1}", "id-used-twice") in {(found.where, found.code) for found in ledger.findings}, (
            entry
        )


def test_evidence_before_its_fence_is_found(history: list[bytes]) -> None:
    for index, entry in enumerate(history):
        if type_of(entry) in {"key.destroyed", "record.destroyed"}:
            moved = [entry, *history[:index], *history[index + 1 :]]
            assert ("entry 0", "no-fence") in {
                (found.where, found.code) for found in ledger_of(moved, end_of(history)).findings
            }


def test_what_is_changed_in_an_entry_is_found(history: list[bytes]) -> None:
    """Every field of every type: what is not found is in the list above, and nothing else is."""
    at = end_of(history)
    before = seen(ledger_of(history, at))
    taken = set()
    found = changes = 0
    for index, entry in enumerate(history):
        if (sort := sort_of(entry)) in taken:
            continue
        taken.add(sort)
        for path, changed in mutations(entry):
            changes += 1
            ledger = ledger_of([*history[:index], changed, *history[index + 1 :]], at)
            if ledger.findings or seen(ledger) != before:
                found += 1
                continue
            assert unknowable(type_of(entry), path), (type_of(entry), path)
    assert changes > 1_000
    assert found > changes * 0.8


def sort_of(entry: bytes) -> tuple[Any, ...]:
    """Entries of one sort are checked by the same rules."""
    event = json.loads(entry)
    return (
        event["type"],
        event.get("approvals"),
        bool(event.get("records")),
        event.get("state"),
        event.get("kind") == "communications",
    )


def unknowable(kind: str, path: str) -> bool:
    first = path.partition(".")[0]
    known = UNKNOWABLE.get(kind, set())
    return path in ANYWHERE or first in SEALED_AND_NAMED or path in known or (first in known and "." in path)


def mutations(entry: bytes) -> Iterator[tuple[str, bytes]]:
    """Give the entry with one thing changed, each time, and the name of what was."""
    event = json.loads(entry)
    for name in event:
        yield name, canonical({other: value for other, value in event.items() if other != name})
    yield "(unknown)", canonical({**event, "zzz": 1})
    for path in paths(event):
        value = at_path(event, path)
        for other in variants(value):
            if other != value:
                changed = copy.deepcopy(event)
                at_path(changed, path[:-1])[path[-1]] = other
                yield ".".join(part for part in path if isinstance(part, str)), canonical(changed)


def paths(value: Any, before: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    if before:
        yield before
    parts = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for name, part in parts:
        yield from paths(part, (*before, name))


def at_path(value: Any, path: Sequence[str | int]) -> Any:
    for part in path:
        value = value[part]
    return value


def variants(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, value - 1]
    if isinstance(value, list):
        return [value[:-1], value + value[-1:], value[::-1]]
    if isinstance(value, str):
        return [None, *texts_like(value)]
    return [{}] if isinstance(value, dict) else ["A" * 43, "A" * 22, "some-code", "2026-01-01T00:00:00.000000Z"]


def texts_like(value: str) -> list[str]:
    if re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", value):
        return [instant(datetime.fromisoformat(value) + by) for by in (timedelta(days=400), timedelta(days=-400))]
    return [value + "x", *(letter + value[1:] for letter in "B0" if value), *NEIGHBOURS.get(value, ())]


ALIKE = (
    ("ring", "dedicated"),
    ("consumer", "communications", "customer", "user", "marketing", "business"),
    ("embedded", "hashicorp"),
    ("punctured", "absent"),
    ("derivable", "none"),
    ("account-closed", "account-lapsed", "retention-period", "customer-request"),
    ("anonymize", "delete", "hold", "undelete"),
    ("awaiting-approval", "refused", "approved", "done", "awaiting-billing"),
    ("closed", "reactivated", "not-in-good-standing", "no-longer-valuable", "granted", "removed"),
    ("list-changed", "approval-expired", "rejected", "legal-hold", "already-destroyed"),
    ("builtin/1", "2026-11", "acme/2"),
)
NEIGHBOURS = {value: [other for other in group if other != value] for group in ALIKE for value in group}
