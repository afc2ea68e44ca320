"""What all commands share: the home they work on, and how they speak.

Answers go to standard output, as text or, with `--json`, as one JSON object; everything else goes to standard error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from cli.failures import Failure
    from keyvault.home import Home
    from keyvault.settings import Settings
    from keyvault.store.database import Database

F = TypeVar("F", bound=Callable[..., Any])
Advance = Callable[[int], None]


def default_home() -> Path:
    """Return the home that commands use when nothing names one."""
    return Path("~/.keyvault").expanduser()


def json_option(command: F) -> F:
    """Give a command the option `--json`."""
    return click.option(
        "--json",
        "as_json",
        is_flag=True,
        expose_value=False,
        callback=_choose_json,
        help="Answer with one JSON object.",
    )(command)


def _choose_json(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    context.ensure_object(App).as_json = value


@dataclass
class App:
    """One run of the program."""

    home: Path = field(default_factory=default_home)
    as_json: bool = False
    simulated: bool = False

    def say(self, text: str = "") -> None:
        """Print a line of the answer; nothing with `--json`."""
        if not self.as_json:
            click.echo(text)

    def note(self, text: str) -> None:
        """Print a line that is not part of the answer."""
        click.echo(text, err=True)

    def emit(self, answer: Mapping[str, object]) -> None:
        """Print the answer as JSON, if JSON was asked for."""
        if self.as_json:
            clock = {"clock": "simulated"} if self.simulated else {}
            click.echo(json.dumps({**clock, **answer}, ensure_ascii=False))

    def fail(self, failure: Failure) -> None:
        """Say what went wrong."""
        self.note(f"keyvault: error: {failure.message}")
        self.emit({"error": {"type": failure.kind, "message": failure.message}})

    def table(self, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print rows: drawn on a terminal, separated by tabs and without headings elsewhere."""
        if self.as_json:
            return
        if not sys.stdout.isatty():
            for row in rows:
                click.echo("\t".join(row))
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table()
        for heading in headings:
            table.add_column(heading, overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))  # as text: a name may look like markup
        Console().print(table)

    # --- the home --------------------------------------------------------------------------------------------------

    def settings(self) -> Settings:
        """Read the home's settings, and say so when its clock is simulated."""
        from keyvault.settings import load_settings

        settings = load_settings(self.home)
        self.announce(settings.clock)
        return settings

    def announce(self, clock: str) -> None:
        """Say once that the home's clock is simulated."""
        if clock != "simulated" or self.simulated:
            return
        from keyvault.clock import SimulatedClock

        self.simulated = True
        self.note(f"simulated clock: {SimulatedClock().now().isoformat()}")

    @contextmanager
    def opened(self, *, role: str = "issuer") -> Iterator[Home]:
        """Open the home, with its engine, as a role. What a shredder has done is in the log when this ends."""
        self.settings()
        from keyvault.home import open_home

        with closing(open_home(self.home, role=role)) as home:
            yield home
            if role == "shredder":
                home.log.settle()

    @contextmanager
    def database(self) -> Iterator[tuple[Settings, Database]]:
        """Open the home's store alone: quicker, and it works while the engine is down."""
        settings = self.settings()
        from keyvault.errors import ConfigurationError, EngineMismatchError
        from keyvault.store import system
        from keyvault.store.database import Database

        with closing(Database(settings.store)) as database:
            database.check_version()
            row = database.read(system.load)
            if row is None:
                raise ConfigurationError("the store is not finished: run `keyvault init` again")
            if row.home_id != settings.id:
                raise EngineMismatchError("the store belongs to another home: check the store's URL in keyvault.toml")
            yield settings, database

    # --- progress --------------------------------------------------------------------------------------------------

    @contextmanager
    def progress(self, title: str, total: int | None, *, in_bytes: bool = False) -> Iterator[Advance]:
        """Show progress on a terminal; elsewhere the function that is lent does nothing."""
        if not sys.stderr.isatty():
            yield lambda _: None
            return
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        amount = DownloadColumn() if in_bytes else MofNCompleteColumn()
        columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=total)
            yield lambda count: bar.advance(task, count)
