"""What a verification found to be wrong. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that is wrong. `code`: lower-case words with hyphens; `where`: `entry N`, or a file's path."""

    code: str
    where: str
    message: str

    def __str__(self) -> str:
        """Write the finding as one line."""
        return f"{self.where}: {self.code}: {self.message}"
