"""Confirming what cannot be undone: the exact count is typed, or given."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from cli.app import App
from cli.failures import Refused

F = TypeVar("F", bound=Callable[..., Any])


def confirm_option(command: F) -> F:
    """Give a command the option `--confirm`."""
    return click.option(
        "--confirm",
        "confirmed",
        type=click.IntRange(min=0),
        metavar="COUNT",
        help="The exact count of what is destroyed; needed for more than the policy's limits.",
    )(command)


def typed_count(app: App, count: int, *, what: str, yes: bool) -> int | None:
    """Say that there is no way back, and have the count typed; with `yes` nothing is asked, and None is returned."""
    app.note("This cannot be undone: no copy and no backup of this data will be readable again.")
    if yes:
        return None
    if not sys.stdin.isatty():
        raise Refused("there is no terminal to confirm on, and nothing was destroyed: give --yes, or --plan to look")
    click.echo(f"Destroy {count} {what}{'s'[: count != 1]} for good? Type {count} to go on: ", nl=False, err=True)
    if sys.stdin.readline().strip() != str(count):
        raise Refused("not confirmed, and nothing was destroyed")
    return count
