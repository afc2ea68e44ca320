"""A call: a body or parameters that are decoded and checked, work in a thread, an answer that is encoded and wiped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from keyvault.errors import KeyVaultError, MethodNotAllowedError
from keyvault.service.access import Access, Caller
from keyvault.service.bodies import JSON, convert, decode, parameters, read_body, require_json
from keyvault.service.failures import problem_of, status_of
from keyvault.service.keys import wipe_answers
from keyvault.service.notes import CallNote, note_of
from keyvault.service.openapi import PATH
from keyvault.service.operations import Operation
from keyvault.service.wiping import WipedResponse
from keyvault.service.wire import encoder
from keyvault.tokens import Role

OF_BODIES = (400, 413, 415)
OF_PARAMETERS = (400,)


def never(_caller: Caller, _asked: object) -> None:
    """Answer nothing at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """A route: its path, who may call it, what it takes, what it answers, and the work.

    A POST takes a body; a GET takes the parameters of its query and its path. `at_once` answers without waiting for anything, or says
    None; `work` may wait, and has a thread. `statuses`: those of its refusals that not every call has.
    """

    path: str
    role: Role
    asked: type[msgspec.Struct]
    answered: type[msgspec.Struct]
    work: Callable[[Caller, Any], msgspec.Struct]
    at_once: Callable[[Caller, Any], msgspec.Struct | None] = never
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
        """Return the route."""
        return Route(self.path, Answering(self, access), methods=[self.method])

    def reader(self, decoder: msgspec.json.Decoder[Any]) -> Callable[[Request], Awaitable[Any]]:
        """Return what reads and checks what is asked. It raises `InvalidInputError` and what else `bodies` does."""
        has_keys = self.role is Role.ISSUER

        async def body(request: Request) -> Any:
            return decode(decoder, await read_body(request), wiped=has_keys)

        async def query(request: Request) -> Any:
            return convert(parameters(request), self.asked)

        return body if self.method == "POST" else query


class Answering:
    """Answers a call; what is raised on purpose becomes the answer. Plain ASGI: it costs every call."""

    def __init__(self, call: Call, access: Access) -> None:
        """Answer `call` to whom `access` admits."""
        self._role = call.role
        self._decoder = msgspec.json.Decoder(call.asked)
        self._read = call.reader(self._decoder)
        self._at_once = call.at_once
        self._work = call.work
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises `ClientDisconnect`."""
        note = note_of(scope)
        request = Request(scope, receive)
        try:
            if note.raised is not None:
                raise note.raised
            caller = note.caller
            if caller is None:
                note.caller = caller = await admitted(self._access, request, self._role)
            asked = await self._read(request)
            answer = self._at_once(caller, asked)
            if answer is None:
                answer = await run_in_threadpool(self._work, caller, asked)
        except KeyVaultError as error:
            note.failed(error)
            await refusal(error)(scope, receive, send)
            return
        note.answered(answer)
        content = bytearray()
        encoder.encode_into(answer, content)
        wipe_answers(answer)
        await WipedResponse(content)(scope, receive, send)

    @property
    def answers_at_once(self) -> bool:
        """Whether this call can be answered without waiting for anything, ever."""
        return self._at_once is not never

    def at_once(
        self, note: CallNote, headers: Mapping[bytes, bytes], peer: str, body: bytearray
    ) -> msgspec.Struct | None:
        """Answer without waiting for anything; None where that does not do. Raises what refuses the call.

        `note` is told who calls, and who was admitted need not be a second time. `body` stays as it is.
        """
        note.caller = caller = self._access.admit_cached(_text(headers.get(b"authorization")), self._role, peer)
        if caller is None:
            return None
        require_json(_text(headers.get(b"content-type")))
        return self._at_once(caller, decode(self._decoder, body, wiped=False))


def _text(value: bytes | None) -> str | None:
    """Return a header as Starlette gives it."""
    return None if value is None else value.decode("latin-1")


async def admitted(access: Access, request: Request, role: Role) -> Caller:
    """Return who calls; a thread is taken only where the database or an identity provider must be asked. Raises as `Access.admit`."""
    authorization = request.headers.get("authorization")
    peer = "" if request.client is None else request.client.host
    caller = access.admit_cached(authorization, role, peer)
    return await run_in_threadpool(access.admit, authorization, role, peer) if caller is None else caller


def not_allowed(headers: Mapping[str, str]) -> Response:
    """Return the answer to a method that a path does not take; `headers` say which it does (RFC 9110, section 15.5.6)."""
    response = refusal(MethodNotAllowedError(f"this path takes other methods: {PATH} lists them"))
    response.headers.update(headers)
    return response


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
