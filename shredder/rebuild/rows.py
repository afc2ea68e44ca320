"""Rows of one table that a batch of entries is about: what was there, and what has become of it. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")


class Rows(Generic[K, R]):
    """Rows by key; `now` is what the entries so far have made of them."""

    def __init__(self, before: Mapping[K, R]) -> None:
        """`before`: what the database has."""
        self.before = before
        self.now = dict(before)

    @property
    def added(self) -> list[R]:
        """Return the rows that the database does not have."""
        return [row for key, row in self.now.items() if key not in self.before]

    @property
    def changed(self) -> list[R]:
        """Return the rows that the database has otherwise."""
        return [row for key, row in self.now.items() if key in self.before and row != self.before[key]]

    @property
    def removed(self) -> list[K]:
        """Return the keys of the rows that the database has, and that are to go."""
        return [key for key in self.before if key not in self.now]
