"""What nobody foresaw: answered with a number, and logged under it without a value, because any value may be a name or a key."""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Iterator
from pathlib import Path

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keyvault.errors import IncidentError
from keyvault.service.calls import refusal

logger = logging.getLogger("keyvault.service")


class Incidents:
    """Answers 500 where the application raises. Plain ASGI, beneath all other middleware, so that those see an answer."""

    def __init__(self, app: ASGIApp) -> None:
        """Watch over `app`."""
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request. `IncidentError` where an answer had begun already: its connection is to be cut."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def sending(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, it must not reach a log or an answer as it is
            incident = report(error)
        else:
            return
        if begun:
            raise incident
        await refusal(incident)(scope, receive, send)


def report(error: BaseException) -> IncidentError:
    """Log where an error was raised, and return what the caller is told of it."""
    number = secrets.token_hex(8)
    logger.error("incident %s: %s", number, "; because of ".join(_told(error)))
    return IncidentError(f"incident {number}: the service's log says more; tell whoever runs it")


def _told(error: BaseException | None) -> Iterator[str]:
    """Give for an error, and each that it came from, its class and where it was raised: never its message, nor any value."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = traceback.StackSummary.extract(traceback.walk_tb(error.__traceback__), lookup_lines=False)
        places = " > ".join(f"{Path(frame.filename).stem}:{frame.lineno} {frame.name}" for frame in frames)
        yield f"{type(error).__qualname__} at {places}"
        error = error.__cause__ or error.__context__
