"""The service within the test's process, over an embedded home, with a token of each role."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from cli.main import run
from keyvault.service.front import Front
from keyvault.service.metrics import Metrics
from keyvault.service.opening import Opening
from keyvault.service.operations import Operation
from keyvault.tokens import Role
from shredder.serving.application import application
from tests.homes import TestHome, embedded_home


@dataclass(frozen=True, kw_only=True)
class Service:
    """The application, the application with what a worker answers before it, and who calls that."""

    home: TestHome
    app: Starlette
    served: ASGIApp
    client: TestClient
    tokens: Mapping[Role, str]

    @property
    def operations(self) -> list[Operation]:
        operations: list[Operation] = self.app.state.operations
        return operations

    def headers(self, role: Role | None) -> dict[str, str]:
        return {} if role is None else {"Authorization": f"Bearer {self.tokens[role]}"}

    def post(self, path: str, body: object, role: Role = Role.ISSUER, **options: Any) -> httpx2.Response:
        return self.client.post(path, json=body, headers=self.headers(role), **options)

    def get(self, path: str, role: Role = Role.REQUESTER, **options: Any) -> httpx2.Response:
        headers = {**self.headers(role), **options.pop("headers", {})}
        return self.client.get(path, headers=headers, **options)

    def made(self, *names: str) -> None:
        """Create scopes."""
        answer = self.post("/v1/scopes/ensure", {"names": names}).json()
        assert all("error" not in scope for scope in answer["scopes"]), answer

    def logged(self, *names: str) -> None:
        """Create scopes, and have their creations in the log, which their first keys wait for."""
        self.made(*names)
        answer = self.post("/v1/keys/generate", {"keys": [{"scopes": [name]} for name in names]}).json()
        assert all("error" not in key for key in answer["keys"]), answer


def command(home: TestHome, capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    """Run a command on a home, and return its JSON."""
    capsys.readouterr()
    run(["--home", str(home.path), *args, "--json"])
    return json.loads(capsys.readouterr().out)


STREAM = "text/event-stream"


def streams(operation: Operation) -> bool:
    """Whether an answer goes on until the caller goes, which a client within the process cannot."""
    return any(STREAM in kind for kind in operation.answered.values() if isinstance(kind, tuple))


@pytest.fixture
def service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Service]:
    home = embedded_home(tmp_path)
    tokens = {role: command(home, capsys, "token", "issue", "--role", str(role), "test")["token"] for role in Role}
    monkeypatch.setenv("KEYVAULT_HOME", str(home.path))
    app = application()
    opening = Opening(application)
    opening.app = app
    front = Front(opening, Metrics())

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        await (app if scope["type"] == "lifespan" else front)(scope, receive, send)

    with TestClient(served) as client:
        yield Service(home=home, app=app, served=served, client=client, tokens=tokens)
