"""Sending, in a thread and in a task; nothing is decided here."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator

import httpx2

from keyvault.client.asking import MAX_ANSWER_BYTES, Lost, Reply, Send
from keyvault.client.options import CONNECT_SECONDS, ClientOptions
from keyvault.client.pushes import SILENCE_SECONDS, Listen
from keyvault.clock import Clock

IDLE_SECONDS = 30.0
"""For how long a connection is kept that nobody uses."""
_LIMITS = httpx2.Limits(max_connections=100, max_keepalive_connections=50, keepalive_expiry=IDLE_SECONDS)


class Connections:
    """Connections of threads."""

    def __init__(self, options: ClientOptions, clock: Clock) -> None:
        """Connect to nothing yet."""
        self._clock = clock
        # Neither a proxy nor other credentials out of the environment: the token goes to the service alone.
        self._http = httpx2.Client(verify=_verify(options), trust_env=False, limits=_LIMITS)
        self._listening: httpx2.Response | None = None

    def close(self) -> None:
        """Close all; who listens is told by the end of its stream."""
        if self._listening is not None:
            connected: socket.socket = self._listening.extensions["network_stream"].get_extra_info("socket")
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)
        self._http.close()

    def send(self, call: Send) -> Reply | Lost:
        """Send a call, and return what came of it."""
        until = self._clock.monotonic() + call.seconds
        content = bytearray()
        try:
            with self._http.stream(
                "POST", call.url, content=call.content, headers=_headers(call.token), timeout=_timeout(call.seconds)
            ) as response:
                for chunk in response.iter_raw():
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        break
                    if self._clock.monotonic() > until:
                        return Lost(reason="it answers too slowly")
        except httpx2.TransportError as error:
            return Lost(reason=type(error).__name__)
        except RuntimeError:
            if self._http.is_closed:
                return Lost(reason="this client was closed")
            raise
        return _reply(response, content)

    @contextlib.contextmanager
    def events(self, listen: Listen) -> Iterator[tuple[int, Iterator[httpx2.ServerSentEvent]]]:
        """Open the stream of events; give the status, and the events as they come."""
        with self._http.stream("GET", listen.url, headers=_headers(listen.token), timeout=_SILENCE) as response:
            self._listening = response
            try:
                yield response.status_code, iter(httpx2.EventSource(response))
            finally:
                self._listening = None


class AsyncConnections:
    """Connections of one event loop."""

    def __init__(self, options: ClientOptions) -> None:
        """Connect to nothing yet."""
        self._http = httpx2.AsyncClient(verify=_verify(options), trust_env=False, limits=_LIMITS)

    async def close(self) -> None:
        """Close all."""
        await self._http.aclose()

    async def send(self, call: Send) -> Reply | Lost:
        """Send a call, and return what came of it."""
        content = bytearray()
        try:
            async with (
                asyncio.timeout(call.seconds),
                self._http.stream(
                    "POST", call.url, content=call.content, headers=_headers(call.token), timeout=_timeout(call.seconds)
                ) as response,
            ):
                async for chunk in response.aiter_raw():
                    content += chunk
                    if len(content) > MAX_ANSWER_BYTES:
                        break
        except TimeoutError:
            return Lost(reason="it answers too slowly")
        except httpx2.TransportError as error:
            return Lost(reason=type(error).__name__)
        return _reply(response, content)

    @contextlib.asynccontextmanager
    async def events(self, listen: Listen) -> AsyncIterator[tuple[int, AsyncIterator[httpx2.ServerSentEvent]]]:
        """Open the stream of events; give the status, and the events as they come."""
        async with self._http.stream("GET", listen.url, headers=_headers(listen.token), timeout=_SILENCE) as response:
            yield response.status_code, aiter(httpx2.EventSource(response))


_SILENCE = httpx2.Timeout(SILENCE_SECONDS, connect=CONNECT_SECONDS)


def _headers(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", "content-type": "application/json", "accept-encoding": "identity"}


def _timeout(seconds: float) -> httpx2.Timeout:
    left = max(seconds, 0.001)
    return httpx2.Timeout(left, connect=min(left, CONNECT_SECONDS))


def _reply(response: httpx2.Response, content: bytearray) -> Reply:
    return Reply(status=response.status_code, content=content, retry_after=response.headers.get("retry-after"))


def _verify(options: ClientOptions) -> ssl.SSLContext | bool:
    return options.tls or False  # without TLS there is loopback only
