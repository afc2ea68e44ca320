"""The process that users start: it holds the listening socket, and starts, replaces, reloads and stops the workers that answer on it.

It is the same for one worker and for many. The socket stays open while workers come and go, so no connection is refused by that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import structlog

from keyvault.errors import KeyVaultError, ServiceError
from keyvault.service import channel
from keyvault.service.channel import Told
from keyvault.service.failures import from_wire
from keyvault.service.listening import TlsFiles
from keyvault.service.metrics import DIRECTORY_VARIABLE
from keyvault.service.worker import GRACE_SECONDS, Options

START_PATIENCE = 3.0
"""Seconds for which a worker waits for its home before it accepts connections, which /readyz needs to say what is wrong."""
RELOAD_PATIENCE = 30.0
"""Seconds in which a reload's new workers must have opened their home; else the old ones stay."""
KILL_SECONDS = GRACE_SECONDS + 10.0
"""After which a worker that was told to stop is killed."""
SILENT_SECONDS, SILENCES = 10.0, 3
"""A worker that says nothing for so long, so many times in a row, hangs, and is killed. Not at the first: the whole machine may have been paused."""
SHORTEST_DELAY, LONGEST_DELAY = 0.1, 5.0
"""Seconds before a worker that died is replaced: doubled while they die young."""
YOUNG_SECONDS = 10.0

log = structlog.get_logger("keyvault.service")


@dataclass(eq=False, kw_only=True)
class _Worker:
    """A worker process, and what it has said."""

    process: subprocess.Popen[bytes]
    channel: socket.socket
    started: float
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    listening: bool = False
    opened: bool = False
    failure: KeyVaultError | None = None
    leaving: bool = False

    def leave(self) -> None:
        """Tell it to stop."""
        self.leaving = True
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)


class Supervisor:
    """Runs workers until it is told to stop: SIGTERM and SIGINT stop, SIGHUP replaces every worker by a new one."""

    def __init__(
        self, listener: socket.socket, application: str, *, workers: int, tls: TlsFiles | None, up: Callable[[], None]
    ) -> None:
        """Serve `application` on `listener`, which this closes; `up` is called when every worker accepts connections."""
        self._listener = listener
        self._application = application
        self._count = workers
        self._tls = tls
        self._up = up
        self._current: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._watching: set[asyncio.Task[None]] = set()
        self._delay = SHORTEST_DELAY
        self._listening = asyncio.Event()
        self._stop = asyncio.Event()
        self._reload = asyncio.Event()
        self._failure: KeyVaultError | None = None

    async def run(self) -> None:
        """Serve until a signal ends it. Raises what kept the home from being opened, if no worker ever could."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload.set)
        with tempfile.TemporaryDirectory(prefix="keyvault-serve-") as directory:
            os.environ[DIRECTORY_VARIABLE] = directory
            try:
                await self._serve()
            finally:
                await self._end()
        if self._failure is not None:
            raise self._failure

    async def _serve(self) -> None:
        self._current = [self._start(START_PATIENCE) for _ in range(self._count)]
        await self._any_of(self._listening.wait(), self._stop.wait())
        if not self._stop.is_set():
            self._up()
        while not self._stop.is_set():
            await self._any_of(self._stop.wait(), self._reload.wait())
            if self._reload.is_set() and not self._stop.is_set():
                self._reload.clear()
                await self._replace_all()

    async def _replace_all(self) -> None:
        """Start new workers on the same socket and, once their homes are open, let the old ones go; else keep the old ones."""
        log.info("reloading")
        fresh = [self._start(RELOAD_PATIENCE * 2) for _ in range(self._count)]
        waiting = asyncio.gather(*(one.settled.wait() for one in fresh))
        await self._any_of(waiting, self._stop.wait(), patience=RELOAD_PATIENCE)
        if all(one.opened and not one.gone.is_set() for one in fresh):
            old, self._current = self._current, fresh
            log.info("reloaded")
        else:
            old = fresh
            reasons = [str(one.failure) for one in fresh if one.failure is not None]
            log.error(
                "the new workers could not open the home: the old ones stay", reason=reasons[0] if reasons else None
            )
        for one in old:
            one.leave()
            self._keep(self._killed_when_late(one))

    def _start(self, patience: float) -> _Worker:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)  # noqa: FBT003 - the name says it
        options = Options(
            application=self._application,
            listener=self._listener.fileno(),
            channel=theirs.fileno(),
            patience=patience,
            tls_certificate=None if self._tls is None else str(self._tls.certificate),
            tls_key=None if self._tls is None else str(self._tls.key),
            client_ca=None if self._tls is None or self._tls.client_ca is None else str(self._tls.client_ca),
        )
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - this program
                [sys.executable, "-m", "keyvault.service.worker", msgspec.json.encode(options).decode()],
                stdin=subprocess.DEVNULL,
                stdout=sys.__stderr__,  # standard output has the URL, and nothing else
                pass_fds=(self._listener.fileno(), theirs.fileno()),
                start_new_session=True,  # Ctrl-C on a terminal is for this process, which tells the workers
            )
        worker = _Worker(process=process, channel=ours, started=asyncio.get_running_loop().time())
        self._all.add(worker)
        self._keep(self._watch(worker))
        return worker

    async def _watch(self, worker: _Worker) -> None:
        """Hear what a worker says until it ends, and see to its successor."""
        await self._hear(worker)
        code = await asyncio.to_thread(worker.process.wait)
        self._all.discard(worker)
        _forget_gauges(worker.process.pid)
        for event in (worker.gone, worker.settled):
            event.set()
        if worker.leaving or self._stop.is_set() or worker not in self._current:
            return
        if not self._listening.is_set() or (
            worker.failure is not None and not any(one.opened for one in self._current)
        ):
            self._failure = worker.failure or ServiceError("a worker could not start: the log says why")
            self._stop.set()
            return
        log.error("a worker ended by itself: it is replaced", process=worker.process.pid, code=code)
        await self._pause_before_replacing(worker)
        if worker in self._current and not self._stop.is_set():
            self._current[self._current.index(worker)] = self._start(START_PATIENCE)

    async def _hear(self, worker: _Worker) -> None:
        reader, writer = await asyncio.open_connection(sock=worker.channel)
        with contextlib.suppress(ConnectionError):
            while line := await self._line(worker, reader):
                self._take(worker, channel.decode(line))
        writer.close()

    @staticmethod
    async def _line(worker: _Worker, reader: asyncio.StreamReader) -> bytes:
        """Return what a worker says next, or nothing when it has ended. One that hangs is killed."""
        silences = 0
        while silences < SILENCES:
            try:
                return await asyncio.wait_for(reader.readline(), SILENT_SECONDS if worker.listening else None)
            except TimeoutError:
                silences += not worker.leaving
        log.error("a worker hangs, and is killed", process=worker.process.pid)
        worker.process.kill()
        return b""

    def _take(self, worker: _Worker, told: Told) -> None:
        worker.listening = worker.listening or told.listening
        if all(one.listening for one in self._current):
            self._listening.set()
        if told.failed is not None:
            worker.failure = from_wire(told.failed)
        if told.open or told.failed is not None:
            worker.opened = told.open
            worker.settled.set()

    async def _pause_before_replacing(self, worker: _Worker) -> None:
        loop = asyncio.get_running_loop()
        young = loop.time() - worker.started < YOUNG_SECONDS
        self._delay = min(self._delay * 2, LONGEST_DELAY) if young else SHORTEST_DELAY
        await self._any_of(self._stop.wait(), patience=self._delay)

    async def _end(self) -> None:
        """Stop every worker; nobody is kept waiting on a socket that none of them answers any more."""
        self._stop.set()
        self._listener.close()
        for one in list(self._all):
            one.leave()
        await asyncio.gather(*(self._killed_when_late(one) for one in list(self._all)))
        await asyncio.gather(*self._watching, return_exceptions=True)

    async def _killed_when_late(self, worker: _Worker) -> None:
        try:
            await asyncio.wait_for(worker.gone.wait(), KILL_SECONDS)
        except TimeoutError:
            log.warning("a worker did not stop, and is killed", process=worker.process.pid)
            worker.process.kill()

    def _keep(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._watching.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._watching.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("the supervisor met a fault of its own", exc_info=task.exception())
            self._failure = ServiceError("the supervisor met a fault of its own: its log says which")
            self._stop.set()

    @staticmethod
    async def _any_of(*work: Awaitable[object], patience: float | None = None) -> None:
        """Return when one of these is done, or patience ends."""
        tasks = [asyncio.ensure_future(one) for one in work]
        await asyncio.wait(tasks, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _forget_gauges(process: int) -> None:
    """Leave what a process counted, and drop what it measured."""
    for path in Path(os.environ[DIRECTORY_VARIABLE]).glob(f"gauge_live*_{process}.db"):
        path.unlink(missing_ok=True)
