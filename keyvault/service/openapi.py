"""/openapi.json: OpenAPI 3.1, made from the wire types and from what the routes say of themselves. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from keyvault.service.operations import Operation
from keyvault.service.wire import MAX_BATCH, MAX_BODY_BYTES, Problem

PATH = "/openapi.json"

_REFERENCE = "#/components/schemas/{name}"
_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
_ABOUT = f"""Data keys, and what belongs to them. No route destroys a key.

A batch has at most {MAX_BATCH} items, a body at most {MAX_BODY_BYTES} bytes of JSON (UTF-8); bytes are base64 (RFC 4648, section 4), times \
RFC 3339. Members and parameters that are not known are refused. Items are answered in the order in which they were asked, each with its \
value or with its own `error`; a call that fails as a whole is answered with a `Problem`, whatever its status. `error.type` is the \
name of a class of `keyvault.errors`. A path that is not listed here is answered 404, a method that is not listed 405, with a `Problem`, too.

A call may be sent again: each has the effect of having been sent once, and none needs an idempotency key."""
_TOLD = {
    400: "The call is malformed; nothing was done.",
    401: "There is no token, or it is unknown, expired or revoked.",
    403: "The token's role, or what it is limited to, does not allow this.",
    404: "There is nothing of that name.",
    409: "The scope's state or kind forbids what is asked; nothing was done.",
    413: "The body is too large.",
    415: "The body is not called application/json.",
    429: "The token asks more often than it may. `Retry-After` says when to try again.",
    500: "Something is wrong with the installation, or went wrong that nobody foresaw.",
    503: "Database or engine cannot be reached, or come from different moments. `Retry-After` says when to try again.",
}
_HEADERS: dict[int, dict[str, Any]] = {
    401: {"WWW-Authenticate": {"schema": {"type": "string"}}},
    429: {"Retry-After": {"schema": {"type": "integer"}, "description": "In seconds."}},
    503: {"Retry-After": {"schema": {"type": "integer"}, "description": "In seconds; where trying again helps."}},
}


def document(operations: Sequence[Operation]) -> bytes:
    """Return the document, as JSON."""
    types = {Problem: None} | dict.fromkeys(kind for operation in operations for kind in _types(operation))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    writer = _Writer(dict(zip(types, schemas, strict=True)), components)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(template(operation.path), {})[operation.method.lower()] = writer.operation(operation)
    refusals = sorted({status for operation in operations for status in operation.refusals})
    parameters = {operation.asked for operation in operations if operation.asked and operation.method == "GET"}
    for kind in parameters:
        components.pop(kind.__name__)
    return msgspec.json.encode(
        {
            "openapi": "3.1.0",
            "info": {"title": "Key service", "version": "1", "description": _ABOUT},
            "paths": paths,
            "components": {
                "schemas": components,
                "responses": {_name(status): _refusal(status, writer.problem) for status in refusals},
                "securitySchemes": {
                    "token": {
                        "type": "http",
                        "scheme": "bearer",
                        "description": "As `keyvault token issue` makes them. What a token may call, its role says.",
                    }
                },
            },
        }
    )


def template(path: str) -> str:
    """Return a path as the document spells it: without the kinds of its parameters."""
    return _PARAMETER.sub(r"{\1}", path)


def _types(operation: Operation) -> list[type[msgspec.Struct]]:
    asked = [] if operation.asked is None else [operation.asked]
    return [*asked, *(kind for kind in operation.answered.values() if isinstance(kind, type))]


class _Writer:
    """Writes operations; `schemas` by type, `components` by name."""

    def __init__(self, schemas: dict[type[msgspec.Struct], Any], components: dict[str, Any]) -> None:
        self._schemas = schemas
        self._components = components

    @property
    def problem(self) -> Any:
        """Return the schema of a `Problem`."""
        return self._schemas[Problem]

    def operation(self, operation: Operation) -> dict[str, Any]:
        """Return what the document says of an operation."""
        written: dict[str, Any] = {
            "operationId": _identity(operation),
            "summary": operation.summary,
            "security": [] if operation.role is None else [{"token": []}],
            "responses": self._responses(operation),
        }
        if operation.role is not None:
            written["description"] = f"For tokens of the role `{operation.role}`."
            written["tags"] = [str(operation.role)]
        parameters = self._parameters(operation)
        if parameters:
            written["parameters"] = parameters
        if operation.asked is not None and operation.method == "POST":
            written["requestBody"] = {"required": True, "content": _json(self._schemas[operation.asked])}
        return written

    def _responses(self, operation: Operation) -> dict[str, Any]:
        responses: dict[str, Any] = {}
        for status, kind in operation.answered.items():
            response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
            if isinstance(kind, type):
                response["content"] = _json(self._schemas[kind])
            elif kind:
                response["content"] = {media: {} for media in kind}
            responses[str(status)] = response
        for status in operation.refusals:
            responses[str(status)] = {"$ref": f"#/components/responses/{_name(status)}"}
        return responses

    def _parameters(self, operation: Operation) -> list[dict[str, Any]]:
        in_path = _PARAMETER.findall(operation.path)
        if operation.asked is None or operation.method != "GET":
            return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in in_path]
        schema = self._components[operation.asked.__name__]
        return [
            {
                "name": name,
                "in": "path" if name in in_path else "query",
                "required": name in schema.get("required", ()),
                "schema": member,
            }
            for name, member in schema["properties"].items()
        ]


def _identity(operation: Operation) -> str:
    words = re.findall(r"[a-z]+", f"{operation.method.lower()} {operation.path.removeprefix('/v1')}")
    return "-".join(words)


def _name(status: int) -> str:
    return "".join(word.capitalize() for word in re.findall(r"[A-Za-z]+", HTTPStatus(status).phrase))


def _refusal(status: int, problem: Any) -> dict[str, Any]:
    headers = {"headers": _HEADERS[status]} if status in _HEADERS else {}
    return {"description": _TOLD[status], "content": _json(problem), **headers}


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
