"""`facts`: what the platform reports of accounts, users, contacts and business years."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from cli.app import Advance, App, json_option
from cli.failures import EXIT_REFUSED, Refused
from cli.files import STANDARD, open_lines, size_of

if TYPE_CHECKING:
    from keyvault.home import Home
    from shredder.fact_lines import Frame, Report
    from shredder.reporting import Recorded

SHOWN = 1_000
"""How many malformed lines are reported one by one."""


class Wait(click.ParamType[timedelta]):
    """A number of days or hours: `7d`, `36h`, `0d`."""

    name = "wait"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Return the duration, or fail as click does."""
        found = re.fullmatch(r"([0-9]{1,5})([dh])", str(value))
        if found is None:
            self.fail("not a number of days or hours, such as 7d or 36h", param, ctx)
        number = int(found[1])
        return timedelta(days=number) if found[2] == "d" else timedelta(hours=number)


@dataclass
class _Malformed:
    """Counts and reports the lines that say nothing."""

    app: App
    count: int = 0
    lines: list[dict[str, object]] = field(default_factory=list)

    def add(self, number: int, reason: str) -> None:
        """Report one, unless there were many before."""
        self.count += 1
        if self.count <= SHOWN:
            self.app.note(f"line {number}: {reason}")
            self.lines.append({"line": number, "reason": reason})
        elif self.count == SHOWN + 1:
            self.app.note("further malformed lines are only counted")


@click.group()
def facts() -> None:
    """Report what happened to accounts, users, contacts and business years."""


@facts.command("import")
@click.option(
    "--after",
    type=Wait(),
    metavar="WAIT",
    help="Let what these facts make due wait so long, in suspension: 7d, 36h.  [default: the policy's facts_days]",
)
@click.option(
    "--strict", is_flag=True, help="Record nothing if a line is malformed. Needs a file that can be read twice."
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["jsonl", "csv"]),
    help="How FILE is written.  [default: csv if its name ends so, else jsonl]",
)
@json_option
@click.argument("source", metavar="FILE")
@click.pass_obj
def import_(app: App, after: timedelta | None, strict: bool, form: str | None, source: str) -> int:
    """Record the facts in FILE, JSON lines or CSV; - is standard input.

    Scopes of accounts that are not in good standing, and of what is due but waits, are suspended, and resumed when facts say
    otherwise. Nothing is destroyed. Facts that are known change nothing, so an import that was interrupted is run again.

    Exit code 1 if lines were malformed; they are told by number, and the others are recorded unless --strict is given.
    """
    chosen = form or ("csv" if Path(source).suffix.lower() == ".csv" else "jsonl")
    with open_lines(source) as lines, app.opened(role="shredder") as home:
        if strict and (source == STANDARD or not lines.seekable()):
            raise click.UsageError("--strict reads the facts twice: give a file")
        reading = _Reading(app, home, chosen)
        if strict:
            reading.check_all(lines)
        done = reading.record(lines, after)
    bad = reading.malformed
    _answer(app, done, bad)
    if not bad.count:
        return 0
    app.note(f"keyvault: error: {bad.count} lines are malformed; all others are recorded")
    return EXIT_REFUSED


class _Reading:
    """A file of facts, read under the home's policy."""

    def __init__(self, app: App, home: Home, form: str) -> None:
        from shredder.fact_lines import FactsFormat
        from shredder.policy_file import home_policy

        self._app = app
        self._home = home
        self._policy = home_policy(home)
        self._form = FactsFormat(form)
        self.malformed = _Malformed(app)

    def check_all(self, lines: BinaryIO) -> None:
        """Read the whole file, and refuse it if a line is malformed."""
        with self._app.progress("checking", size_of(lines), in_bytes=True) as advance:
            for _ in self._reports(lines, advance):
                pass
        count = self.malformed.count
        if count:
            raise Refused(f"{count} lines are malformed, so nothing was recorded: correct them, or leave --strict out")
        lines.seek(0)

    def record(self, lines: BinaryIO, after: timedelta | None) -> Recorded:
        """Record what is well-formed."""
        from shredder.reporting import record_facts

        wait = timedelta(days=self._policy.facts_days) if after is None else after
        with self._app.progress("recording", size_of(lines), in_bytes=True) as advance:
            return record_facts(self._home, self._policy, self._reports(lines, advance), wait)

    def _reports(self, lines: BinaryIO, advance: Advance) -> Iterator[Report]:
        from keyvault.errors import InvalidInputError
        from shredder.fact_lines import read_facts

        for line in read_facts(lines, self._form, self._frame):
            advance(line.size)
            if isinstance(line.content, InvalidInputError):
                self.malformed.add(line.number, str(line.content))
            else:
                yield line.content

    def _frame(self) -> Frame:
        from shredder.fact_lines import Frame

        skew = timedelta(seconds=self._home.settings.clock_skew)
        return Frame(policy=self._policy, now=self._home.clock.now(), clock_skew=skew)


def _answer(app: App, done: Recorded, bad: _Malformed) -> None:
    suspended, resumed = done.standing.suspended, done.standing.resumed
    app.emit(
        {
            "new": done.new,
            "known": done.known,
            "malformed": bad.count,
            "subjects_changed": done.subjects,
            "scopes_suspended": suspended,
            "scopes_resumed": resumed,
            "lines": bad.lines,
        }
    )
    app.say(f"new               {done.new}")
    app.say(f"known             {done.known}")
    app.say(f"malformed         {bad.count}")
    app.say(f"subjects changed  {done.subjects}")
    app.say(f"scopes suspended  {suspended}")
    app.say(f"scopes resumed    {resumed}")
