"""Nodes of one service over TLS, with leases that are short enough to wait for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tests.servers.certificates import Certificates, make_certificates
from tests.service.running import Running, running


def shorten_leases(home: Path, *, ttl: float, skew: float) -> None:
    """Set a home's lease and skew, in seconds."""
    file = home / "keyvault.toml"
    text = file.read_text()
    assert "lease_ttl = 60.0" in text
    assert "clock_skew = 5.0" in text
    file.write_text(
        text.replace("lease_ttl = 60.0", f"lease_ttl = {ttl}").replace("clock_skew = 5.0", f"clock_skew = {skew}")
    )


def new_certificates(directory: Path) -> Certificates:
    folder = directory / "certificates"
    folder.mkdir()
    return make_certificates(folder)


@contextlib.contextmanager
def two_nodes(home: Path, directory: Path, certificates: Certificates) -> Iterator[tuple[Running, Running]]:
    """Serve a home twice, over TLS."""
    options = ["--tls-certificate", str(certificates.cert_file), "--tls-key", str(certificates.key_file)]
    with (
        running(home, directory / "one.log", *options) as one,
        running(home, directory / "two.log", *options) as two,
    ):
        yield one, two
