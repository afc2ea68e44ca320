"""A scope's identity under its node: its name and salt, readable for as long as the node is. No I/O.

The text is `ring:1:` and the base64 of nonce (12) ‖ AES-256-GCM of the identity under the node's identity key ‖ tag (16); associated
data is a label and the scope's id.
"""

from __future__ import annotations

import base64
import binascii
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyvault.errors import CiphertextRefusedError, KeyMissingError
from keyvault.formats import NONCE_BYTES, TAG_BYTES, labelled, wipe
from keyvault.puncture_records import SCOPE_ID_BYTES
from keyvault.puncture_state import ScopeNode

_MARK = "ring:1:"
# What `labelled` puts before a scope's id, which always has the same length.
_PREFIX = labelled(b"keyvault/ring/sealed-identity/1", bytes(SCOPE_ID_BYTES))[:-SCOPE_ID_BYTES]


def seal_identity(node: ScopeNode, scope_id: bytes, data: bytes) -> str:
    """Return `data` sealed under the node of the scope with this id (16 bytes)."""
    key = node.identity_key(scope_id)
    nonce = secrets.token_bytes(NONCE_BYTES)
    try:
        sealed = AESGCM(key).encrypt(nonce, data, _PREFIX + scope_id)
    finally:
        wipe(key)
    return _MARK + base64.b64encode(nonce + sealed).decode()


def open_identity(node: ScopeNode, scope_id: bytes, text: str | None) -> bytearray:
    """Return what `seal_identity` sealed; the caller wipes it.

    Raises `KeyMissingError` where there is nothing to open, and `CiphertextRefusedError` for what is no sealed identity, was altered, or
    is another scope's.
    """
    if text is None:
        raise KeyMissingError(f"scope {scope_id.hex()}: its row holds no sealed name")
    sealed = _decoded(scope_id, text)
    opened = bytearray(len(sealed) - NONCE_BYTES - TAG_BYTES)
    key = node.identity_key(scope_id)
    try:
        AESGCM(key).decrypt_into(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], _PREFIX + scope_id, opened)
    except InvalidTag as error:
        raise CiphertextRefusedError(
            f"scope {scope_id.hex()}: its sealed name was altered, or is another scope's"
        ) from error
    finally:
        wipe(key)
    return opened


def _decoded(scope_id: bytes, text: str) -> bytes:
    try:
        sealed = binascii.a2b_base64(text.removeprefix(_MARK), strict_mode=True) if text.startswith(_MARK) else b""
    except ValueError as error:
        raise _no_identity(scope_id) from error
    if len(sealed) < NONCE_BYTES + TAG_BYTES:
        raise _no_identity(scope_id)
    return sealed


def _no_identity(scope_id: bytes) -> CiphertextRefusedError:
    return CiphertextRefusedError(f"scope {scope_id.hex()}: its sealed name is not one of ring custody")
