"""The outermost layer of a worker: answers for its own state, and lets the application answer everything else, telling log and metrics.

Plain ASGI: it costs every call, so it allocates little.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from time import perf_counter
from typing import Any

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp

from keyvault.errors import ServiceError, Unavailable
from keyvault.service.calls import Answering, not_allowed, refusal
from keyvault.service.health import Cached, Ready, Word, unknown
from keyvault.service.immediate import Immediate
from keyvault.service.incidents import Incidents
from keyvault.service.metrics import CONTENT_TYPE, Metrics
from keyvault.service.notes import note_of
from keyvault.service.opening import Opening
from keyvault.service.telling import REQUEST_ID, Telling, request_id_of
from keyvault.service.tracing import Tracing

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

UNMATCHED = "unmatched"
CLOSE = (b"connection", b"close")


class Front:
    """The ASGI application that a worker runs. `draining`: answers end their connections, and readiness says no."""

    def __init__(self, opening: Opening, metrics: Metrics, tracing: Tracing | None = None) -> None:
        """Answer by the application that `opening` holds."""
        self._opening = opening
        self._metrics = metrics
        self._tracing = tracing
        self._routes: dict[Any, str] = {}
        self._direct: Mapping[str, ASGIApp] = {}
        self._immediate: Mapping[bytes, Immediate] = {}
        self._routes_of: Starlette | None = None
        self._ready = Cached(self._ask)
        self._own: dict[str, Callable[[], Awaitable[Response]]] = {
            "/healthz": self._healthz,
            "/readyz": self._readyz,
            "/metrics": self._expose,
        }
        self._telling = Telling(metrics, self._own)
        self._log = structlog.get_logger("keyvault.service").bind()
        self.draining = False

    def drain(self) -> None:
        """Let clients go: what streams without an end is ended, and everything else told that it is to go elsewhere."""
        self.draining = True
        if (app := self._opening.app) is not None:
            app.state.drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; the lifespan of the application is its opening's affair."""
        if scope["type"] != "http":
            return
        note = note_of(scope)
        request_id = request_id_of(scope["headers"])
        status = 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), (REQUEST_ID, request_id)]
                message = {**message, "headers": [*headers, CLOSE] if self.draining else headers}
            await send(message)

        try:
            if self._tracing is None:
                await self._answer(scope, receive, told)
            else:
                with self._tracing.span(scope) as span:
                    await self._answer(scope, receive, told)
                    span.end_with(self._route(scope), status)
        except ClientDisconnect:
            status = 0  # whoever asked is gone, whatever was sent after that
        except Exception:  # noqa: BLE001 - it is logged
            self._log.exception("a request met a fault of the program", request=request_id.decode())
            if status == 0:
                await refusal(ServiceError("the service met a fault of its own: its log says which"))(
                    scope, receive, told
                )
        finally:
            self._telling.tell(self._route(scope), request_id, status, perf_counter() - note.began, note)

    def immediate(self, url: bytes) -> Immediate | None:
        """Return what may answer POSTs of a URL at once; None where everything goes through this application."""
        app = self._opening.app
        if app is None or self.draining or self._tracing is not None:
            return None
        self._know(app)
        return self._immediate.get(url)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = self._own.get(scope["path"])
        if own is not None:
            response = await own() if scope["method"] in {"GET", "HEAD"} else not_allowed({"Allow": "GET, HEAD"})
            await response(scope, receive, send)
            return
        app = self._opening.app
        if app is None:
            response = refusal(
                Unavailable("the service is starting or stopping: see /readyz; try again", retry_after=1.0)
            )
            await response(scope, receive, send)
            return
        self._know(app)
        call = self._direct.get(scope["path"]) if scope["method"] == "POST" else None
        await (app if call is None else call)(scope, receive, send)

    def _route(self, scope: Scope) -> str:
        """Return the route's template: what stands in the address itself may hold a name."""
        path: str = scope["path"]
        if path in self._own or path in self._direct:
            return path
        if (app := self._opening.app) is not None:
            self._know(app)
        return self._routes.get(scope.get("endpoint"), UNMATCHED)

    def _know(self, app: Starlette) -> None:
        """Look through the routes of an application, once."""
        if app is not self._routes_of:
            calls = _calls(app)
            self._routes = dict(_templates(app))
            self._direct = {path: Incidents(call) for path, call in calls.items()}
            self._immediate = {
                path.encode(): Immediate(path, call, self._telling)
                for path, call in calls.items()
                if call.answers_at_once
            }
            self._routes_of = app

    def measure(self, connections: int) -> None:
        """Set the gauges; called once a second."""
        app = self._opening.app
        self._metrics.flush()
        self._metrics.connections.set(connections)
        self._metrics.open.set(0 if app is None else 1)
        self._metrics.kept_keys.set(0 if app is None else app.state.readiness.kept_keys())

    # --- its own routes ------------------------------------------------------------------------------------------------

    async def _healthz(self) -> Response:
        """Answer that the process lives; nothing else is asked."""
        return Response(status_code=204)

    async def _readyz(self) -> Response:
        """Answer a word for each part, and 503 unless all of them are well."""
        words = await self._ready()
        ready = not self.draining and all(word is Word.OK for word in words.values())
        body = Ready(ready=ready, stopping=self.draining, **words)
        return Response(msgspec.json.encode(body), status_code=200 if ready else 503, media_type="application/json")

    async def _ask(self) -> Any:
        app = self._opening.app
        if app is None:
            return self._opening.words if self._opening.failed is None else unknown(database=Word.REFUSED)
        return await app.state.readiness(self._metrics)

    async def _expose(self) -> Response:
        self._metrics.flush()
        content = await asyncio.to_thread(self._metrics.expose)
        return Response(content, headers={"content-type": CONTENT_TYPE})


def _templates(app: Starlette) -> list[tuple[Any, str]]:
    routes: list[tuple[Any, str]] = []
    for route in app.routes:
        if isinstance(route, Route):
            routes.append((route.endpoint, route.path))
        elif isinstance(route, Mount):
            routes.append((route.app, f"{route.path}/{{path}}"))
    return routes


def _calls(app: Starlette) -> dict[str, Answering]:
    """Return the calls that take bodies by their paths, which have no parameters: they need not go the way through Starlette."""
    posts = [route for route in app.routes if isinstance(route, Route) and route.methods == {"POST"}]
    return {route.path: route.endpoint for route in posts if isinstance(route.endpoint, Answering)}
