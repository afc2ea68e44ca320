"""A call: a body or parameters that are decoded and checked, work in a thread, an answer that is encoded and wiped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keyvault.errors import KeyVaultError
from keyvault.service.access import Access, Caller
from keyvault.service.bodies import JSON, convert, decode, parameters, read_body
from keyvault.service.failures import problem_of, status_of
from keyvault.service.keys import wipe_answers
from keyvault.service.notes import note_of
from keyvault.service.operations import Operation
from keyvault.service.wiping import WipedResponse
from keyvault.service.wire import encoder
from keyvault.tokens import Role

OF_BODIES = (400, 413, 415)
OF_PARAMETERS = (400,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A route: its path, who may call it, what it takes, what it answers, and the work.

    A POST takes a body; a GET takes the parameters of its query and its path. `statuses`: those of its refusals that not every call has.
    """

    path: str
    role: Role
    asked: type[msgspec.Struct]
    answered: type[msgspec.Struct]
    work: Callable[[Caller, Any], msgspec.Struct]
    summary: str
    method: str = "POST"
    statuses: tuple[int, ...] = ()

    @property
    def operation(self) -> Operation:
        """What /openapi.json says of it."""
        common = OF_BODIES if self.method == "POST" else OF_PARAMETERS
        return Operation(
            path=self.path,
            method=self.method,
            summary=self.summary,
            role=self.role,
            asked=self.asked,
            answered={200: self.answered},
            statuses=(*common, *self.statuses),
        )

    def route(self, access: Access) -> Route:
        """Return the route; what it raises on purpose becomes its answer."""
        read = self._reader()

        async def endpoint(request: Request) -> Response:
            note = note_of(request.scope)
            try:
                note.caller = caller = await admitted(access, request, self.role)
                asked = await read(request)
                answer = await run_in_threadpool(self.work, caller, asked)
            except KeyVaultError as error:
                note.failed(error)
                return refusal(error)
            note.answered(answer)
            content = bytearray()
            encoder.encode_into(answer, content)
            wipe_answers(answer)
            return WipedResponse(content)

        return Route(self.path, endpoint, methods=[self.method])

    def _reader(self) -> Callable[[Request], Awaitable[Any]]:
        decoder = msgspec.json.Decoder(self.asked)

        has_keys = self.role is Role.ISSUER

        async def body(request: Request) -> Any:
            return decode(decoder, await read_body(request), wiped=has_keys)

        async def query(request: Request) -> Any:
            return convert(parameters(request), self.asked)

        return body if self.method == "POST" else query


async def admitted(access: Access, request: Request, role: Role) -> Caller:
    """Return who calls; a thread is taken only where the database or an identity provider must be asked. Raises as `Access.admit`."""
    authorization = request.headers.get("authorization")
    peer = "" if request.client is None else request.client.host
    caller = access.admit_cached(authorization, role, peer)
    return await run_in_threadpool(access.admit, authorization, role, peer) if caller is None else caller


def refusal(error: KeyVaultError) -> Response:
    """Return the answer to a call that failed as a whole."""
    problem = problem_of(error)
    status = status_of(error)
    headers = {}
    if problem.error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(problem.error.retry_after)))
    if status == 401:  # noqa: PLR2004 - RFC 9110, section 11.6.1: it says how to authenticate
        headers["WWW-Authenticate"] = "Bearer"
    return Response(encoder.encode(problem), status_code=status, headers=headers, media_type=JSON)
