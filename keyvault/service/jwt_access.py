"""Bearer tokens of an identity provider: JWTs (RFC 7519), checked against its keys as RFC 8725 asks for. Thread-safe.

The algorithm is one of a fixed asymmetric list and must be one of the key's; what a token says counts for nothing before its signature
is checked. Such a token cannot be revoked one by one: it ends when it expires, or with its key.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from keyvault.clock import Clock
from keyvault.errors import ConfigurationError, TokenRefusedError
from keyvault.home import Home
from keyvault.limits import NO_LIMITS, Limits, account_subject
from keyvault.oidc_settings import ALGORITHMS, OidcSettings
from keyvault.scopes import ScopeKind
from keyvault.service.access import JwtAccess
from keyvault.service.callers import Caller
from keyvault.service.key_set import Jwk, KeySet, loader
from keyvault.system_keys import SystemKeys
from keyvault.tokens import CALLS_PER_SECOND, LIMITABLE, TOKEN_ID_BYTES, Role

if TYPE_CHECKING:
    from jwt import PyJWK

BELIEVED_SECONDS: Final = 60.0
"""A signature is checked this often, so that a token ends soon after the key that signed it."""
MAX_KEPT: Final = 10_000
MIN_RSA_BITS: Final = 2_048
_CURVES: Final = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521", "EdDSA": "Ed25519"}
_TYPES: Final = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}
_LIMITS: Final = frozenset({"accounts", "kinds", "purposes"})
_NEEDED: Final = ["exp", "iss", "aud", "sub"]


def jwt_access(home: Home) -> JwtAccess | None:
    """Return what judges JWTs, or None where the home names no identity provider. `ConfigurationError` without the extra."""
    settings = home.settings.oidc
    if settings is None:
        return None
    try:
        import jwt  # noqa: F401 - whether it is there
    except ImportError as error:
        raise ConfigurationError(
            "keyvault.toml has a table [oidc], which needs a library that is not installed: install keyvault-shredder[oidc]"
        ) from error
    return JwtTokens(settings, KeySet(loader(settings), home.clock.monotonic), home.keys, home.clock)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Verified:
    """A token whose signature was checked at `at`. `begins` and `ends`: seconds since 1970, leeway included."""

    callers: Mapping[Role, Caller]
    begins: float
    ends: float
    at: float


class JwtTokens:
    """Judges tokens by the keys of their issuer."""

    def __init__(self, settings: OidcSettings, keys: KeySet, system_keys: SystemKeys, clock: Clock) -> None:
        """Take what `settings` says, signed with one of `keys`; pseudonyms are made with `system_keys`."""
        self._settings = settings
        self._keys = keys
        self._system_keys = system_keys
        self._clock = clock
        self._algorithms = frozenset(settings.algorithms or ALGORITHMS)
        self._kept: dict[bytes, _Verified] = {}

    def known(self, token: str) -> Mapping[Role, Caller] | None:
        """As `JwtAccess.known`."""
        verified = self._kept.get(_digest(token))
        if verified is None or self._clock.monotonic() - verified.at >= BELIEVED_SECONDS:
            return None
        return self._in_time(verified)

    def verify(self, token: str) -> Mapping[Role, Caller]:
        """As `JwtAccess.verify`."""
        at = self._clock.monotonic()
        claims = self._claims(token)
        begins, ends = self._times(claims)
        verified = _Verified(callers=self._callers(claims), begins=begins, ends=ends, at=at)
        callers = self._in_time(verified)
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[_digest(token)] = verified
        return callers

    # --- the signature ------------------------------------------------------------------------------------------------

    def _claims(self, token: str) -> dict[str, Any]:
        import jwt

        try:
            key = self._key(jwt.get_unverified_header(token))
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                options={"require": _NEEDED, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise _refused(_REASONS.get(type(error).__name__, "it is malformed, or lacks a claim")) from error
        return claims

    def _key(self, header: Mapping[str, Any]) -> PyJWK:
        """Return the key that a token says it is signed with, for the algorithm that it says, if that is one of the key's."""
        import jwt

        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self._algorithms:
            raise _refused("its algorithm is none of those that are taken")
        if not isinstance(kid, str) or "crit" in header:
            raise _refused("it names no key, or extensions that this version does not know")
        jwk = self._keys.find(kid)
        if jwk is None:
            raise _refused("the identity provider has no such key")
        if not _fits(jwk, algorithm):
            raise _refused("its key is not for its algorithm")
        key = jwt.PyJWK(dict(jwk), algorithm)
        if jwk["kty"] == "RSA" and key.key.key_size < MIN_RSA_BITS:
            raise _refused(f"its key has fewer than {MIN_RSA_BITS} bits")
        return key

    # --- what it says -------------------------------------------------------------------------------------------------

    def _times(self, claims: Mapping[str, Any]) -> tuple[float, float]:
        leeway = self._settings.leeway
        begins = max(_number(claims, "nbf", -math.inf), _number(claims, "iat", -math.inf))
        return begins - leeway, _number(claims, "exp") + leeway

    def _in_time(self, verified: _Verified) -> Mapping[Role, Caller]:
        now = self._clock.now().timestamp()
        if now >= verified.ends:
            raise _refused("it has expired")
        if now < verified.begins:
            raise _refused("it is not valid yet")
        return verified.callers

    def _callers(self, claims: Mapping[str, Any]) -> dict[Role, Caller]:
        """Return who the bearer may be. A role whose calls would not hold it to its limits, or to two people, is none."""
        subject = json.dumps([claims["iss"], claims["sub"]])
        token = self._system_keys.pseudonym_of("jwt", subject)[:TOKEN_ID_BYTES]
        person = self._person(claims)
        owner = self._system_keys.pseudonym_of("person", subject if person is None else person)
        limits = self._limits(claims)
        return {
            role: Caller(token=token, role=role, owner=owner, limits=limits, rate=CALLS_PER_SECOND[role])
            for role in self._roles(claims)
            if (limits.unlimited or role in LIMITABLE) and (role is not Role.REQUESTER or person is not None)
        }

    def _person(self, claims: Mapping[str, Any]) -> str | None:
        if self._settings.person_claim is None:
            return None
        person = claims.get(self._settings.person_claim)
        if not isinstance(person, str) or not person.isprintable() or not person:
            raise _refused("the claim that says which person it is of is missing, or no text")
        return person

    def _roles(self, claims: Mapping[str, Any]) -> list[Role]:
        said = claims.get(self._settings.role_claim)
        named = [said] if isinstance(said, str) else said
        if not isinstance(named, list):
            raise _refused("the claim with its role is missing, or no text")
        return [role for role in Role if str(role) in named]

    def _account(self, name: str) -> bytes:
        return self._system_keys.pseudonym_of(*account_subject(name))

    def _limits(self, claims: Mapping[str, Any]) -> Limits:
        if self._settings.limits_claim is None:
            return NO_LIMITS
        said = claims.get(self._settings.limits_claim)
        if not isinstance(said, dict) or not said.keys() <= _LIMITS:
            raise _refused("the claim with its limits is missing, or has others than accounts, kinds and purposes")
        texts = {name: _texts(values) for name, values in said.items()}
        accounts, kinds, purposes = (texts.get(name) for name in ("accounts", "kinds", "purposes"))
        try:
            return Limits(
                accounts=None if accounts is None else frozenset(map(self._account, accounts)),
                kinds=None if kinds is None else frozenset(map(ScopeKind, kinds)),
                purposes=None if purposes is None else frozenset(purposes),
            )
        except ValueError as error:
            raise _refused("its limits are not those of this version") from error


_REASONS: Final = {
    "InvalidSignatureError": "its signature is wrong",
    "InvalidAudienceError": "it is for another audience",
    "InvalidIssuerError": "it is of another issuer",
}


def _refused(reason: str) -> TokenRefusedError:
    return TokenRefusedError(f"the identity provider's token is refused: {reason}")


def _fits(jwk: Jwk, algorithm: str) -> bool:
    if jwk.get("kty") != _TYPES[algorithm[:2]] or jwk.get("alg", algorithm) != algorithm:
        return False
    return algorithm not in _CURVES or jwk.get("crv") == _CURVES[algorithm]


def _number(claims: Mapping[str, Any], name: str, default: float | None = None) -> float:
    value = claims.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or (name in claims and not math.isfinite(value)):
        raise _refused(f"its {name} is no time")
    return float(value)


def _texts(values: Any) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _refused("its limits are no lists of texts")
    return values


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
