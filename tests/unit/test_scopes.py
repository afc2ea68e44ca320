from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import strategies as st

from keyvault.errors import AlreadyDueError, InvalidScopeError, NotYetOpenError
from keyvault.scopes import (
    KIND_RULES,
    LAST_INSTANT,
    MAX_NAME_BYTES,
    Scope,
    ScopeKind,
    add_months,
    check_creatable,
    month_due_at,
)
from tests.vectors import load

VECTORS = load("scope-names")
SHAPES = [(kind, shape) for kind, rules in KIND_RULES.items() for shape in rules.shapes]


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: ascii(vector["name"])[:40])
def test_valid_names(vector: dict[str, Any]) -> None:
    scope = Scope.parse(vector["name"])
    assert (scope.kind.value, list(scope.segments)) == (vector["kind"], vector["segments"])
    assert scope == Scope.of(ScopeKind(vector["kind"]), *vector["segments"])
    assert scope.name == vector["name"]
    assert scope.canonical == vector["name"].encode()
    assert (scope.due_at.isoformat() if scope.due_at else None) == vector["due_at"]


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: vector["why"])
def test_invalid_names(vector: dict[str, Any]) -> None:
    with pytest.raises(InvalidScopeError) as raised:
        Scope.parse(vector["name"])
    assert raised.value.__cause__ is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "user/e\u0301",
            "segment 2 of the scope name is not in Unicode normalization form C (NFC); normalize it first",
        ),
        ("consumer/a/p\u0430ypal", "segment 3 of the scope name mixes letters of scripts that look alike"),
        ("communications/a/2024-13", "segment 3 of the scope name is not a period written as YYYY-MM"),
        ("customer/a", "the scope name has 2 segments; its form is customer/ACCOUNT/TYPE or customer/ACCOUNT/TYPE/ID"),
        ("user/" + "\u00e4" * 300, "the scope name has 605 bytes in UTF-8; 512 are allowed"),
    ],
)
def test_messages_name_the_rule_and_the_segment(name: str, message: str) -> None:
    with pytest.raises(InvalidScopeError) as raised:
        Scope.parse(name)
    assert str(raised.value) == message


def test_no_message_and_no_repr_shows_a_name() -> None:
    secret = "Zaphod"
    for kind, *segments in [
        ("consumer", "a", secret, secret),
        ("user", secret + "\u200b"),
        ("user", " " + secret),
        ("user", secret + "%"),
        ("user", secret + "e\u0301"),
        ("user", secret + "\u0430"),
        ("user", secret * 100),
        (secret, "a"),
        ("business", "a", secret),
    ]:
        with pytest.raises(InvalidScopeError) as raised:
            Scope.parse("/".join([kind, *segments]))
        assert secret not in str(raised.value)
    scope = Scope.of(ScopeKind.USER, secret)
    assert repr(scope) == "Scope(kind='user')"
    assert secret not in f"{scope}"


@pytest.mark.parametrize("segments", [("a",), ("a", "b", "c"), ()])
def test_of_checks_the_shape(segments: tuple[str, ...]) -> None:
    with pytest.raises(InvalidScopeError, match="its form is consumer/ACCOUNT/CONSUMER"):
        Scope.of(ScopeKind.CONSUMER, *segments)


def test_of_counts_the_bytes_of_the_canonical_name() -> None:
    assert len(Scope.of(ScopeKind.USER, "/" * 169).canonical) == MAX_NAME_BYTES
    with pytest.raises(InvalidScopeError, match="515 bytes"):
        Scope.of(ScopeKind.USER, "/" * 170)


characters = st.one_of(
    st.characters(codec="utf-8"),
    st.sampled_from("/%+ .\x00\x1f\x7f\x85\u00e4\u0307\u0430\u200b"),
    st.characters(min_codepoint=33, max_codepoint=126),
)


@given(st.sampled_from([s for s in SHAPES if not s[1][-1].startswith("YYYY")]), st.data())
def test_what_can_be_built_is_parsed_back(shape: tuple[ScopeKind, tuple[str, ...]], data: st.DataObject) -> None:
    kind, forms = shape
    segments = [data.draw(st.text(characters, min_size=1, max_size=12)) for _ in forms]
    try:
        scope = Scope.of(kind, *segments)
    except InvalidScopeError:
        reject()
    assert Scope.parse(scope.name) == scope
    assert scope.segments == tuple(segments)
    assert scope.name.count("/") == len(forms)


@given(st.one_of(st.text(characters, max_size=20), st.text().map(lambda text: "user/" + text)))
def test_any_text_is_refused_or_canonical(name: str) -> None:
    try:
        scope = Scope.parse(name)
    except InvalidScopeError:
        return
    assert scope.name == name
    assert Scope.of(scope.kind, *scope.segments) == scope


def test_scopes_are_values() -> None:
    scope = Scope.parse("user/a")
    assert {scope, Scope.parse("user/a"), Scope.parse("user/A")} == {scope, Scope.of(ScopeKind.USER, "A")}
    with pytest.raises(AttributeError):
        scope.kind = ScopeKind.CONSUMER  # type: ignore[misc]


def test_kind_rules() -> None:
    assert set(KIND_RULES) == set(ScopeKind)
    impersonal = {kind for kind, rules in KIND_RULES.items() if not rules.names_person}
    assert impersonal == {ScopeKind.COMMUNICATIONS, ScopeKind.BUSINESS}
    refused = {kind: rules.refused_purposes for kind, rules in KIND_RULES.items() if rules.refused_purposes}
    assert refused == {ScopeKind.BUSINESS: {"marketing"}}
    assert all(rules.renewable for rules in KIND_RULES.values())
    assert Scope.parse("business/a/2024").rules is KIND_RULES[ScopeKind.BUSINESS]


@pytest.mark.parametrize(
    ("name", "account", "period", "start", "end", "due"),
    [
        ("communications/acct-001/2024-05", "acct-001", "2024-05", "2024-05-01", "2024-06-01", "2026-07-01"),
        ("communications/acct-001/2024-12", "acct-001", "2024-12", "2024-12-01", "2025-01-01", "2027-02-01"),
        ("business/acct-001/2024", "acct-001", "2024", "2024-01-01", "2025-01-01", None),
        ("consumer/acct-001/c", "acct-001", None, None, None, None),
        ("customer/acct-001/greeting/7", "acct-001", None, None, None, None),
        ("user/u", None, None, None, None, None),
        ("marketing/m", None, None, None, None, None),
    ],
)
def test_properties(  # noqa: PLR0917 - a table of expectations
    name: str, account: str | None, period: str | None, start: str | None, end: str | None, due: str | None
) -> None:
    scope = Scope.parse(name)
    assert (scope.account, scope.period) == (account, period)
    assert [scope.period_start, scope.period_end, scope.due_at] == [text and at(text) for text in (start, end, due)]


def test_the_last_years_end_at_the_last_instant() -> None:
    assert Scope.parse("business/a/9999").period_end == LAST_INSTANT
    assert Scope.parse("communications/a/9997-10").due_at == at("9999-12-01")
    assert Scope.parse("communications/a/9997-11").due_at == LAST_INSTANT


def test_creatable_until_the_due_date() -> None:
    scope = Scope.parse("communications/acct-001/2024-05")
    check_creatable(scope, at("2026-06-30T23:59:59.999999"))
    with pytest.raises(AlreadyDueError, match="ended at 2026-07-01T00:00:00") as raised:
        check_creatable(scope, at("2026-07-01"))
    assert "acct-001" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "opens"), [("communications/acct-001/2024-05", "2024-05-01"), ("business/acct-001/2025", "2025-01-01")]
)
def test_creatable_from_the_first_instant(name: str, opens: str) -> None:
    scope = Scope.parse(name)
    check_creatable(scope, at(opens))
    with pytest.raises(NotYetOpenError, match=f"begins at {opens}") as raised:
        check_creatable(scope, at(opens) - timedelta(microseconds=1))
    assert "acct-001" not in str(raised.value)


@pytest.mark.parametrize("name", ["consumer/a/b", "user/u", "marketing/m", "customer/a/t"])
def test_scopes_without_a_period_are_always_creatable(name: str) -> None:
    for moment in ("0001-01-01", "9999-12-31"):
        check_creatable(Scope.parse(name), at(moment))


@pytest.mark.parametrize(
    ("start", "months", "end"),
    [
        ("2024-01-31", 0, "2024-01-31"),
        ("2024-01-31", 1, "2024-03-01"),
        ("2023-01-29T13:30", 1, "2023-03-01"),
        ("2024-01-29T13:30", 1, "2024-02-29T13:30"),
        ("2024-02-29", 12, "2025-03-01"),
        ("2024-02-29", 48, "2028-02-29"),
        ("2024-10-31", 1, "2024-12-01"),
        ("2024-12-31", 2, "2025-03-01"),
        ("2024-12-01", 1, "2025-01-01"),
        ("2024-11-15", 13, "2025-12-15"),
        ("9999-11-30", 1, "9999-12-30"),
    ],
)
def test_add_months(start: str, months: int, end: str) -> None:
    assert add_months(at(start), months) == at(end)


@given(st.datetimes(timezones=st.just(UTC)), st.integers(0, 400))
def test_add_months_never_falls_short(instant: datetime, months: int) -> None:
    later = add_months(instant, months)
    if later == LAST_INSTANT:
        return
    passed = (later.year - instant.year) * 12 + later.month - instant.month
    if later.day == instant.day and passed == months:
        assert later.time() == instant.time()
    else:
        assert (later.day, later.hour, later.minute, later.second, later.microsecond) == (1, 0, 0, 0, 0)
        assert passed == months + 1
        assert (later - timedelta(days=1)).day < instant.day


def test_add_months_after_the_last_year() -> None:
    assert add_months(at("9999-12-01"), 1) == LAST_INSTANT


@pytest.mark.parametrize(
    ("month", "due"), [("2024-05", "2026-07-01"), ("2024-11", "2027-01-01"), ("2023-01", "2025-03-01")]
)
def test_a_month_is_due_when_its_account_months_are(month: str, due: str) -> None:
    assert month_due_at(month) == datetime.fromisoformat(f"{due}T00:00:00+00:00")
    assert month_due_at(month) == Scope.parse(f"communications/acct-1/{month}").due_at
