"""`serve`: the key service."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cli.app import App, json_option

LOOPBACK = "127.0.0.1"
APPLICATION = "shredder.serving.application:application"
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.option(
    "--host",
    default=LOOPBACK,
    show_default=True,
    help="The address to listen on; others than this machine's own need TLS.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8443, show_default=True, help="The port; 0 for any.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that answer.")
@click.option("--tls-certificate", type=FILE, help="The certificate with its chain (PEM); read again on SIGHUP.")
@click.option("--tls-key", type=FILE, help="Its private key (PEM, not encrypted).")
@click.option("--client-ca", type=FILE, help="Authorities (PEM): only clients with a certificate of theirs are let in.")
@json_option
@click.pass_obj
def serve(
    app: App,
    *,
    host: str,
    port: int,
    workers: int,
    tls_certificate: Path | None,
    tls_key: Path | None,
    client_ca: Path | None,
) -> None:
    """Serve data keys over HTTP to the storage layer, until it is stopped.

    SIGTERM or Ctrl-C let calls under way end. SIGHUP starts new workers, with the certificate as it is then, and ends the old ones:
    no call is lost. The log is on standard error.
    """
    if (tls_certificate is None) != (tls_key is None):
        raise click.UsageError("--tls-certificate and --tls-key are needed together")
    if client_ca is not None and tls_certificate is None:
        raise click.UsageError("--client-ca needs --tls-certificate and --tls-key")
    app.settings()
    import asyncio

    from keyvault.service.listening import TlsFiles, listen, require_private, url_of
    from keyvault.service.logs import configure_logs
    from keyvault.service.supervisor import Supervisor
    from shredder.serving.application import HOME_VARIABLE

    tls = None
    if tls_certificate is not None and tls_key is not None:
        tls = TlsFiles(certificate=tls_certificate, key=tls_key, client_ca=client_ca)
        tls.context()
    require_private(host, encrypted=tls is not None)
    os.environ[HOME_VARIABLE] = str(app.home.resolve())
    configure_logs()
    listener = listen(host, port)
    url = url_of(listener, encrypted=tls is not None)

    def up() -> None:
        app.emit({"url": url})
        app.say(f"Serving {url}")

    asyncio.run(Supervisor(listener, APPLICATION, workers=workers, tls=tls, up=up).run())
