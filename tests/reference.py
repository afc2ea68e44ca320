"""A second, independent implementation of the byte formats, written from docs/formats and for tests only.

It is made to be read beside those pages: HKDF from hmac, GCM from the low-level interface, no code of keyvault. It checks no
limits; it says what bytes a writer produces and what a reader gets back.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

SEGMENT = 1 << 20


@dataclass(frozen=True)
class Ref:
    """A scope in the header."""

    scope_id: bytes
    custody: int
    generation: int
    record_tag: bytes
    token: bytes


@dataclass(frozen=True)
class Parts:
    """A wrapped key, taken apart: the header's bytes, its fields, and what follows."""

    header: bytes
    salt: bytes
    refs: list[Ref]
    commitment: bytes
    nonce: bytes
    ciphertext: bytes


def u(size: int, value: int) -> bytes:
    return value.to_bytes(size, "big")


def hkdf(ikm: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    prk = hmac.new(salt or bytes(32), ikm, hashlib.sha256).digest()
    output = block = b""
    counter = 1
    while len(output) < length:
        block = hmac.new(prk, block + info + u(1, counter), hashlib.sha256).digest()
        output += block
        counter += 1
    return output[:length]


def gcm_seal(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    encryptor = Cipher(algorithms.AES(key), modes.GCM(nonce)).encryptor()
    encryptor.authenticate_additional_data(aad)
    return encryptor.update(plaintext) + encryptor.finalize() + encryptor.tag


def gcm_open(key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
    decryptor = Cipher(algorithms.AES(key), modes.GCM(nonce, sealed[-16:])).decryptor()
    decryptor.authenticate_additional_data(aad)
    return decryptor.update(sealed[:-16]) + decryptor.finalize()


def lengths(label: bytes, *parts: bytes) -> bytes:
    return label + b"".join(u(8, len(part)) + part for part in parts)


# --- wrapped key -----------------------------------------------------------------------------------------------


def header(salt: bytes, refs: list[Ref]) -> bytes:
    output = b"KVW\x01" + u(1, 1) + u(1, 0) + u(1, len(refs)) + salt
    for ref in refs:
        output += ref.scope_id + u(1, ref.custody) + u(4, ref.generation)
        output += u(1, len(ref.record_tag)) + ref.record_tag + u(2, len(ref.token)) + ref.token
    return output


def kek_and_commitment(head: bytes, salt: bytes, shares: list[bytes]) -> tuple[bytes, bytes]:
    output = hkdf(b"".join(shares), salt, b"keyvault/kek/1" + head, 64)
    return output[:32], output[32:]


def wrap(  # noqa: PLR0917 - the inputs, in the page's order
    salt: bytes, refs: list[Ref], shares: list[bytes], dek: bytes, associated_data: bytes, nonce: bytes
) -> bytes:
    head = header(salt, refs)
    kek, commitment = kek_and_commitment(head, salt, shares)
    before = head + commitment + nonce + u(2, len(dek) + 16)
    return before + gcm_seal(kek, nonce, dek, lengths(b"keyvault/wrap/1", before, associated_data))


def take_apart(data: bytes) -> tuple[Parts, bytes]:
    """Return a wrapped key's parts and what follows it."""
    position = 39
    refs = []
    for _ in range(data[6]):
        scope_id, custody = data[position : position + 16], data[position + 16]
        generation = int.from_bytes(data[position + 17 : position + 21], "big")
        tag_end = position + 22 + data[position + 21]
        token_end = tag_end + 2 + int.from_bytes(data[tag_end : tag_end + 2], "big")
        refs.append(Ref(scope_id, custody, generation, data[position + 22 : tag_end], data[tag_end + 2 : token_end]))
        position = token_end
    end = position + 46 + int.from_bytes(data[position + 44 : position + 46], "big")
    parts = Parts(
        header=data[:position],
        salt=data[7:39],
        refs=refs,
        commitment=data[position : position + 32],
        nonce=data[position + 32 : position + 44],
        ciphertext=data[position + 46 : end],
    )
    return parts, data[end:]


def unwrap(data: bytes, shares: list[bytes], associated_data: bytes) -> bytes:
    parts, rest = take_apart(data)
    kek, commitment = kek_and_commitment(parts.header, parts.salt, shares)
    if rest or commitment != parts.commitment:
        raise ValueError("commitment differs, or bytes follow")
    before = data[: -len(parts.ciphertext)]
    return gcm_open(kek, parts.nonce, parts.ciphertext, lengths(b"keyvault/wrap/1", before, associated_data))


# --- envelope --------------------------------------------------------------------------------------------------


def seal_envelope(dek: bytes, wrapped: bytes, plaintext: bytes, associated_data: bytes, nonce: bytes) -> bytes:
    aad = lengths(b"keyvault/envelope/1", wrapped, associated_data)
    return b"KVE\x01" + wrapped + nonce + gcm_seal(dek, nonce, plaintext, aad)


def open_envelope(data: bytes, dek: bytes, associated_data: bytes) -> bytes:
    _, rest = take_apart(data[4:])
    wrapped = data[4 : len(data) - len(rest)]
    return gcm_open(dek, rest[:12], rest[12:], lengths(b"keyvault/envelope/1", wrapped, associated_data))


# --- stream ----------------------------------------------------------------------------------------------------


def stream_key(dek: bytes, wrapped: bytes, prefix: bytes, associated_data: bytes) -> bytes:
    return hkdf(dek, b"", lengths(b"keyvault/stream/1", b"KVS\x01" + wrapped + prefix, associated_data), 32)


def seal_stream(dek: bytes, wrapped: bytes, plaintext: bytes, associated_data: bytes, prefix: bytes) -> bytes:
    key = stream_key(dek, wrapped, prefix, associated_data)
    segments = [plaintext[start : start + SEGMENT] for start in range(0, len(plaintext), SEGMENT)] or [b""]
    output = b"KVS\x01" + wrapped + prefix
    for counter, segment in enumerate(segments):
        nonce = prefix + u(4, counter) + u(1, counter == len(segments) - 1)
        output += gcm_seal(key, nonce, segment, b"")
    return output


def open_stream(data: bytes, dek: bytes, associated_data: bytes) -> bytes:
    _, rest = take_apart(data[4:])
    wrapped, prefix, body = data[4 : len(data) - len(rest)], rest[:7], rest[7:]
    key = stream_key(dek, wrapped, prefix, associated_data)
    sealed = [body[start : start + SEGMENT + 16] for start in range(0, len(body), SEGMENT + 16)]
    nonces = [prefix + u(4, counter) + u(1, counter == len(sealed) - 1) for counter in range(len(sealed))]
    return b"".join(gcm_open(key, nonce, segment, b"") for nonce, segment in zip(nonces, sealed, strict=True))
