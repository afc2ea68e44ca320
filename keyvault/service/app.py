"""The service's application: the key calls, and whatever the layers above add."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from keyvault.errors import UnknownPathError
from keyvault.service import health, wire
from keyvault.service.access import Access, Caller
from keyvault.service.bodies import JSON
from keyvault.service.calls import Call, never, not_allowed, refusal
from keyvault.service.gathering import Gathered
from keyvault.service.health import Readiness
from keyvault.service.incidents import Incidents
from keyvault.service.keys import KeyCalls
from keyvault.service.limited import LimitedCalls
from keyvault.service.openapi import PATH, document
from keyvault.service.operations import Operation, Plain, Served
from keyvault.tokens import Role
from keyvault.vault import KeyVault

NOT_FOUND = 404
AT_ONCE = 128
"""Keys of one call that are answered from memory without a thread, which costs more than they do; other calls wait for a millisecond."""
OF_ONE_SCOPE = (NOT_FOUND, 409)
"""Statuses of calls about one scope: unknown, or in a state that forbids it."""


def key_calls(vault: KeyVault, limited: LimitedCalls) -> list[Call]:
    """Return the calls of the storage layer; `limited` holds tokens to their limits."""
    calls = KeyCalls(vault)
    call = partial(_limited, limited)
    generate, unwrap = Gathered(wire.GenerateKeys, calls.generate_keys), Gathered(wire.UnwrapKeys, calls.unwrap_keys)
    return [
        call("/v1/scopes/ensure", wire.EnsureScopes, wire.ScopeAnswers, calls.ensure_scopes),
        call("/v1/scopes/describe", wire.ScopeNames, wire.ScopeAnswers, calls.describe_scopes),
        call("/v1/scopes/suspend", wire.ScopeNames, wire.ScopeAnswers, calls.suspend_scopes),
        call("/v1/scopes/resume", wire.ScopeNames, wire.ScopeAnswers, calls.resume_scopes),
        call("/v1/records/suspend", wire.RecordNames, wire.RecordAnswers, calls.suspend_records, statuses=OF_ONE_SCOPE),
        call("/v1/records/resume", wire.RecordNames, wire.RecordAnswers, calls.resume_records, statuses=OF_ONE_SCOPE),
        call("/v1/keys/generate", wire.GenerateKeys, wire.KeyAnswers, generate, at_once=calls.generate_kept),
        call("/v1/keys/wrap", wire.WrapKeys, wire.KeyAnswers, calls.wrap_keys),
        call("/v1/keys/unwrap", wire.UnwrapKeys, wire.KeyAnswers, unwrap, at_once=calls.unwrap_kept),
        call("/v1/keys/rewrap", wire.RewrapKeys, wire.KeyAnswers, calls.rewrap_keys),
    ]


def make_app(
    access: Access,
    served: Sequence[Served],
    readiness: Readiness,
    *,
    drain: Callable[[], None],
    close: Callable[[], None],
) -> Starlette:
    """Return the application.

    `app.state.served`: everything that it answers; `app.state.operations`: what is said of that, and of what the `Front` before it answers.

    `drain` is called when clients are to go, and ends what would not end by itself; `close` when the application stops.
    """

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            readiness.close()
            close()

    operations = [*(one.operation for one in served), *health.OPERATIONS, _DESCRIPTION]
    every = [*served, _description(operations)]
    app = Starlette(
        routes=[one.route(access) for one in every],
        lifespan=lifespan,
        middleware=[Middleware(Incidents)],
        exception_handlers={HTTPException: _not_served},
    )
    app.router.redirect_slashes = False
    app.state.served = every
    app.state.operations = operations
    app.state.readiness = readiness
    app.state.drain = drain
    return app


_DESCRIPTION = Operation(
    path=PATH, method="GET", summary="Describe all of this, as OpenAPI 3.1.", answered={200: (JSON,)}
)


def _description(operations: Sequence[Operation]) -> Served:
    content = document(operations)

    async def openapi(_request: Request) -> Response:
        return Response(content, media_type=JSON, headers={"Cache-Control": "max-age=3600"})

    return Plain(operation=_DESCRIPTION, endpoint=openapi)


async def _not_served(_request: Request, error: Exception) -> Response:
    """Answer what Starlette refuses, which are paths and methods, as everything else is refused."""
    if isinstance(error, HTTPException) and error.status_code == NOT_FOUND:
        return refusal(UnknownPathError(f"there is nothing of this path: {PATH} lists what there is"))
    return not_allowed(getattr(error, "headers", None) or {})


def _short(answer: Callable[[Any], msgspec.Struct | None]) -> Callable[[Caller, Any], msgspec.Struct | None]:
    def called(caller: Caller, body: Any) -> msgspec.Struct | None:
        if len(body.keys) > AT_ONCE or not caller.limits.unlimited:
            return None
        return answer(body)

    return called


def _limited(
    limited: LimitedCalls,
    path: str,
    asked: type[msgspec.Struct],
    answered: type[msgspec.Struct],
    work: Callable[[Any], msgspec.Struct],
    *,
    at_once: Callable[[Any], msgspec.Struct | None] | None = None,
    statuses: tuple[int, ...] = (),
) -> Call:
    def called(caller: Caller, body: Any) -> msgspec.Struct:
        return limited.answer(caller, body, work)

    summary = (work.__doc__ or "").splitlines()[0]
    return Call(
        path=path,
        role=Role.ISSUER,
        asked=asked,
        answered=answered,
        work=called,
        at_once=never if at_once is None else _short(at_once),
        summary=summary,
        statuses=statuses,
    )
