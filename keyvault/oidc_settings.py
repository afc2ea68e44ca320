"""Which identity provider's tokens the service takes, without a line of what checks them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from keyvault.errors import ConfigurationError

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Asymmetric ones only (RFC 7518, RFC 8037): with a shared secret whoever checks a token could make one."""
MAX_LEEWAY: Final = 300.0


@dataclass(frozen=True, kw_only=True, slots=True)
class OidcSettings:
    """The table `[oidc]`. Either `key_file` (a JWKS, an absolute path) or `key_url` (https).

    `role_claim` names the claim with the bearer's role or roles. `limits_claim`: the claim with its limits; every token must then
    have it. `person_claim`: the claim with what `keyvault request approve` knows the same person by; without it nobody hands in
    requests with such a token, since one person could approve what they asked for. `leeway` in seconds; `ca_file`: authorities for `key_url`.
    """

    issuer: str
    audience: str
    key_file: str | None = None
    key_url: str | None = None
    ca_file: str | None = None
    algorithms: list[str] | None = None
    role_claim: str = "keyvault_role"
    limits_claim: str | None = None
    person_claim: str | None = None
    leeway: float = 30.0

    def __post_init__(self) -> None:
        where = "[oidc] in keyvault.toml"
        if (self.key_file is None) == (self.key_url is None):
            raise ConfigurationError(f"{where} needs either key_file or key_url")
        if self.key_file is not None and not Path(self.key_file).is_absolute():
            raise ConfigurationError(f"{where}: key_file must be an absolute path")
        if self.key_url is not None and not _is_https(self.key_url):
            raise ConfigurationError(f"{where}: key_url must be https://HOST/PATH, without user name or password")
        if not self.issuer or not self.audience or not self.role_claim:
            raise ConfigurationError(f"{where}: issuer, audience and role_claim must not be empty")
        unknown = sorted(set(self.algorithms or ()) - set(ALGORITHMS))
        if unknown or self.algorithms == []:
            raise ConfigurationError(f"{where}: algorithms can be {', '.join(ALGORITHMS)}")
        if not 0 <= self.leeway <= MAX_LEEWAY:
            raise ConfigurationError(f"{where}: leeway is 0 to {MAX_LEEWAY:.0f} seconds")


def _is_https(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme == "https" and bool(parts.hostname) and parts.username is None and parts.password is None
    except ValueError:
        return False
