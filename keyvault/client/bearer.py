"""The client's token: given, read from a file, or asked for; looked at again when the service refuses it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from keyvault.errors import ConfigurationError

TokenSource: TypeAlias = str | Path | Callable[[], str]
"""A token, a file that holds one, or what returns one."""


class Bearer:
    """The token in use. No `repr` and no error shows it."""

    __slots__ = ("_read", "_token")

    def __init__(self, source: TokenSource) -> None:
        """Read nothing yet."""
        self._read = _reader(source)
        self._token: str | None = None

    def __repr__(self) -> str:
        return "Bearer()"

    def current(self) -> str:
        """Return the token. Raises `ConfigurationError` where there is none."""
        if self._token is None:
            self._token = _checked(self._read())
        return self._token

    def renewed(self, refused: str) -> bool:
        """Look again, after the service refused a token; tell whether there is another to try."""
        self._token = _checked(self._read())
        return self._token != refused


def _reader(source: TokenSource) -> Callable[[], str]:
    if isinstance(source, str):
        return lambda: source
    if isinstance(source, Path):
        return lambda: _from_file(source)
    return source


def _from_file(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeError):
        raise ConfigurationError(f"{path} is not a file with a token that can be read") from None


def _checked(token: str) -> str:
    token = token.strip()
    if not (token.isascii() and token.isprintable() and token) or " " in token:
        raise ConfigurationError("the token is empty, or has characters that no token has")
    return token
