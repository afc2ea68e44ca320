"""Who may call what: asked of the application itself, so that no new route is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from starlette.routing import Route

from keyvault.service import health
from keyvault.service.operations import Operation
from keyvault.tokens import Role
from tests.service.conftest import Service, streams

NO_TOKEN = ("GET /healthz", "GET /metrics", "GET /openapi.json", "GET /readyz")


def named(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def path_of(operation: Operation) -> str:
    return operation.path.replace("{id}", "0" * 32).replace("{path:path}", "checkpoint")


def test_the_application_has_no_route_that_is_not_described(service: Service) -> None:
    routes = [
        f"{method} {route.path}"
        for route in service.app.routes
        if isinstance(route, Route)
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]
    assert len(routes) == len(service.app.routes)
    assert sorted([*routes, *map(named, health.OPERATIONS)]) == sorted(map(named, service.operations))
    assert tuple(sorted(named(one) for one in service.operations if one.role is None)) == NO_TOKEN


def test_a_route_is_for_one_role_and_for_nobody_else(service: Service) -> None:
    tried = 0
    for operation in service.operations:
        if operation.role is None:
            continue
        for role in [None, *Role]:
            if role is operation.role and streams(operation):
                continue  # tests/service/test_push.py listens to it
            answer = service.client.request(
                operation.method, path_of(operation), json={}, headers=service.headers(role)
            )
            told = f"{named(operation)} as {role}: {answer.status_code} {answer.text[:200]}"
            if role is operation.role:
                assert answer.status_code in {200, 400, 404}, told
                continue
            tried += 1
            assert answer.status_code == (401 if role is None else 403), told
            assert answer.json()["error"]["type"] == ("TokenRefusedError" if role is None else "NotPermittedError")
    assert tried == len(Role) * (len(service.operations) - len(NO_TOKEN))


@pytest.mark.parametrize(
    "given",
    ["", "Bearer", "Bearer ", "Bearer kv1_x", "Basic a2V5OnZhdWx0", "Bearer kv1_" + "0" * 32 + "_" + "0" * 64, "é"],
)
def test_what_is_no_token_in_force_is_refused_before_the_body_is_looked_at(service: Service, given: str) -> None:
    headers = {"Authorization": given.encode("latin-1")}
    answer = service.client.post("/v1/keys/generate", content=b"{", headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["type"] == "TokenRefusedError"


def test_no_module_of_the_service_can_reach_what_destroys() -> None:
    """Only what suspends, resumes, and writes down; `shredder.requests` needs no more, either."""
    root = Path(__file__).parents[2]
    for module in [*(root / "keyvault" / "service").glob("*.py"), *(root / "shredder" / "serving").glob("*.py")]:
        text = module.read_text()
        for word in ("shredder.destroy", "request_execution", "shredder.erase", "shredder.fence", "Destroyer"):
            assert word not in text, f"{module.name} uses {word}"
        assert 'role="shredder"' not in text
    assert 'role="issuer"' in (root / "shredder" / "serving" / "application.py").read_text()
