"""Scopes: the units that own a key, and their canonical names.

A name is `KIND/SEGMENT/...`, at most 512 bytes of UTF-8, in NFC and case-sensitive. Inside a segment only `/`, `%` and control
characters are percent-encoded, with upper-case digits. Every scope has exactly one name: any other spelling is refused, never
repaired. The format's page is docs/formats/scope-names.md.

Names identify people, so neither `repr` nor an error message shows one; messages give the rule and the segment's number,
counting the kind as segment 1.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import MAXYEAR, UTC, datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Self

from keyvault.errors import AlreadyDueError, InvalidScopeError, NotYetOpenError

MAX_NAME_BYTES = 512

# Retention policy: communication records are kept for 25 months after the last instant of their month.
RETENTION_MONTHS = 25

LAST_INSTANT = datetime.max.replace(tzinfo=UTC)  # stands for every instant after the year 9999

ACCOUNT = "ACCOUNT"
MONTH = "YYYY-MM"
YEAR = "YYYY"


class ScopeKind(StrEnum):
    """The kinds of scope, as the first segment of a name spells them."""

    COMMUNICATIONS = "communications"
    CONSUMER = "consumer"
    CUSTOMER = "customer"
    USER = "user"
    MARKETING = "marketing"
    BUSINESS = "business"


@dataclass(frozen=True, kw_only=True, slots=True)
class KindRules:
    """What is the same for all scopes of a kind.

    `shapes` are the allowed rows of segments after the kind. `names_person`: a segment may identify a person, so the salt of the
    name's commitment is destroyed with the key; otherwise it stays for reconciliation. `refused_purposes`: no key is issued for
    them, whatever the policy in force. `renewable`: the policy lets a destroyed name have a new generation (an account-month past due never: `check_creatable`).
    """

    shapes: tuple[tuple[str, ...], ...]
    names_person: bool
    refused_purposes: frozenset[str] = frozenset()
    renewable: bool = True


KIND_RULES: Mapping[ScopeKind, KindRules] = MappingProxyType(
    {
        ScopeKind.COMMUNICATIONS: KindRules(shapes=((ACCOUNT, MONTH),), names_person=False),
        ScopeKind.CONSUMER: KindRules(shapes=((ACCOUNT, "CONSUMER"),), names_person=True),
        ScopeKind.CUSTOMER: KindRules(shapes=((ACCOUNT, "TYPE"), (ACCOUNT, "TYPE", "ID")), names_person=True),
        ScopeKind.USER: KindRules(shapes=(("USER",),), names_person=True),
        ScopeKind.MARKETING: KindRules(shapes=(("CONTACT",),), names_person=True),
        ScopeKind.BUSINESS: KindRules(
            shapes=((ACCOUNT, YEAR),), names_person=False, refused_purposes=frozenset({"marketing"})
        ),
    }
)

RefusedPurposes = Mapping[ScopeKind, frozenset[str]]

REFUSED_PURPOSES: RefusedPurposes = MappingProxyType(
    {kind: rules.refused_purposes for kind, rules in KIND_RULES.items()}
)
"""What every policy refuses; the one in force may refuse more (`Home.refused_purposes`)."""

SUBJECTS: Mapping[ScopeKind, str] = MappingProxyType(
    {
        ScopeKind.COMMUNICATIONS: "account",
        ScopeKind.CONSUMER: "account",
        ScopeKind.CUSTOMER: "account",
        ScopeKind.USER: "user",
        ScopeKind.MARKETING: "contact",
        ScopeKind.BUSINESS: "business",
    }
)
"""The kind of subject whose facts decide over scopes of a kind; a subject's pseudonym is `SystemKeys.pseudonym_of(kind, id)`."""

_SHAPES = {(kind, len(shape)): shape for kind, rules in KIND_RULES.items() for shape in rules.shapes}
_KINDS = {kind.value: kind for kind in ScopeKind}
_FORMS = {
    MONTH: re.compile(r"(?!0000)[0-9]{4}-(?:0[1-9]|1[0-2])"),
    YEAR: re.compile(r"(?!0000)[0-9]{4}"),
}
_PLAIN = re.compile(r"[!-$&-.0-~](?:[ -$&-.0-~]*[!-$&-.0-~])?")  # printable ASCII without "/" and "%"
_PLAIN_NAME = re.compile(r"[ -$&-~]+")  # the same, with "/"
_ESCAPED = re.compile(r"(?:%[0-9A-F]{2})+")
_NEEDS_ESCAPE = re.compile(r"[/%\x00-\x1f\x7f-\x9f]")
_RAW_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

_INVISIBLE_CATEGORIES = frozenset({"Cf", "Zl", "Zp", "Cs", "Co", "Cn"})
# Drawn as nothing, yet in a visible category: Default_Ignorable_Code_Point outside Cf and Cn (Unicode, DerivedCoreProperties),
# and the empty Braille pattern.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0").union(
    map(chr, range(0x180B, 0x1810)), map(chr, range(0xFE00, 0xFE10)), map(chr, range(0xE0100, 0xE01F0))
)
# Scripts whose letters are drawn alike, by the first word of the characters' Unicode names.
_LOOK_ALIKE_SCRIPTS = frozenset({"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE", "FULLWIDTH", "MATHEMATICAL"})


@dataclass(frozen=True, slots=True, repr=False)
class Scope:
    """A valid scope: its kind and its decoded segments (without the kind). Raises `InvalidScopeError` when a rule is broken."""

    kind: ScopeKind
    segments: tuple[str, ...]
    name: str = field(init=False, compare=False)
    account: str | None = field(init=False, compare=False)
    """The account's id, or None for kinds that belong to no account."""
    period: str | None = field(init=False, compare=False)
    """The month (`2024-05`) or year (`2024`) in UTC, or None."""

    def __post_init__(self) -> None:
        self._check_segments()
        name = "/".join([self.kind.value, *map(_escape, self.segments)])
        _check_length(name)
        object.__setattr__(self, "name", name)

    def __repr__(self) -> str:
        return f"Scope(kind={self.kind.value!r})"

    @classmethod
    def of(cls, kind: ScopeKind, *segments: str) -> Self:
        """Build a scope from decoded segments, for example `Scope.of(ScopeKind.CONSUMER, "acct-001", "+15551000862")`."""
        return cls(kind, segments)

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read a canonical name; raise `InvalidScopeError` for anything else."""
        if _is_plain(name):
            return cls._of_plain(name)
        _check_length(name)
        kind, *raw = name.split("/")
        scope = cls(_kind(kind), tuple(_unescape(segment, position) for position, segment in enumerate(raw, start=2)))
        if scope.name != name:
            raise InvalidScopeError(
                "the scope name has a needless escape; percent-encode only '/', '%' and control characters in a segment"
            )
        return scope

    @classmethod
    def _of_plain(cls, name: str) -> Self:
        """Build a scope from a name whose segments are written as they are, without writing and comparing it once more."""
        kind, *segments = name.split("/")
        scope = object.__new__(cls)
        for field_name, value in (("kind", _kind(kind)), ("segments", tuple(segments)), ("name", name)):
            object.__setattr__(scope, field_name, value)
        scope._check_segments()
        return scope

    def _check_segments(self) -> None:
        """Check the segments, and note which of them are the account and the period."""
        shape = _shape(self.kind, self.segments)
        for position, (form, segment) in enumerate(zip(shape, self.segments, strict=True), start=2):
            _check_segment(segment, form, position)
        object.__setattr__(self, "account", self.segments[0] if shape[0] == ACCOUNT else None)
        object.__setattr__(self, "period", self.segments[-1] if shape[-1] in _FORMS else None)

    @property
    def canonical(self) -> bytes:
        """The name in UTF-8, at most 512 bytes."""
        return self.name.encode()

    @property
    def rules(self) -> KindRules:
        """The rules of this scope's kind."""
        return KIND_RULES[self.kind]

    @property
    def subject(self) -> tuple[str, str]:
        """Whose facts decide over the scope: `account`, `user`, `contact` or `business`, and the id (a business year's: account/year)."""
        return SUBJECTS[self.kind], "/".join(self.segments) if self.kind is ScopeKind.BUSINESS else self.segments[0]

    @property
    def period_start(self) -> datetime | None:
        """The period's first instant, or None."""
        if self.period is None:
            return None
        year, _, month = self.period.partition("-")
        return datetime(int(year), int(month or 1), 1, tzinfo=UTC)

    @property
    def period_end(self) -> datetime | None:
        """The first instant after the period, or None. The end of 9999 is `LAST_INSTANT`."""
        start = self.period_start
        return None if start is None else add_months(start, 1 if self.kind is ScopeKind.COMMUNICATIONS else 12)

    @property
    def due_at(self) -> datetime | None:
        """When the retention policy's calendar wants the key destroyed; None where events decide, not the calendar."""
        if self.kind is not ScopeKind.COMMUNICATIONS or self.period is None:
            return None
        return month_due_at(self.period)


def check_creatable(scope: Scope, now: datetime) -> None:
    """Refuse a scope that nothing may be put under at `now` (aware).

    Raises `AlreadyDueError` from the due date on, and `NotYetOpenError` before the period's first instant.
    """
    due, start = scope.due_at, scope.period_start
    if due is not None and due <= now:
        raise AlreadyDueError(
            f"the {scope.kind.value} scope's retention period ended at {due.isoformat()}; nothing new may be put under it"
        )
    if start is not None and start > now:
        raise NotYetOpenError(
            f"the {scope.kind.value} scope's period begins at {start.isoformat()}, in the future; use the current period"
        )


def month_due_at(month: str) -> datetime:
    """Return when the account-months of a month (`2026-11`) are due; `LAST_INSTANT` when that is after the year 9999."""
    year, _, number = month.partition("-")
    return add_months(datetime(int(year), int(number), 1, tzinfo=UTC), 1 + RETENTION_MONTHS)


def add_months(instant: datetime, months: int) -> datetime:
    """Return `instant` (in UTC) some calendar months (0 or more) later; `LAST_INSTANT` when that is after the year 9999.

    A missing day rolls forward to 00:00 of the next day, which is the next month's first: 31 January and one month is 1 March.
    """
    year, month = divmod(instant.year * 12 + instant.month - 1 + months, 12)
    if year > MAXYEAR:
        return LAST_INSTANT
    try:
        return instant.replace(year=year, month=month + 1)
    except ValueError:
        first = instant.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
        return add_months(first, months + 1)


# --- the parts of a name ----------------------------------------------------------------------------------------


def _is_plain(name: str) -> bool:
    """Tell whether a name is short enough and of printable ASCII without escapes, so that its segments need no decoding."""
    return len(name) <= MAX_NAME_BYTES and _PLAIN_NAME.fullmatch(name) is not None


def _kind(text: str) -> ScopeKind:
    try:
        return _KINDS[text]
    except KeyError:
        known = ", ".join(ScopeKind)
        # Without `from`, the cause would quote what the caller wrote, and that may be a name.
        raise InvalidScopeError(f"segment 1 of the scope name is not a kind of scope; the kinds are {known}") from None


def _shape(kind: ScopeKind, segments: tuple[str, ...]) -> tuple[str, ...]:
    shape = _SHAPES.get((kind, len(segments)))
    if shape is not None:
        return shape
    forms = " or ".join("/".join([kind.value, *shape]) for shape in KIND_RULES[kind].shapes)
    raise InvalidScopeError(f"the scope name has {len(segments) + 1} segments; its form is {forms}")


def _check_length(name: str) -> None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidScopeError("the scope name holds a lone surrogate, which UTF-8 cannot carry") from None
    if size > MAX_NAME_BYTES:
        raise InvalidScopeError(f"the scope name has {size} bytes in UTF-8; {MAX_NAME_BYTES} are allowed")


def _escape(segment: str) -> str:
    return _NEEDS_ESCAPE.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), segment)


def _unescape(raw: str, position: int) -> str:
    if _RAW_CONTROL.search(raw):
        raise _broken(position, "holds a control character; percent-encode it")
    if "%" not in raw:
        return raw
    if "%" in _ESCAPED.sub("", raw):
        raise _broken(position, "holds a '%' that two upper-case hexadecimal digits do not follow")
    try:
        return _ESCAPED.sub(lambda found: bytes.fromhex(found[0].replace("%", "")).decode(), raw)
    except UnicodeDecodeError:
        raise _broken(position, "has escapes that are not UTF-8") from None


def _check_segment(segment: str, form: str, position: int) -> None:
    if form in _FORMS and not _FORMS[form].fullmatch(segment):
        raise _broken(position, f"is not a period written as {form}")
    if segment in {"", ".", ".."}:
        raise _broken(position, "is empty, '.' or '..'")
    if _PLAIN.fullmatch(segment):
        return
    if segment != segment.strip():
        raise _broken(position, "begins or ends with white space")
    _check_characters(segment, position)
    # Escaped, because "%2F" and a combining mark after it would compose; the segment by itself is then in NFC, too.
    if not unicodedata.is_normalized("NFC", _escape(segment)):
        raise _broken(position, "is not in Unicode normalization form C (NFC); normalize it first")
    if len(_look_alike_scripts(segment)) > 1:
        raise _broken(position, "mixes letters of scripts that look alike")


def _check_characters(segment: str, position: int) -> None:
    categories = {unicodedata.category(character) for character in segment}
    if not categories.isdisjoint(_INVISIBLE_CATEGORIES) or not _INVISIBLE.isdisjoint(segment):
        raise _broken(position, "holds an invisible, private or unassigned character")
    if any(character != " " and unicodedata.category(character) == "Zs" for character in segment):
        raise _broken(position, "holds a space other than U+0020")


def _look_alike_scripts(segment: str) -> set[str]:
    letters = (character for character in segment if character.isalpha())
    return {unicodedata.name(letter, "").partition(" ")[0] for letter in letters} & _LOOK_ALIKE_SCRIPTS


def _broken(position: int, rule: str) -> InvalidScopeError:
    return InvalidScopeError(f"segment {position} of the scope name {rule}")
