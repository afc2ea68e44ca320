"""Whether keys can be served now: the database, the engine, the clock and the log, each with its own word."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Final

import msgspec

from keyvault.errors import EngineMismatchError, KeyVaultError, Unavailable
from keyvault.home import Home
from keyvault.log_head import read_head
from keyvault.service.metrics import Metrics
from keyvault.service.operations import Operation
from keyvault.store import log as log_store
from keyvault.store import system
from keyvault.store.database import Database

PARTS = ("database", "engine", "clock", "log")
CACHED_SECONDS = 1.0
PATIENCE = 2.0
"""Seconds after which a part that does not answer counts as one that does not work."""


class Word(StrEnum):
    """What is said of a part, and nothing more: neither addresses nor names."""

    OK = "ok"
    UNAVAILABLE = "unavailable"
    SLOW = "slow"
    APART = "apart"
    BEHIND = "behind"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Ready(msgspec.Struct):
    """What is said of a worker: whether it serves keys, whether it is stopping, and a word for each part of what it needs."""

    ready: bool
    stopping: bool
    database: Word
    engine: Word
    clock: Word
    log: Word


OPERATIONS: Final = (
    Operation(path="/healthz", method="GET", summary="Tell that the process lives.", answered={204: ()}),
    Operation(
        path="/readyz",
        method="GET",
        summary="Tell whether keys are served, and if not, which part says no.",
        answered={200: Ready, 503: Ready},
    ),
    Operation(
        path="/metrics",
        method="GET",
        summary="Give the metrics of all workers, as Prometheus reads them.",
        answered={200: ("text/plain",)},
    ),
)
"""What is answered for a worker itself, whatever becomes of the application; nobody needs a token for it."""


def unknown(**known: Word) -> dict[str, Word]:
    """Return what is said before the parts can be asked."""
    return {part: known.get(part, Word.UNKNOWN) for part in PARTS}


class Readiness:
    """Asks the parts of an opened home. They are asked in threads of their own, which no load of calls keeps from it."""

    def __init__(self, home: Home, kept_keys: Callable[[], int]) -> None:
        """Ask the parts of `home`; `kept_keys` tells how many keys are in memory."""
        self._home = home
        self.kept_keys = kept_keys
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="readiness")
        self._asking = threading.Lock()

    async def __call__(self, metrics: Metrics) -> Mapping[str, Word]:
        """Return a word for each part, within `PATIENCE`."""
        if self._asking.locked():  # the last question is not answered yet
            return unknown(database=Word.SLOW, engine=Word.SLOW)
        found = unknown(database=Word.SLOW, engine=Word.SLOW)
        asked = asyncio.get_running_loop().run_in_executor(self._threads, self._ask, metrics, found)
        done, _ = await asyncio.wait([asked], timeout=PATIENCE)
        for future in done:
            future.result()
        return dict(found)

    def close(self) -> None:
        """Ask no more."""
        self._threads.shutdown(wait=False)

    def _ask(self, metrics: Metrics, found: dict[str, Word]) -> None:
        with self._asking:
            found["database"] = _word(lambda: self._ask_database(metrics))
            found["engine"] = _word(lambda: self._ask_engine(metrics))
            if found["database"] is Word.OK:
                found["clock"] = _word(self._ask_clock)
                found["log"] = _word(self._ask_log) if found["engine"] is Word.OK else Word.UNKNOWN

    def _ask_database(self, metrics: Metrics) -> Word:
        with metrics.timing("database"):
            row = self._home.database.read(system.load)
        if row is None or row.home_id != self._home.settings.id:
            raise EngineMismatchError("the store became another one")
        return Word.OK

    def _ask_engine(self, metrics: Metrics) -> Word:
        with metrics.timing("engine"):
            read_head(self._home.engine, self._home.log.context.incarnation)
        return Word.OK

    def _ask_clock(self) -> Word:
        return clock_word(self._home)

    def _ask_log(self) -> Word:
        known = self._home.database.read(log_store.recorded)
        head = read_head(self._home.engine, self._home.log.context.incarnation)
        return Word.OK if head.size >= known.size else Word.BEHIND


def clock_word(home: Home) -> Word:
    """Compare this machine's clock with the database's, which may be apart by `clock_skew`."""
    database: Database = home.database
    before = home.clock.now()
    there = database.read(lambda connection: database.own_now(connection, home.clock))
    after = home.clock.now()
    if there is None:
        return Word.OK
    apart = max((before - there).total_seconds(), (there - after).total_seconds(), 0.0)
    return Word.OK if apart <= home.settings.clock_skew else Word.APART


class Cached:
    """Remembers an answer for a moment; whoever asks meanwhile waits for the same one."""

    def __init__(self, ask: Callable[[], Awaitable[Mapping[str, Word]]]) -> None:
        """Answer with what `ask` returns."""
        self._ask = ask
        self._answer: asyncio.Future[Mapping[str, Word]] | None = None
        self._until = 0.0

    async def __call__(self) -> Mapping[str, Word]:
        """Return an answer at most `CACHED_SECONDS` old."""
        now = asyncio.get_running_loop().time()
        if self._answer is None or (self._answer.done() and now >= self._until):
            self._answer = asyncio.ensure_future(self._ask())
            self._answer.add_done_callback(self._keep)
        return await asyncio.shield(self._answer)

    def forget(self) -> None:
        """Ask anew the next time."""
        self._until = 0.0

    def _keep(self, answer: asyncio.Future[Mapping[str, Word]]) -> None:
        self._until = answer.get_loop().time() + CACHED_SECONDS


def _word(ask: Callable[[], Word]) -> Word:
    try:
        return ask()
    except Unavailable:
        return Word.UNAVAILABLE
    except KeyVaultError:
        return Word.REFUSED
