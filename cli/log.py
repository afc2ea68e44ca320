"""`keyvault log`: the transparency log."""

from __future__ import annotations

import click

from cli.log_rebuild import rebuild


@click.group()
def log() -> None:
    """Work with the log of all that was created and destroyed."""


log.add_command(rebuild)
