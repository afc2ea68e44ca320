"""Answers that hold keys: written into a buffer, sent from it, and overwritten when the connection has let go of it."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from keyvault.formats import wipe

_JSON = (b"content-type", b"application/json")
RETRY_SECONDS = 0.02


class WipedResponse:
    """JSON in a `bytearray` that this takes over. It is sent without a copy, and zeros stand in it afterwards. Plain ASGI."""

    __slots__ = ("_content",)

    def __init__(self, content: bytearray) -> None:
        self._content = content

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it, and see to it that it is wiped however that ends."""
        length = (b"content-length", b"%d" % len(self._content))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": [length, _JSON]})
            await send({"type": "http.response.body", "body": self._content})
        finally:
            wipe_when_released(asyncio.get_running_loop(), [self._content])


def wipe_when_released(loop: asyncio.AbstractEventLoop, buffers: list[bytearray]) -> None:
    """Wipe the buffers that nobody reads any more, and look at the others again: the transport may send at the end of the loop's round."""
    left = [buffer for buffer in buffers if not wipe_released(buffer)]
    if left:
        loop.call_later(RETRY_SECONDS, wipe_when_released, loop, left)


def wipe_released(buffer: bytearray) -> bool:
    """Wipe a buffer unless somebody holds a view of it; return whether nobody did. Only then can its size be changed."""
    try:
        buffer.append(0)
    except BufferError:
        return False
    wipe(buffer)
    return True
