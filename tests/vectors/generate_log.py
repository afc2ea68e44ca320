"""Write the vectors of the log's formats with the oracle: `python -m tests.vectors.generate_log`.

Inputs are fixed, so that a second run writes the same bytes; a difference is a change of format.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tests.log_oracle import Signer, Tree, b64, bundle, checkpoint_text, path_of, proof_file
from tests.vectors import FOLDER
from tests.vectors.generate import fixed

LOG = Signer("keyvault-shredder/6f9619ff-8b86-4d01-b42d-00cf4fc964ff", fixed("log key"))
OTHER = Signer("example.com/another-log", fixed("another log key"))
WITNESS = Signer("example.com/witness", fixed("witness key"), kind=4)
TREE = Tree([b"entry %d" % number for number in range(70_000)])
TIME = 1_790_000_000
ENTRIES_6962 = ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")


def rfc6962() -> dict[str, Any]:
    """The eight leaves that implementations of RFC 6962 have tested themselves with from the first on."""
    tree = Tree([bytes.fromhex(entry) for entry in ENTRIES_6962])
    sizes = range(1, len(ENTRIES_6962) + 1)
    return {
        "source": "RFC 6962, section 2.1, over the eight leaves of the first implementations",
        "empty": tree.mth(0, 0).hex(),
        "entries": list(ENTRIES_6962),
        "roots": [tree.mth(0, size).hex() for size in sizes],
        "inclusion": [
            {"index": index, "size": size, "proof": [value.hex() for value in tree.path(index, 0, size)]}
            for size in sizes
            for index in range(size)
        ],
        "consistency": [
            {"old": old, "size": size, "proof": [value.hex() for value in tree.proof(old, size)]}
            for size in sizes
            for old in range(1, size + 1)
        ],
    }


# --- tiles -----------------------------------------------------------------------------------------------------------


def tiles() -> dict[str, Any]:
    places = [
        (None, 0, 256),
        (None, 0, 1),
        (None, 273, 112),
        (None, 1_234_067, 256),
        (0, 0, 255),
        (0, 999, 256),
        (0, 1_000, 256),
        (0, 1_234_067, 8),
        (1, 1_000_000, 256),
        (7, 0, 127),
        (63, 0, 256),
    ]
    paths = [
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000/001",
        "tile/0/001/000",
        "tile/0/X001/000",
        "tile/00/000",
        "tile/64/000",
        "tile/data/000",
        "tile/8/0/000",
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/000.p",
        "tile/0/000/",
        "/tile/0/000",
    ]
    return {
        "format": "tiles and entry bundles",
        "page": "docs/formats/log-tiles.md",
        "valid": [
            {
                "level": level,
                "number": n,
                "width": width,
                "path": path_of("entries" if level is None else level, n, width),
            }
            for level, n, width in places
        ],
        "invalid": [{"path": path} for path in paths],
        "trees": [tree_row(size) for size in (1, 2, 255, 256, 257, 600, 65_536, 70_000)],
        "bundles": bundles(),
    }


def tree_row(size: int) -> dict[str, Any]:
    """A tree of the entries `entry 0`, `entry 1`, …; of a large one the digest of what sha256sum says of its files, by path."""
    files = TREE.tiles(size)
    digests = {path: hashlib.sha256(files[path]).hexdigest() for path in sorted(files)}
    listing = "".join(f"{digest}  {path}\n" for path, digest in digests.items())
    row = {"size": size, "root": TREE.mth(0, size).hex(), "files": len(files)}
    row["listing_sha256"] = hashlib.sha256(listing.encode()).hexdigest()
    return row | ({"sha256": digests} if size <= 600 else {})


def bundles() -> dict[str, Any]:
    good = bundle([b"entry 0", b"", b"entry 2"])
    rows = [
        ("none", []),
        ("one, empty", [b""]),
        ("three", [b"entry 0", b"", b"entry 2"]),
        ("longer", [fixed("entry", 300)]),
    ]
    bad = [
        ("cut in a length", good[:-8]),
        ("cut in an entry", good[:-1]),
        ("a byte after the end", good + b"\0"),
        ("an entry longer than the file", b"\xff\xff" + good),
    ]
    return {
        "valid": [
            {"name": name, "entries": [entry.hex() for entry in entries], "bundle": bundle(entries).hex()}
            for name, entries in rows
        ],
        "invalid": [{"name": name, "bundle": data.hex()} for name, data in bad],
    }


# --- checkpoints -----------------------------------------------------------------------------------------------------

TEXT = checkpoint_text(LOG.name, 70_000, TREE.mth(0, 70_000))


def noted(text: str, *lines: str) -> str:
    return f"{text}\n{''.join(lines)}"


def checkpoint() -> dict[str, Any]:
    more = f"{TEXT}an extension\n"
    empty = checkpoint_text(LOG.name, 0, TREE.mth(0, 0))
    strangers = [Signer(f"example.com/{number}", fixed(f"stranger {number}")).line(TEXT) for number in range(16)]
    mldsa = f"— {LOG.name} {b64(b'unkn' + bytes(2420))}\n"
    rows = [
        ("signed", TEXT, [LOG.line(TEXT)]),
        ("of the empty log", empty, [LOG.line(empty)]),
        ("with an extension line", more, [LOG.line(more)]),
        ("cosigned", TEXT, [LOG.line(TEXT), WITNESS.line(TEXT, TIME)]),
        ("among sixteen signatures of strangers", TEXT, [*strangers, LOG.line(TEXT)]),
        ("beside a signature of an unknown type", TEXT, [mldsa, LOG.line(TEXT)]),
    ]
    return {
        "format": "checkpoint",
        "page": "docs/formats/log-checkpoint.md",
        "keys": keys(),
        "valid": [
            {
                "name": name,
                "key": LOG.vkey,
                "text": text,
                "origin": LOG.name,
                "size": int(text.split("\n")[1]),
                "root": text.split("\n")[2],
                "note": noted(text, *lines),
            }
            for name, text, lines in rows
        ],
        "invalid": [{"name": name, "key": LOG.vkey, "note": note} for name, note in bad_checkpoints()],
    }


def keys() -> dict[str, Any]:
    rows = [
        {"name": each.name, "type": each.kind, "public": each.public.hex(), "id": each.key_id.hex(), "vkey": each.vkey}
        for each in (LOG, WITNESS)
    ]
    name, key_id, data = LOG.vkey.split("+", 2)
    bad = [
        ("another id", f"{name}+00000000+{data}"),
        ("another name", f"{name}x+{key_id}+{data}"),
        ("white space in the name", Signer("a log", fixed("log key")).vkey),
        ("an unknown type", Signer("example.com/log", fixed("log key"), kind=6).vkey),
        ("no key", f"{name}+{key_id}+AQ=="),
        ("no base64", f"{name}+{key_id}+{data}="),
        ("no id", f"{name}+{data}"),
    ]
    return {"valid": rows, "invalid": [{"name": name, "vkey": vkey} for name, vkey in bad]}


def bad_checkpoints() -> list[tuple[str, str]]:
    line = LOG.line(TEXT)
    other = checkpoint_text(OTHER.name, 70_000, TREE.mth(0, 70_000))
    texts = [
        ("no size", f"{LOG.name}\n{b64(TREE.mth(0, 70_000))}\n"),
        ("leading zero", TEXT.replace("\n70000\n", "\n070000\n")),
        ("negative size", TEXT.replace("\n70000\n", "\n-1\n")),
        ("size of 2^63", TEXT.replace("\n70000\n", f"\n{2**63}\n")),
        ("root of 31 bytes", f"{LOG.name}\n70000\n{b64(bytes(31))}\n"),
        ("root that is no base64", f"{LOG.name}\n70000\n{'?' * 44}\n"),
        ("an empty extension line", f"{TEXT}\nmore\n"),
        ("of another log, under this log's key", other),
    ]
    return [
        *((name, noted(text, LOG.line(text))) for name, text in texts),
        ("another size under the signature", noted(TEXT, line).replace("\n70000\n", "\n70001\n")),
        ("another log's signature", noted(TEXT, OTHER.line(TEXT))),
        ("this log's name, another key", noted(TEXT, Signer(LOG.name, fixed("other")).line(TEXT))),
        ("a witness alone", noted(TEXT, WITNESS.line(TEXT, TIME))),
        ("signed over the body without its last newline", noted(TEXT, LOG.line(TEXT[:-1]))),
        ("a signature that holds after one that does not", noted(TEXT, LOG.line_of(bytes(64)), line)),
        ("a signature cut short", noted(TEXT, LOG.line_of(bytes(63)))),
        ("no blank line", TEXT + line),
        ("no signature", f"{TEXT}\n"),
        ("no newline at the end", noted(TEXT, line)[:-1]),
        ("hyphen for the dash", noted(TEXT, line.replace("—", "-"))),
        ("carriage returns", noted(TEXT, line).replace("\n", "\r\n")),
    ]


# --- proofs ----------------------------------------------------------------------------------------------------------


def signed(size: int) -> str:
    text = checkpoint_text(LOG.name, size, TREE.mth(0, size))
    return noted(text, LOG.line(text))


def proof() -> dict[str, Any]:
    rows = [(0, 1, None), (1, 2, None), (6, 7, b"an application's own"), (256, 257, None), (12_345, 70_000, None)]
    return {
        "format": "proof file",
        "page": "docs/formats/log-proof.md",
        "key": LOG.vkey,
        "valid": [
            {
                "name": f"entry {index} of {size}" + (", with extra bytes" if extra else ""),
                "index": index,
                "size": size,
                "entry": TREE.entries[index].hex(),
                "extra": None if extra is None else extra.hex(),
                "proof": proof_file(index, TREE.path(index, 0, size), signed(size), extra),
            }
            for index, size, extra in rows
        ],
        "invalid": [{"name": name, "entry": entry.hex(), "proof": proof} for name, entry, proof in bad_proofs()],
    }


def bad_proofs() -> list[tuple[str, bytes, str]]:
    index, size = 200, 257
    entry, hashes = TREE.entries[index], TREE.path(index, 0, size)
    good = proof_file(index, hashes, signed(size))
    rows = [
        ("another version", good.replace("@v1", "@v2")),
        ("no index", good.replace("index 200\n", "")),
        ("index with a leading zero", good.replace("index 200", "index 0200")),
        ("index out of the tree", good.replace("index 200", "index 257")),
        ("the index of another entry", good.replace("index 200", "index 201")),
        ("a hash too few", proof_file(index, hashes[:-1], signed(size))),
        ("a hash too many", proof_file(index, [*hashes, hashes[0]], signed(size))),
        ("hashes exchanged", proof_file(index, [hashes[1], hashes[0], *hashes[2:]], signed(size))),
        ("a hash altered", proof_file(index, [bytes(32), *hashes[1:]], signed(size))),
        ("a hash of 31 bytes", proof_file(index, [bytes(31), *hashes[1:]], signed(size))),
        ("64 hashes", proof_file(index, [bytes(32)] * 64, signed(size))),
        ("extra behind the index", good.replace("index 200\n", "index 200\nextra AAAA\n")),
        ("no blank line", good.replace("\n\n", "\n", 1)),
        ("the checkpoint of another size", proof_file(index, hashes, signed(256))),
        ("a checkpoint that is not signed", proof_file(index, hashes, signed(size).split("—")[0])),
        ("another log's checkpoint", proof_file(index, hashes, signed(size).replace(LOG.name, OTHER.name))),
    ]
    return [*((name, entry, proof) for name, proof in rows), ("another entry", TREE.entries[201], good)]


def texts() -> dict[str, str]:
    made = {"rfc6962": rfc6962(), "log-tiles": tiles(), "log-checkpoint": checkpoint(), "log-proof": proof()}
    return {name: json.dumps(vectors, indent=2) + "\n" for name, vectors in made.items()}


if __name__ == "__main__":
    for name, text in texts().items():
        (FOLDER / f"{name}.json").write_text(text, encoding="ascii")
