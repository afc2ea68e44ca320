"""Where each key of a TOML text stands. Pure.

`tomllib` tells the lines of what it cannot read, but not those of what it read; whoever wrote a wrong value wants to know where.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field

Key = tuple[str, ...]

_TOKEN = re.compile(
    r"(?P<skipped>[ \t]+|#[^\n]*)"
    r'|(?P<text>"""(?:\\.|[^\\])*?""""{0,2}|"(?:\\.|[^"\\\n])*"'
    r"|'''.*?''''{0,2}|'[^'\n]*')"
    r"|(?P<word>[A-Za-z0-9_-]+)"
    r"|(?P<mark>.)",
    re.DOTALL,
)
_END = ""
_AFTER_SCALAR = (",", "\n", "]", "}", _END)


def key_lines(text: str) -> dict[Key, int]:
    """Return the line, from 1, at which each key and table is first named; `text` is valid TOML.

    Keys in dotted names, headers and inline tables all count. What is in an array of tables goes by the array's key.
    """
    scan = _Scan(_tokens(text.replace("\r\n", "\n")))
    table: Key = ()
    while scan.peek() != _END:
        if scan.peek() == "\n":
            scan.take()
        elif scan.peek() == "[":
            table = scan.header()
        else:
            scan.pair(table)
    return scan.lines


def _tokens(text: str) -> list[tuple[str, int]]:
    tokens, line = [], 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "skipped":
            tokens.append((match[0], line))
        line += match[0].count("\n")
    return [*tokens, (_END, line)]


@dataclass(slots=True)
class _Scan:
    tokens: list[tuple[str, int]]
    at: int = 0
    lines: dict[Key, int] = field(default_factory=dict)

    def peek(self) -> str:
        return self.tokens[self.at][0]

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1][0]

    def header(self) -> Key:
        while self.peek() == "[":
            self.take()
        table = self.key(())
        while self.peek() == "]":
            self.take()
        return table

    def pair(self, table: Key) -> None:
        key = self.key(table)
        self.take()  # the equals sign
        self.value(key)

    def key(self, table: Key) -> Key:
        """Take a name, dotted perhaps, and note where it and the tables that it implies stand."""
        line = self.tokens[self.at][1]
        key = (*table, _name(self.take()))
        while self.peek() == ".":
            self.take()
            self.lines.setdefault(key, line)
            key = (*key, _name(self.take()))
        self.lines.setdefault(key, line)
        return key

    def value(self, key: Key) -> None:
        opened = self.take()
        if opened == "{":
            self.items("}", lambda: self.pair(key))
        elif opened == "[":
            self.items("]", lambda: self.value(key))
        else:
            while self.peek() not in _AFTER_SCALAR:  # a number or a date is several tokens
                self.take()

    def items(self, closing: str, item: Callable[[], None]) -> None:
        while self.peek() != closing:
            if self.peek() in {",", "\n"}:
                self.take()
            else:
                item()
        self.take()


def _name(token: str) -> str:
    """Return a key's part as it is meant: a quoted one without quotes and escapes."""
    return str(tomllib.loads(f"name = {token}")["name"]) if token[0] in "\"'" else token
