"""Proof files, as C2SP tlog-proof wants them."""

from __future__ import annotations

import pytest

from keyvault.errors import VerificationError
from shredder.log.note import parse_verifier_key
from shredder.log.proof import MAX_HASHES, Proof, parse_proof, verify_proof
from tests.log_oracle import Signer, Tree, b64, checkpoint_text, proof_file

LOG = Signer("example.com/log", b"L" * 32)
LOG_KEY = parse_verifier_key(LOG.vkey)
TREE = Tree([b"entry %d" % number for number in range(300)])
H = b64(bytes(range(32)))
LINE = f"{H}\n"


def checkpoint(size: int) -> str:
    text = checkpoint_text(LOG.name, size, TREE.mth(0, size))
    return f"{text}\n{LOG.line(text)}"


def proof(index: int, size: int, extra: bytes | None = None) -> bytes:
    return proof_file(index, TREE.path(index, 0, size), checkpoint(size), extra).encode()


@pytest.mark.parametrize(("index", "size"), [(0, 1), (0, 2), (6, 7), (255, 256), (256, 257), (77, 300)])
@pytest.mark.parametrize("extra", [None, b"", b"an application's own"])
def test_a_proof_is_read_as_it_is_written(index: int, size: int, extra: bytes | None) -> None:
    data = proof(index, size, extra)
    found = parse_proof(data)
    hashes = TREE.path(index, 0, size)
    assert found == Proof(index=index, hashes=hashes, checkpoint=checkpoint(size).encode(), extra=extra)
    assert found.text == data
    assert verify_proof(found, TREE.entries[index], LOG_KEY).size == size


def test_a_proof_is_of_one_entry() -> None:
    found = parse_proof(proof(77, 300))
    with pytest.raises(
        VerificationError, match=r"^the inclusion proof of leaf 77 does not lead to the root of size 300$"
    ):
        verify_proof(found, TREE.entries[78], LOG_KEY)


def test_a_proof_of_another_log_is_refused() -> None:
    other = Signer(LOG.name, b"O" * 32)
    with pytest.raises(VerificationError, match=r"^no key that is known here has signed this note$"):
        verify_proof(parse_proof(proof(77, 300)), TREE.entries[77], parse_verifier_key(other.vkey))


def test_every_altered_bit_is_refused() -> None:
    data = proof(77, 300)
    for position in range(8 * len(data)):
        altered = bytearray(data)
        altered[position // 8] ^= 1 << position % 8
        with pytest.raises(VerificationError):
            verify_proof(parse_proof(bytes(altered)), TREE.entries[77], LOG_KEY)


def test_every_cut_is_refused() -> None:
    data = proof(77, 300)
    for end in range(len(data)):
        with pytest.raises(VerificationError):
            verify_proof(parse_proof(data[:end]), TREE.entries[77], LOG_KEY)


HEADER = "c2sp.org/tlog-proof@v1"
NO_PROOF = f"this is no proof file: its first line is not {HEADER}"
INDEX = "a proof file has one line `index N`, and at most 63 hashes"
NUMBER = "the index in a proof file is no decimal number below 2^63 without leading zeros"


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("", NO_PROOF),
        ("c2sp.org/tlog-proof@v2\nindex 0\n\n", NO_PROOF),
        (f" {HEADER}\nindex 0\n\n", NO_PROOF),
        (f"{HEADER}\nindex 0\n{H}\n", NO_PROOF),
        (f"{HEADER}\n\n", INDEX),
        (f"{HEADER}\n{H}\n\n", INDEX),
        (f"{HEADER}\nIndex 0\n\n", INDEX),
        (f"{HEADER}\nindex\n\n", INDEX),
        (f"{HEADER}\nextra AAAA\n\n", INDEX),
        (f"{HEADER}\nextra AAAA\nextra AAAA\nindex 0\n\n", INDEX),
        (f"{HEADER}\nindex 0\n{LINE * (MAX_HASHES + 1)}\n", INDEX),
        (f"{HEADER}\nindex \n\n", NUMBER),
        (f"{HEADER}\nindex 00\n\n", NUMBER),
        (f"{HEADER}\nindex -1\n\n", NUMBER),
        (f"{HEADER}\nindex 0 \n\n", NUMBER),
        (f"{HEADER}\nindex {2**63}\n\n", NUMBER),
        (f"{HEADER}\nindex {'9' * 5000}\n\n", NUMBER),
        (f"{HEADER}\nindex 0\r\n\n", NUMBER),
        (f"{HEADER}\nextra AAA\nindex 0\n\n", "the line `extra` is not base64"),
        (f"{HEADER}\nindex 0\nextra AAAA\n\n", "a hash is not base64"),
        (f"{HEADER}\nindex 0\n{H}=\n\n", "a hash is not base64"),
        (f"{HEADER}\nindex 0\n{H}\nAAAA\n\n", "a hash in a proof file has 32 bytes"),
        (f"{HEADER}\nindex 0\n{H}\nü\n\n", "a proof file's lines are ASCII"),
    ],
)
def test_malformed(head: str, message: str) -> None:
    with pytest.raises(VerificationError) as caught:
        parse_proof(head.encode() + checkpoint(1).encode() if head.endswith("\n\n") else head.encode())
    assert str(caught.value) == message


def test_as_many_hashes_as_are_read() -> None:
    data = f"{HEADER}\nindex 0\n{LINE * MAX_HASHES}\n".encode()
    assert len(parse_proof(data).hashes) == MAX_HASHES
