"""Vectors from outside for what we compose, and our own, made by the reference and read by the product and back."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvault import envelope as envelope_module
from keyvault import errors
from keyvault import stream as stream_module
from keyvault import wrapped as wrapped_module
from keyvault.envelope import open_envelope, seal_envelope, split_envelope
from keyvault.formats import hkdf
from keyvault.stream import open_stream_body, read_stream_header, seal_stream
from keyvault.wrapped import CustodyCode, Header, ScopeShareRef, derive_wrapping_key, parse_wrapped
from tests import reference
from tests.vectors import FOLDER, generate, load

Fix = Callable[[ModuleType, bytes], None]

PAGES = Path(__file__).parents[2] / "docs" / "formats"
WRAPPED, ENVELOPE, STREAM = load("wrapped-key"), load("envelope"), load("stream")


def name_of(vector: dict[str, Any]) -> str:
    return str(vector["name"])


def unhex(vector: dict[str, Any]) -> dict[str, bytes]:
    return {
        key: bytes.fromhex(value)
        for key, value in vector.items()
        if key not in {"name", "error", "scopes"} and isinstance(value, str)
    }


# --- from outside ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", load("rfc5869")["cases"], ids=name_of)
def test_hkdf(vector: dict[str, Any]) -> None:
    case = unhex(vector)
    ikm, salt, info, okm = case["ikm"], case["salt"], case["info"], case["okm"]
    assert hkdf(ikm, salt=salt, info=info, length=len(okm)) == okm
    assert reference.hkdf(ikm, salt, info, len(okm)) == okm


@pytest.mark.parametrize("vector", load("aes-256-gcm")["cases"], ids=name_of)
def test_aes_gcm(vector: dict[str, Any]) -> None:
    case = unhex(vector)
    key, nonce, plaintext, aad = case["key"], case["nonce"], case["plaintext"], case["associated_data"]
    sealed = case["ciphertext"] + case["tag"]
    into = bytearray(len(sealed))
    AESGCM(key).encrypt_into(nonce, plaintext, aad, into)
    assert (
        AESGCM(key).encrypt(nonce, plaintext, aad) == into == reference.gcm_seal(key, nonce, plaintext, aad) == sealed
    )
    assert AESGCM(key).decrypt(nonce, sealed, aad) == reference.gcm_open(key, nonce, sealed, aad) == plaintext


# --- our own ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "text"), generate.texts().items())
def test_the_files_are_what_the_reference_makes(name: str, text: str) -> None:
    assert (FOLDER / f"{name}.json").read_text(encoding="ascii") == text


@pytest.fixture
def randomness(monkeypatch: pytest.MonkeyPatch) -> Fix:
    """Let the product draw what a vector names."""

    def fix(module: ModuleType, value: bytes) -> None:
        monkeypatch.setattr(
            module.os, "urandom", lambda size: value if size == len(value) else pytest.fail("other size")
        )

    return fix


@pytest.mark.parametrize("vector", WRAPPED["valid"], ids=name_of)
def test_wrapped_key(vector: dict[str, Any], randomness: Fix) -> None:
    case = unhex(vector)
    shares = [bytes.fromhex(share) for share in vector["shares"]]
    header = Header(salt=case["salt"], scopes=tuple(map(ref_of, vector["scopes"])))
    key = derive_wrapping_key(header, shares)
    parsed = parse_wrapped(case["wrapped"])
    assert (parsed.header, parsed.nonce) == (header, case["nonce"])
    assert key.unwrap(parsed, case["associated_data"]) == case["dek"]
    assert reference.unwrap(case["wrapped"], shares, case["associated_data"]) == case["dek"]
    randomness(wrapped_module, case["nonce"])
    assert key.wrap(case["dek"], case["associated_data"]) == case["wrapped"]


def ref_of(scope: dict[str, Any]) -> ScopeShareRef:
    names = ("scope_id", "record_tag", "token")
    fields = {name: bytes.fromhex(scope[name]) for name in names}
    return ScopeShareRef(custody=CustodyCode(scope["custody"]), generation=scope["generation"], **fields)


@pytest.mark.parametrize("vector", WRAPPED["invalid"], ids=name_of)
def test_invalid_wrapped_key(vector: dict[str, Any]) -> None:
    case = unhex(vector)
    shares = [bytes.fromhex(share) for share in vector["shares"]]
    with pytest.raises(getattr(errors, vector["error"])):  # noqa: PT012 - which step raises is the vector's to say
        parsed = parse_wrapped(case["wrapped"])
        derive_wrapping_key(parsed.header, shares).unwrap(parsed, case["associated_data"])


@pytest.mark.parametrize("vector", ENVELOPE["valid"], ids=name_of)
def test_envelope(vector: dict[str, Any], randomness: Fix) -> None:
    case = unhex(vector)
    parsed = split_envelope(case["envelope"])
    assert (parsed.wrapped.raw, parsed.nonce) == (case["wrapped"], case["nonce"])
    assert open_envelope(parsed, case["dek"], case["associated_data"]) == case["plaintext"]
    assert reference.open_envelope(case["envelope"], case["dek"], case["associated_data"]) == case["plaintext"]
    randomness(envelope_module, case["nonce"])
    assert seal_envelope(case["dek"], case["wrapped"], case["plaintext"], case["associated_data"]) == case["envelope"]


@pytest.mark.parametrize("vector", ENVELOPE["invalid"], ids=name_of)
def test_invalid_envelope(vector: dict[str, Any]) -> None:
    case = unhex(vector)
    with pytest.raises(getattr(errors, vector["error"])):
        open_envelope(split_envelope(case["envelope"]), case["dek"], case["associated_data"])


@pytest.mark.parametrize("vector", STREAM["valid"], ids=name_of)
def test_stream(vector: dict[str, Any], randomness: Fix) -> None:
    case = unhex({key: value for key, value in vector.items() if key != "stream_sha256"})
    plaintext = generate.repeated(vector["plaintext_bytes"])
    randomness(stream_module, case["prefix"])
    sealed, opened = io.BytesIO(), io.BytesIO()
    seal_stream(case["dek"], case["wrapped"], io.BytesIO(plaintext), sealed, case["associated_data"])
    assert len(sealed.getvalue()) == vector["stream_bytes"]
    assert hashlib.sha256(sealed.getvalue()).hexdigest() == vector["stream_sha256"]
    assert case.get("stream", sealed.getvalue()) == sealed.getvalue()
    assert reference.open_stream(sealed.getvalue(), case["dek"], case["associated_data"]) == plaintext
    sealed.seek(0)
    open_stream_body(case["dek"], read_stream_header(sealed), sealed, opened, case["associated_data"])
    assert opened.getvalue() == plaintext


@pytest.mark.parametrize("vector", STREAM["invalid"], ids=name_of)
def test_invalid_stream(vector: dict[str, Any]) -> None:
    case = unhex(vector)
    source, sink = io.BytesIO(case["stream"]), io.BytesIO()
    with pytest.raises(getattr(errors, vector["error"])):  # noqa: PT012 - which step raises is the vector's to say
        header = read_stream_header(source)
        open_stream_body(case["dek"], header, source, sink, case["associated_data"])
    assert sink.getvalue() == b""


# --- the pages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("page", "data"),
    [
        ("wrapped-key", bytes.fromhex(WRAPPED["valid"][2]["wrapped"])),
        ("envelope", bytes.fromhex(ENVELOPE["valid"][1]["envelope"])),
        ("stream", bytes.fromhex(STREAM["valid"][1]["stream"])),
        ("scope-names", "consumer/acct-001/Jürgen Müller".encode()),
    ],
)
def test_the_pages_show_the_bytes_of_the_vectors(page: str, data: bytes) -> None:
    rows = (f"{start:08x}  {data[start : start + 16].hex(' ')}\n" for start in range(0, len(data), 16))
    assert "```\n" + "".join(rows) + "```" in (PAGES / f"{page}.md").read_text(encoding="utf-8")
