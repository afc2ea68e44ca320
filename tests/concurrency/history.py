"""What a worker did: one line of JSON a call, stamped by a clock that all processes of the machine share."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Sighting:
    """What a call said of a scope: `id` in hex."""

    name: str
    id: str
    generation: int
    state: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One call. `start` and `end` in seconds of CLOCK_BOOTTIME; scopes by their ids in hex.

    `issued`: scopes whose key the call used or gave out. `shut`: scopes that it reported as fenced or destroyed. `told`: names of
    the errors that it answered with, their messages in `messages`. `envelope` in base64, of `plaintext`.
    """

    who: str
    op: str
    start: float
    end: float
    issued: tuple[str, ...] = ()
    shut: tuple[str, ...] = ()
    seen: tuple[Sighting, ...] = ()
    told: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()
    envelope: str | None = None
    plaintext: str | None = None


def now() -> float:
    """Return the time that calls are stamped with."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def save(path: Path, calls: list[Call]) -> None:
    """Write a worker's history."""
    path.write_text("".join(json.dumps(dataclasses.asdict(call)) + "\n" for call in calls))


def load(path: Path) -> list[Call]:
    """Read what `save` wrote."""
    return [_call(json.loads(line)) for line in path.read_text().splitlines()]


def _call(fields: dict[str, Any]) -> Call:
    fields["seen"] = [Sighting(**item) for item in fields["seen"]]
    values: dict[str, Any] = {name: tuple(item) if isinstance(item, list) else item for name, item in fields.items()}
    return Call(**values)
