"""Signed notes and the keys that verify them, as C2SP signed-note and tlog-cosignature want them."""

from __future__ import annotations

import base64
import re

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyvault.errors import VerificationError
from shredder.log.note import (
    COSIGNATURE,
    ED25519,
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    Signature,
    VerifierKey,
    is_name,
    open_note,
    parse_verifier_key,
    sign_note,
    split_note,
    unbase64,
    whole_number,
)
from tests.log_oracle import Signer

LOG, OTHER = Signer("example.com/log", b"L" * 32), Signer("example.com/other", b"O" * 32)
WITNESS = Signer("example.com/witness", b"W" * 32, kind=4)
TEXT = "example.com/log\nwhatever it says\n"
NOTE = f"{TEXT}\n{LOG.line(TEXT)}".encode()


def key_of(signer: Signer) -> VerifierKey:
    return parse_verifier_key(signer.vkey)


LOG_KEY, OTHER_KEY, WITNESS_KEY = key_of(LOG), key_of(OTHER), key_of(WITNESS)


def refused(note: bytes, *keys: VerifierKey) -> str:
    with pytest.raises(VerificationError) as caught:
        open_note(note, keys or (LOG_KEY,))
    return str(caught.value)


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signer", [LOG, WITNESS], ids=["log", "witness"])
def test_a_key_is_read_as_it_is_written(signer: Signer) -> None:
    key = parse_verifier_key(f"{signer.vkey}\n")
    assert (key.name, key.type, key.public, key.id) == (signer.name, signer.kind, signer.public, signer.key_id)
    assert str(key) == signer.vkey


def test_a_key_of_another_id_is_refused() -> None:
    name, key_id, rest = LOG.vkey.split("+", 2)
    for wrong in (f"{int(key_id, 16) ^ 1:08x}", key_id.upper(), key_id[:-1], ""):
        with pytest.raises(VerificationError, match=rf"^the id in the verifier key of {name} is not that of its key$"):
            parse_verifier_key(f"{name}+{wrong}+{rest}")


def made(name: str, data: bytes) -> str:
    key_id = VerifierKey(name=name, type=data[0], public=data[1:]).id.hex()
    return f"{name}+{key_id}+{base64.b64encode(data).decode()}"


@pytest.mark.parametrize(
    "text",
    [
        made("a b", bytes([1]) + LOG.public),
        made("a\N{NO-BREAK SPACE}b", bytes([1]) + LOG.public),
        made("", bytes([1]) + LOG.public),
        made("name", bytes([2]) + LOG.public),
        made("name", bytes([6]) + LOG.public),
        made("name", bytes([1]) + LOG.public[:-1]),
        made("name", bytes([1]) + LOG.public + b"\0"),
        "\udc80" + LOG.vkey,
        "name",
        "name+00000000+",
        "",
    ],
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(VerificationError, match=r"^this is no verifier key of Ed25519: NAME\+ID\+KEY$"):
        parse_verifier_key(text)


@pytest.mark.parametrize(
    "text", [LOG.vkey[:-1], LOG.vkey + "=", LOG.vkey.replace("example", "exam+ple"), LOG.vkey + "+"]
)
def test_a_key_that_is_not_base64_is_refused(text: str) -> None:
    with pytest.raises(VerificationError, match=r"^the verifier key is not base64"):
        parse_verifier_key(text)


@pytest.mark.parametrize("name", ["a", "example.com/log", "Zeuge-√", "a\x7f"])
def test_names(name: str) -> None:
    assert is_name(name)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "+", "a\tb", "\u2003", "a\u2028", "a\x85", "\ud800", "a\udfff"])
def test_what_is_no_name(name: str) -> None:
    assert not is_name(name)


# --- signing and opening ---------------------------------------------------------------------------------------------


def test_a_note_is_signed() -> None:
    key = Ed25519PrivateKey.from_private_bytes(b"L" * 32)
    assert sign_note(TEXT, LOG_KEY, key.sign) == NOTE
    assert open_note(NOTE, [OTHER_KEY, LOG_KEY]) == (TEXT, [Signature(key=LOG_KEY)])
    assert split_note(NOTE) == (TEXT, [(LOG.name, base64.b64decode(NOTE.split()[-1]))])


def test_a_cosignature_has_its_time() -> None:
    note = NOTE + WITNESS.line(TEXT, 1_790_000_000).encode()
    signatures = [Signature(key=LOG_KEY), Signature(key=WITNESS_KEY, at=1_790_000_000)]
    assert open_note(note, [LOG_KEY, WITNESS_KEY]) == (TEXT, signatures)
    assert (ED25519, COSIGNATURE) == (1, 4)


def test_a_signature_does_not_pass_for_a_cosignature_nor_the_other_way_around() -> None:
    as_log, as_witness = Signer("n", b"W" * 32, kind=1), Signer("n", b"W" * 32, kind=4)
    plain = base64.b64decode(as_log.line(TEXT).split()[-1])[4:]
    timed = base64.b64decode(as_witness.line(TEXT, 5).split()[-1])[4:]
    for line, key, length in [(as_log.line_of(timed), as_log, 72), (as_witness.line_of(plain), as_witness, 56)]:
        expected = f"the signature of n has {length} bytes, not 64"
        assert refused(f"{TEXT}\n{line}".encode(), key_of(key)) in {
            expected,
            "the signature of n does not hold: the note was altered",
        }


def test_unknown_keys_are_left_alone() -> None:
    stranger = Signer("example.com/stranger", b"S" * 32)
    mldsa = f"— {LOG.name} {base64.b64encode(b'abcd' + bytes(2420)).decode()}\n"
    lines = stranger.line(TEXT) + mldsa + LOG.line(TEXT) + OTHER.line_of(bytes(64))
    assert open_note(f"{TEXT}\n{lines}".encode(), [LOG_KEY]) == (TEXT, [Signature(key=LOG_KEY)])


def test_a_key_is_known_by_name_and_id_together() -> None:
    renamed = Signer("example.com/renamed", b"L" * 32)
    note = f"{TEXT}\n{renamed.line(TEXT)}".encode()
    assert refused(note) == "no key that is known here has signed this note"


def test_one_known_key_that_fails_refuses_the_note() -> None:
    note = NOTE + OTHER.line("another text\n").encode()
    assert open_note(note, [LOG_KEY])[1] == [Signature(key=LOG_KEY)]
    assert refused(note, LOG_KEY, OTHER_KEY) == f"the signature of {OTHER.name} does not hold: the note was altered"
    twice = NOTE + LOG.line("another text\n").encode()
    assert refused(twice) == f"the signature of {LOG.name} does not hold: the note was altered"


@pytest.mark.parametrize("signature", [b"x", bytes(63), bytes(65)])
def test_a_signature_of_another_length_is_refused(signature: bytes) -> None:
    note = f"{TEXT}\n{LOG.line_of(signature)}".encode()
    assert refused(note) == f"the signature of {LOG.name} has {len(signature)} bytes, not 64"
    short = f"{TEXT}\n{WITNESS.line_of(bytes(8) + signature)}".encode()
    assert refused(short, WITNESS_KEY) == f"the signature of {WITNESS.name} has {len(signature)} bytes, not 64"


@pytest.mark.parametrize("count", [1, 16, 17, MAX_SIGNATURES])
def test_many_signatures(count: int) -> None:
    strangers = [Signer(f"stranger-{number}", bytes([number]) * 32) for number in range(count - 1)]
    note = f"{TEXT}\n{''.join(each.line(TEXT) for each in strangers)}{LOG.line(TEXT)}".encode()
    text, signatures = open_note(note, [LOG_KEY, *map(key_of, strangers)])
    assert (text, len(signatures)) == (TEXT, count)


def test_more_signatures_than_are_read() -> None:
    note = f"{TEXT}\n{LOG.line(TEXT) * (MAX_SIGNATURES + 1)}".encode()
    assert refused(note) == "a signed note of more than 64 signatures is not read"


def test_every_altered_bit_is_refused() -> None:
    note = NOTE + WITNESS.line(TEXT, 1_790_000_000).encode()
    for position in range(8 * len(note)):
        altered = bytearray(note)
        altered[position // 8] ^= 1 << position % 8
        with pytest.raises(VerificationError):
            both_signed(bytes(altered))
    both_signed(note)


def both_signed(note: bytes) -> None:
    _, signatures = open_note(note, [LOG_KEY, WITNESS_KEY])
    if {signature.key for signature in signatures} != {LOG_KEY, WITNESS_KEY}:
        raise VerificationError("one has not signed")


def test_every_cut_is_refused() -> None:
    for end in range(len(NOTE)):
        with pytest.raises(VerificationError):
            open_note(NOTE[:end], [LOG_KEY])


# --- malformed notes -------------------------------------------------------------------------------------------------

LINE = LOG.line(TEXT)
LAYOUT = "a signed note is a text, a blank line, and signature lines"
CHARACTERS = "a signed note has no control characters but newlines, and at most a million bytes"
NO_LINE = "a line under a signed note is no signature line"


@pytest.mark.parametrize(
    ("note", "message"),
    [
        (b"", LAYOUT),
        (b"\n", LAYOUT),
        (TEXT.encode(), LAYOUT),
        (f"{TEXT}\n".encode(), LAYOUT),
        (f"{TEXT}{LINE}".encode(), LAYOUT),
        (NOTE[:-1], LAYOUT),
        (NOTE + b"\n", LAYOUT),
        (NOTE + b"\n\n", LAYOUT),
        (NOTE + b"\xff", "a signed note is UTF-8, and this is not"),
        (b"\xed\xa0\x80" + NOTE, "a signed note is UTF-8, and this is not"),
        (b"\t" + NOTE, CHARACTERS),
        (NOTE.replace(b"\n", b"\r\n"), CHARACTERS),
        (NOTE + b"\0", CHARACTERS),
        (f"{TEXT}\n{LINE.replace('—', '-')}".encode(), NO_LINE),
        (f"{TEXT}\n{LINE.replace('— ', '—')}".encode(), NO_LINE),
        (f"{TEXT}\n{LINE.replace('— ', '—  ')}".encode(), NO_LINE),
        (f"{TEXT}\n{LINE.replace('.', '+')}".encode(), NO_LINE),
        (f"{TEXT}\n— {LOG.name}\n".encode(), NO_LINE),
        (f"{TEXT}\n— {LOG.name} \n".encode(), "a signature line holds no signature"),
        (f"{TEXT}\n— {LOG.name} AAAAAA==\n".encode(), "a signature line holds no signature"),
        (f"{TEXT}\n— {LOG.name} AAAA\n".encode(), "a signature line holds no signature"),
        (f"{TEXT}\n{LINE[:-1]}=\n".encode(), "a signature line is not base64"),
        (f"{TEXT}\n{LINE[:-1]} \n".encode(), "a signature line is not base64"),
        (f"{TEXT}\n— {LOG.name} ÄÄÄÄ\n".encode(), "a signature line is not base64"),
    ],
)
def test_malformed(note: bytes, message: str) -> None:
    assert refused(note) == message


def test_a_note_as_long_as_is_read() -> None:
    room = MAX_NOTE_BYTES - len(f"\n{LINE}".encode())
    text = "x" * (room - 1) + "\n"
    assert open_note(f"{text}\n{LOG.line(text)}".encode(), [LOG_KEY])[0] == text
    assert refused(f"x{text}\n{LOG.line('x' + text)}".encode()) == CHARACTERS


def test_the_text_ends_at_the_last_blank_line() -> None:
    text = "a\n\nb\n"
    assert open_note(f"{text}\n{LOG.line(text)}".encode(), [LOG_KEY])[0] == text
    text = "a\n\n"
    assert open_note(f"{text}\n{LOG.line(text)}".encode(), [LOG_KEY])[0] == text


# --- numbers and base64 ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0", "1", "10", "9223372036854775807"])
def test_numbers(text: str) -> None:
    assert whole_number(text, "it") == int(text)


@pytest.mark.parametrize(
    "text", ["", "00", "01", "-1", "+1", " 1", "1 ", "1\n", "1_0", "٣", "²", "9223372036854775808", "9" * 5_000]
)
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(VerificationError, match=r"^it is no decimal number below 2\^63 without leading zeros$"):
        whole_number(text, "it")


@pytest.mark.parametrize("data", [b"", b"a", b"ab", b"abc", bytes(range(256))])
def test_base64(data: bytes) -> None:
    assert unbase64(base64.b64encode(data).decode(), "it") == data


@pytest.mark.parametrize(
    "text", ["a", "ab", "abc", "YQ", "YQ=", "YR==", "Y Q==", "YQ==\n", "YQ==YQ==", "-_-_", "=", "ä", "\udc80"]
)
def test_other_base64_is_refused(text: str) -> None:
    with pytest.raises(VerificationError, match=re.compile("^it is not base64( as it is written)?$")):
        unbase64(text, "it")
