"""Write the vectors of the puncturable PRF with the oracle: `python -m tests.vectors.generate_puncture`.

Inputs are fixed, so that a second run writes the same bytes; a difference is a change of format.
"""

from __future__ import annotations

import json
from typing import Any

from tests import puncture_oracle as oracle
from tests.puncture_oracle import Ref, u
from tests.vectors import FOLDER
from tests.vectors.generate import fixed, put

ROOT, INDEX_KEY, SCOPE = fixed("ring root"), fixed("index key"), fixed("ring scope", 16)
RECORDS = oracle.records_seed(ROOT, 3, 2)
HALF = 1 << 62
TAGS = [int.from_bytes(oracle.record_tag(INDEX_KEY, SCOPE, b"call-%d" % n), "big") for n in range(3)]


def ref(number: int) -> Ref:
    return Ref(7 + number, fixed(f"entry name {number}", 8), fixed(f"entry key {number}"))


def states() -> list[dict[str, Any]]:
    rows: list[tuple[str, int, set[int], dict[int, Ref]]] = [
        ("one slot, whole", 1, set(), {}),
        ("one slot, punctured", 1, {0}, {}),
        ("one slot, with records erased", 1, set(), {0: ref(0)}),
        ("two slots, the second punctured", 2, {1}, {}),
        ("three slots: whole, punctured, with records erased", 3, {1}, {2: ref(0)}),
        ("4,095 slots, first and last punctured", 4095, {0, 4094}, {}),
        ("4,096 slots, whole", 4096, set(), {}),
        ("4,096 slots, some of each", 4096, {1, 2, 3, 2048, 4095}, {0: ref(0), 77: ref(1)}),
        ("8,192 slots, two neighbours punctured", 8192, {4096, 4097}, {}),
    ]
    return [
        {
            "name": name,
            "kind": "state",
            "root": ROOT.hex(),
            "capacity": capacity,
            "punctured": sorted(punctured),
            "entries": {str(slot): described(entry) for slot, entry in entries.items()},
            "slots": [slot_row(capacity, slot) for slot in sorted({0, capacity // 2, capacity - 1} - punctured)],
            "encoded": oracle.state(ROOT, capacity, punctured, entries).hex(),
        }
        for name, capacity, punctured, entries in rows
    ]


def slot_row(capacity: int, slot: int) -> dict[str, Any]:
    return {
        "slot": slot,
        "scope_id": SCOPE.hex(),
        "share": oracle.scope_share(ROOT, capacity, slot, SCOPE).hex(),
        "identity_key": oracle.identity_key(ROOT, capacity, slot, SCOPE).hex(),
        "records": oracle.records_seed(ROOT, capacity, slot).hex(),
    }


def described(entry: Ref) -> dict[str, Any]:
    return {"epoch": entry.epoch, "name": entry.name.hex(), "key": entry.key.hex()}


def frontiers() -> list[dict[str, Any]]:
    rows: list[tuple[str, set[int], int, int]] = [
        ("no record erased", set(), 0, 63),
        ("one record erased", set(TAGS[:1]), 0, 63),
        ("first, last and two neighbours erased", {0, HALF, HALF + 1, 2 * HALF - 1}, 0, 63),
        ("a chunk of eight records, three erased", {HALF + 8, HALF + 9, HALF + 15}, HALF + 8, 3),
        ("a chunk of one record, erased", {5}, 5, 0),
    ]
    return [
        {
            "name": name,
            "kind": "frontier",
            "root": RECORDS.hex(),
            "first": first,
            "height": levels,
            "punctured": sorted(punctured),
            "records": [record_row(tag) for tag in sorted(window(first, levels) - punctured)],
            "encoded": oracle.records(RECORDS, punctured, first, levels).hex(),
        }
        for name, punctured, first, levels in rows
    ]


def window(first: int, levels: int) -> set[int]:
    """Return the tags to show of a chunk."""
    return {tag for tag in (*TAGS, first, first + 2**levels // 2) if first <= tag < first + 2**levels}


def record_row(tag: int) -> dict[str, Any]:
    return {
        "scope_id": SCOPE.hex(),
        "tag": u(8, tag).hex(),
        "share": oracle.record_share(RECORDS, SCOPE, u(8, tag)).hex(),
    }


def indices() -> list[dict[str, Any]]:
    rows = [("two halves", [62, 62]), ("uneven chunks", [62, 61, 60, 60])]
    return [
        {
            "name": name,
            "kind": "index",
            "chunks": [{"height": levels, **described(ref(number))} for number, levels in enumerate(heights)],
            "encoded": oracle.index([(levels, ref(number)) for number, levels in enumerate(heights)]).hex(),
        }
        for name, heights in rows
    ]


def invalid() -> list[dict[str, Any]]:
    state = oracle.state(ROOT, 3, {1}, {2: ref(0)})
    whole = oracle.state(ROOT, 4, set(), {})
    two = oracle.state(ROOT, 4, {1, 2}, {})
    both = oracle.state(ROOT, 4, set(), {1: ref(0), 2: ref(1)})
    swapped = both[:10] + both[10 + 82 : 10 + 164] + both[10 : 10 + 82] + both[10 + 164 :]
    frontier = oracle.records(RECORDS, {8, 9, 12}, 8, 3)
    index = oracle.index([(62, ref(0)), (62, ref(1))])
    rows = [
        ("state", "empty", b""),
        ("state", "other magic", b"KVX\x01" + state[4:]),
        ("state", "version 2", put(state, 3, 2)),
        ("state", "nothing after the magic", state[:4]),
        ("state", "capacity 0", whole[:4] + u(2, 0) + whole[6:]),
        ("state", "capacity 8,193", whole[:4] + u(2, 8193) + whole[6:]),
        ("state", "other capacity of more levels", put(state, 5, 5)),
        ("state", "slot beyond the capacity", put(two, 5, 3)[:10] + u(2, 1) + u(2, 3) + two[14:]),
        ("state", "slot beyond the tree", two[:12] + u(2, 4) + two[14:]),
        ("state", "slots out of order", two[:10] + two[12:14] + two[10:12] + two[14:]),
        ("state", "a slot twice", two[:12] + two[10:12] + two[14:]),
        ("state", "entries out of order", swapped),
        ("state", "an entry twice", both[: 10 + 82] + both[10 : 10 + 82] + both[10 + 164 :]),
        ("state", "a slot both punctured and an entry", put(state, 11, 2)),
        ("state", "more punctured slots than there are bytes", put(state, 6, 0xFF)),
        ("state", "more entries than there are bytes", put(state, 8, 0xFF)),
        ("state", "a node missing", state[:-32]),
        ("state", "a node too many", state + bytes(32)),
        ("state", "last byte missing", state[:-1]),
        ("state", "a byte after the end", state + b"\0"),
        ("frontier", "empty", b""),
        ("frontier", "magic of a state", state),
        ("frontier", "version 2", put(frontier, 3, 2)),
        ("frontier", "nothing after the magic", frontier[:4]),
        ("frontier", "64 levels", put(frontier, 4, 64)),
        ("frontier", "first tag is no multiple of the size", put(frontier, 12, 4)),
        ("frontier", "beyond the last tag", put(frontier, 5, 0x80)),
        ("frontier", "tags out of order", frontier[:17] + frontier[25:33] + frontier[17:25] + frontier[33:]),
        ("frontier", "a tag twice", frontier[:25] + frontier[17:25] + frontier[33:]),
        ("frontier", "a tag of another chunk", frontier[:33] + u(8, 16) + frontier[41:]),
        ("frontier", "more tags than there are bytes", put(frontier, 13, 0xFF)),
        ("frontier", "a node missing", frontier[:-32]),
        ("frontier", "a node too many", frontier + bytes(32)),
        ("frontier", "last byte missing", frontier[:-1]),
        ("index", "empty", b""),
        ("index", "magic of a frontier", frontier),
        ("index", "version 2", put(index, 3, 2)),
        ("index", "nothing after the magic", index[:4]),
        ("index", "no chunk", oracle.index([])),
        ("index", "one chunk, the whole tree", oracle.index([(63, ref(0))])),
        ("index", "a gap at the end", oracle.index([(62, ref(0)), (61, ref(1))])),
        ("index", "beyond the last tag", oracle.index([(62, ref(0)), (62, ref(1)), (0, ref(2))])),
        ("index", "chunks across a multiple of their size", oracle.index([(61, ref(0)), (62, ref(1)), (61, ref(2))])),
        ("index", "255 levels", put(index, 6, 255)),
        ("index", "a chunk too many", put(index, 5, 1)),
        ("index", "last byte missing", index[:-1]),
        ("index", "a byte after the end", index + b"\0"),
    ]
    return [
        {"name": name, "kind": kind, "encoded": data.hex(), "error": "InvalidFormatError"} for kind, name, data in rows
    ]


def text() -> str:
    vectors = {
        "format": "punctured state",
        "page": "docs/formats/punctured-state.md",
        "tags": [
            {
                "index_key": INDEX_KEY.hex(),
                "scope_id": SCOPE.hex(),
                "record_id": record_id.hex(),
                "tag": oracle.record_tag(INDEX_KEY, SCOPE, record_id).hex(),
            }
            for record_id in (b"call-0", b"call-1", b"call-2", "Aufnahme/ü".encode(), b"")
        ],
        "valid": states() + frontiers() + indices(),
        "invalid": invalid(),
    }
    return json.dumps(vectors, indent=2) + "\n"


if __name__ == "__main__":
    (FOLDER / "puncture.json").write_text(text(), encoding="ascii")
