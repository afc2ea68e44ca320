"""What an older log does not carry: counted, with the first few named, so that nobody takes a guess for a row. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

NAMED = 10
"""Ids that are named of each gap."""


class GapCode(StrEnum):
    """What could not be rebuilt fully. Of events of this version only the last three can come."""

    SUSPENSION = "suspension-without-cause"
    MONTH = "destroyed-month-without-look-up"
    CONTENT = "request-without-content"
    STATE = "request-state-not-told"
    RING = "ring-without-event"
    FENCE = "fence-lost"
    SLOT = "ring-with-unknown-destructions"
    NAME = "live-scope-without-look-up"


CONSEQUENCES: Mapping[GapCode, str] = {
    GapCode.SUSPENSION: "scopes stay suspended, whoever suspended them, until they are destroyed",
    GapCode.MONTH: "a destroyed month or year is found by its name no more, and could be created again",
    GapCode.CONTENT: "a submission that is repeated is refused as another one, and what the request names must be listed and approved again",
    GapCode.STATE: "a refused request may have waited for billing: submit it again under a new ticket if so",
    GapCode.RING: "a ring was closed: it takes no more scopes, and those that are in it are not touched",
    GapCode.FENCE: "a live scope's key is not in the engine, as when its fence had not reached the log: it is fenced anew, and the next run proves it gone",
    GapCode.SLOT: "scopes were destroyed in a ring of which the log knows nothing: nothing is destroyed in that ring until it is replayed",
    GapCode.NAME: "a live scope's name does not open, since the key that it had before it was moved is gone: it is found by its id only",
}


@dataclass(kw_only=True, slots=True)
class Gaps:
    """Gaps by code: how many there are, and the ids (hexadecimal) of the first."""

    counts: dict[GapCode, int] = field(default_factory=dict)
    named: dict[GapCode, list[str]] = field(default_factory=dict)

    def add(self, code: GapCode, thing: bytes) -> None:
        """Note that a row could not be rebuilt fully."""
        self.counts[code] = self.counts.get(code, 0) + 1
        named = self.named.setdefault(code, [])
        if len(named) < NAMED:
            named.append(thing.hex())

    def take(self, other: Gaps) -> None:
        """Add what another has noted."""
        for code, count in other.counts.items():
            self.counts[code] = self.counts.get(code, 0) + count
            named = self.named.setdefault(code, [])
            named += other.named[code][: NAMED - len(named)]
