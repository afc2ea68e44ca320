"""/openapi.json says what the routes do, and the routes do what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from keyvault.service.openapi import PATH, template
from keyvault.service.wire import MAX_BATCH, MAX_BODY_BYTES
from tests.service.conftest import Service, streams
from tests.service.good import good_calls

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    unsupported_method,
]
ROOT = Path(__file__).parents[2]
EXAMPLES = 6
JUDGED_BY_ITEM = {"/v1/facts", "/v1/requests"}
"""Where an item that does not fit is answered for itself, among others that do."""
OF_ALL_TOKENS = {"401", "403", "429", "500", "503"}


def documented(service: Service) -> dict[str, Any]:
    answer = service.client.get(PATH)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "max-age=3600"
    found: dict[str, Any] = answer.json()
    return found


def test_the_document_and_the_routes_agree(service: Service) -> None:
    document = documented(service)
    assert document["openapi"].startswith("3.1.")
    written = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    assert written == {(template(one.path), one.method) for one in service.operations}
    for one in service.operations:
        said = document["paths"][template(one.path)][one.method.lower()]
        assert said["security"] == ([] if one.role is None else [{"token": []}])
        assert one.role is None or str(one.role) in said["description"]
        expected = {"400", "413", "415"} if one.method == "POST" else set()
        if one.role is not None:
            expected |= OF_ALL_TOKENS
        assert expected <= set(said["responses"]), one.path
    identities = [said["operationId"] for item in document["paths"].values() for said in item.values()]
    assert len(set(identities)) == len(identities)


def test_the_document_is_whole_and_states_the_limits(service: Service) -> None:
    document = documented(service)
    text = json.dumps(document)
    for kind, name in re.findall(r'"\$ref": "#/components/(\w+)/(\w+)"', text):
        assert name in document["components"][kind]
    assert document["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    assert str(MAX_BATCH) in document["info"]["description"]
    assert str(MAX_BODY_BYTES) in document["info"]["description"]
    assert document["components"]["schemas"]["GenerateKeys"]["properties"]["keys"]["maxItems"] == MAX_BATCH
    assert document["components"]["schemas"]["GenerateKeys"]["additionalProperties"] is False
    fact = document["components"]["schemas"]["Facts"]["properties"]["facts"]["items"]
    assert "account.closed" in fact["properties"]["type"]["enum"]
    assert "RequestFilter" not in document["components"]["schemas"]


def answers(operation: Any, mode: GenerationMode, headers: dict[str, str]) -> set[int]:
    """Call an operation with what fits the document, or does not, check each answer, and return the statuses that came."""
    statuses: set[int] = set()
    strict = mode is GenerationMode.NEGATIVE and operation.path not in JUDGED_BY_ITEM
    checks = [*CHECKS, negative_data_rejection] if strict else CHECKS

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def attempt(case: schemathesis.Case[Any]) -> None:
        response = case.call(headers=headers)
        statuses.add(response.status_code)
        case.validate_response(response, checks=checks)

    attempt()
    return statuses


def test_the_page_of_the_service_has_every_route_under_its_role(service: Service) -> None:
    rows = re.findall(r"^\| (`(?:GET|POST) .*`) \| (.+?) \|", (ROOT / "docs" / "service.md").read_text(), re.MULTILINE)
    told = {route: role for routes, role in rows for route in re.findall(r"`(.+?)`", routes)}
    assert told == {f"{one.method} {template(one.path)}": one.role or "none needed" for one in service.operations}


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_what_fits_the_document_and_what_does_not_is_answered_as_documented(
    service: Service, mode: GenerationMode
) -> None:
    schema = schemathesis.openapi.from_asgi(PATH, service.served)
    described = {(template(one.path), one.method): one for one in service.operations}
    came: dict[str, set[int]] = {}
    for found in schema.get_all_operations():
        assert isinstance(found, Ok)
        operation = found.ok()
        one = described[operation.path, operation.method.upper()]
        if streams(one) or (mode is GenerationMode.NEGATIVE and one.asked is None):
            continue  # it has no end, or takes nothing that could be wrong
        came[operation.label] = answers(operation, mode, service.headers(one.role))
    finite = [one for one in service.operations if not streams(one)]
    tried = [one for one in finite if mode is GenerationMode.POSITIVE or one.asked is not None]
    assert set(came) == {f"{one.method} {template(one.path)}" for one in tried} - {f"GET {PATH}"}
    assert (200 if mode is GenerationMode.POSITIVE else 400) in set.union(*came.values())


def test_each_route_answers_a_call_that_succeeds_as_documented(service: Service) -> None:
    schema = schemathesis.openapi.from_asgi(PATH, service.served)
    done = set()
    for good in good_calls(service):
        response = service.client.request(good.method, good.path, json=good.body, headers=service.headers(good.role))
        assert response.is_success, response.text
        done.add((good.template, good.method))
        if good.template != PATH:
            schema[good.template][good.method].validate_response(response)
    assert done == {(template(one.path), one.method) for one in service.operations if not streams(one)}
