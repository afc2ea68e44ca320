"""Write the vectors of our own formats with the reference implementation: `python -m tests.vectors.generate`.

Inputs are fixed, so that a second run writes the same bytes; a difference is a change of format.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from tests import reference
from tests.reference import Ref
from tests.vectors import FOLDER

FORMAT, DECRYPTION = "InvalidFormatError", "DecryptionFailedError"
NONCE = bytes.fromhex("a0a1a2a3a4a5a6a7a8a9aaab")
PREFIX = bytes.fromhex("b0b1b2b3b4b5b6")
DATA_NONCE = bytes.fromhex("c0c1c2c3c4c5c6c7c8c9cacb")
AD = b"table=calls;row=17"


def fixed(name: str, size: int = 32) -> bytes:
    """Bytes that look random and are always the same."""
    return hashlib.shake_256(f"keyvault test vector {name}".encode()).digest(size)


SALT, DEK = fixed("salt"), fixed("dek")
DEDICATED = Ref(fixed("month", 16), 1, 1, b"", b"vault:v1:" + fixed("token", 24).hex().encode())
RING = Ref(fixed("consumer", 16), 2, 3, fixed("record", 8), fixed("ring", 16) + bytes.fromhex("0000002a01"))
SHARES = [fixed("share 1"), fixed("share 2")]
BARE = Ref(fixed("bare", 16), 1, 2**32 - 1, b"", b"")


def flipped(data: bytes, position: int) -> bytes:
    changed = bytearray(data)
    changed[position] ^= 1
    return bytes(changed)


def put(data: bytes, position: int, value: int) -> bytes:
    return data[:position] + bytes([value]) + data[position + 1 :]


def wrapped_key() -> dict[str, Any]:
    rows = [
        ("one dedicated scope", [DEDICATED], SHARES[:1], DEK, b""),
        ("account-month and consumer's record, with associated data", [DEDICATED, RING], SHARES, DEK, AD),
        ("no token, highest generation, shortest DEK", [BARE], SHARES[:1], DEK[:16], b""),
        ("eight scopes, longest DEK", many(8), [fixed(f"share {n}") for n in range(8)], fixed("long", 64), AD),
    ]
    valid = [
        {
            "name": name,
            "salt": SALT.hex(),
            "scopes": [
                {
                    "scope_id": ref.scope_id.hex(),
                    "custody": ref.custody,
                    "generation": ref.generation,
                    "record_tag": ref.record_tag.hex(),
                    "token": ref.token.hex(),
                }
                for ref in refs
            ],
            "shares": [share.hex() for share in shares],
            "dek": dek.hex(),
            "associated_data": associated_data.hex(),
            "nonce": NONCE.hex(),
            "wrapped": reference.wrap(SALT, refs, shares, dek, associated_data, NONCE).hex(),
        }
        for name, refs, shares, dek, associated_data in rows
    ]
    return {
        "format": "wrapped key",
        "page": "docs/formats/wrapped-key.md",
        "valid": valid,
        "invalid": bad_wrapped_keys(),
    }


def many(count: int) -> list[Ref]:
    return [Ref(fixed(f"scope {n}", 16), 2, n + 1, b"", bytes([n])) for n in range(count)]


def bad_wrapped_keys() -> list[dict[str, Any]]:
    good = reference.wrap(SALT, [DEDICATED, RING], SHARES, DEK, AD, NONCE)
    end = len(reference.header(SALT, [DEDICATED, RING]))
    ring = 39 + 24 + len(DEDICATED.token)

    def made(refs: list[Ref], shares: list[bytes] = SHARES, dek: bytes = DEK) -> bytes:
        return reference.wrap(SALT, refs, shares, dek, AD, NONCE)

    nine = [fixed(f"share {n}") for n in range(9)]
    swapped = reference.header(SALT, [RING, DEDICATED]) + good[end:]
    rows = [
        ("empty", b"", SHARES, AD, FORMAT),
        ("other magic", b"XXX\x01" + good[4:], SHARES, AD, FORMAT),
        ("version 2", put(good, 3, 2), SHARES, AD, FORMAT),
        ("magic of an envelope", b"KVE\x01" + good[4:], SHARES, AD, FORMAT),
        ("suite 0", put(good, 4, 0), SHARES, AD, FORMAT),
        ("suite 2", put(good, 4, 2), SHARES, AD, FORMAT),
        ("flag set", put(good, 5, 0x80), SHARES, AD, FORMAT),
        ("no scopes", made([], []), [], AD, FORMAT),
        ("nine scopes", made(many(9), nine), nine, AD, FORMAT),
        ("a scope twice", made([RING, RING]), SHARES, AD, FORMAT),
        ("custody 0", put(good, ring + 16, 0), SHARES, AD, FORMAT),
        ("custody 3", put(good, ring + 16, 3), SHARES, AD, FORMAT),
        ("generation 0", made([DEDICATED, Ref(RING.scope_id, 2, 0, b"", b"")]), SHARES, AD, FORMAT),
        ("record tag of 4 bytes", made([DEDICATED, Ref(RING.scope_id, 2, 1, b"1234", b"")]), SHARES, AD, FORMAT),
        ("token of 1,025 bytes", made([DEDICATED, Ref(RING.scope_id, 2, 1, b"", bytes(1025))]), SHARES, AD, FORMAT),
        ("DEK of 15 bytes", made([DEDICATED, RING], dek=bytes(15)), SHARES, AD, FORMAT),
        ("DEK of 65 bytes", made([DEDICATED, RING], dek=bytes(65)), SHARES, AD, FORMAT),
        ("last byte missing", good[:-1], SHARES, AD, FORMAT),
        ("a byte after the end", good + b"\0", SHARES, AD, FORMAT),
        ("salt altered", flipped(good, 7), SHARES, AD, DECRYPTION),
        ("scope id altered", flipped(good, 39), SHARES, AD, DECRYPTION),
        ("record tag altered", flipped(good, ring + 22), SHARES, AD, DECRYPTION),
        ("scopes in another order", swapped, SHARES, AD, DECRYPTION),
        ("scopes and shares in another order", swapped, SHARES[::-1], AD, DECRYPTION),
        ("shares in another order", good, SHARES[::-1], AD, DECRYPTION),
        ("one share of another key", good, [SHARES[0], fixed("other")], AD, DECRYPTION),
        ("commitment altered", flipped(good, end), SHARES, AD, DECRYPTION),
        ("nonce altered", flipped(good, end + 32), SHARES, AD, DECRYPTION),
        ("ciphertext altered", flipped(good, end + 46), SHARES, AD, DECRYPTION),
        ("tag altered", flipped(good, len(good) - 1), SHARES, AD, DECRYPTION),
        ("other associated data", good, SHARES, b"table=calls;row=18", DECRYPTION),
        ("no associated data", good, SHARES, b"", DECRYPTION),
    ]
    return [
        {
            "name": name,
            "wrapped": data.hex(),
            "shares": [share.hex() for share in shares],
            "associated_data": associated_data.hex(),
            "error": error,
        }
        for name, data, shares, associated_data, error in rows
    ]


WRAPPED = reference.wrap(SALT, [DEDICATED], SHARES[:1], DEK, AD, NONCE)
OTHER_WRAPPED = reference.wrap(SALT, [DEDICATED, RING], SHARES, DEK, AD, NONCE)


def envelope() -> dict[str, Any]:
    plaintexts = [("empty", b""), ("short", b"+15551000862"), ("longer", fixed("long plaintext", 300))]
    valid = [
        {
            "name": name,
            "dek": DEK.hex(),
            "wrapped": WRAPPED.hex(),
            "nonce": DATA_NONCE.hex(),
            "plaintext": plaintext.hex(),
            "associated_data": AD.hex(),
            "envelope": reference.seal_envelope(DEK, WRAPPED, plaintext, AD, DATA_NONCE).hex(),
        }
        for name, plaintext in plaintexts
    ]
    good = reference.seal_envelope(DEK, WRAPPED, b"+15551000862", AD, DATA_NONCE)
    end = 4 + len(WRAPPED)
    rows = [
        ("empty", b"", AD, FORMAT),
        ("version 2", put(good, 3, 2), AD, FORMAT),
        ("magic of a stream", b"KVS\x01" + good[4:], AD, FORMAT),
        ("no wrapped key", good[:4] + good[end:], AD, FORMAT),
        ("cut before the nonce", good[:end], AD, FORMAT),
        ("cut in the tag", good[: end + 12 + 15], AD, FORMAT),
        ("last byte missing", good[:-1], AD, DECRYPTION),
        ("a byte after the end", good + b"\0", AD, DECRYPTION),
        ("wrapped key altered", flipped(good, 4 + 50), AD, DECRYPTION),
        ("wrapped key of another envelope", good[:4] + OTHER_WRAPPED + good[end:], AD, DECRYPTION),
        ("nonce altered", flipped(good, end), AD, DECRYPTION),
        ("ciphertext altered", flipped(good, end + 12), AD, DECRYPTION),
        ("tag altered", flipped(good, len(good) - 1), AD, DECRYPTION),
        ("other associated data", good, AD + b"0", DECRYPTION),
    ]
    return {
        "format": "envelope",
        "page": "docs/formats/envelope.md",
        "valid": valid,
        "invalid": invalid("envelope", rows),
    }


def stream() -> dict[str, Any]:
    sizes = [0, 12, reference.SEGMENT - 1, reference.SEGMENT, reference.SEGMENT + 1, 2 * reference.SEGMENT + 7]
    valid = [stream_row(size) for size in sizes]
    good = reference.seal_stream(DEK, WRAPPED, repeated(12), AD, PREFIX)
    empty = reference.seal_stream(DEK, WRAPPED, b"", AD, PREFIX)
    end = 4 + len(WRAPPED) + 7
    key = reference.stream_key(DEK, WRAPPED, PREFIX, AD)
    unfinished = good[:end] + reference.gcm_seal(key, PREFIX + bytes(5), repeated(12), b"")
    rows = [
        ("empty", b"", AD, FORMAT),
        ("version 2", put(good, 3, 2), AD, FORMAT),
        ("magic of an envelope", b"KVE\x01" + good[4:], AD, FORMAT),
        ("cut in the prefix", good[: end - 1], AD, FORMAT),
        ("no segment", good[:end], AD, FORMAT),
        ("cut in the tag of an empty segment", empty[:-1], AD, FORMAT),
        ("last byte missing", good[:-1], AD, DECRYPTION),
        ("a byte after the end", good + b"\0", AD, DECRYPTION),
        ("last segment not marked as last", unfinished, AD, DECRYPTION),
        ("wrapped key altered", flipped(good, 4 + 50), AD, DECRYPTION),
        ("wrapped key of another stream", good[:4] + OTHER_WRAPPED + good[end - 7 :], AD, DECRYPTION),
        ("prefix altered", flipped(good, end - 1), AD, DECRYPTION),
        ("segment altered", flipped(good, end), AD, DECRYPTION),
        ("other associated data", good, b"", DECRYPTION),
    ]
    return {"format": "stream", "page": "docs/formats/stream.md", "valid": valid, "invalid": invalid("stream", rows)}


def stream_row(size: int) -> dict[str, Any]:
    """Long streams are given by digest; the plaintext is the bytes 00 to fa (251 of them), repeated and cut to size."""
    sealed = reference.seal_stream(DEK, WRAPPED, repeated(size), AD, PREFIX)
    row: dict[str, Any] = {
        "name": f"{size} bytes",
        "dek": DEK.hex(),
        "wrapped": WRAPPED.hex(),
        "prefix": PREFIX.hex(),
        "plaintext_bytes": size,
        "associated_data": AD.hex(),
        "stream_bytes": len(sealed),
        "stream_sha256": hashlib.sha256(sealed).hexdigest(),
    }
    return row | ({"stream": sealed.hex()} if size < 1000 else {})


def repeated(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def invalid(field: str, rows: list[tuple[str, bytes, bytes, str]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "dek": DEK.hex(), field: data.hex(), "associated_data": associated_data.hex(), "error": error}
        for name, data, associated_data, error in rows
    ]


def texts() -> dict[str, str]:
    made = {"wrapped-key": wrapped_key(), "envelope": envelope(), "stream": stream()}
    return {name: json.dumps(vectors, indent=2) + "\n" for name, vectors in made.items()}


if __name__ == "__main__":
    for name, text in texts().items():
        (FOLDER / f"{name}.json").write_text(text, encoding="ascii")
