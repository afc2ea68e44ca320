"""Where the service listens, and under which certificate: plain HTTP on loopback only, TLS 1.2 or later everywhere."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path

from keyvault.errors import ConfigurationError, InvalidInputError

BACKLOG = 1024
CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Of TLS 1.2: forward secrecy and authenticated encryption (RFC 9325, section 4.2). Those of TLS 1.3 all are."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsFiles:
    """Files in PEM: the certificate with its chain, its private key, and the authorities of client certificates, if these are needed."""

    certificate: Path
    key: Path
    client_ca: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Read the files. `ConfigurationError` naming the one that cannot be used."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        for path in (self.certificate, self.key, self.client_ca):
            _require_readable(path)
        try:
            context.load_cert_chain(self.certificate, self.key, password=_no_password)
        except ssl.SSLError as error:
            raise ConfigurationError(
                f"{self.certificate} and {self.key} are not a certificate and its private key (PEM, not encrypted): {error.reason}"
            ) from error
        if self.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            try:
                context.load_verify_locations(self.client_ca)
            except ssl.SSLError as error:
                raise ConfigurationError(f"{self.client_ca} holds no certificates (PEM): {error.reason}") from error
        return context


def require_private(host: str, *, encrypted: bool) -> None:
    """Raise `InvalidInputError` where keys would travel unencrypted to other machines."""
    if not encrypted and not is_loopback(host):
        raise InvalidInputError(
            f"data keys do not travel unencrypted: listening on {host} needs a certificate (--tls-certificate and --tls-key); "
            "without one, only 127.0.0.1, ::1 and localhost can be listened on"
        )


def is_loopback(host: str) -> bool:
    """Tell whether every address that a host stands for is this machine alone. `ConfigurationError` where it stands for none."""
    return all(ipaddress.ip_address(_plain(address)).is_loopback for _, address in _addresses(host, 0))


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, which workers share; port 0 for any. `ConfigurationError` where it cannot be had."""
    family, address = _addresses(host, port)[0]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # not of another service: of connections that are closing
        listener.bind((address, port))
        listener.listen(BACKLOG)
        listener.setblocking(False)  # noqa: FBT003 - the name says it
    except OSError as error:
        listener.close()
        raise ConfigurationError(f"{host}, port {port}, cannot be listened on: {error.strerror}") from error
    return listener


def url_of(listener: socket.socket, *, encrypted: bool) -> str:
    """Return the URL at which a socket is reached."""
    address, port = listener.getsockname()[:2]
    host = f"[{address}]" if listener.family == socket.AF_INET6 else address
    return f"{'https' if encrypted else 'http'}://{host}:{port}"


def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, str]]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigurationError(f"{host} is no address of this machine: {error.strerror}") from error
    return [(family, str(address[0])) for family, _, _, _, address in found]


def _plain(address: str) -> str:
    return address.partition("%")[0]


def _require_readable(path: Path | None) -> None:
    if path is None:
        return
    try:
        with path.open("rb"):
            return
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error


def _no_password() -> str:
    """Refuse an encrypted key instead of asking on the terminal, where nobody sits."""
    return ""
