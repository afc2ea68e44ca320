"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing looked at. `ok` is None where it could not be checked; `remedy` says how to mend what is not ok."""

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""
