"""Refresh ahead: what is in use when its lease nears its end is admitted anew, so that no call has to wait when the lease is over.

It is done in a thread beside the calls, in batches, once for all that ask. When it fails, what is kept stays until its lease ends, and
then calls ask by themselves: failing closed needs nothing here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Mapping

from keyvault.clock import Clock
from keyvault.errors import KeyVaultError

EARLIEST, LATEST = 1 / 2, 1 / 3
"""The parts of a lease that are left when a refresh is due: one for each name between them, so that leases do not all end at once."""
BATCH = 64
"""Names a round: calls share the interpreter with it, and wait no longer than that."""
GATHER = 1 / 40, 0.25
"""Of a lease, and at most so many seconds: how long names are gathered, since a round for one costs nearly what one for a batch does."""
PAUSE = 1 / 30
"""Of a lease: how long nothing is asked after the database or the engine did not answer."""

Wanted = Mapping[Hashable, object]
"""What to ask again, by the name that it is kept under."""


def is_due(name: Hashable, *, left: float, ttl: float) -> bool:
    """Tell whether what has `left` seconds of its lease left should be admitted anew when it is used."""
    spread = (hash(name) & 0xFFFF) / 0xFFFF
    return left < ttl * (LATEST + (EARLIEST - LATEST) * spread)


class Refresher:
    """Calls `admit` with what was asked for, a batch after the other. Thread-safe; it runs while there is something to do."""

    def __init__(self, admit: Callable[[Wanted], bool], clock: Clock, *, ttl: float) -> None:
        """`admit` returns whether it could ask; a `KeyVaultError` of it means that it could not."""
        self._admit = admit
        self._clock = clock
        self._pause = ttl * PAUSE
        self._gather = min(ttl * GATHER[0], GATHER[1])
        self._closing = threading.Event()
        self._quiet_until = 0.0
        self._wanted: dict[Hashable, object] = {}
        self._under_way: Wanted = {}
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._closed = False
        self._lock = threading.Lock()

    def ask(self, wanted: Wanted) -> None:
        """Have these admitted anew, unless they are on their way."""
        with self._lock:
            if self._process != os.getpid():  # after a fork: the thread is the parent's
                self._process, self._thread, self._under_way = os.getpid(), None, {}
            if self._closed or self._clock.monotonic() < self._quiet_until:
                return
            self._wanted.update((name, what) for name, what in wanted.items() if name not in self._under_way)
            if self._wanted and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="keyvault-refresh", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Ask no more, and wait until what is under way has ended."""
        with self._lock:
            self._closed = True
            self._closing.set()
            self._wanted.clear()
            thread = self._thread if self._process == os.getpid() else None
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        self._closing.wait(self._gather)
        while self._next():
            try:
                answered = self._admit(self._under_way)
            except KeyVaultError:
                answered = False
            if not answered:
                self._rest()

    def _next(self) -> bool:
        with self._lock:
            names = list(self._wanted)[:BATCH]
            self._under_way = {name: self._wanted.pop(name) for name in names}
            if not names:
                self._thread = None
            return bool(names)

    def _rest(self) -> None:
        with self._lock:
            self._quiet_until = self._clock.monotonic() + self._pause
            self._wanted.clear()
