"""Facts for tests, written shortly."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from keyvault.errors import InvalidInputError
from keyvault.home import Home
from keyvault.subjects import SubjectKind
from shredder.fact_lines import FactsFormat, Frame, Line, Report, parse_fact, read_facts
from shredder.facts import Fact, FactType
from shredder.policy import Policy
from shredder.policy_file import load_policy

POLICY: Policy = load_policy(None)
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def day(number: float) -> datetime:
    """Return an instant some days after the beginning of 2026."""
    return datetime(2026, 1, 1, tzinfo=UTC) + number * DAY


def fact(kind: FactType, at: float, detail: str = "", *, wait_until: float = 0) -> Fact:
    """Return a fact of a day, which causes nothing before another day."""
    return Fact(type=kind, detail=detail, at=day(at), not_before=day(wait_until))


def frame(now: datetime = NOW) -> Frame:
    return Frame(policy=POLICY, now=now, clock_skew=timedelta(seconds=5))


def report(kind: str, at: datetime, **fields: str) -> Report:
    return parse_fact({"type": kind, "at": at.isoformat(), **fields}, frame(max(at, NOW)))


def read(text: str | bytes, form: FactsFormat = FactsFormat.JSONL) -> list[Line]:
    data = text.encode() if isinstance(text, str) else text
    return list(read_facts(io.BytesIO(data), form, frame))


def reason(line: bytes) -> str:
    """Return why a line is malformed."""
    (found,) = read(line)
    assert isinstance(found.content, InvalidInputError), found
    return str(found.content)


def lines(facts: Iterable[dict[str, str]]) -> str:
    return "".join(json.dumps(fields) + "\n" for fields in facts)


def subject(home: Home, kind: SubjectKind, name: str) -> bytes:
    return home.keys.pseudonym_of(kind, name)
