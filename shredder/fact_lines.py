"""Reading facts: one line of JSON or CSV becomes a report, or the reason why it cannot. Pure but for the stream it is given.

The page is docs/facts.md. Lines name people, so no reason quotes one, and no `repr` shows one.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial
from typing import BinaryIO

from keyvault.errors import InvalidInputError, InvalidScopeError
from keyvault.events import instant
from keyvault.scopes import Scope, ScopeKind
from keyvault.subjects import SubjectKind
from shredder.facts import FactType
from shredder.policy import Policy

MAX_LINE_BYTES = 16_384
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)


class FactsFormat(StrEnum):
    """How a file of facts is written."""

    JSONL = "jsonl"
    CSV = "csv"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Report:
    """One fact as the platform reports it. `subject`: the subject's id, of a business year `ACCOUNT/YYYY`; `at` aware, in UTC.

    `account`: the other account that access is about. `value`: what `Fact.detail` holds otherwise.
    """

    kind: SubjectKind
    subject: str
    type: FactType
    at: datetime
    account: str | None = None
    value: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Frame:
    """What a line is judged against: the policy's classes, the time it is read at, and how far other clocks may be ahead."""

    policy: Policy
    now: datetime
    clock_skew: timedelta


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One line that was read: its number, from 1, its length in bytes, and what it says, or why it says nothing."""

    number: int
    size: int
    content: Report | InvalidInputError


@dataclass(frozen=True, kw_only=True, slots=True)
class _Form:
    kind: SubjectKind
    type: FactType
    others: tuple[str, ...]


def _form(kind: SubjectKind, fact: FactType, *others: str) -> _Form:
    return _Form(kind=kind, type=fact, others=others)


FORMS: Mapping[str, _Form] = {
    "account.opened": _form(SubjectKind.ACCOUNT, FactType.OPENED, "account"),
    "account.not-in-good-standing": _form(SubjectKind.ACCOUNT, FactType.NOT_IN_GOOD_STANDING, "account"),
    "account.reactivated": _form(SubjectKind.ACCOUNT, FactType.REACTIVATED, "account"),
    "account.closed": _form(SubjectKind.ACCOUNT, FactType.CLOSED, "account"),
    "usage.billed": _form(SubjectKind.ACCOUNT, FactType.BILLED, "account", "through"),
    "user.created": _form(SubjectKind.USER, FactType.CREATED, "user"),
    "user.signed-in": _form(SubjectKind.USER, FactType.SIGNED_IN, "user"),
    "access.granted": _form(SubjectKind.USER, FactType.GRANTED, "user", "account"),
    "access.removed": _form(SubjectKind.USER, FactType.REMOVED, "user", "account"),
    "contact.no-longer-valuable": _form(SubjectKind.CONTACT, FactType.NO_LONGER_VALUABLE, "contact"),
    "contact.valuable": _form(SubjectKind.CONTACT, FactType.VALUABLE, "contact"),
    "business.classified": _form(SubjectKind.BUSINESS, FactType.CLASSIFIED, "account", "year", "class"),
}
"""The types of facts as files spell them, and the fields that each has beside `type` and `at`."""

FIELDS = ("type", "at", "account", "user", "contact", "through", "year", "class")

_INSTANT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]{1,6})?)?(?:Z|[+-][0-9]{2}:[0-9]{2})"
)
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BOM = b"\xef\xbb\xbf"


def parse_fact(fields: Mapping[str, str], frame: Frame) -> Report:
    """Return what the fields of a line say; `InvalidInputError` with the field at fault, and never with what stands in it."""
    form = FORMS.get(fields.get("type", ""))
    if form is None:
        raise InvalidInputError(f"`type` is missing or unknown; the types are {', '.join(FORMS)}")
    wanted = {"type", "at", *form.others}
    for name in sorted(wanted - fields.keys()):
        raise InvalidInputError(f"`{name}` is missing")
    if fields.keys() - wanted:
        raise InvalidInputError(
            f"it has fields that a fact of its type does not have; these are {', '.join(sorted(wanted))}"
        )
    at = _past(fields, "at", frame)
    _, subject = _scope(form, fields).subject
    if form.kind is SubjectKind.USER and "account" in form.others:
        return Report(kind=form.kind, subject=subject, type=form.type, at=at, account=_account(fields["account"]))
    return Report(kind=form.kind, subject=subject, type=form.type, at=at, value=_value(form.type, fields, at, frame))


def parse_json(line: bytes) -> dict[str, str]:
    """Return the fields of a line of JSON. `InvalidInputError` unless it is one object of texts, each name once."""
    try:
        found = json.loads(line.decode(), object_pairs_hook=_once, parse_constant=_no_number)
    except InvalidInputError:
        raise
    except UnicodeDecodeError:
        raise InvalidInputError("it is not UTF-8") from None
    except (ValueError, RecursionError):
        raise InvalidInputError("it is not JSON") from None
    if not isinstance(found, dict):
        raise InvalidInputError("it is not a JSON object")
    if type(found.get("year")) is int:
        found["year"] = str(found["year"])
    for name, value in found.items():
        if not isinstance(value, str):
            raise InvalidInputError(f"`{name}` is not a text" if name in FIELDS else "a field of it is not a text")
    return found


def read_facts(source: BinaryIO, form: FactsFormat, frame: Callable[[], Frame]) -> Iterator[Line]:
    """Read a file line by line, in constant memory, each line by itself. Blank lines are passed over.

    `frame` is asked anew for each line: a long file is read for a long time. Raises `InvalidInputError` where a CSV file's first line
    does not name its columns.
    """
    lines = _bounded(source)
    fields: Callable[[bytes], dict[str, str]] = parse_json
    if form is FactsFormat.CSV:
        fields = partial(_parse_row, _columns(next(lines, (1, 0, b""))[2]))
    for number, size, line in lines:
        if line is None or line.strip():
            yield Line(number=number, size=size, content=_content(line, fields, frame))


def parse_line(line: bytes, frame: Frame) -> Report | InvalidInputError:
    """Return what a line of JSON says, or why it says nothing."""
    return _content(line if len(line) <= MAX_LINE_BYTES else None, parse_json, lambda: frame)


def _content(
    line: bytes | None, fields: Callable[[bytes], dict[str, str]], frame: Callable[[], Frame]
) -> Report | InvalidInputError:
    if line is None:
        return InvalidInputError(f"it is longer than {MAX_LINE_BYTES} bytes")
    try:
        return parse_fact(fields(line), frame())
    except InvalidInputError as error:
        return error


def _bounded(source: BinaryIO) -> Iterator[tuple[int, int, bytes | None]]:
    """Give each line's number, length, and bytes; None for a line that is too long, of which no more is kept in memory."""
    number = 0
    while line := source.readline(MAX_LINE_BYTES + 1):
        number += 1
        size = len(line)
        if size <= MAX_LINE_BYTES or line.endswith(b"\n"):
            yield number, size, line.removeprefix(_BOM) if number == 1 else line
            continue
        while line and not line.endswith(b"\n"):
            line = source.readline(MAX_LINE_BYTES + 1)
            size += len(line)
        yield number, size, None


# --- JSON and CSV -----------------------------------------------------------------------------------------------------


def _once(pairs: Sequence[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidInputError("a field stands in it twice")
    return found


def _no_number(_constant: str) -> object:
    raise InvalidInputError("it is not JSON: NaN and Infinity are none")


def _columns(line: bytes | None) -> list[str]:
    try:
        columns = [] if line is None else _row(line)
    except InvalidInputError as error:
        raise InvalidInputError(f"line 1: {error}") from None
    if len(set(columns)) != len(columns) or not {"type", "at"} <= set(columns) <= set(FIELDS):
        raise InvalidInputError(
            f"line 1 does not name the columns: type, at and some of {', '.join(FIELDS[2:])}, separated by commas, each once"
        )
    return columns


def _parse_row(columns: Sequence[str], line: bytes) -> dict[str, str]:
    """Return the cells of a row that are not empty, by their columns."""
    cells = _row(line)
    if len(cells) != len(columns):
        raise InvalidInputError(f"it has {len(cells)} cells; line 1 names {len(columns)} columns")
    return {name: cell for name, cell in zip(columns, cells, strict=True) if cell}


def _row(line: bytes) -> list[str]:
    try:
        text = line.decode().rstrip("\r\n")
        (cells,) = csv.reader(io.StringIO(text, newline=""), strict=True)
    except UnicodeDecodeError:
        raise InvalidInputError("it is not UTF-8") from None
    except (csv.Error, ValueError):
        raise InvalidInputError("it is not one row of CSV") from None
    return cells


# --- fields -----------------------------------------------------------------------------------------------------------


def _scope(form: _Form, fields: Mapping[str, str]) -> Scope:
    """Return a scope of the subject, whose names obey the rules of scopes': an id that no scope can have means no scope."""
    if form.kind is SubjectKind.ACCOUNT:
        return _named("account", ScopeKind.CUSTOMER, fields["account"], "any")
    if form.kind is SubjectKind.USER:
        return _named("user", ScopeKind.USER, fields["user"])
    if form.kind is SubjectKind.CONTACT:
        return _named("contact", ScopeKind.MARKETING, fields["contact"])
    return _named("account` or `year", ScopeKind.BUSINESS, fields["account"], fields["year"])


def _account(account: str) -> str:
    return _named("account", ScopeKind.CUSTOMER, account, "any").segments[0]


def _named(field: str, kind: ScopeKind, *segments: str) -> Scope:
    if any(map(_CONTROL.search, segments)):
        raise InvalidInputError(f"`{field}` holds a control character")
    try:
        return Scope.of(kind, *segments)
    except InvalidScopeError as error:
        raise InvalidInputError(f"`{field}` cannot stand in a scope's name: {error}") from None


def _value(fact: FactType, fields: Mapping[str, str], at: datetime, frame: Frame) -> str:
    if fact is FactType.BILLED:
        return instant(_through(fields, at, frame))
    if fact is FactType.CLASSIFIED:
        return _class(fields, frame)
    return ""


def _class(fields: Mapping[str, str], frame: Frame) -> str:
    classes = frame.policy.categories[ScopeKind.BUSINESS].classes
    if fields["class"] not in classes:
        raise InvalidInputError(f"`class` is none of the policy's: {', '.join(sorted(classes))}")
    return f"{fields['class']}/{fields['year']}"


def _through(fields: Mapping[str, str], at: datetime, frame: Frame) -> datetime:
    """Return until when usage is billed: the whole of a day, but no usage later than the bill."""
    text = fields["through"]
    if not _DATE.fullmatch(text):
        through = _past(fields, "through", frame)
        end = through
    else:
        through = _past({"through": f"{text}T00:00Z"}, "through", frame)
        end = min(through + timedelta(days=1), at)
    if through > at:
        raise InvalidInputError("`through` is later than `at`: no bill is for usage that is still to come")
    return end


def _past(fields: Mapping[str, str], name: str, frame: Frame) -> datetime:
    text = fields[name]
    try:
        moment = datetime.fromisoformat(text).astimezone(UTC) if _INSTANT.fullmatch(text) else None
    except (ValueError, OverflowError):
        moment = None
    if moment is None:
        raise InvalidInputError(f"`{name}` is not an ISO 8601 time with a time zone, such as 2026-11-24T09:30:00Z")
    if moment < EARLIEST:
        raise InvalidInputError(f"`{name}` is before 1970")
    if moment > frame.now + frame.clock_skew:
        raise InvalidInputError(f"`{name}` lies in the future: check the clocks")
    return moment
