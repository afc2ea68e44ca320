"""Checkpoints, as C2SP tlog-checkpoint wants them."""

from __future__ import annotations

import base64

import pytest

from keyvault.errors import VerificationError
from shredder.log.checkpoint import Checkpoint, open_checkpoint, parse_text, read_unverified
from shredder.log.merkle import EMPTY_ROOT
from shredder.log.note import parse_verifier_key
from tests.log_oracle import Signer, checkpoint_text

LOG, OTHER = Signer("example.com/log", b"L" * 32), Signer("example.com/other", b"O" * 32)
WITNESS = Signer("example.com/witness", b"W" * 32, kind=4)
LOG_KEY, OTHER_KEY, WITNESS_KEY = (parse_verifier_key(signer.vkey) for signer in (LOG, OTHER, WITNESS))
ROOT = bytes(range(32))
ENCODED = base64.b64encode(ROOT).decode()
TEXT = checkpoint_text(LOG.name, 70_000, ROOT)
FOUND = Checkpoint(origin=LOG.name, size=70_000, root=ROOT)


def note(text: str, *lines: str) -> bytes:
    return f"{text}\n{''.join(lines)}".encode()


@pytest.mark.parametrize(("size", "root"), [(0, EMPTY_ROOT), (1, ROOT), (70_000, ROOT), (2**63 - 1, ROOT)])
def test_a_text_is_read_as_it_is_written(size: int, root: bytes) -> None:
    text = checkpoint_text(LOG.name, size, root)
    assert parse_text(text) == Checkpoint(origin=LOG.name, size=size, root=root)
    assert parse_text(text).text == text


def test_extension_lines_are_skipped() -> None:
    assert parse_text(f"{TEXT}more\nand more\n") == FOUND


LINES = "a checkpoint has at least three lines, none empty, each with its newline"
SIZE = "a checkpoint's size is no decimal number below 2^63 without leading zeros"
EMPTY = "a checkpoint of size 0, and no other, has the root of the empty tree"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", LINES),
        ("\n", LINES),
        ("log\n1\n", LINES),
        (TEXT[:-1], LINES),
        (f"log\n\n1\n{ENCODED}\n", LINES),
        (f"\n1\n{ENCODED}\n", LINES),
        (f"{TEXT}\n", LINES),
        (f"{TEXT}more\n\nand more\n", LINES),
        (f"{TEXT}more", LINES),
        (f"a log\n1\n{ENCODED}\n", "a log's name has no white space and no plus sign"),
        (f"a+log\n1\n{ENCODED}\n", "a log's name has no white space and no plus sign"),
        (f"log\n01\n{ENCODED}\n", SIZE),
        (f"log\n-1\n{ENCODED}\n", SIZE),
        (f"log\n 1\n{ENCODED}\n", SIZE),
        (f"log\n٣\n{ENCODED}\n", SIZE),
        (f"log\n{2**63}\n{ENCODED}\n", SIZE),
        (f"log\n{'9' * 5000}\n{ENCODED}\n", SIZE),
        (f"log\n1\n{ENCODED[:-1]}\n", "a checkpoint's root is not base64"),
        (f"log\n1\n{ENCODED[:-2]}9=\n", "a checkpoint's root is not base64 as it is written"),
        ("log\n1\nAAAA\n", "a checkpoint's root is 32 bytes in base64"),
        (f"log\n1\n{base64.b64encode(ROOT + bytes(1)).decode()}\n", "a checkpoint's root is 32 bytes in base64"),
        (f"log\n0\n{ENCODED}\n", EMPTY),
        (checkpoint_text("log", 1, EMPTY_ROOT), EMPTY),
    ],
)
def test_malformed(text: str, message: str) -> None:
    with pytest.raises(VerificationError) as caught:
        parse_text(text)
    assert str(caught.value) == message


def test_the_logs_own_signature_opens_a_checkpoint() -> None:
    assert open_checkpoint(note(TEXT, LOG.line(TEXT)), LOG_KEY) == FOUND
    signed = note(TEXT, OTHER.line(TEXT), LOG.line(TEXT), WITNESS.line(TEXT, 7))
    assert open_checkpoint(signed, LOG_KEY) == FOUND == open_checkpoint(signed, LOG_KEY, [WITNESS_KEY, OTHER_KEY])
    assert read_unverified(note(TEXT, OTHER.line(TEXT))) == FOUND


def test_a_witness_does_not_stand_in_for_the_log() -> None:
    signed = note(TEXT, WITNESS.line(TEXT, 7))
    with pytest.raises(VerificationError, match=r"^no key that is known here has signed this note$"):
        open_checkpoint(signed, LOG_KEY)
    message = rf"^the log's own key \({LOG.name}\) has not signed this checkpoint$"
    with pytest.raises(VerificationError, match=message):
        open_checkpoint(signed, LOG_KEY, [WITNESS_KEY])


def test_a_witness_that_fails_refuses_the_checkpoint() -> None:
    signed = note(TEXT, LOG.line(TEXT), WITNESS.line(checkpoint_text(LOG.name, 1, ROOT), 7))
    assert open_checkpoint(signed, LOG_KEY) == FOUND
    with pytest.raises(VerificationError, match=rf"^the signature of {WITNESS.name} does not hold"):
        open_checkpoint(signed, LOG_KEY, [WITNESS_KEY])


def test_another_logs_checkpoint_is_refused() -> None:
    text = checkpoint_text(OTHER.name, 70_000, ROOT)
    with pytest.raises(VerificationError, match=rf"^this checkpoint is of the log {OTHER.name}, not of {LOG.name}$"):
        open_checkpoint(note(text, LOG.line(text)), LOG_KEY)


def test_every_altered_bit_is_refused() -> None:
    signed = note(TEXT, LOG.line(TEXT))
    for position in range(8 * len(signed)):
        altered = bytearray(signed)
        altered[position // 8] ^= 1 << position % 8
        with pytest.raises(VerificationError):
            open_checkpoint(bytes(altered), LOG_KEY)
