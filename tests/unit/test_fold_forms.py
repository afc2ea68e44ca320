"""Forms of entries: one spelling for each event, and the quick look at bundles of creations finds what the slow one finds."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from keyvault.events import MAX_EVENT_BYTES
from shredder.audit import reading
from shredder.audit.finding import Finding
from shredder.audit.fold import Fold
from shredder.audit.reading import decode_bundle, malformed, read_bundle
from tests.entries import START, Entries, replaced


@pytest.fixture
def entries() -> list[bytes]:
    log = Entries()
    for number in range(5):
        log.created(f"s{number}")
    return log.bytes


def codes(entries: list[bytes]) -> list[tuple[str, str]]:
    return [(finding.where, finding.code) for finding in malformed(7, entries)]


def test_a_bundle_of_creations_is_read_at_once(entries: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    slow = [reading._read(index, entry) for index, entry in enumerate(entries)]
    monkeypatch.setattr(reading, "_read", None)
    monkeypatch.setattr(reading, "_decode", None)
    assert read_bundle(0, entries) == (slow, [])
    assert decode_bundle(0, entries) == slow
    assert read_bundle(0, []) == ([], [])


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


def test_what_another_process_found_is_taken_over(entries: list[bytes]) -> None:
    bundle = [entries[0], b"{}", entries[2]]
    fold = Fold()
    fold.add_bundle(0, bundle, malformed(0, bundle))
    ledger = fold.finish(at=START)
    assert [(found.where, found.code) for found in ledger.findings] == [("entry 1", "malformed")]
    assert (ledger.entries, ledger.created) == (3, 2)


def test_what_nobody_has_looked_at_is_not_taken_over() -> None:
    with pytest.raises(ValueError, match="never looked at"):
        Fold().add_bundle(0, [b"{}"], [])


def test_a_finding_is_one_line() -> None:
    assert str(Finding("overdue", "entry 3", "scope X is live")) == "entry 3: overdue: scope X is live"
    (finding,) = malformed(0, [b"{\n" * MAX_EVENT_BYTES])
    assert len(str(finding).splitlines()) == 1
