"""A worker process: serves on a socket that it was handed, until it is told to stop or whoever started it is gone.

Started as `python -m keyvault.service.worker OPTIONS`, with the options as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvicorn
import uvloop

from keyvault.errors import KeyVaultError
from keyvault.service import channel
from keyvault.service.accepting import Accepting
from keyvault.service.channel import Told
from keyvault.service.failures import to_wire
from keyvault.service.front import Front
from keyvault.service.listening import TlsFiles
from keyvault.service.logs import configure_logs
from keyvault.service.metrics import Metrics
from keyvault.service.opening import Opening
from keyvault.service.protocol import HANDSHAKE_SECONDS, KEEP_ALIVE_SECONDS, BoundedProtocol
from keyvault.service.tracing import configured_tracing

DRAIN_SECONDS = 5.0
"""For which a worker that stops goes on accepting, at most: balancers and clients notice meanwhile."""
QUIET_SECONDS = 2.0
"""Without a byte on any connection, after which nobody needs that any more: on one that seems idle, a slow client may be about to call."""
GRACE_SECONDS = 20.0
"""In which calls under way must end."""
POLL = 0.05
BEAT_SECONDS = 2.0
"""After which it says again that its event loop turns."""
SWITCH_SECONDS = 0.0005
"""For which a thread may hold the interpreter while the event loop wants it: Python's own 5 ms are many answers' worth."""

log = structlog.get_logger("keyvault.service")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to serve. `application`: `module:function` that opens the home and returns the application; `listener` and `channel`: descriptors.

    `patience`: for how many seconds the home may take to open before connections are accepted all the same.
    """

    application: str
    listener: int
    channel: int
    patience: float
    tls_certificate: str | None = None
    tls_key: str | None = None
    client_ca: str | None = None

    def tls(self) -> TlsFiles | None:
        """Return the files of TLS, or None for plain HTTP."""
        if self.tls_certificate is None or self.tls_key is None:
            return None
        return TlsFiles(
            certificate=Path(self.tls_certificate),
            key=Path(self.tls_key),
            client_ca=None if self.client_ca is None else Path(self.client_ca),
        )


class Server(uvicorn.Server):
    """Uvicorn's server, with connections that have deadlines, and a stop that loses no request."""

    def __init__(self, config: uvicorn.Config, front: Front) -> None:
        """Serve `front`."""
        super().__init__(config)
        self._front = front
        self._accepting: list[Accepting] = []
        self.listening = asyncio.Event()
        self.stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin to stop."""
        self.should_exit = True
        self.stopping.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to `serve`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept connections on the sockets."""
        loop = asyncio.get_running_loop()

        def protocol() -> BoundedProtocol:
            return BoundedProtocol(config=self.config, server_state=self.server_state, app_state={}, _loop=loop)

        self._accepting = [
            Accepting(loop, listener, protocol, self.config.ssl, handshake_seconds=HANDSHAKE_SECONDS)
            for listener in sockets or []
        ]
        self.started = True
        self.listening.set()

    async def on_tick(self, counter: int) -> bool:
        """Do what is due every second, and tell whether to stop."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in list(self.server_state.connections):
                if isinstance(connection, BoundedProtocol):
                    connection.expire(now)
            self._front.measure(len(self.server_state.connections))
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: say so, let clients go, stop accepting, let calls under way end, close."""
        self._front.drain()
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() < began + DRAIN_SECONDS and not self._quiet(loop.time()):  # noqa: ASYNC110 - silence is no event
            await asyncio.sleep(POLL)
        for accepting in self._accepting:
            accepting.close()
        for listener in sockets or []:
            listener.close()
        while self._has_connections() and loop.time() < began + GRACE_SECONDS:
            for connection in self._bounded():
                connection.let_go(loop.time(), QUIET_SECONDS)
            await asyncio.sleep(POLL)
        left = self._bounded()
        if left:
            log.error("calls under way did not end in time, and are cut off", connections=len(left))
        for connection in left:
            connection.transport.abort()
        for task in self.server_state.tasks:
            task.cancel()
        self._front.measure(len(left))

    def _has_connections(self) -> bool:
        return bool(self.server_state.connections) or any(accepting.connecting for accepting in self._accepting)

    def _quiet(self, now: float) -> bool:
        return all(connection.rests(now, QUIET_SECONDS) for connection in self._bounded())

    def _bounded(self) -> list[BoundedProtocol]:
        return [one for one in self.server_state.connections if isinstance(one, BoundedProtocol)]


async def serve(options: Options) -> int:
    """Serve until told to stop; return the exit code."""
    parent = socket.socket(fileno=options.channel)
    parent.setblocking(False)  # noqa: FBT003 - the name says it
    try:
        tls, tracing = options.tls(), configured_tracing()
        opening = Opening(_loaded(options.application))
        server = _server(Front(opening, Metrics(), tracing), None if tls is None else tls.context())
    except KeyVaultError as error:
        await _say(parent, Told(failed=to_wire(error)))
        return 1
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, server.stop)
    opened = asyncio.create_task(opening.run())
    opened.add_done_callback(lambda _: server.stop())  # without an application there is nothing to serve
    beside = [asyncio.create_task(_until_gone(parent, server)), asyncio.create_task(_tell(parent, opening, server))]
    await _first(opening.settled, server.stopping, patience=options.patience)
    if opening.failed is None and not server.stopping.is_set():
        await server.serve(sockets=[socket.socket(fileno=options.listener)])
    opening.stop()
    await asyncio.wait([opened], timeout=GRACE_SECONDS)
    for task in beside:
        task.cancel()
    if tracing is not None:
        tracing.close()
    if opened.done():
        opened.result()
    return 0 if opening.failed is None else 1


def main() -> int:
    """Run one worker."""
    configure_logs()
    _allow_descriptors()
    sys.setswitchinterval(SWITCH_SECONDS)
    options = msgspec.json.decode(sys.argv[1], type=Options)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(serve(options))


def _server(front: Front, tls: ssl.SSLContext | None) -> Server:
    config = uvicorn.Config(
        front,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    config.load()
    config.ssl = tls
    return Server(config, front)


async def _until_gone(parent: socket.socket, server: Server) -> None:
    """Stop when whoever started this is gone: nobody would be there to replace, reload or stop this process."""
    with contextlib.suppress(ConnectionError):
        await asyncio.get_running_loop().sock_recv(parent, 1)
    server.stop()


async def _tell(parent: socket.socket, opening: Opening, server: Server) -> None:
    await _first(opening.settled, server.listening)
    if opening.failed is None:
        await server.listening.wait()
        await _say(parent, Told(listening=True))
        while not opening.settled.is_set():
            await _first(opening.settled, patience=BEAT_SECONDS)
            await _say(parent, Told())
    if opening.failed is not None:
        await _say(parent, Told(failed=to_wire(opening.failed)))
        server.stop()
        return
    await _say(parent, Told(open=True))
    while True:
        await asyncio.sleep(BEAT_SECONDS)
        await _say(parent, Told())


async def _say(parent: socket.socket, told: Told) -> None:
    with contextlib.suppress(ConnectionError):  # whoever is gone need not know, and `_until_gone` sees it
        await asyncio.get_running_loop().sock_sendall(parent, channel.encode(told))


async def _first(*events: asyncio.Event, patience: float | None = None) -> None:
    """Return when one of the events is set, or patience ends."""
    waiting = [asyncio.create_task(event.wait()) for event in events]
    await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
    for task in waiting:
        task.cancel()


def _loaded(application: str) -> Any:
    module, _, function = application.partition(":")
    return getattr(import_module(module), function)


def _allow_descriptors() -> None:
    """Let every connection have its descriptor, as far as the system's own limit allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (min(most, 65_536) if most != resource.RLIM_INFINITY else 65_536, most)
        )


if __name__ == "__main__":
    raise SystemExit(main())
