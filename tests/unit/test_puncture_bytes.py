"""The bytes of ring states and of the entries of records: the oracle's vectors, read and written."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyvault import errors
from keyvault.errors import InvalidFormatError
from keyvault.puncture_records import (
    EntryRef,
    encode_frontier,
    encode_index,
    parse_frontier,
    parse_index,
    record_share,
)
from keyvault.puncture_state import ScopeNode, encode_state, new_ring, parse_state
from tests.vectors import FOLDER, generate_puncture, load

VECTORS = load("puncture")
PAGE = Path(__file__).parents[2] / "docs" / "formats" / "punctured-state.md"
PARSERS: dict[str, Callable[[bytes], Any]] = {
    "state": parse_state,
    "frontier": parse_frontier,
    "index": parse_index,
}
ENCODERS: dict[str, Callable[[Any], bytearray]] = {
    "state": encode_state,
    "frontier": encode_frontier,
    "index": encode_index,
}
MAGICS = {"state": b"KVR\x01", "frontier": b"KVF\x01", "index": b"KVI\x01"}


def name_of(vector: dict[str, Any]) -> str:
    return f"{vector['kind']}: {vector['name']}"


def test_the_file_is_what_the_oracle_makes() -> None:
    assert (FOLDER / "puncture.json").read_text(encoding="ascii") == generate_puncture.text()


def of_kind(kind: str) -> list[dict[str, Any]]:
    return [vector for vector in VECTORS["valid"] if vector["kind"] == kind]


def ref_of(row: dict[str, Any]) -> EntryRef:
    return EntryRef(epoch=row["epoch"], name=bytes.fromhex(row["name"]), key=bytearray.fromhex(row["key"]))


@pytest.mark.parametrize("vector", of_kind("state"), ids=name_of)
def test_state_vectors(vector: dict[str, Any]) -> None:
    entries = {int(slot): ref_of(row) for slot, row in vector["entries"].items()}
    ring = new_ring(bytes.fromhex(vector["root"]), capacity=vector["capacity"])
    ring = ring.puncture_slots(vector["punctured"]).move_records(entries)
    encoded = bytes.fromhex(vector["encoded"])
    assert encode_state(ring) == encoded
    assert parse_state(encoded) == ring
    for row in vector["slots"]:
        node = parse_state(encoded).derive(row["slot"])
        check_node(node, row, entries.get(row["slot"]))


def check_node(node: ScopeNode, row: dict[str, Any], entry: EntryRef | None) -> None:
    scope_id = bytes.fromhex(row["scope_id"])
    assert node.share(scope_id).hex() == row["share"]
    assert node.identity_key(scope_id).hex() == row["identity_key"]
    assert node.records == (entry or bytes.fromhex(row["records"]))


@pytest.mark.parametrize("vector", of_kind("frontier"), ids=name_of)
def test_frontier_vectors(vector: dict[str, Any]) -> None:
    frontier = parse_frontier(bytes.fromhex(vector["encoded"]))
    assert (frontier.first, frontier.height, list(frontier.punctured)) == (
        vector["first"],
        vector["height"],
        vector["punctured"],
    )
    assert encode_frontier(frontier).hex() == vector["encoded"]
    for row in vector["records"]:
        share = record_share(frontier, bytes.fromhex(row["scope_id"]), bytes.fromhex(row["tag"]))
        assert share.hex() == row["share"]


@pytest.mark.parametrize("vector", of_kind("index"), ids=name_of)
def test_index_vectors(vector: dict[str, Any]) -> None:
    index = parse_index(bytes.fromhex(vector["encoded"]))
    assert [(chunk.height, chunk.ref) for chunk in index.chunks] == [
        (row["height"], ref_of(row)) for row in vector["chunks"]
    ]
    assert encode_index(index).hex() == vector["encoded"]


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=name_of)
def test_invalid_vectors(vector: dict[str, Any]) -> None:
    with pytest.raises(getattr(errors, vector["error"])):
        PARSERS[vector["kind"]](bytes.fromhex(vector["encoded"]))


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=name_of)
def test_every_shorter_prefix_is_refused(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["encoded"])
    for size in {*range(min(len(data), 120)), len(data) - 1}:
        with pytest.raises(InvalidFormatError):
            PARSERS[vector["kind"]](data[:size])


def test_longer_than_any_entry_is_refused() -> None:
    entries = b"".join(slot.to_bytes(2, "big") + bytes(80) for slot in range(8192))
    tags = b"".join(tag.to_bytes(8, "big") for tag in range(1 << 16))
    chunks = b"".join(bytes([50]) + bytes(48) for _ in range(8192))
    for kind, data in {
        "state": bytes.fromhex("200000002000") + entries,
        "frontier": bytes.fromhex("10 0000000000000000 00010000") + tags,
        "index": bytes.fromhex("2000") + chunks,
    }.items():
        with pytest.raises(InvalidFormatError, match="too long"):
            PARSERS[kind](MAGICS[kind] + data)


@given(st.sampled_from(sorted(PARSERS)), st.binary(max_size=200))
def test_parsers_answer_or_refuse_any_bytes(kind: str, rest: bytes) -> None:
    data = MAGICS[kind] + rest
    try:
        parsed = PARSERS[kind](data)
    except InvalidFormatError:
        return
    assert ENCODERS[kind](parsed) == data


def test_the_pages_example_is_a_vector() -> None:
    block = PAGE.read_text(encoding="utf-8").split("```")[1]
    shown = "".join(re.findall(r"^[0-9a-f]{8} ((?: [0-9a-f]{2})+)$", block, flags=re.MULTILINE)).replace(" ", "")
    assert shown in {vector["encoded"] for vector in of_kind("state")}
