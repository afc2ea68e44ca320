"""A call: a body that is decoded and checked, work in a thread, an answer that is encoded and wiped."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keyvault.errors import InvalidInputError, KeyVaultError
from keyvault.formats import wipe
from keyvault.service.access import Access, Caller
from keyvault.service.failures import status_of, to_wire
from keyvault.service.keys import wipe_answers
from keyvault.service.wiping import WipedResponse
from keyvault.service.wire import MAX_BODY_BYTES, Problem, encoder
from keyvault.tokens import Role

JSON = "application/json"


class BodyTooLargeError(InvalidInputError):
    """A body has more bytes than the service takes: send smaller batches."""


class Routed(Protocol):
    """Something that the application answers."""

    def route(self, access: Access) -> Route:
        """Return its route, for callers that `access` admits."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A route: its path, who may call it, what it takes, what it answers, and the work."""

    path: str
    role: Role
    asked: type[msgspec.Struct]
    answered: type[msgspec.Struct]
    work: Callable[[Caller, Any], msgspec.Struct]

    def route(self, access: Access) -> Route:
        """Return the route; what it raises on purpose becomes its answer."""
        decoder = msgspec.json.Decoder(self.asked)

        async def endpoint(request: Request) -> Response:
            try:
                authorization = request.headers.get("authorization")
                caller = await run_in_threadpool(access.admit, authorization, self.role)
                body = _decoded(decoder, await read_body(request))
                answer = await run_in_threadpool(self.work, caller, body)
            except KeyVaultError as error:
                return refusal(error)
            content = bytearray()
            encoder.encode_into(answer, content)
            wipe_answers(answer)
            return WipedResponse(content)

        return Route(self.path, endpoint, methods=["POST"])


async def read_body(request: Request) -> bytearray:
    """Return a request's body. `BodyTooLargeError` as soon as it has more than `MAX_BODY_BYTES`."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise BodyTooLargeError(f"a body has at most {MAX_BODY_BYTES} bytes: send smaller batches")
    return body


def refusal(error: KeyVaultError) -> Response:
    """Return the answer to a call that failed as a whole."""
    status = 413 if isinstance(error, BodyTooLargeError) else status_of(error)
    wire_error = to_wire(error)
    headers = {} if wire_error.retry_after is None else {"Retry-After": str(max(1, round(wire_error.retry_after)))}
    return Response(encoder.encode(Problem(error=wire_error)), status_code=status, headers=headers, media_type=JSON)


def _decoded(decoder: msgspec.json.Decoder[Any], body: bytearray) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"the body is not what /openapi.json says: {error}") from error
    finally:
        wipe(body)
