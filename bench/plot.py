"""`python -m bench.plot` draws docs/cost-of-scopes.svg from bench/results.json: what scopes cost, by custody and number."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from pathlib import Path

from bench.rows import RESULTS

PICTURE = Path(__file__).parent.parent / "docs" / "cost-of-scopes.svg"
ROW = re.compile(r"(dedicated|ring) custody, ([0-9,]+) scopes: (bytes in Vault|created in|destroyed in)")
PANELS = (
    ("bytes in Vault", "kB in Vault"),
    ("created in", "seconds to create"),
    ("destroyed in", "seconds to destroy"),
)
COLOURS = {"dedicated": "#b3541e", "ring": "#1f6f8b"}
WIDTH, HEIGHT = 300, 260
LEFT, RIGHT, TOP, BOTTOM = 56, 32, 44, 44

Points = dict[str, list[tuple[float, float]]]


def read_points() -> dict[str, Points]:
    """Return for each panel, by custody, the points (scopes, cost) in order."""
    panels: dict[str, Points] = {panel: defaultdict(list) for panel, _ in PANELS}
    for row in json.loads(RESULTS.read_text()):
        if match := ROW.fullmatch(row["name"]):
            custody, count, panel = match.groups()
            panels[panel][custody].append((float(count.replace(",", "")), float(row["value"])))
    return {panel: {custody: sorted(points) for custody, points in some.items()} for panel, some in panels.items()}


def decades(values: list[float]) -> tuple[int, int]:
    """Return the powers of ten that enclose the values."""
    positive = [value for value in values if value > 0]
    low = math.floor(math.log10(min(positive)))
    return low, max(math.ceil(math.log10(max(positive))), low + 1)


def panel(title: str, points: Points, offset: int) -> list[str]:
    """Draw one pair of logarithmic axes with a line for each custody."""
    x_range = decades([x for some in points.values() for x, _ in some])
    y_range = decades([y for some in points.values() for _, y in some])

    def x_at(value: float) -> float:
        return LEFT + (math.log10(value) - x_range[0]) / (x_range[1] - x_range[0]) * (WIDTH - LEFT - RIGHT)

    def y_at(value: float) -> float:
        share = (math.log10(max(value, 10 ** y_range[0])) - y_range[0]) / (y_range[1] - y_range[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    lines = [f'<g transform="translate({offset} 0)">', f'<text x="{LEFT}" y="26" class="title">{title}</text>']
    for power in range(y_range[0], y_range[1] + 1):
        y = y_at(10.0**power)
        lines += [
            f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" class="grid"/>',
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label(power)}</text>',
        ]
    for power in range(x_range[0], x_range[1] + 1):
        x = x_at(10.0**power)
        lines += [
            f'<line x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{HEIGHT - BOTTOM}" class="grid"/>',
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{label(power)}</text>',
        ]
    lines.append(f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">scopes</text>')
    for custody, some in points.items():
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in some)
        colour = COLOURS[custody]
        lines.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        lines += [f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3" fill="{colour}"/>' for x, y in some]
    return [*lines, "</g>"]


def label(power: int) -> str:
    """Write a power of ten as people do."""
    if power < 0:
        return f"{10.0**power:.{-power}f}"
    return f"{10**power:,}"


def draw(panels: dict[str, Points]) -> str:
    """Return the picture: three panels side by side, and what the colours mean."""
    width = WIDTH * len(PANELS)
    lines = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {HEIGHT + 28}" role="img" '
            f'aria-label="Cost of scopes in dedicated and ring custody">'
        ),
        "<style>text{font:11px sans-serif;fill:#333}.title{font-weight:bold;font-size:13px}.grid{stroke:#ddd}</style>",
        f'<rect width="{width}" height="{HEIGHT + 28}" fill="#fff"/>',
    ]
    for index, (name, title) in enumerate(PANELS):
        lines += panel(title, panels[name], index * WIDTH)
    for index, (custody, colour) in enumerate(COLOURS.items()):
        x = LEFT + index * 140
        lines += [
            f'<rect x="{x}" y="{HEIGHT + 6}" width="12" height="12" fill="{colour}"/>',
            f'<text x="{x + 18}" y="{HEIGHT + 16}">{custody} custody</text>',
        ]
    return "\n".join([*lines, "</svg>", ""])


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(draw(read_points()))


if __name__ == "__main__":
    main()
