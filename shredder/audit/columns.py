"""A column of a million short texts in as many bytes as they have: a list of them would take three times that. Pure."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

_AT_ONCE: Final = 10_000
"""Texts that are cut out together."""


def column_of(texts: Collection[str]) -> bytes:
    """Return texts one below the other, the last without a line feed. `UnicodeEncodeError` (a `ValueError`) unless all are ASCII."""
    return "\n".join(texts).encode("ascii")


def texts_of(column: bytes) -> list[str]:
    """Return the texts of what `column_of` gave."""
    return column.decode("ascii").split("\n")


class Column:
    """ASCII texts of one length, without line feeds, by their numbers; some places may stand for nothing."""

    def __init__(self, length: int) -> None:
        """`length`: characters of each text."""
        self._width = length + 1
        self._nothing = b" " * length
        self._data = bytearray()
        self._missing = 0

    def __len__(self) -> int:
        return len(self._data) // self._width

    def __getitem__(self, number: int) -> str:
        start = number * self._width
        return self._data[start : start + self._width - 1].decode("ascii")

    def extend(self, column: bytes) -> None:
        """Add texts as `column_of` gives them. `ValueError` when one has another length, as far as that shows."""
        if (len(column) + 1) % self._width:
            raise ValueError(f"texts of {self._width - 1} characters are no column of {len(column)} bytes")
        self._data += column
        self._data += b"\n"

    def skip(self) -> None:
        """Add a place that stands for nothing."""
        self.extend(self._nothing)
        self._missing += 1

    def repeated(self) -> list[int]:
        """Return the numbers of texts that stand in an earlier place, too."""
        different: set[bytes] = set()
        for start in range(0, len(self._data), _AT_ONCE * self._width):
            end = min(start + _AT_ONCE * self._width, len(self._data)) - 1
            different.update(bytes(self._data[start:end]).split(b"\n"))
        if len(different) - bool(self._missing) == len(self) - self._missing:
            return []
        seen: set[bytes] = {self._nothing}
        found = []
        for number, text in enumerate(bytes(self._data[:-1]).split(b"\n")):
            if text in seen and text != self._nothing:
                found.append(number)
            seen.add(text)
        return found
