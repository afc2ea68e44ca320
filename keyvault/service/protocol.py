"""HTTP connections that end when they are slow, idle or too large: uvicorn's, with the bounds that it leaves to a proxy in front.

What can be answered out of memory is answered here, before uvicorn makes a task of it.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass, field
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from keyvault.service.front import Front
from keyvault.service.immediate import MAX_HELD_BYTES, Immediate
from keyvault.service.notes import CallNote, put_note
from keyvault.service.wiping import wipe_when_released
from keyvault.service.wire import MAX_BODY_BYTES

MAX_CONNECTIONS = 1000
"""Of one worker; one more is closed at once."""
MAX_HEADER_BYTES = 64 * 1024
MAX_REQUEST_BYTES = MAX_HEADER_BYTES + 2 * MAX_BODY_BYTES
"""Twice the body, as it may come in chunks; what is above the body's own limit is answered before this ends the connection."""
HANDSHAKE_SECONDS = 10
HEADER_SECONDS = 10
"""From a connection's start, or a request's first byte, until its headers are there."""
BODY_SECONDS = 60
"""From there until its body is."""
WRITE_SECONDS = 60
"""For which an answer may wait for its reader."""
KEEP_ALIVE_SECONDS = 60
"""For which a connection may idle between two requests."""


@dataclass(slots=True)
class Held:
    """A request that may be answered at once when its body is there."""

    immediate: Immediate
    body: bytearray = field(default_factory=bytearray)
    note: CallNote = field(default_factory=CallNote)


class BoundedProtocol(HttpToolsProtocol):
    """A connection with a deadline, which `expire` looks at: cheaper than a timer for each request."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        """As uvicorn makes it."""
        super().__init__(*args, **keywords)
        self._read_by = math.inf
        self._written_by = math.inf
        self._received = 0
        self._in_headers = True
        self._idle_by = math.inf
        self._touched = self.loop.time()
        self._front = cast("Front", self.config.app)
        self._held: Held | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start with a deadline; close at once what is one connection too many."""
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self.logger.warning("too many connections: one was closed")
            transport.abort()
            return
        self._read_by = self.loop.time() + HEADER_SECONDS

    def data_received(self, data: bytes) -> None:
        """Take bytes, within the bounds of a request."""
        self._touched = self.loop.time()
        self._idle_by = math.inf
        if self._read_by == math.inf and not self._answering():
            self._read_by = self._touched + HEADER_SECONDS
            self._in_headers = True
        self._received += len(data)
        super().data_received(data)
        if self._read_by != math.inf and self._received > (MAX_HEADER_BYTES if self._in_headers else MAX_REQUEST_BYTES):
            self.logger.warning("a request is too large: its connection was closed")
            self.transport.abort()

    def on_message_begin(self) -> None:
        """Note that a request begins."""
        super().on_message_begin()
        self._in_headers = True
        self._read_by = self.loop.time() + HEADER_SECONDS

    def on_headers_complete(self) -> None:
        """Note that a request's headers are there."""
        self._in_headers = False
        self._read_by = self.loop.time() + BODY_SECONDS
        immediate = self._immediate()
        if immediate is None:
            super().on_headers_complete()
        else:
            self._held = Held(immediate)

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        if self._held is None:
            super().on_body(body)
            return
        self._held.body += body
        if len(self._held.body) > MAX_HELD_BYTES:
            self._pass_on(self._held)

    def on_message_complete(self) -> None:
        """Take a request that is there as a whole."""
        self._read_by = math.inf
        self._received = 0
        if self._held is not None:
            if self._answer(self._held):
                self._held = None
                return
            self._pass_on(self._held)
        super().on_message_complete()

    def _immediate(self) -> Immediate | None:
        """Return what may answer the request whose headers are there at once, in its turn and whole."""
        parser = self.parser
        if (
            self._answering()
            or self.expect_100_continue
            or parser.get_method() != b"POST"
            or parser.get_http_version() != "1.1"
            or not parser.should_keep_alive()
            or parser.should_upgrade()
        ):
            return None
        return self._front.immediate(self.url)

    def _answer(self, held: Held) -> bool:
        """Answer a request at once, or return False."""
        if self.flow.write_paused or self.transport.is_closing():
            return False
        peer = "" if self.client is None else self.client[0]
        content = held.immediate.answer(self.headers, held.body, peer, held.note, self.server_state.default_headers)
        if content is None:
            return False
        self.transport.write(content)
        wipe_when_released(self.loop, [content])
        self.server_state.total_requests += 1
        self._idle_by = self._touched + self.timeout_keep_alive
        return True

    def _pass_on(self, held: Held) -> None:
        """Let the application have a request that was held back, as if it had come just now."""
        self._held = None
        put_note(self.scope, held.note)
        super().on_headers_complete()
        super().on_body(bytes(held.body))

    def on_response_complete(self) -> None:
        """Note that an answer is out."""
        self._touched = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """Note that the answer waits for its reader."""
        super().pause_writing()
        self._written_by = self.loop.time() + WRITE_SECONDS

    def resume_writing(self) -> None:
        """Note that it goes on."""
        super().resume_writing()
        self._written_by = math.inf

    def expire(self, now: float) -> bool:
        """End the connection if it is past a deadline; return whether it was."""
        if now < min(self._read_by, self._written_by, self._idle_by):
            return False
        self.transport.abort()
        return True

    def rests(self, now: float, seconds: float) -> bool:
        """Tell whether nothing has come or gone for that long, and nothing is being answered but a stream without an end."""
        return now - self._touched >= seconds and (not self._answering() or self._streams())

    def let_go(self, now: float, seconds: float) -> None:
        """Close the connection if it rests, after which it loses nothing; end a stream, which its client takes up elsewhere."""
        if not self.rests(now, seconds):
            return
        if self._answering():
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()

    def _answering(self) -> bool:
        return self._held is not None or (self.cycle is not None and not self.cycle.response_complete)

    def _streams(self) -> bool:
        """Tell whether an answer of unknown length is under way (RFC 9112, section 7.1): the service has no other ones than event streams."""
        return self._held is None and self.cycle.response_started and bool(self.cycle.chunked_encoding)
