"""One record: read from a line of JSON, and taken apart into what identifies a consumer and the rest. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn

from keyvault.errors import InvalidInputError, KeyVaultError
from keyvault.scopes import Scope, ScopeKind

FORMAT = "keyvault-records/1"
DEFAULT_PII_FIELDS = ("consumer",)
MAX_RECORD_BYTES = 512
REQUIRED = ("record", "account", "consumer", "recorded_at")


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SourceRecord:
    """A record to seal. `identity` and `content` are the canonical JSON (UTF-8) of its two parts."""

    record: str
    month: str
    consumer: str
    identity: bytes
    content: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class SealedRecord:
    """A record as it is kept: two envelopes."""

    record: str
    identity: bytes = field(repr=False)
    content: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class OpenedRecord:
    """A record's two parts as JSON (UTF-8), each itself or the error that stands in its place."""

    record: str
    identity: bytes | KeyVaultError
    content: bytes | KeyVaultError

    def fields(self) -> dict[str, Any]:
        """Return the record's fields; raise the error of a part that could not be opened."""
        merged: dict[str, Any] = {}
        for part in (self.content, self.identity):
            if isinstance(part, KeyVaultError):
                raise part
            merged |= json.loads(part)
        return merged


def check_pii_fields(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of identifying fields; `InvalidInputError` when they make no sense."""
    if not names or not all(names) or len(set(names)) != len(names):
        raise InvalidInputError("name one or more different identifying fields")
    if "record" in names:
        raise InvalidInputError(
            "the record's id cannot be an identifying field: it stays readable, to find the record by"
        )
    return tuple(names)


def parse_record(line: bytes, pii_fields: Sequence[str]) -> SourceRecord:
    """Read one line of JSON. `InvalidInputError` gives the reason, without anything of the line's contents."""
    values = _object(line)
    texts = {name: _text(values, name) for name in REQUIRED}
    if len(texts["record"].encode()) > MAX_RECORD_BYTES:
        raise InvalidInputError(f"the record's id has more than {MAX_RECORD_BYTES} bytes")
    month = _month(texts["recorded_at"])
    return SourceRecord(
        record=texts["record"],
        month=Scope.of(ScopeKind.COMMUNICATIONS, texts["account"], month).name,
        consumer=Scope.of(ScopeKind.CONSUMER, texts["account"], texts["consumer"]).name,
        identity=encode_json({name: value for name, value in values.items() if name in pii_fields}),
        content=encode_json({name: value for name, value in values.items() if name not in pii_fields}),
    )


def associated_data(part: str, record: str) -> bytes:
    """Return what binds an envelope to its record and part (`identity` or `content`)."""
    return f"{FORMAT}/{part}/{record}".encode()


def _object(line: bytes) -> dict[str, Any]:
    # Causes are left out: they would quote the line.
    try:
        values = json.loads(line.decode(), object_pairs_hook=_once, parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise InvalidInputError("not UTF-8") from None
    except (ValueError, RecursionError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError("not JSON") from None
    if not isinstance(values, dict):
        raise InvalidInputError("not a JSON object")
    return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise InvalidInputError("a field stands there twice")
    return dict(pairs)


def _no_constant(_: str) -> NoReturn:
    raise InvalidInputError("a number is not finite")


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidInputError(f"the field {name} is missing, empty or not text")
    return value


def _month(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInputError("recorded_at is not an ISO 8601 time") from None
    if moment.tzinfo is None:
        raise InvalidInputError("recorded_at names no time zone")
    try:
        moment = moment.astimezone(UTC)
    except OverflowError:
        raise InvalidInputError("recorded_at is out of range") from None
    return f"{moment.year:04d}-{moment.month:02d}"


def encode_json(values: Mapping[str, Any]) -> bytes:
    """Return JSON in UTF-8 without white space; `InvalidInputError` for what it cannot carry."""
    try:
        return json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except UnicodeEncodeError:
        raise InvalidInputError("a text holds a lone surrogate, which UTF-8 cannot carry") from None
    except ValueError:
        raise InvalidInputError("a number is out of range") from None
