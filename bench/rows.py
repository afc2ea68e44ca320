"""A row of results, and how it is measured: the best of several rounds, ours and the rival's in turn."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

ROUNDS = 5
RESULTS = Path(__file__).parent / "results.json"
TABLE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
BEGIN, END = "<!-- table -->", "<!-- end of table -->"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure. `ratio` compares it with the rival so that more is better; `bar` is what it must reach."""

    name: str
    value: float
    unit: str
    rival: str = ""
    rival_value: float | None = None
    ratio: float | None = None
    bar: str = ""
    met: bool | None = None
    command: str = ""


def best(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the seconds of the fastest round."""
    return min(_seconds(work) for _ in range(rounds))


def best_of_both(ours: Callable[[], object], rival: Callable[[], object], rounds: int = ROUNDS) -> tuple[float, float]:
    """Return the fastest round of each, taken in turn so that a busy moment hits both."""
    times = [(_seconds(ours), _seconds(rival)) for _ in range(rounds)]
    return min(mine for mine, _ in times), min(other for _, other in times)


def compared(name: str, unit: str, value: float, *, rival: tuple[str, float], bar: float, command: str) -> Row:
    """Return a row whose ratio must reach `bar`; `rival` is its name and its value."""
    rival_name, rival_value = rival
    ratio = value / rival_value
    return Row(
        name=name,
        value=value,
        unit=unit,
        rival=rival_name,
        rival_value=rival_value,
        ratio=ratio,
        bar=f"≥ {bar} ×",
        met=ratio >= bar,
        command=command,
    )


def at_least(
    name: str, unit: str, value: float, bar: float, *, rival: tuple[str, float] | None = None, command: str
) -> Row:
    """Return a row whose value must reach `bar`; a rival is there to be compared with only."""
    row = Row(name=name, value=value, unit=unit, bar=f"≥ {bar:,} {unit}", met=value >= bar, command=command)
    return row if rival is None else replace(row, rival=rival[0], rival_value=rival[1], ratio=value / rival[1])


def at_most(
    name: str, unit: str, value: float, bar: float, *, rival: tuple[str, float] | None = None, command: str
) -> Row:
    """Return a row whose value must not exceed `bar`; a rival is there to be compared with only."""
    row = Row(name=name, value=value, unit=unit, bar=f"≤ {bar:,} {unit}", met=value <= bar, command=command)
    return row if rival is None else replace(row, rival=rival[0], rival_value=rival[1], ratio=rival[1] / value)


def save(rows: list[Row]) -> None:
    """Put the rows into `results.json`, those of other benchmarks kept, and the whole table into the page."""
    old = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    merged = {row["name"]: row for row in old} | {row.name: asdict(row) for row in rows}
    RESULTS.write_text(json.dumps(list(merged.values()), indent=1, ensure_ascii=False) + "\n")
    page = TABLE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    TABLE.write_text(f"{before}{BEGIN}\n{table(list(merged.values()))}{END}{after}")


def table(rows: list[dict[str, object]]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| what | measured | rival | rival's | ratio | bar | met | repeat |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        met = {True: "yes", False: "**no**", None: ""}[row["met"]]  # type: ignore[index]
        cells = [
            row["name"],
            f"{_number(row['value'])} {row['unit']}",
            row["rival"],
            _number(row["rival_value"]),
            _number(row["ratio"]),
            row["bar"],
            met,
            f"`{row['command']}`",
        ]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _number(value: object) -> str:
    if value is None:
        return ""
    number = float(str(value))
    return f"{number:,.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
