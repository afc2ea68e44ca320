"""Routes and what is said of them: everything that the service answers is described here, and in /openapi.json from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keyvault.service.access import Access
from keyvault.tokens import Role

OF_ALL = (500,)
"""Statuses that any route may have."""
OF_TOKENS = (401, 403, 429, 503)
"""Those of routes that need a token."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """What is said of a route.

    `path` as Starlette spells it; `role`: whose tokens may call it, None where none is needed; `asked`: the type of its body, or of a GET the
    type of its parameters; `answered`: by status, the type of a JSON answer, or the media type of another one (empty where there is no body);
    `statuses`: of its refusals.
    """

    path: str
    method: str
    summary: str
    role: Role | None = None
    asked: type[msgspec.Struct] | None = None
    answered: Mapping[int, type[msgspec.Struct] | tuple[str, ...]] = field(default_factory=dict)
    statuses: tuple[int, ...] = ()

    @property
    def refusals(self) -> list[int]:
        """The statuses of all answers that are a `Problem`, in order."""
        tokens = () if self.role is None else OF_TOKENS
        return sorted({*OF_ALL, *tokens, *self.statuses})


class Served(Protocol):
    """What the application is made of."""

    @property
    def operation(self) -> Operation:
        """What is said of it."""

    def route(self, access: Access) -> Route:
        """Return the route, which asks `access` who calls."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plain:
    """A route that needs no token, and answers something else than a call does."""

    operation: Operation
    endpoint: Callable[[Request], Awaitable[Response]]

    def route(self, _access: Access) -> Route:
        """Return the route."""
        return Route(self.operation.path, self.endpoint, methods=[self.operation.method])
