"""What a worker has read of tokens, and for how long it believes it. Thread-safe.

A reading counts from before it was begun. It is believed for half a second, so that a call costs no read of the database, and no call is
let in on a reading that is older than 0.9 s: a token that was revoked by then is refused on every worker, whatever the worker has in
memory, and however slow the database is. That a token is not there is remembered in the same way, so that guessing costs no reads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

from keyvault.errors import Unavailable
from keyvault.service.callers import Caller
from keyvault.store.tokens import TokenRow
from keyvault.tokens import Role

BELIEVED_SECONDS = 0.5
LATEST_SECONDS = 0.9
"""A reading that took longer than this is too old to be of use by the time it is there."""
AHEAD_SECONDS = BELIEVED_SECONDS / 2
"""A reading that is used and older than this is renewed beside the calls, so that few of them ever wait for one."""
MAX_READINGS = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """A token as it was at `begun` (seconds, by the clock of the readings). `row`: None where there is none; `callers` by role."""

    row: TokenRow | None
    callers: Mapping[Role, Caller]
    begun: float


@dataclass(slots=True)
class _Asked:
    begun: float
    answer: Future[Reading] = field(default_factory=Future)


class TokenReadings:
    """Readings by token id (16 bytes)."""

    def __init__(
        self,
        read: Callable[[bytes], tuple[TokenRow | None, Mapping[Role, Caller]]],
        now: Callable[[], float],
        *,
        limit: int = MAX_READINGS,
    ) -> None:
        """`read` asks the database; `now` in seconds, counting through suspend; `limit`: readings that are kept."""
        self._read = read
        self._now = now
        self._limit = limit
        self._kept: dict[bytes, Reading] = {}
        self._asked: dict[bytes, _Asked] = {}
        self._lock = threading.Lock()

    def fresh(self, token_id: bytes) -> Reading | None:
        """Return what is believed of a token; None where the database must be asked."""
        reading = self._kept.get(token_id)
        return reading if reading is not None and self._now() - reading.begun < BELIEVED_SECONDS else None

    def renew(self, token_id: bytes, reading: Reading) -> None:
        """Have a reading of a token renewed beside the calls when it is about to be old, unless one is under way."""
        if self._now() - reading.begun < AHEAD_SECONDS or token_id in self._asked:
            return
        with self._lock:
            if token_id in self._asked:
                return
            asked = self._asked[token_id] = _Asked(self._now())
        # An error is for those who wait for it, or else for the next who asks.
        threading.Thread(target=self._answer, args=(token_id, asked), name="keyvault-token", daemon=True).start()

    def last(self, token_id: bytes) -> Reading | None:
        """Return what was read last of a token, however old: nobody is let in on it."""
        return self._kept.get(token_id)

    def ask(self, token_id: bytes) -> Reading:
        """Return what is believed of a token, or read it: one call asks, whoever else wants to know the same waits for it.

        Raises `Unavailable` when the database does not answer, or not in time, and what else it raises.
        """
        reading = self.fresh(token_id)
        if reading is not None:
            return reading
        with self._lock:
            asked = self._asked.get(token_id)
            mine = asked is None
            if asked is None:
                asked = self._asked[token_id] = _Asked(self._now())
        if mine:
            self._answer(token_id, asked)
        reading = asked.answer.result()
        if self._now() - reading.begun >= LATEST_SECONDS:
            raise Unavailable("the database is too slow to tell whether the token is in force")
        return reading

    def _answer(self, token_id: bytes, asked: _Asked) -> None:
        """Read, and give the answer or the error to all who wait."""
        try:
            row, callers = self._read(token_id)
        except BaseException as error:  # noqa: BLE001 - it is raised again, by all who wait
            self._forget(token_id)
            asked.answer.set_exception(error)
            return
        reading = Reading(row=row, callers=callers, begun=asked.begun)
        with self._lock:
            self._keep(token_id, reading)
            del self._asked[token_id]
        asked.answer.set_result(reading)

    def _forget(self, token_id: bytes) -> None:
        with self._lock:
            del self._asked[token_id]

    def _keep(self, token_id: bytes, reading: Reading) -> None:
        """Keep a reading as the newest; the oldest go first, so that guesses push out no token that is in use for longer than a read."""
        self._kept.pop(token_id, None)
        while len(self._kept) >= self._limit:
            del self._kept[next(iter(self._kept))]
        self._kept[token_id] = reading
