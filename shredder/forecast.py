"""What falls due in the months to come, as facts are known now, and a picture of it. Pure but for one read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape

from keyvault.home import Home
from keyvault.scopes import RETENTION_MONTHS, ScopeKind, add_months
from shredder.plan import Plan, shifted
from shredder.policy import Policy
from shredder.sweep import plan_sweep

MONTHS = RETENTION_MONTHS
COLOURS: Mapping[ScopeKind, str] = {
    ScopeKind.COMMUNICATIONS: "#1f6f8b",
    ScopeKind.CONSUMER: "#b3541e",
    ScopeKind.CUSTOMER: "#d9a441",
    ScopeKind.USER: "#5b8c5a",
    ScopeKind.MARKETING: "#8e5572",
    ScopeKind.BUSINESS: "#4a4e69",
}
WIDTH, HEIGHT = 900, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 16, 40, 72


@dataclass(frozen=True, kw_only=True, slots=True)
class Forecast:
    """`overdue`: what a sweep would destroy now. `months`: by month (`2026-11`), the current one and the 25 next, how many of each kind.

    Scopes and single records together. The current month holds what is not due yet.
    """

    at: datetime
    overdue: Mapping[ScopeKind, int]
    months: Mapping[str, Mapping[ScopeKind, int]]


def make_forecast(home: Home, policy: Policy) -> Forecast:
    """Count what falls due in the rest of this month and in the 25 next. Facts to come change it. Changes nothing."""
    now = home.clock.now()
    first = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    until = add_months(first, MONTHS + 1)
    return tabulate(plan_sweep(home, policy, now), plan_sweep(home, policy, until))


def tabulate(overdue: Plan, later: Plan) -> Forecast:
    """Sort what is due by then into months, without what is due already. What is due at the end of the last month is left out."""
    month = f"{overdue.at:%Y-%m}"
    counted: dict[str, dict[ScopeKind, int]] = {shifted(month, by): {} for by in range(MONTHS + 1)}
    already: dict[ScopeKind, int] = defaultdict(int)
    for entry in overdue.entries:
        already[entry.kind] += entry.scopes + entry.records
    known = {(entry.kind, entry.reason, entry.month): entry.scopes + entry.records for entry in overdue.entries}
    for entry in later.entries:
        new = entry.scopes + entry.records - known.get((entry.kind, entry.reason, entry.month), 0)
        if entry.month in counted and new > 0:
            of_month = counted[entry.month]
            of_month[entry.kind] = of_month.get(entry.kind, 0) + new
    return Forecast(at=overdue.at, overdue=dict(already), months=counted)


def bars(forecast: Forecast, width: int = 50) -> list[tuple[str, int, str]]:
    """Return a bar a month for a terminal: month, count, and blocks, at most `width`."""
    sums = {month: sum(kinds.values()) for month, kinds in forecast.months.items()}
    most = max([*sums.values(), 1])
    return [(month, count, "█" * -(-count * width // most)) for month, count in sums.items()]


def draw(forecast: Forecast) -> str:
    """Return the picture (SVG): a stacked bar a month, the colours by kind."""
    sums = [sum(kinds.values()) for kinds in forecast.months.values()]
    most = max([*sums, 1])
    step = (WIDTH - LEFT - RIGHT) / len(forecast.months)
    scale = (HEIGHT - TOP - BOTTOM) / most
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            'aria-label="Scopes that fall due, by month and kind">'
        ),
        "<style>text{font:11px sans-serif;fill:#333}.title{font-weight:bold;font-size:13px}.grid{stroke:#ddd}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        f'<text x="{LEFT}" y="22" class="title">Due by month, as known at {escape(forecast.at.isoformat(timespec="minutes"))}</text>',
    ]
    for value in sorted({0, most // 2, most}):
        y = HEIGHT - BOTTOM - value * scale
        lines += [
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" class="grid"/>',
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,}</text>',
        ]
    for index, (month, kinds) in enumerate(forecast.months.items()):
        lines += _bar(LEFT + index * step, step, scale, month, kinds)
    return "\n".join([*lines, *_legend(), "</svg>", ""])


def _bar(x: float, step: float, scale: float, month: str, kinds: Mapping[ScopeKind, int]) -> Sequence[str]:
    y: float = HEIGHT - BOTTOM
    lines = []
    for kind, count in sorted(kinds.items()):
        y -= count * scale
        lines.append(
            f'<rect x="{x + 2:.1f}" y="{y:.1f}" width="{step - 4:.1f}" height="{count * scale:.1f}" fill="{COLOURS[kind]}">'
            f"<title>{month} {kind.value}: {count:,}</title></rect>"
        )
    middle, below = x + step / 2, HEIGHT - BOTTOM + 12
    label = f'<text x="{middle:.1f}" y="{below}" text-anchor="end" transform="rotate(-60 {middle:.1f} {below})">{month}</text>'
    return [*lines, label]


def _legend() -> Sequence[str]:
    lines = []
    for index, (kind, colour) in enumerate(COLOURS.items()):
        x = LEFT + index * 135
        lines += [
            f'<rect x="{x}" y="{HEIGHT - 16}" width="12" height="12" fill="{colour}"/>',
            f'<text x="{x + 18}" y="{HEIGHT - 6}">{kind.value}</text>',
        ]
    return lines
