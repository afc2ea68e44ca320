"""An identity provider's public keys: a JWKS (RFC 7517), from a file or by https, read again when they may have changed. Thread-safe."""

from __future__ import annotations

import json
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from keyvault.errors import ConfigurationError, KeyVaultError, Unavailable
from keyvault.oidc_settings import OidcSettings

AGAIN_SECONDS: Final = 60.0
"""An unknown key is looked for at most this often, so that made-up key ids ask the provider nothing."""
FRESH_SECONDS: Final = 600.0
"""A key that the provider withdrew is accepted for this long at most, as long as the provider answers."""
LATEST_SECONDS: Final = 3_600.0
"""And for this long when it does not: then no token is accepted any more."""
RETRY_SECONDS: Final = 5.0
MAX_BYTES: Final = 1_048_576
FETCH_SECONDS: Final = 5.0

Jwk = Mapping[str, Any]


class KeySet:
    """Keys by key id (`kid`)."""

    def __init__(self, load: Callable[[], bytes], now: Callable[[], float]) -> None:
        """`load` gives the JWKS; `now` in seconds, never going back."""
        self._load = load
        self._now = now
        self._keys: dict[str, Jwk] = {}
        self._loaded: float | None = None
        self._tried: float | None = None
        self._loading = threading.Lock()

    def find(self, kid: str) -> Jwk | None:
        """Return a key, or None where the provider has none of this id. `Unavailable` while the provider's keys cannot be had.

        One thread at most waits for the provider, so that a slow one holds up nobody else.
        """
        if not self._is_due(kid):
            return self._keys.get(kid)
        if not self._loading.acquire(blocking=False):
            return self._held(kid)
        try:
            self._refresh()
            return self._keys.get(kid)
        finally:
            self._loading.release()

    def _held(self, kid: str) -> Jwk:
        """Return a key as it was known before another thread began to ask for it."""
        key = self._keys.get(kid)
        if key is None or self._loaded is None or self._age(self._loaded) >= LATEST_SECONDS:
            raise Unavailable("the identity provider is being asked for its keys", retry_after=1.0)
        return key

    def _is_due(self, kid: str) -> bool:
        if self._loaded is None or self._age(self._loaded) >= FRESH_SECONDS:
            return True
        return kid not in self._keys and self._tried is not None and self._age(self._tried) >= AGAIN_SECONDS

    def _refresh(self) -> None:
        """Load the keys. What was loaded before is good for an hour where that fails."""
        if self._tried is None or self._age(self._tried) >= RETRY_SECONDS:
            self._tried = self._now()
            try:
                self._keys = parse_key_set(self._load())
                self._loaded = self._tried
            except KeyVaultError as error:
                if self._loaded is None or self._age(self._loaded) >= LATEST_SECONDS:
                    self._keys = {}
                    raise Unavailable(
                        f"the identity provider's keys cannot be had: {error}", retry_after=RETRY_SECONDS
                    ) from error
        elif self._loaded is None or self._age(self._loaded) >= LATEST_SECONDS:
            raise Unavailable("the identity provider's keys cannot be had", retry_after=RETRY_SECONDS)

    def _age(self, since: float) -> float:
        return self._now() - since


def parse_key_set(data: bytes) -> dict[str, Jwk]:
    """Return the public keys of a JWKS that signatures are checked with, by key id. `Unavailable` when it is none.

    A key without an id, of another use, or that is a shared secret, is left out.
    """
    try:
        keys = json.loads(data)["keys"]
        return {key["kid"]: key for key in keys if _is_usable(key)}
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise Unavailable("what the identity provider has is no JWKS") from error


def _is_usable(key: object) -> bool:
    return (
        isinstance(key, dict)
        and isinstance(key.get("kid"), str)
        and key.get("use", "sig") == "sig"
        and key.get("kty") in {"RSA", "EC", "OKP"}
    )


def loader(settings: OidcSettings) -> Callable[[], bytes]:
    """Return what reads the JWKS that the settings name. It raises `Unavailable`."""
    if settings.key_file is not None:
        path = Path(settings.key_file)
        return lambda: _read(path)
    return _fetcher(str(settings.key_url), settings.ca_file)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unavailable(f"{path} cannot be read: {error.strerror}") from error


def _fetcher(url: str, ca_file: str | None) -> Callable[[], bytes]:
    import urllib3

    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"[oidc] in keyvault.toml: {ca_file} holds no certificates that can be read"
        ) from error
    pool = urllib3.PoolManager(ssl_context=context, timeout=urllib3.Timeout(connect=FETCH_SECONDS, read=FETCH_SECONDS))

    def fetch() -> bytes:
        until = time.monotonic() + 2 * FETCH_SECONDS
        body = bytearray()
        try:
            answer = pool.request("GET", url, preload_content=False, redirect=False, retries=False)
            try:
                if answer.status != 200:  # noqa: PLR2004 - OK
                    raise Unavailable(f"the identity provider answers {answer.status}")
                while chunk := answer.read1(65_536):
                    body += chunk
                    if len(body) > MAX_BYTES or time.monotonic() > until:
                        raise Unavailable("the identity provider's answer is too long, or too slow")
            finally:
                answer.close()
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable("the identity provider does not answer") from error
        return bytes(body)

    return fetch
