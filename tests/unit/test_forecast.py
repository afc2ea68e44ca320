"""A forecast from two plans, its bars and its picture."""

from __future__ import annotations

from datetime import UTC, datetime
from xml.etree import ElementTree as ET

from keyvault.scopes import ScopeKind
from shredder.forecast import MONTHS, Forecast, bars, draw, tabulate
from shredder.plan import Plan, PlanEntry

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
LATER = datetime(2029, 1, 1, tzinfo=UTC)


def entry(kind: ScopeKind, month: str, scopes: int, records: int = 0, reason: str = "account-closed") -> PlanEntry:
    return PlanEntry(kind=kind, month=month, reason=reason, scopes=scopes, records=records)


def forecast() -> Forecast:
    already = (entry(ScopeKind.CONSUMER, "2026-10", 4), entry(ScopeKind.CONSUMER, "2026-11", 3, 1))
    later = (
        already[0],
        entry(ScopeKind.CONSUMER, "2026-11", 5, 2),
        entry(ScopeKind.CONSUMER, "2026-11", 1, reason="account-lapsed"),
        entry(ScopeKind.USER, "2028-12", 100),
        entry(ScopeKind.USER, "2029-01", 9),
    )
    return tabulate(Plan(at=NOW, entries=already), Plan(at=LATER, entries=later))


def test_what_is_due_already_is_in_no_month() -> None:
    found = forecast()
    assert found.at == NOW
    assert found.overdue == {ScopeKind.CONSUMER: 8}
    assert list(found.months) == sorted(found.months)
    assert (len(found.months), *[list(found.months)[place] for place in (0, -1)]) == (MONTHS + 1, "2026-11", "2028-12")
    due = {month: kinds for month, kinds in found.months.items() if kinds}
    assert due == {"2026-11": {ScopeKind.CONSUMER: 4}, "2028-12": {ScopeKind.USER: 100}}


def test_bars_are_as_long_as_their_share_and_no_month_vanishes() -> None:
    found = bars(forecast(), width=10)
    assert [bar for bar in found if bar[1]] == [("2026-11", 4, "█"), ("2028-12", 100, "█" * 10)]
    assert all(bar == "" for _, count, bar in found if not count)
    empty = Plan(at=NOW, entries=())
    assert {bar for _, _, bar in bars(tabulate(empty, empty))} == {""}


def test_the_picture_has_a_bar_for_each_kind_of_a_month() -> None:
    picture = ET.fromstring(draw(forecast()))  # noqa: S314 - drawn a moment ago
    titles = [node.text for node in picture.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["2026-11 consumer: 4", "2028-12 user: 100"]
    heights = [float(node.get("height", "0")) for node in picture.iter() if len(node) and node.tag.endswith("rect")]
    assert abs(heights[1] / heights[0] - 25) < 1
    empty = Plan(at=NOW, entries=())
    assert ET.fromstring(draw(tabulate(empty, empty))).tag.endswith("svg")  # noqa: S314 - as above
