"""hvac's transport, over one urllib3 connection pool.

hvac's own adapter opens a requests session, which costs 0.7 ms of Python a call and does not scale over threads. This one
keeps hvac's API and its exceptions for answers that concern one request (400, 403, 404, 405); whatever concerns the
server or the way to it is `Unavailable`, and names the address and the cause.

It follows no redirect, so that a token goes only to the configured address, and never asks for response wrapping: a
wrapped data key would outlive the key it was made under.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NoReturn

import hvac
import urllib3
from hvac import utils
from hvac.adapters import Adapter
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.util import Retry, Timeout, parse_url

from keyvault.errors import ConfigurationError, InvalidInputError, Unavailable
from keyvault.transit.base import current_audit_event
from keyvault.transit.vault_settings import VaultSettings

EVENT_HEADER = "X-Keyvault-Event"

# What hvac raises as one request's own failure. Everything else is the server's (vaultproject.io/api-docs, status codes).
_REQUEST_ERRORS = frozenset({400, 403, 404, 405})
_CONNECT_RETRIES = 2

# Vault answers 500 to these (over 1 MiB in storage, or as a JSON string), which looks retryable and is not.
_TOO_LARGE = ("value being too large", "exceeds allowed length")

if TYPE_CHECKING:
    _JSONAdapter = Adapter[dict[str, Any]]
else:
    _JSONAdapter = Adapter


class VaultAdapter(_JSONAdapter):
    """Send hvac's requests through a shared pool. A request returns the JSON answer, or an empty dict without one."""

    def __init__(
        self, *, base_uri: str, token: str, namespace: str | None, pool: urllib3.HTTPSConnectionPool, **_: object
    ) -> None:
        # Not super().__init__(): it would open the requests session that this adapter replaces.
        self.base_uri = base_uri
        self.token = token
        self.namespace = namespace
        self._path = (parse_url(base_uri).path or "").rstrip("/")
        self._pool = pool

    def close(self) -> None:
        """Close the pool's connections."""
        self._pool.close()

    def get_login_token(self, response: dict[str, Any]) -> str:
        """Return the client token of a login's answer."""
        return str(response["auth"]["client_token"])

    def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        raise_exception: bool = True,  # noqa: FBT002 - hvac's signature
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Send one request; raise hvac's exceptions for 400, 403, 404 and 405, `Unavailable` for what is not the request's."""
        if kwargs.pop("wrap_ttl", None):
            raise InvalidInputError(
                "response wrapping is not used here: a wrapped answer outlives the key it came from"
            )
        body = None if kwargs.get("json") is None else json.dumps(kwargs["json"], separators=(",", ":")).encode()
        response = self._send(method.upper(), url, body, {**self._headers(), **(headers or {})})
        answer = _parse(response.data)
        if response.status < HTTPStatus.MULTIPLE_CHOICES and answer is not None:
            return answer
        # A 404 by whatever stands in front of Vault must never pass for a key that is gone.
        if response.status not in _REQUEST_ERRORS or answer is None or not answer.keys() & {"errors", "data"}:
            self._unavailable(response.status, answer)
        if raise_exception:
            utils.raise_for_error(method, url, response.status, errors=answer.get("errors"), json=answer)
        return answer

    def _headers(self) -> dict[str, str]:
        headers = {"X-Vault-Request": "true", "Content-Type": "application/json"}
        if self.token:
            headers["X-Vault-Token"] = self.token
        if self.namespace:
            headers["X-Vault-Namespace"] = self.namespace
        if event := current_audit_event():
            headers[EVENT_HEADER] = event
        return headers

    def _send(self, method: str, url: str, body: bytes | None, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        # Only a connection that was never made is tried again: of any other nobody knows whether Vault acted.
        retries = Retry(connect=_CONNECT_RETRIES, read=False, redirect=False, status=False, other=False, total=None)
        try:
            return self._pool.urlopen(
                method, self._path + url, body=body, headers=headers, retries=retries, redirect=False
            )
        except (HTTPError, OSError) as error:
            raise Unavailable(f"Vault at {self.base_uri} cannot be reached: {_cause(error)}") from error

    def _unavailable(self, status: int, answer: dict[str, Any] | None) -> NoReturn:
        said = "; ".join(str(error).strip() for error in (answer or {}).get("errors") or [])
        if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE or any(words in said for words in _TOO_LARGE):
            raise InvalidInputError("Vault refuses the request: a value in it is too large")
        raise Unavailable(f"Vault at {self.base_uri} {_trouble(status, said)}")


def open_pool(settings: VaultSettings) -> urllib3.HTTPSConnectionPool:
    """Make the pool: `pool_size` connections at most, TLS verified. `ConfigurationError` for an unusable `ca_file`."""
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigurationError(
            f"the CA file {settings.ca_file} cannot be used: {error.strerror or error}; give a PEM file of certificates"
        ) from error
    url = parse_url(settings.addr)
    return urllib3.HTTPSConnectionPool(
        url.host or "",
        url.port,
        maxsize=settings.pool_size,
        block=True,
        timeout=Timeout(connect=settings.timeout, read=settings.timeout),
        cert_reqs="CERT_REQUIRED",
        ssl_context=context,
    )


def open_client(settings: VaultSettings, pool: urllib3.HTTPSConnectionPool, *, token: str = "") -> hvac.Client:
    """Make an hvac client over the pool.

    An empty token, instead of None, keeps hvac from taking one out of the environment or the user's home.
    """
    return hvac.Client(
        url=settings.addr, token=token, verify=True, namespace=settings.namespace, adapter=VaultAdapter, pool=pool
    )


def _parse(data: bytes) -> dict[str, Any] | None:
    """Return Vault's JSON object, empty for an empty body; None for what Vault does not send."""
    try:
        answer = json.loads(data) if data else {}
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _cause(error: BaseException) -> str:
    reason = error.reason if isinstance(error, MaxRetryError) and error.reason else error
    if isinstance(reason, SSLError | ssl.SSLError):
        return (
            f"its TLS certificate was not accepted ({_root(reason)}); set the CA file to the one that issued it, "
            "and use an address that the certificate names"
        )
    if isinstance(reason, NameResolutionError):
        return "the name of its host is not known"
    if isinstance(reason, NewConnectionError):
        return f"no connection ({_root(reason)}); see whether it runs and the address is right"
    if isinstance(reason, ReadTimeoutError | ConnectTimeoutError):
        return "it did not answer in time"
    return f"the connection broke ({type(reason).__name__})"


def _root(error: BaseException) -> str:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    return getattr(error, "verify_message", "") or getattr(error, "strerror", None) or str(error)


def _trouble(status: int, said: str) -> str:
    if "sealed" in said:
        return "is sealed; unseal it"
    if "not initialized" in said:
        return "is not initialized; run `vault operator init`"
    if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
        return f"redirects elsewhere (HTTP {status}), which is not followed; use the active node's own address"
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return "limits the rate of requests (HTTP 429), or is a standby; slow down, or use the active node's address"
    if status < HTTPStatus.INTERNAL_SERVER_ERROR and not said:
        return f"answered HTTP {status}, but not as Vault does; see what stands between, or correct the address"
    return f"answered HTTP {status}" + (f": {said}" if said else "")
