"""A request as it is handed in, checked for its form alone. Pure."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import TypeVar

from keyvault.admission import encode_record
from keyvault.errors import InvalidInputError
from keyvault.scopes import Scope, ScopeKind
from shredder.destroy import DEFAULT_REASON, check_cause
from shredder.policy import Requester, RequestKind

MAX_ROW = 2**31 - 1
MAX_SCOPES = 10_000
MAX_FIELD_CHARACTERS = 1_000_000
COLUMNS = ("ticket", "from", "kind", "scope", "record", "account", "reason")
REQUIRED = ("ticket", "from", "kind")
SEPARATOR = ";"

E = TypeVar("E", RequestKind, Requester)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Submission:
    """What somebody asks for. `row`: in the file that it came in, from 1. `reason`: a code of lower-case letters, digits and hyphens.

    Raises `InvalidInputError` when it is malformed: a ticket that is not 1 to 256 bytes, neither scopes nor an account, or both; records
    without the one account-month that they are of.
    """

    ticket: str
    requester: Requester
    kind: RequestKind
    scopes: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    account: str | None = None
    reason: str | None = None
    row: int = 1

    def __post_init__(self) -> None:
        check_cause(self.ticket, DEFAULT_REASON if self.reason is None else self.reason)
        if not 1 <= self.row <= MAX_ROW:
            raise InvalidInputError(f"a row is a number from 1 to {MAX_ROW}")
        if bool(self.scopes) == (self.account is not None):
            raise InvalidInputError("a request names scopes, or the account that all is asked of: one of the two")
        if len(self.scopes) > MAX_SCOPES:
            raise InvalidInputError(
                f"a request names at most {MAX_SCOPES} scopes: make several of it, or name the account"
            )
        _check_records(self.parsed, self.records)
        if self.account is not None:
            Scope.of(ScopeKind.CUSTOMER, self.account, "any")

    @property
    def parsed(self) -> tuple[Scope, ...]:
        """The scopes, each once."""
        return tuple(dict.fromkeys(map(Scope.parse, self.scopes)))

    def content(self, ids: Iterable[bytes], *, unknown: int) -> str:
        """Return what tells it from another submission of the same ticket, whatever the order in which things are named.

        `ids`: of the scopes (16 bytes each); `unknown`: how many of those named there are not.
        """
        return json.dumps(
            [
                str(self.kind),
                str(self.requester),
                sorted(scope_id.hex() for scope_id in ids),
                unknown,
                sorted(set(self.records)),
                self.account,
                self.reason,
            ],
            separators=(",", ":"),
        )


def _check_records(scopes: Sequence[Scope], records: Sequence[str]) -> None:
    if not records:
        return
    if len(scopes) != 1 or scopes[0].kind is not ScopeKind.COMMUNICATIONS:
        raise InvalidInputError("records go with the one account-month that they are of")
    if len(records) > MAX_SCOPES:
        raise InvalidInputError(f"a request names at most {MAX_SCOPES} records: make several of it")
    for record in records:
        encode_record(record)


def submission_of(fields: Mapping[str, str], row: int) -> Submission:
    """Read one row of a table: several scopes or records are separated by semicolons. Raises as `Submission`."""
    missing = [name for name in REQUIRED if not fields[name]]
    if missing:
        raise InvalidInputError(f"the row has no {' and no '.join(missing)}")
    return Submission(
        ticket=fields["ticket"],
        requester=choice(Requester, fields["from"], "from"),
        kind=choice(RequestKind, fields["kind"], "kind"),
        scopes=_several(fields["scope"]),
        records=_several(fields["record"]),
        account=fields["account"] or None,
        reason=fields["reason"] or None,
        row=row,
    )


def read_table(text: str) -> Iterator[tuple[int, Submission | InvalidInputError]]:
    """Read a table of requests (CSV with a heading; RFC 4180): each row's number, from 1, with what it says or what is wrong with it.

    Raises `InvalidInputError` when the heading lacks a column, or names one that is not known.
    """
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    reader = csv.reader(StringIO(text, newline=""), strict=True)
    heading = [name.strip() for name in _next(reader) or []]
    unknown = [name for name in heading if name not in COLUMNS]
    absent = [name for name in REQUIRED if name not in heading]
    if unknown or absent or len(set(heading)) != len(heading):
        raise InvalidInputError(
            f"the file's first line must name its columns: {', '.join(REQUIRED)}, and any of {', '.join(COLUMNS[3:])}, each once"
        )
    row = 0
    while True:
        row += 1
        try:
            cells = _next(reader)
            if cells is None:
                return
            result: Submission | InvalidInputError = submission_of(_fields(heading, cells), row)
        except InvalidInputError as error:
            result = error
        yield row, result


def _next(reader: Iterator[list[str]]) -> list[str] | None:
    """Return the next row that is not empty; None at the end."""
    try:
        return next((cells for cells in reader if cells), None)
    except csv.Error as error:
        raise InvalidInputError(f"the row is not CSV: {error}") from error


def _fields(heading: Sequence[str], cells: Sequence[str]) -> dict[str, str]:
    if len(cells) != len(heading):
        raise InvalidInputError(f"the row has {len(cells)} cells, and the heading {len(heading)}")
    return {**dict.fromkeys(COLUMNS, ""), **dict(zip(heading, cells, strict=True))}


def _several(text: str) -> tuple[str, ...]:
    return tuple(part for part in text.split(SEPARATOR) if part)


def choice(kind: type[E], text: str, column: str) -> E:
    """Return one of the values of a kind by its text. `InvalidInputError` names the column, and never what stands there."""
    try:
        return kind(text)
    except ValueError:
        raise InvalidInputError(f"{column} is one of {', '.join(kind)}") from None
