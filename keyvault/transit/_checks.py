"""What every transit engine accepts as a key name, a state path and a state value.

The rules are Vault's, narrowed to ASCII, and hold for each engine alike: a name that only one of them took would strand
its keys there. They also keep a name from reaching another path of the server's API (`x/rotate`, `..`).
"""

from __future__ import annotations

import re

from keyvault.errors import InvalidInputError

MAX_STATE_BYTES = 524_288

_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,126}[A-Za-z0-9_])?")


def check_key_name(name: str) -> None:
    """Raise `InvalidInputError` unless `name` is 1 to 128 of `A-Za-z0-9_.-`, beginning and ending with none of `.-`."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            "a key's name is 1 to 128 letters, digits, '_', '.' or '-', and neither begins nor ends with '.' or '-'"
        )


def check_state_path(path: str) -> None:
    """Raise `InvalidInputError` unless `path` is segments joined by `/`, each shaped like a key's name."""
    if not all(_NAME.fullmatch(segment) for segment in path.split("/")):
        raise InvalidInputError("a state path is segments joined by '/', each shaped like a key's name")


def check_state_folder(folder: str) -> str:
    """Return `folder` without its closing slash; the empty string is the root. `InvalidInputError` as for a path."""
    folder = folder.removesuffix("/")
    if folder:
        check_state_path(folder)
    return folder


def check_state_value(value: str) -> bytes:
    """Return `value` in UTF-8; `InvalidInputError` over 524,288 bytes or where it is not encodable text."""
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError("a state value must be text that UTF-8 can encode") from error
    if len(encoded) > MAX_STATE_BYTES:
        raise InvalidInputError(f"a state value has at most {MAX_STATE_BYTES} bytes, this one {len(encoded)}")
    return encoded


def check_min_versions(*, decryption: int, encryption: int) -> None:
    """Raise `InvalidInputError` unless 1 <= decryption and encryption is 0 (the newest) or at least `decryption`."""
    if decryption < 1 or encryption < 0 or 0 < encryption < decryption:
        raise InvalidInputError(
            "minimum versions: decryption from 1, encryption 0 (the newest) or at least decryption's"
        )
