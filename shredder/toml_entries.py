"""Tables of a file that people write, read with types and bounds; each error names the file, the line and the key. Pure."""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Self, TypeVar

from keyvault.errors import ConfigurationError
from shredder.toml_lines import Key, key_lines

E = TypeVar("E", bound=StrEnum)

MAX_TEXT = 1_000  # characters
MAX_NAME = 64
MAX_NAMES = 100

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entries:
    """A table of the file `source`, at `key` (the root's is empty). Every method raises `ConfigurationError` with the line at fault."""

    values: Mapping[str, Any]
    source: str
    lines: Mapping[Key, int]
    key: Key = ()

    @classmethod
    def parse(cls, text: str, source: str) -> Self:
        """Read a whole TOML text."""
        try:
            text.encode()  # a lone surrogate cannot come out of a file
            return cls(values=tomllib.loads(text), source=source, lines=key_lines(text))
        except (ValueError, RecursionError) as error:  # nesting beyond measure, numbers of thousands of digits
            found = _LINE.search(str(error))
            line = int(found[1]) if found else text.count("\n") + 1
            what = "its tables are nested too deeply" if isinstance(error, RecursionError) else error
            raise ConfigurationError(f"{source}, line {line}: this is not TOML: {what}") from error

    def only(self, *known: str) -> None:
        """Refuse keys that are not `known`: a misspelt one would be as good as missing."""
        for name in self.values:
            if name not in known:
                raise self.wrong(name, f"is not known here; known are {', '.join(known)}")

    def table(self, name: str) -> Entries:
        """Return a table that has to be there."""
        value = self._value(name)
        if not isinstance(value, dict):
            raise self.wrong(name, "must be a table")
        return replace(self, values=value, key=(*self.key, name))

    def text(self, name: str, *, most: int = MAX_TEXT) -> str:
        """Return one line of text, 1 to `most` characters."""
        value = self._value(name)
        if not isinstance(value, str):
            raise self.wrong(name, "must be a text in quotes")
        self._check_text(name, value, most)
        return value

    def number(self, name: str, *, most: int, because: str = "") -> int:
        """Return a whole number from 1 to `most`; `because` says why not more."""
        value = self._value(name)
        if type(value) is not int or not 1 <= value <= most:  # True is an int, too
            raise self.wrong(name, f"must be a whole number from 1 to {most}{because and ': '}{because}")
        return value

    def flag(self, name: str) -> bool:
        """Return true or false."""
        value = self._value(name)
        if not isinstance(value, bool):
            raise self.wrong(name, "must be true or false")
        return value

    def choice(self, name: str, kind: type[E]) -> E:
        """Return the member of `kind` that is named."""
        value = self._value(name)
        if value not in list(kind):
            raise self.wrong(name, f"must be one of {', '.join(kind)}")
        return kind(value)

    def names(self, name: str) -> frozenset[str]:
        """Return a list of at most 100 different names of 1 to 64 characters."""
        values = self._value(name)
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            raise self.wrong(name, "must be a list of texts in quotes")
        if len(values) > MAX_NAMES:
            raise self.wrong(name, f"must hold no more than {MAX_NAMES} names")
        if len(set(values)) != len(values):
            raise self.wrong(name, "names something twice")
        for value in values:
            self._check_text(name, value, MAX_NAME)
        return frozenset(values)

    def choices(self, name: str, kind: type[E]) -> frozenset[E]:
        """Return the members of `kind` that are listed."""
        values = self.names(name)
        if not values <= set(kind):
            raise self.wrong(name, f"may list {', '.join(kind)}, nothing else")
        return frozenset(map(kind, values))

    def wrong(self, name: str | None, rule: str) -> ConfigurationError:
        """Return the error that a key of this table, or the table itself, breaks a rule; a missing key's line is its table's."""
        key = self.key if name is None else (*self.key, name)
        line = next((self.lines[key[:depth]] for depth in range(len(key), 0, -1) if key[:depth] in self.lines), 1)
        return ConfigurationError(f"{self.source}, line {line}: {'.'.join(map(_shown, key))} {rule}")

    def _value(self, name: str) -> Any:
        if name not in self.values:
            raise self.wrong(name, "is missing")
        return self.values[name]

    def _check_text(self, name: str, value: str, most: int) -> None:
        if not value.strip():
            raise self.wrong(name, "is empty")
        if len(value) > most:
            raise self.wrong(name, f"must have no more than {most} characters")
        if any(unicodedata.category(character) in _UNSEEN for character in value):
            raise self.wrong(name, "holds a control character, a line break or something invisible")


def _shown(name: str) -> str:
    """Return a part of a key as it would be written, in ASCII and cut short."""
    return name if _BARE.fullmatch(name) and len(name) <= MAX_NAME else json.dumps(name[:MAX_NAME])
