"""Reading what a caller sends: bounded, as JSON, checked against the wire types, and never quoted in what is answered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request

from keyvault.errors import BodyTooLargeError, ContentTypeError, InvalidInputError
from keyvault.formats import wipe
from keyvault.service.wire import MAX_BODY_BYTES

JSON = "application/json"

T = TypeVar("T", bound=msgspec.Struct)

_JSON_TYPE = re.compile(r'application/json(?:\s*;\s*charset="?utf-8"?)?\s*', re.IGNORECASE)
_AT = r"(?: - at `[$][][.a-z_0-9]*`)?"
_TELLS_NOTHING = re.compile(
    r"Expected `[a-z0-9 |]+`(?: (?:of length )?[<>]=? -?[0-9]+)?(?:, got `[a-z0-9 ]+`)?"
    + _AT
    + r"|Object missing required field `[a-z_]+`"
    + _AT
    + r"|(?:Number|Integer value) out of range"
    + _AT
    + r"|Invalid base64 encoded string"
    + _AT
    + r"|JSON is malformed: [a-z ]+ \(byte [0-9]+\)|Input data was truncated"
)
"""Messages of msgspec that hold nothing but its own words, types, bounds, and paths of members that the wire types have."""
_PLACE = re.compile(r" - at `[$][][.a-z_0-9]*`\Z")


async def read_body(request: Request) -> bytearray:
    """Return a request's body. `BodyTooLargeError` as soon as it is known to have more than `MAX_BODY_BYTES`; `ContentTypeError`, `ClientDisconnect`."""
    require_json(request.headers.get("content-type"))
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > MAX_BODY_BYTES:
        raise _too_large()
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        if len(body) > MAX_BODY_BYTES:
            raise _too_large()
        if not message.get("more_body", False):
            return body


def require_json(content_type: str | None) -> None:
    """Raise `ContentTypeError` unless a body is said to be JSON."""
    if content_type != JSON and (content_type is None or not _JSON_TYPE.fullmatch(content_type)):
        raise ContentTypeError(f"a body is JSON, and its Content-Type is {JSON}")


def decode(decoder: msgspec.json.Decoder[T], body: bytearray, *, wiped: bool = True) -> T:
    """Return what a body says. `InvalidInputError` with the place at fault, and never with what stands there.

    The body is wiped unless what is returned may look at parts of it later (`msgspec.Raw`).
    """
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = _reason(error)
    finally:
        if wiped:
            wipe(body)
    raise InvalidInputError(f"the body is not what /openapi.json says: {reason}")


def convert(given: Mapping[str, str], kind: type[T]) -> T:
    """Return what the parameters of a query and a path say. `InvalidInputError` as `decode`."""
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        reason = _reason(error)
    raise InvalidInputError(f"the parameters are not what /openapi.json says: {reason}")


def parameters(request: Request) -> dict[str, str]:
    """Return the parameters of a query and a path. `InvalidInputError` where one stands there twice."""
    pairs = [*request.query_params.multi_items(), *request.path_params.items()]
    given = dict(pairs)
    if len(given) != len(pairs):
        raise InvalidInputError("a parameter is given twice")
    return given


def _too_large() -> BodyTooLargeError:
    return BodyTooLargeError(f"a body has at most {MAX_BODY_BYTES} bytes: send smaller batches")


def _reason(error: Exception) -> Any:
    """Say what is wrong without any of what was sent, which may be a name."""
    text = str(error)
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if _TELLS_NOTHING.fullmatch(text):
        return text
    place = _PLACE.search(text)
    what = (
        "it has a member that is not known" if text.startswith("Object contains unknown field") else "it does not fit"
    )
    return what if place is None else what + place[0]
