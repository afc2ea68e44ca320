"""The service's application: the key calls, and whatever calls the layers above add."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from keyvault.service import wire
from keyvault.service.access import Access, Caller
from keyvault.service.calls import Call, Routed
from keyvault.service.keys import KeyCalls
from keyvault.tokens import Role
from keyvault.vault import KeyVault


def key_calls(vault: KeyVault) -> list[Call]:
    """Return the calls of the storage layer."""
    calls = KeyCalls(vault)
    return [
        _call("/v1/scopes/ensure", wire.EnsureScopes, wire.ScopeAnswers, calls.ensure_scopes),
        _call("/v1/scopes/describe", wire.ScopeNames, wire.ScopeAnswers, calls.describe_scopes),
        _call("/v1/scopes/suspend", wire.ScopeNames, wire.ScopeAnswers, calls.suspend_scopes),
        _call("/v1/scopes/resume", wire.ScopeNames, wire.ScopeAnswers, calls.resume_scopes),
        _call("/v1/records/suspend", wire.RecordNames, wire.RecordAnswers, calls.suspend_records),
        _call("/v1/records/resume", wire.RecordNames, wire.RecordAnswers, calls.resume_records),
        _call("/v1/keys/generate", wire.GenerateKeys, wire.KeyAnswers, calls.generate_keys),
        _call("/v1/keys/wrap", wire.WrapKeys, wire.KeyAnswers, calls.wrap_keys),
        _call("/v1/keys/unwrap", wire.UnwrapKeys, wire.KeyAnswers, calls.unwrap_keys),
        _call("/v1/keys/rewrap", wire.RewrapKeys, wire.KeyAnswers, calls.rewrap_keys),
    ]


def make_app(access: Access, calls: Sequence[Routed], close: Callable[[], None]) -> Starlette:
    """Return the application; `close` is called when it stops."""

    @asynccontextmanager
    async def lifespan(_app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            close()

    async def healthz(_request: Request) -> Response:
        return Response(status_code=204)

    routes: list[BaseRoute] = [call.route(access) for call in calls]
    return Starlette(routes=[*routes, Route("/healthz", healthz)], lifespan=lifespan)


def _call(
    path: str, asked: type[msgspec.Struct], answered: type[msgspec.Struct], work: Callable[[Any], msgspec.Struct]
) -> Call:
    def called(_caller: Caller, body: Any) -> msgspec.Struct:
        return work(body)

    return Call(path=path, role=Role.ISSUER, asked=asked, answered=answered, work=called)
