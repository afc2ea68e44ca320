"""A call of each kind that succeeds, in an order in which each does."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keyvault.tokens import Role
from tests.service.conftest import Service

NOW = datetime.now(UTC)
MONTH = f"communications/acct-1/{NOW:%Y-%m}"
ADA, BOB = "consumer/acct-1/ada", "consumer/acct-1/bob"
ADDRESSED = base64.b64encode(b"row 1").decode()


@dataclass(frozen=True, kw_only=True)
class Good:
    """A call, and the path as the document spells it."""

    path: str
    template: str
    role: Role | None
    body: Mapping[str, Any] | None = None

    @property
    def method(self) -> str:
        return "GET" if self.body is None else "POST"


def good_calls(service: Service) -> Iterator[Good]:
    """Give calls one by one; each must be made before the next is asked for."""

    def post(path: str, body: Mapping[str, Any], role: Role = Role.ISSUER) -> Good:
        return Good(path=path, template=path, role=role, body=body)

    def answer(path: str, body: Mapping[str, Any]) -> Any:
        return service.post(path, body).json()

    yield post("/v1/scopes/ensure", {"names": [MONTH, ADA, BOB]})
    yield post("/v1/scopes/describe", {"names": [MONTH, ADA, "consumer/acct-1/nobody"]})
    yield post("/v1/scopes/suspend", {"names": [BOB]})
    yield post("/v1/scopes/resume", {"names": [BOB]})
    yield post("/v1/records/suspend", {"scope": MONTH, "records": ["r-1", "r-2"]})
    yield post("/v1/records/resume", {"scope": MONTH, "records": ["r-1", "r-2"]})
    item = {"scopes": [MONTH, ADA], "associated_data": ADDRESSED, "record": "r-1"}
    yield post("/v1/keys/generate", {"keys": [item, {"scopes": [BOB]}, {"scopes": ["consumer/acct-1/nobody"]}]})
    key = answer("/v1/keys/generate", {"keys": [item]})["keys"][0]
    yield post("/v1/keys/wrap", {"keys": [{**item, "data_key": key["plaintext"]}]})
    unwrap = {"wrapped": key["wrapped"], "associated_data": ADDRESSED}
    yield post("/v1/keys/unwrap", {"keys": [unwrap, {"wrapped": ADDRESSED}]})
    yield post("/v1/keys/rewrap", {"keys": [{**unwrap, "scopes": [BOB]}]})
    yield post(
        "/v1/facts",
        {
            "facts": [
                {"type": "account.closed", "account": "acct-2", "at": NOW.isoformat()},
                {"type": "account.closed", "at": NOW.isoformat()},
            ]
        },
        Role.PLATFORM,
    )
    asked = {"ticket": "T-1", "from": "customer", "kind": "anonymize", "scopes": [ADA]}
    refused = {**asked, "row": 2, "from": "consumer"}
    yield post("/v1/requests", {"requests": [asked, refused, {**asked, "row": 0}]}, Role.REQUESTER)
    yield Good(path="/v1/requests?all=true", template="/v1/requests", role=Role.REQUESTER)
    (first, *_) = service.get("/v1/requests").json()["requests"]
    yield Good(path=f"/v1/requests/{first['id']}", template="/v1/requests/{id}", role=Role.REQUESTER)
    size = int(service.get("/log/checkpoint", Role.AUDITOR).text.splitlines()[1])
    for path in ("checkpoint", f"tile/entries/000.p/{size}"):
        yield Good(path=f"/log/{path}", template="/log/{path}", role=Role.AUDITOR)
    for path in ("/healthz", "/readyz", "/metrics"):
        yield Good(path=path, template=path, role=None)
    yield Good(path="/openapi.json", template="/openapi.json", role=None)
