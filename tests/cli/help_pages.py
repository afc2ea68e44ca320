"""The help of every command, as docs/cli.md has it. `python -m tests.cli.help_pages` writes it there anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from cli.app import App
from cli.main import cli

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
HEADING = "## Help of every command\n"


def contexts(command: click.Command = cli, parent: click.Context | None = None) -> Iterator[click.Context]:
    """Yield a context of each command, groups first."""
    name = "keyvault" if parent is None else str(command.name)
    context = command.make_context(name, [], parent=parent, resilient_parsing=True, obj=App())
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from contexts(found, context)


def section() -> str:
    """Return the section of the page that shows all help."""
    parts = []
    for context in contexts():
        text = "\n".join(f"    {line}".rstrip() for line in context.get_help().splitlines())
        parts.append(f"### `{context.command_path}`\n\n{text}\n")
    return f"{HEADING}\n" + "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().partition(HEADING)[0] + section())
