"""`serve`: the key service."""

from __future__ import annotations

import os

import click

from cli.app import App

LOOPBACK = "127.0.0.1"


@click.command()
@click.option("--host", default=LOOPBACK, show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8443, show_default=True, help="The port; 0 for any.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that answer.")
@click.pass_obj
def serve(app: App, *, host: str, port: int, workers: int) -> None:
    """Serve data keys over HTTP to the storage layer, until it is stopped (SIGTERM or Ctrl-C), which lets calls under way end."""
    app.settings()
    import uvicorn

    from shredder.serving.application import HOME_VARIABLE

    os.environ[HOME_VARIABLE] = str(app.home.resolve())
    uvicorn.run(
        "shredder.serving.application:application",
        factory=True,
        host=host,
        port=port,
        workers=workers,
        log_level="info",
    )
