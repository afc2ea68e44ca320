"""Answers that hold keys: written into a buffer, sent from it, and overwritten when the connection has let go of it."""

from __future__ import annotations

import asyncio

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from keyvault.formats import wipe

RETRY_SECONDS = 0.02


class WipedResponse(Response):
    """JSON in a `bytearray` that this takes over. It is sent without a copy, and zeros stand in it afterwards."""

    media_type = "application/json"

    def __init__(self, content: bytearray) -> None:
        self.status_code = 200
        self.background = None
        self._content = content
        self.body = content  # type: ignore[assignment] # any buffer does, and is not copied
        self.init_headers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and see to it that it is wiped however that ends."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            _wipe_when_released(asyncio.get_running_loop(), [self._content])


def _wipe_when_released(loop: asyncio.AbstractEventLoop, buffers: list[bytearray]) -> None:
    """Wipe the buffers that nobody reads any more, and look at the others again: the transport may send at the end of the loop's round."""
    left = [buffer for buffer in buffers if not wipe_released(buffer)]
    if left:
        loop.call_later(RETRY_SECONDS, _wipe_when_released, loop, left)


def wipe_released(buffer: bytearray) -> bool:
    """Wipe a buffer unless somebody holds a view of it; return whether nobody did. Only then can its size be changed."""
    try:
        buffer.append(0)
    except BufferError:
        return False
    wipe(buffer)
    return True
