"""Forms of entries: one spelling for each event, and the quick look at creations finds what the slow one finds."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest

from keyvault.events import MAX_EVENT_BYTES
from shredder.audit import reading
from shredder.audit.creations import Creations
from shredder.audit.finding import Finding
from shredder.audit.fold import Fold, Ledger
from shredder.audit.reading import read_bundle
from tests.entries import DAY, START, Entries, name32, replaced, uuid


@pytest.fixture
def entries() -> list[bytes]:
    log = Entries()
    for number in range(5):
        log.created(f"s{number}")
    return log.bytes


def codes(entries: list[bytes]) -> list[tuple[str, str]]:
    return [(found.where, found.code) for found in read_bundle(7, entries) if isinstance(found, Finding)]


def ledger(bundles: Sequence[Sequence[bytes]]) -> Ledger:
    fold = Fold()
    for bundle in bundles:
        fold.add_bundle(fold.entries, bundle)
    return fold.finish(at=START + DAY)


def columns(ledger: Ledger) -> tuple[object, ...]:
    """Return all that a log's scopes are."""
    scopes = ledger.scopes
    ids = [scopes.ids[number] for number in range(len(scopes))]
    profiles = [(profile.kind, profile.period, profile.custody, profile.generation) for profile in scopes.profiles]
    rings = [scopes.in_rings_before(START + minute * timedelta(minutes=1)) for minute in range(-1, 5)]
    return [*scopes.commitments], ids, scopes.accounts, profiles, bytes(scopes.states), [*scopes.created], rings


def test_a_bundle_of_creations_is_read_at_once(entries: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "_read", None)
    (run,) = read_bundle(0, entries)
    assert isinstance(run, Creations)
    assert (run.count, run.problems) == (5, [])
    assert read_bundle(0, []) == []


def mixed() -> Entries:
    """Creations of all sorts, within a minute and over several, with other events between them."""
    log = Entries()
    log.policy()
    for number in range(12):
        log.created(f"s{number}", custody="dedicated" if number % 3 else "ring", account=name32(f"a{number % 2}"))
        log.created(f"m{number}", kind="communications", period=f"2026-{number % 2 + 10}")
        log.at += timedelta(seconds=20)
        if number % 5 == 4:
            log.fenced(f"s{number}", destroy=f"d{number}")
    return log


def test_at_once_or_one_by_one_they_come_to_the_same() -> None:
    entries = mixed().bytes
    together, alone = ledger([entries]), ledger([[entry] for entry in entries])
    assert columns(together) == columns(alone)
    assert together.findings == alone.findings == []
    assert (together.created, together.live) == (24, 22)


WRONG: dict[str, Callable[[Entries], object]] = {
    "created before": lambda log: log.events[5].update(scope=log.events[1]["scope"]),
    "created twice in a row": lambda log: log.events[2].update(scope=log.events[1]["scope"]),
    "all created before": lambda log: log.events.extend(
        [{**event, "id": uuid(f"again {event['id']}")} for event in log.events[1:4]]
    ),
    "the id of another": lambda log: log.events[5].update(scope_id=log.events[1]["scope_id"]),
    "an event twice": lambda log: log.events[5].update(id=log.events[1]["id"]),
    "due before it was created": lambda log: log.created(
        "old", kind="communications", period="2020-01", due_at="2022-03-01T00:00:00.000000Z"
    ),
    "another due date": lambda log: log.events[2].update(due_at=None),
    "a year's step back": lambda log: log.events[5].update(at="2025-11-24T12:00:00.000000Z"),
    "malformed among others": lambda log: log.events[2].update(scope="short"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_among_many_is_what_is_wrong_alone(wrong: str) -> None:
    log = mixed()
    WRONG[wrong](log)
    together, alone = ledger([log.bytes]), ledger([[entry] for entry in log.bytes])
    assert sorted(map(str, together.findings)) == sorted(map(str, alone.findings)) != []
    assert columns(together)[:-1] == columns(alone)[:-1]


def test_writers_whose_clocks_differ_a_little_are_one_run() -> None:
    log = Entries()
    for number in range(6):
        log.at += timedelta(seconds=90) * (-1) ** number
        log.created(f"s{number}")
    assert [type(item) for item in read_bundle(0, log.bytes)] == [Creations]
    together, alone = ledger([log.bytes]), ledger([[entry] for entry in log.bytes])
    assert columns(together) == columns(alone)
    assert together.findings == alone.findings == []


SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "white space": lambda entry: entry.replace(b":", b": ", 1),
    "white space behind it": lambda entry: entry + b"\n",
    "white space before it": lambda entry: b" " + entry,
    "an escape": lambda entry: entry.replace(b"ring:1:abc", b"ring:1:\\u0061bc"),
    "a number with a point": lambda entry: entry.replace(b'"generation":1', b'"generation":1.0'),
    "another order": lambda entry: json.dumps(
        dict(reversed(json.loads(entry).items())), separators=(",", ":")
    ).encode(),
    "a name twice": lambda entry: entry.replace(b'"generation":1', b'"generation":1,"generation":1'),
    "a field too few": lambda entry: entry.replace(b'"generation":1,', b""),
    "a field too many": lambda entry: entry.replace(b'"v":1}', b'"v":1,"z":1}'),
    "another version": lambda entry: entry.replace(b'"v":1}', b'"v":2}'),
    "another type": lambda entry: entry.replace(b"scope.created", b"scope.creates"),
    "no type": lambda entry: entry.replace(b"type", b"kype"),
    "nothing": lambda _entry: b"",
    "no object": lambda _entry: b"[]",
    "half": lambda entry: entry[:200],
    "not UTF-8": lambda entry: entry.replace(b"ring:1:abc", b"ring:1:\xff\xfe"),
    "a character that is not printed": lambda entry: entry.replace(b"ring:1:abc", b"ring:1:\x7f"),
    "other letters": lambda entry: entry.replace(b"ring:1:abc", "ring:1:é".encode()),
    "spare bits": lambda entry: entry.replace(json.loads(entry)["scope"].encode(), b"A" * 42 + b"B"),
    "too short": lambda entry: replaced(entry, scope="A" * 42),
    "an id in capitals": lambda entry: replaced(entry, id=json.loads(entry)["id"].upper()),
    "no such day": lambda entry: replaced(entry, at="2026-02-30T00:00:00.000000Z"),
    "no such due date": lambda entry: replaced(entry, due_at="soon"),
    "no microseconds": lambda entry: replaced(entry, at="2026-11-24T12:00:00Z"),
    "no such kind": lambda entry: replaced(entry, kind="person"),
    "no generation": lambda entry: replaced(entry, generation=0),
    "another policy": lambda entry: replaced(entry, policy="p/1"),
    "nothing sealed": lambda entry: replaced(entry, sealed=""),
    "no placement": lambda entry: replaced(entry, placement=""),
    "very deep": lambda _entry: b"[" * 10_000,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_entry_of_another_form_is_found_among_others(entries: list[bytes], spelling: str) -> None:
    changed = SPELLINGS[spelling](entries[3])
    assert changed != entries[3]
    for bundle in ([*entries[:3], changed, entries[4]], [changed], [changed, changed]):
        wrong = [(f"entry {7 + index}", "malformed") for index, entry in enumerate(bundle) if entry == changed]
        assert codes(bundle) == wrong


def test_two_entries_are_not_one_and_a_half(entries: list[bytes]) -> None:
    """Joined they are the same text: where one ends and the next begins is looked at, too."""
    text = b",".join(entries[:2])
    for cut in range(1, len(text)):
        if text[cut - 1 : cut] == b",":
            pieces = [text[: cut - 1], text[cut:]]
            assert bool(codes(pieces)) == (pieces != entries[:2])
    assert codes([entries[0] + b"," + entries[1], b""])
    assert codes([entries[0] + b"," + entries[1]])


def test_other_types_are_looked_at_one_by_one() -> None:
    log = Entries()
    log.created("a")
    log.fenced("a")
    assert not codes(log.bytes)
    assert codes([log.bytes[0], log.bytes[1].replace(b":", b": ", 1)]) == [("entry 8", "malformed")]
    assert codes([replaced(log.bytes[1], at="2026-13-01T00:00:00.000000Z")]) == [("entry 7", "malformed")]
    log.policy()
    log.facts(("account", "account", "closed"))
    facts = json.loads(log.bytes[-1])["facts"]
    facts[0]["at"] = "2026-02-30T00:00:00.000000Z"
    assert codes([replaced(log.bytes[-1], facts=facts)]) == [("entry 7", "malformed")]
    assert codes([log.bytes[1].replace(b"destroy.fenced", b"destroy.fence\xff")]) == [("entry 7", "malformed")]


def test_what_is_malformed_is_left_out() -> None:
    log = mixed().bytes
    found = ledger([[*log[:2], b"{}", *log[3:]]])
    assert ("entry 2", "malformed") in {(finding.where, finding.code) for finding in found.findings}
    assert (found.entries, found.created) == (len(log), 23)


def test_a_finding_is_one_line() -> None:
    assert str(Finding("overdue", "entry 3", "scope X is live")) == "entry 3: overdue: scope X is live"
    (finding,) = read_bundle(0, [b"{\n" * MAX_EVENT_BYTES])
    assert isinstance(finding, Finding)
    assert len(str(finding).splitlines()) == 1
