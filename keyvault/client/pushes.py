"""What the service tells its clients to drop at once: server-sent events. Never needed for the bound, which leases keep.

Events that come while nobody listens are lost. So when a stream begins anew, every key from before is in doubt: it is asked for once more
at its next use, in the background; nobody waits for that, and a restarted node makes no client forget all at the same moment.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import msgspec

from keyvault.client.kept_keys import KeptKeys
from keyvault.client.options import ClientOptions

PATH = "/v1/push"
SILENCE_SECONDS = 30.0
"""The service says something every ten seconds: after three times that long nobody is there."""
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
_OK = 200
_UNAUTHORIZED = 401


class Dropped(msgspec.Struct):
    """An event `drop`: ids of scopes (16 bytes), records as scope's id and tag (8 bytes), or everything."""

    scopes: list[bytes] = []
    records: list[tuple[bytes, bytes]] = []
    all: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Listen:
    """Where to listen."""

    url: str
    token: str = field(repr=False)


class Pushes:
    """Listens to one node after the other, as long as each lasts. For one thread or task."""

    def __init__(self, options: ClientOptions, kept: KeptKeys) -> None:
        """Drop from `kept`."""
        self._urls = options.urls
        self._bearer = options.bearer
        self._kept = kept
        self._at = 0
        self._failed = 0
        self._said = ""

    def listen(self) -> Listen:
        """Return where to listen now. Raises `ConfigurationError` where there is no token."""
        self._said = self._bearer.current()
        return Listen(url=self._urls[self._at] + PATH, token=self._said)

    def opened(self, status: int) -> bool:
        """Take notice of an answer; tell whether events follow."""
        if status == _UNAUTHORIZED:
            self._bearer.renewed(self._said)
        if status != _OK:
            return False
        self._failed = 0
        self._kept.doubt_all()
        return True

    def heard(self, event: str, data: str) -> None:
        """Drop what an event says; everything, where it says something that is not understood."""
        if event != "drop":
            return
        try:
            dropped = msgspec.json.decode(data, type=Dropped)
        except msgspec.DecodeError:
            self._kept.drop_all()
            return
        if dropped.all:
            self._kept.drop_all()
        else:
            self._kept.drop_marked(dropped.scopes, dropped.records)

    def ended(self) -> float:
        """Turn to the next node; return after how many seconds."""
        self._at = (self._at + 1) % len(self._urls)
        self._failed += 1
        longest = min(FIRST_PAUSE_SECONDS * 2.0 ** min(self._failed, 10), LONGEST_PAUSE_SECONDS)
        return random.uniform(longest / 2, longest)
