"""What the parsers and encoders of punctured state say when they refuse, and that their limits are what they say."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import pytest

from keyvault import puncture_records, puncture_state
from keyvault.errors import InvalidFormatError, InvalidInputError, KeyVaultError
from keyvault.puncture import MAX_HEIGHT, Frontier, new_frontier, usable
from keyvault.puncture_records import (
    Chunk,
    EntryRef,
    RecordIndex,
    encode_frontier,
    encode_index,
    encoded_size,
    leaf_of,
    parse_chunk,
    parse_frontier,
    parse_index,
    parse_root,
    partition,
)
from keyvault.puncture_state import RingState, encode_state, new_ring, parse_state, slot_height

SEED = bytes(range(32))
REF = EntryRef(epoch=3, name=b"12345678", key=bytearray(b"k" * 32))


def index(chunks: int = 2) -> RecordIndex:
    height = MAX_HEIGHT - (chunks.bit_length() - 1)
    return RecordIndex(chunks=tuple(Chunk(first=n << height, height=height, ref=REF) for n in range(chunks)))


STATE = bytes(encode_state(new_ring(SEED, capacity=8).puncture_slots([3])))
FRONTIER = bytes(encode_frontier(new_frontier(3, SEED).puncture([3])))
INDEX = bytes(encode_index(index()))
TWICE = struct.pack(">4sHHHHH", b"KVR\x01", 8, 2, 0, 3, 3) + bytes(32 * 3)
REVERSED = struct.pack(">4sHHHHH", b"KVR\x01", 8, 2, 0, 3, 2) + bytes(32 * 3)

REFUSALS: list[tuple[str, Callable[[], Any], str]] = [
    ("state", lambda: parse_state(b"KVR\x02" + STATE[4:]), "not the state of a ring that this version reads"),
    ("state", lambda: parse_state(STATE[:9]), "the state of a ring is cut short, or too long"),
    ("state", lambda: parse_state(STATE[:11]), "the state of a ring is cut short"),
    ("state", lambda: parse_state(STATE[:10][:6] + bytes(4)), "this frontier has 1 nodes of 32 bytes, not 0 bytes"),
    ("state", lambda: parse_state(TWICE), "punctured slots must ascend, without repetition"),
    ("state", lambda: parse_state(REVERSED), "punctured slots must ascend, without repetition"),
    ("capacity", lambda: slot_height(0), "a ring has 1 to 8,192 slots"),
    ("capacity", lambda: slot_height(8193), "a ring has 1 to 8,192 slots"),
    ("ring", lambda: RingState(capacity=8, slots=new_frontier(4, SEED)), "a ring's tree has another size"),
    (
        "ring",
        lambda: RingState(capacity=5, slots=new_frontier(3, SEED).puncture([6])),
        "a punctured slot is beyond the ring",
    ),
    (
        "ring",
        lambda: RingState(
            capacity=8,
            slots=new_frontier(3, SEED),
            entries=new_ring(SEED, capacity=8).move_records({1: REF}).entries,
        ),
        "a ring's slot entries must ascend, and stand for nodes that are gone from its tree",
    ),
    (
        "frontier",
        lambda: parse_frontier(b"KVX\x01" + FRONTIER[4:]),
        "not a frontier of records that this version reads",
    ),
    ("frontier", lambda: parse_frontier(FRONTIER[:16]), "a frontier of records is cut short, or too long"),
    ("frontier", lambda: parse_frontier(FRONTIER[:20]), "a frontier of records is cut short"),
    (
        "frontier",
        lambda: parse_frontier(FRONTIER[:13] + bytes(4)),
        "this frontier has 1 nodes of 32 bytes, not 0 bytes",
    ),
    ("index", lambda: parse_index(b"KVX\x01" + INDEX[4:]), "not an index of records that this version reads"),
    ("index", lambda: parse_index(INDEX[:5]), "an index of records is cut short, or too long"),
    ("index", lambda: parse_index(INDEX[:-1]), "an index of records has another length than it says"),
    (
        "index",
        lambda: parse_index(INDEX[:4] + bytes(2)),
        "an index's chunks must make up the whole tree, from left to right",
    ),
    ("root", lambda: parse_root(FRONTIER), "an entry holds another part of the tree than expected"),
    (
        "chunk",
        lambda: parse_chunk(FRONTIER, Chunk(first=8, height=3, ref=REF)),
        "an entry holds another part of the tree than expected",
    ),
    (
        "reference",
        lambda: EntryRef(epoch=-1, name=bytes(8), key=bytearray(32)),
        "a reference to an entry has an epoch of 8 bytes, 8 bytes of name and a key of 32",
    ),
    (
        "place",
        lambda: Frontier(height=3, first=4, seeds=bytearray(SEED)),
        "a tree's first leaf is a multiple of its size, below 2^63",
    ),
    (
        "leaves",
        lambda: Frontier(height=3, seeds=bytearray(SEED), punctured=(3, 3)),
        "punctured leaves must ascend, without repetition, within their tree",
    ),
    ("tag", lambda: leaf_of(b"\x80" + bytes(7)), "a record tag has 8 bytes, the first bit zero"),
    ("replacing", lambda: index().replace({7: ()}), "an index can replace only chunks that it has"),
]


@pytest.mark.parametrize(("what", "refused", "message"), REFUSALS, ids=[f"{n}-{r[0]}" for n, r in enumerate(REFUSALS)])
def test_a_refusal_says_which_rule_was_broken(what: str, refused: Callable[[], Any], message: str) -> None:
    with pytest.raises((InvalidFormatError, InvalidInputError)) as raised:
        refused()
    assert str(raised.value) == message, what


def test_a_root_is_the_whole_tree() -> None:
    whole = new_frontier(MAX_HEIGHT, SEED).puncture([3])
    assert parse_root(bytes(encode_frontier(whole))) == whole
    part = Frontier(height=MAX_HEIGHT - 1, first=0, seeds=bytearray(SEED)).puncture([3])
    with pytest.raises(InvalidFormatError, match="another part of the tree"):
        parse_root(bytes(encode_frontier(part)))


def test_all_chunks_of_an_index_can_be_replaced_at_once() -> None:
    two = index()
    assert two.replace({chunk.first: (chunk,) for chunk in two.chunks}) == two


def test_an_entry_may_be_as_long_as_the_limit_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[Any, Any, Any, Any, str]] = [
        (
            puncture_state,
            parse_state(STATE),
            encode_state,
            parse_state,
            "too many scopes of this ring have records erased",
        ),
        (
            puncture_records,
            parse_frontier(FRONTIER),
            encode_frontier,
            parse_frontier,
            "this frontier is too large for one",
        ),
    ]
    for module, value, encode, parse, message in cases:
        size = len(encode(value))
        monkeypatch.setattr(module, "MAX_ENTRY_BYTES", size)
        encoded = bytes(encode(value))
        assert parse(encoded) == value
        monkeypatch.setattr(module, "MAX_ENTRY_BYTES", size - 1)
        with pytest.raises(InvalidInputError) as raised:
            encode(value)
        assert str(raised.value).startswith(message)
        assert not str(raised.value).endswith("XX")
        with pytest.raises(InvalidFormatError, match=r"is cut short, or too long$"):
            parse(encoded)


def test_an_index_has_as_many_chunks_as_fit_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puncture_records, "_MAX_CHUNKS", 4)
    assert parse_index(bytes(encode_index(index(4)))) == index(4)
    with pytest.raises(InvalidInputError) as raised:
        encode_index(index(8))
    assert str(raised.value) == "too many records of this scope are erased to keep count of; destroy the whole scope"
    monkeypatch.setattr(puncture_records, "MAX_ENTRY_BYTES", len(INDEX))
    assert parse_index(INDEX) == index()
    monkeypatch.setattr(puncture_records, "MAX_ENTRY_BYTES", len(INDEX) - 1)
    with pytest.raises(InvalidFormatError, match=r"is cut short, or too long$"):
        parse_index(INDEX)


def test_chunks_may_be_as_long_as_an_entry() -> None:
    frontier = new_frontier(MAX_HEIGHT, SEED).puncture([3])
    assert partition(frontier, limit=puncture_records.MAX_ENTRY_BYTES) == [frontier]
    assert partition(frontier, limit=encoded_size(frontier)) == [frontier]
    with pytest.raises(InvalidInputError, match=r"^chunks have a limit of \d+ to 380000 bytes$"):
        partition(frontier, limit=puncture_records.MAX_ENTRY_BYTES + 1)


def test_a_wiped_seed_says_so() -> None:
    with pytest.raises(KeyVaultError) as raised:
        usable(bytearray(32))
    assert str(raised.value) == "this secret state was wiped; read it again"
