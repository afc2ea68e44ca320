"""How a client is set up: the service's nodes, trust, patience, and what it may keep."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from keyvault.client.bearer import Bearer, TokenSource
from keyvault.errors import ConfigurationError
from keyvault.values import Reuse

TIMEOUT = 10.0
KEEP = 50_000
KEEP_BYTES = 64 * 1024 * 1024
CONNECT_SECONDS = 2.0
"""For a connection to one node; then the next is tried."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ClientOptions:
    """What `keyvault.connect` was told, checked. `timeout` in seconds for a whole call; `tls` None for plain HTTP on loopback."""

    urls: tuple[str, ...]
    bearer: Bearer
    tls: ssl.SSLContext | None = field(repr=False)
    timeout: float
    reuse: Reuse | None
    keep: int


def client_options(
    url: str | Sequence[str],
    *,
    token: TokenSource,
    ca_file: Path | str | None = None,
    client_certificate: tuple[Path | str, Path | str] | None = None,
    timeout: float = TIMEOUT,
    reuse: Reuse | bool = True,
    keep: int = KEEP,
) -> ClientOptions:
    """Check options. Raises `ConfigurationError`."""
    urls = tuple(dict.fromkeys(_url(one) for one in ([url] if isinstance(url, str) else url)))
    if not urls:
        raise ConfigurationError("a client needs the URL of at least one node of the service")
    if not timeout > 0 or keep < 0:
        raise ConfigurationError("the timeout is more than 0 s, and the number of keys to keep not negative")
    secure = any(one.startswith("https:") for one in urls)
    if not secure and (ca_file is not None or client_certificate is not None):
        raise ConfigurationError("certificates are of no use with plain HTTP: use an https URL")
    allowed = Reuse() if reuse is True else reuse or None
    return ClientOptions(
        urls=urls,
        bearer=Bearer(token),
        tls=_tls(ca_file, client_certificate) if secure else None,
        timeout=timeout,
        reuse=allowed if keep else None,
        keep=keep,
    )


def _url(text: str) -> str:
    parts = urlsplit(text)
    try:
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.username is not None or parts.query or parts.fragment:
        raise ConfigurationError("the service's URL has the form https://HOST[:PORT], and no user, query or fragment")
    if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
        raise ConfigurationError("keys travel over plain HTTP within one machine only: use an https URL")
    return text.rstrip("/")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tls(ca_file: Path | str | None, client_certificate: tuple[Path | str, Path | str] | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=None if ca_file is None else str(ca_file))
    except OSError as error:
        raise ConfigurationError(f"{ca_file} is not a file of certificates (PEM) that can be read") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if client_certificate is not None:
        certificate, key = client_certificate
        try:
            context.load_cert_chain(certificate, key, password="")
        except OSError as error:
            raise ConfigurationError(
                f"{certificate} and {key} are not a certificate and its key (PEM) that can be read"
            ) from error
    return context
