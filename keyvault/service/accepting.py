"""Accepting connections on a socket that workers share, so that they share the connections too.

An event loop that accepts all that wait, as they do, gives a burst of connections to whichever worker wakes first; and connections
stay open, so that one worker then does everything. Here a worker takes one, and lets the others have a turn.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from socket import socket

import structlog

PAUSE_SECONDS = 0.001
"""After each connection: longer than another worker takes to wake, and shorter than a handshake."""
RETRY_SECONDS = 1.0
"""After the system had no descriptor or memory for one more."""

log = structlog.get_logger("keyvault.service")


class Accepting:
    """Accepts until it is closed. For the event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: socket,
        protocol: Callable[[], asyncio.Protocol],
        tls: ssl.SSLContext | None,
        *,
        handshake_seconds: float,
    ) -> None:
        """Begin; `listener` is not blocking, and its owner closes it. A `handshake` that takes longer ends its connection."""
        self._loop = loop
        self._listener = listener
        self._protocol = protocol
        self._options = {} if tls is None else {"ssl": tls, "ssl_handshake_timeout": handshake_seconds}
        self._tasks: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        self._watch()

    @property
    def connecting(self) -> bool:
        """Whether a connection was accepted that no protocol has yet: its handshake is under way, or about to begin."""
        return bool(self._tasks)

    def close(self) -> None:
        """Accept no more."""
        self._loop.remove_reader(self._listener)
        if self._again is not None:
            self._again.cancel()

    def _watch(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        pause = PAUSE_SECONDS
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return  # another worker was faster, or whoever connected is gone
        except OSError as error:
            log.warning("no connection can be accepted", reason=error.strerror)
            pause = RETRY_SECONDS
        else:
            connection.setblocking(False)  # noqa: FBT003 - the name says it
            task = self._loop.create_task(self._connect(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._loop.remove_reader(self._listener)
        self._again = self._loop.call_later(pause, self._watch)

    async def _connect(self, connection: socket) -> None:
        """Hand a connection to a protocol of its own; one whose handshake fails is its client's affair, and ended."""
        with contextlib.suppress(OSError):
            await self._loop.connect_accepted_socket(self._protocol, connection, **self._options)  # type: ignore[arg-type]
