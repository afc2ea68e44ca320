"""Push: connected clients are told at once what has ended, so that they drop its keys before their leases end. Nothing rests on it.

`GET /v1/push` is a stream of server-sent events (WHATWG HTML, section 9.2). An event `drop` has one line of JSON: `scopes`, ids of 16
bytes; `records`, pairs of a scope's id and a tag of 8 bytes; `all`, true when the service lost track of what ended. Bytes are base64
(RFC 4648, section 4). A comment every ten seconds says that the line is alive. Names do not travel, and neither do keys.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from keyvault.errors import KeyVaultError, Unavailable
from keyvault.service.access import Access
from keyvault.service.calls import admitted, refusal
from keyvault.service.operations import Operation
from keyvault.store.endings import Endings
from keyvault.tokens import Role
from keyvault.vault import KeyVault

PATH = "/v1/push"
STREAM = "text/event-stream"
HEARTBEAT_SECONDS = 10.0
CHECK_SECONDS = 1.0
"""How often a listener's token is looked at again."""
MAX_WAITING = 100
"""Events that wait for a slow listener; of more, it is told to drop everything."""
MAX_ITEMS = 1_000
"""Scopes and records in one event."""
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
ROLE = Role.ISSUER
HEARTBEAT = b": alive\n\n"
EVERYTHING = b'event: drop\ndata: {"scopes":[],"records":[],"all":true}\n\n'


class Drop(msgspec.Struct):
    """The data of an event `drop`."""

    scopes: list[bytes]
    records: list[tuple[bytes, bytes]]
    all: bool = False


class _Listener:
    """One connected client. Its queue belongs to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def put(self, events: list[bytes]) -> None:
        """Let it wait for these; called in the loop."""
        if self._queue.qsize() + len(events) > MAX_WAITING:
            while not self._queue.empty():
                self._queue.get_nowait()
            events = [EVERYTHING]
        for event in events:
            self._queue.put_nowait(event)

    def end(self) -> None:
        """End the stream; called in the loop."""
        self._queue.put_nowait(None)

    async def next(self, seconds: float) -> bytes | None:
        """Return the next event, or None at the end. Raises `TimeoutError`."""
        return await asyncio.wait_for(self._queue.get(), seconds)


class Push:
    """Tells all connected clients of one worker. Thread-safe."""

    def __init__(self, vault: KeyVault) -> None:
        """Begin to watch; what `vault` keeps goes from memory, too."""
        self._listeners: set[_Listener] = set()
        self._lock = threading.Lock()
        self._ending = False
        self._watch = vault.watch_endings(self._tell, lambda: bool(self._listeners))
        self._watch.start()

    @property
    def operation(self) -> Operation:
        """What /openapi.json says of it."""
        return Operation(
            path=PATH,
            method="GET",
            summary="Be told at once what has ended, as server-sent events.",
            role=ROLE,
            answered={200: (STREAM,)},
        )

    def route(self, access: Access) -> Route:
        """Return the route of the stream."""

        async def endpoint(request: Request) -> Response:
            try:
                await admitted(access, request, ROLE)
            except KeyVaultError as error:
                return refusal(error)
            return StreamingResponse(self._stream(access, request), media_type=STREAM, headers=HEADERS)

        return Route(PATH, endpoint, methods=["GET"])

    def end_streams(self) -> None:
        """End all streams, and begin no more: the process is to stop, and would wait for them. Clients connect elsewhere."""
        with self._lock:
            self._ending = True
            listeners = list(self._listeners)
        for listener in listeners:
            listener.loop.call_soon_threadsafe(listener.end)

    def close(self) -> None:
        """End all streams, and watch no more."""
        self.end_streams()
        self._watch.close()

    async def _stream(self, access: Access, request: Request) -> AsyncIterator[bytes]:
        listener = _Listener(asyncio.get_running_loop())
        with self._lock:
            if self._ending:
                return
            self._listeners.add(listener)
        try:
            yield HEARTBEAT
            silent = 0.0
            while True:
                try:
                    event = await listener.next(CHECK_SECONDS)
                except TimeoutError:
                    if not await _still_admitted(access, request):
                        return
                    silent += CHECK_SECONDS
                    event = HEARTBEAT if silent >= HEARTBEAT_SECONDS else b""
                if event is None:
                    return
                if event:
                    silent = 0.0
                    yield event
        finally:
            with self._lock:
                self._listeners.discard(listener)

    def _tell(self, endings: Endings) -> None:
        """Send what ended to all; called in the watch's thread."""
        with self._lock:
            listeners = list(self._listeners)
        events = encode(endings) if listeners else []
        for listener in listeners:
            listener.loop.call_soon_threadsafe(listener.put, events)


def encode(endings: Endings) -> list[bytes]:
    """Write events `drop` of at most 1,000 items each."""
    if endings.everything:
        return [EVERYTHING]
    scopes, records = sorted(endings.scopes), sorted(endings.records)
    drops = [Drop(scopes=scopes[at : at + MAX_ITEMS], records=[]) for at in range(0, len(scopes), MAX_ITEMS)]
    drops += [Drop(scopes=[], records=records[at : at + MAX_ITEMS]) for at in range(0, len(records), MAX_ITEMS)]
    return [b"event: drop\ndata: " + msgspec.json.encode(drop) + b"\n\n" for drop in drops]


async def _still_admitted(access: Access, request: Request) -> bool:
    try:
        await admitted(access, request, ROLE)
    except Unavailable:
        return True
    except KeyVaultError:
        return False
    return True
