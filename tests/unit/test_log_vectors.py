"""The log's vectors: those of RFC 6962, and our own, made by the oracle and read by the product and back."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from keyvault.errors import VerificationError
from shredder.log.checkpoint import open_checkpoint, read_unverified
from shredder.log.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    root_of,
    verify_consistency,
    verify_inclusion,
)
from shredder.log.note import parse_verifier_key
from shredder.log.proof import parse_proof, verify_proof
from shredder.log.tiles import Edge, Tile, decode_bundle, encode_bundle, parse_path, tiles_of
from tests.unit.test_vectors import PAGES, name_of
from tests.vectors import FOLDER, generate_log, load

RFC, TILES, CHECKPOINT, PROOF = (load(name) for name in ("rfc6962", "log-tiles", "log-checkpoint", "log-proof"))
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
"""Of the first 1 to 8 leaves, as implementations of RFC 6962 publish them."""

LEAVES = [leaf_hash(bytes.fromhex(entry)) for entry in RFC["entries"]]


def node(level: int, index: int) -> bytes:
    return root_of(LEAVES[index << level : (index + 1) << level])


def unhex(values: list[str]) -> list[bytes]:
    return [bytes.fromhex(value) for value in values]


# --- RFC 6962 --------------------------------------------------------------------------------------------------------


def test_roots_of_the_rfc() -> None:
    assert RFC["roots"] == ROOTS == [root_of(LEAVES[:size]).hex() for size in range(1, 9)]
    assert RFC["empty"] == EMPTY_ROOT.hex()


@pytest.mark.parametrize("row", RFC["inclusion"], ids=lambda row: f"{row['index']} of {row['size']}")
def test_inclusion_proofs_of_the_rfc(row: dict[str, Any]) -> None:
    index, size, proof = row["index"], row["size"], unhex(row["proof"])
    assert inclusion_proof(index, size, node) == proof
    verify_inclusion(LEAVES[index], index, size, proof, bytes.fromhex(ROOTS[size - 1]))


@pytest.mark.parametrize("row", RFC["consistency"], ids=lambda row: f"{row['old']} to {row['size']}")
def test_consistency_proofs_of_the_rfc(row: dict[str, Any]) -> None:
    old, size, proof = row["old"], row["size"], unhex(row["proof"])
    assert consistency_proof(old, size, node) == proof
    verify_consistency(old, bytes.fromhex(ROOTS[old - 1]), size, bytes.fromhex(ROOTS[size - 1]), proof)


# --- our own ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "text"), generate_log.texts().items())
def test_the_files_are_what_the_oracle_makes(name: str, text: str) -> None:
    assert (FOLDER / f"{name}.json").read_text(encoding="ascii") == text


@pytest.mark.parametrize("row", TILES["valid"], ids=lambda row: row["path"])
def test_path(row: dict[str, Any]) -> None:
    tile = Tile(row["level"], row["number"], row["width"])
    assert parse_path(row["path"]) == tile
    assert tile.path == row["path"]


@pytest.mark.parametrize("row", TILES["invalid"], ids=lambda row: row["path"])
def test_invalid_path(row: dict[str, Any]) -> None:
    assert parse_path(row["path"]) is None


@pytest.mark.parametrize("row", TILES["trees"], ids=lambda row: str(row["size"]))
def test_tree(row: dict[str, Any]) -> None:
    size, edge = row["size"], Edge()
    entries = [b"entry %d" % number for number in range(size)]
    files = {tile.path: data for tile, data in edge.grow([leaf_hash(entry) for entry in entries]).items()}
    for tile in tiles_of(size):
        if tile.level is None:
            files[tile.path] = encode_bundle(entries[tile.number * 256 : tile.number * 256 + tile.width])
    digests = {path: hashlib.sha256(data).hexdigest() for path, data in sorted(files.items())}
    listing = "".join(f"{digest}  {path}\n" for path, digest in digests.items())
    assert (edge.root.hex(), len(files)) == (row["root"], row["files"])
    assert row.get("sha256", digests) == digests
    assert row["listing_sha256"] == hashlib.sha256(listing.encode()).hexdigest()


@pytest.mark.parametrize("row", TILES["bundles"]["valid"], ids=name_of)
def test_bundle(row: dict[str, Any]) -> None:
    assert encode_bundle(unhex(row["entries"])).hex() == row["bundle"]
    assert decode_bundle(bytes.fromhex(row["bundle"])) == unhex(row["entries"])


@pytest.mark.parametrize("row", TILES["bundles"]["invalid"], ids=name_of)
def test_invalid_bundle(row: dict[str, Any]) -> None:
    with pytest.raises(VerificationError):
        decode_bundle(bytes.fromhex(row["bundle"]))


@pytest.mark.parametrize("row", CHECKPOINT["keys"]["valid"], ids=name_of)
def test_key(row: dict[str, Any]) -> None:
    key = parse_verifier_key(row["vkey"])
    assert (key.name, key.type, key.public.hex(), key.id.hex()) == (row["name"], row["type"], row["public"], row["id"])
    assert str(key) == row["vkey"]


@pytest.mark.parametrize("row", CHECKPOINT["keys"]["invalid"], ids=name_of)
def test_invalid_key(row: dict[str, Any]) -> None:
    with pytest.raises(VerificationError):
        parse_verifier_key(row["vkey"])


@pytest.mark.parametrize("row", CHECKPOINT["valid"], ids=name_of)
def test_checkpoint(row: dict[str, Any]) -> None:
    note = row["note"].encode()
    found = open_checkpoint(note, parse_verifier_key(row["key"]))
    assert (found.origin, found.size) == (row["origin"], row["size"])
    assert row["text"].startswith(found.text)
    assert found.text.split("\n")[2] == row["root"]
    assert read_unverified(note) == found


@pytest.mark.parametrize("row", CHECKPOINT["invalid"], ids=name_of)
def test_invalid_checkpoint(row: dict[str, Any]) -> None:
    key = parse_verifier_key(row["key"])
    with pytest.raises(VerificationError):
        open_checkpoint(row["note"].encode(), key)


@pytest.mark.parametrize("row", PROOF["valid"], ids=name_of)
def test_proof(row: dict[str, Any]) -> None:
    data = row["proof"].encode()
    proof = parse_proof(data)
    assert (proof.index, proof.extra) == (row["index"], None if row["extra"] is None else bytes.fromhex(row["extra"]))
    assert proof.text == data
    assert verify_proof(proof, bytes.fromhex(row["entry"]), parse_verifier_key(PROOF["key"])).size == row["size"]


@pytest.mark.parametrize("row", PROOF["invalid"], ids=name_of)
def test_invalid_proof(row: dict[str, Any]) -> None:
    key = parse_verifier_key(PROOF["key"])
    with pytest.raises(VerificationError):
        verify_proof(parse_proof(row["proof"].encode()), bytes.fromhex(row["entry"]), key)


# --- the pages -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("log-checkpoint", CHECKPOINT["valid"][0]["note"]),
        ("log-checkpoint", CHECKPOINT["valid"][3]["note"]),
        ("log-checkpoint", CHECKPOINT["keys"]["valid"][0]["vkey"] + "\n"),
        ("log-proof", PROOF["valid"][2]["proof"]),
        ("log-tiles", "\n".join(f"{digest}  {path}" for path, digest in TILES["trees"][4]["sha256"].items()) + "\n"),
    ],
)
def test_the_pages_show_the_vectors(page: str, text: str) -> None:
    assert f"```\n{text}```" in (Path(PAGES) / f"{page}.md").read_text(encoding="utf-8")
