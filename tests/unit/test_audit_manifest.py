"""The manifest of a pack: its one form, and what it leaves out."""

from __future__ import annotations

import pytest

from keyvault.errors import VerificationError
from shredder.audit.manifest import encode_manifest, is_for_reading, parse_manifest

DIGEST = "ab" * 32
WHOLE = {"checkpoint": DIGEST, "tile/0/000": DIGEST}


def test_it_reads_what_it_writes() -> None:
    text = encode_manifest(WHOLE)
    assert text == f"{DIGEST}  checkpoint\n{DIGEST}  tile/0/000\n".encode()
    assert parse_manifest(text) == WHOLE
    assert parse_manifest(b"") == {}


@pytest.mark.parametrize(
    "data",
    [
        encode_manifest(WHOLE)[:-1],
        encode_manifest(WHOLE) + b"\n",
        encode_manifest(WHOLE).upper(),
        encode_manifest(WHOLE) * 2,
        b"".join(encode_manifest(WHOLE).splitlines(keepends=True)[::-1]),
        encode_manifest(WHOLE).replace(b"  ", b" "),
        encode_manifest(WHOLE).replace(b"\n", b"\r\n"),
        f"{DIGEST}  two words\n".encode(),
        b"\xff",
    ],
)
def test_no_other_bytes_are_a_manifest(data: bytes) -> None:
    with pytest.raises(VerificationError):
        parse_manifest(data)


@pytest.mark.parametrize(
    ("path", "is_page"),
    [
        ("README.txt", True),
        ("a.html", True),
        ("x/README.txt", False),
        ("x/a.html", False),
        (".html", False),
        ("a.htm", False),
    ],
)
def test_what_is_there_to_be_read(path: str, is_page: bool) -> None:
    assert is_for_reading(path) is is_page
