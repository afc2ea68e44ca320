"""Findings: each thing that verification finds wrong, and where."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `where`: `entry N` (the leaf's index), or a file's path; `code`: lower-case letters and hyphens."""

    code: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.code}: {self.message}"


class Findings:
    """Collects findings about one entry after another; `entry` is the index of that which is looked at."""

    def __init__(self) -> None:
        self.entry = 0
        self.found: list[Finding] = []

    def add(self, code: str, message: str, *, entry: int | None = None) -> None:
        """Note what is wrong with an entry: by default that which is looked at."""
        self.found.append(Finding(code, f"entry {self.entry if entry is None else entry}", message))
