"""Who calls, and whether they may: a bearer token in force, of the role that a route is for, and not too often."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Protocol

from keyvault.clock import Clock
from keyvault.errors import InvalidInputError, NotPermittedError, RateLimitedError, StoreError, TokenRefusedError
from keyvault.limits import decode_limits
from keyvault.service.callers import Caller
from keyvault.service.rates import Rates
from keyvault.service.token_readings import Reading, TokenReadings
from keyvault.store import tokens as token_store
from keyvault.store.database import Database
from keyvault.store.tokens import TokenRow
from keyvault.tokens import CALLS_PER_SECOND, LIMITABLE, Presented, Role, check_token, is_holder, parse_token

__all__ = ["Access", "Caller"]

SCHEME = "bearer "
MAX_AUTHORIZATION = 16_384
"""Characters; a JWT with a chain of claims has a few thousand."""
BURST_SECONDS = 2.0
"""A token may make so many seconds' worth of its calls at once."""
FAILURES_PER_SECOND, FAILURE_SECONDS = 1.0, 100.0
"""Refused tokens of one address: 100 at once, and then one a second. More of them are neither read nor compared."""
_IPV6_PREFIX = 64


class JwtAccess(Protocol):
    """Tells callers by tokens that somebody else has signed."""

    def known(self, token: str) -> Mapping[Role, Caller] | None:
        """Return what a token that was verified lately says, judged by the clock anew; None where it must be verified."""

    def verify(self, token: str) -> Mapping[Role, Caller]:
        """Return who the bearer may be, by role. Raises `TokenRefusedError`, `Unavailable`."""


class Access:
    """Tells callers by their tokens. Thread-safe; each worker has its own."""

    def __init__(self, database: Database, clock: Clock, jwt: JwtAccess | None = None) -> None:
        """Read tokens from `database`; `jwt`: what judges the tokens of an identity provider, if there is one."""
        self._database = database
        self._clock = clock
        self._jwt = jwt
        self._readings = TokenReadings(self._read, clock.monotonic)
        self._rates: Rates[bytes] = Rates(clock.monotonic, burst=BURST_SECONDS)
        self._failures: Rates[str] = Rates(clock.monotonic, burst=FAILURE_SECONDS)

    def admit_cached(self, authorization: str | None, role: Role, peer: str = "") -> Caller | None:
        """As `admit`, without waiting for anything: None where that would be needed, and `admit` must be called."""
        text = _bearer(authorization)
        try:
            if self._is_jwt(text):
                callers = None if self._jwt is None else self._jwt.known(text)
            else:
                presented = parse_token(text)
                reading = self._readings.fresh(presented.id)
                callers = None if reading is None else self._in_force(presented, reading)
                if reading is not None:
                    self._readings.renew(presented.id, reading)
        except TokenRefusedError:
            self._refused(peer)
            raise
        return None if callers is None else self._let_in(callers, role)

    def admit(self, authorization: str | None, role: Role, peer: str = "") -> Caller:
        """Return who calls, by the request's `Authorization`. `peer`: the address it came from.

        Raises `TokenRefusedError`, `NotPermittedError`, `RateLimitedError`, `Unavailable`.
        """
        text = _bearer(authorization)
        try:
            callers = self._ask(text, peer)
        except TokenRefusedError:
            self._refused(peer)
            raise
        return self._let_in(callers, role)

    def _ask(self, text: str, peer: str) -> Mapping[Role, Caller]:
        if self._jwt is not None and self._is_jwt(text):
            self._brake(peer)
            return self._jwt.verify(text)
        presented = parse_token(text)
        last = self._readings.last(presented.id)
        if last is None or not is_holder(presented, last.row):
            self._brake(peer)  # who had a token before is not kept out by what others at the same address do
        return self._in_force(presented, self._readings.ask(presented.id))

    def _in_force(self, presented: Presented, reading: Reading) -> Mapping[Role, Caller]:
        check_token(presented, reading.row, self._clock.now())
        return reading.callers

    def _let_in(self, callers: Mapping[Role, Caller], role: Role) -> Caller:
        caller = callers.get(role)
        if caller is None:
            roles = " or ".join(sorted(callers)) or "none that this version knows"
            raise NotPermittedError(f"this is for the role {role}, and the token's role is {roles}")
        if wait := self._rates.take(caller.token, caller.rate):
            raise RateLimitedError(
                f"the token makes more than {caller.rate} calls a second: send batches, or wait", retry_after=wait
            )
        return caller

    def _is_jwt(self, text: str) -> bool:
        return self._jwt is not None and text.count(".") == 2  # noqa: PLR2004 - header, claims, signature

    def _refused(self, peer: str) -> None:
        """Count a refused token; raise `RateLimitedError` for an address that had too many."""
        if wait := self._failures.take(_network(peer), FAILURES_PER_SECOND):
            raise _braked(wait)

    def _brake(self, peer: str) -> None:
        if wait := self._failures.wait(_network(peer), FAILURES_PER_SECOND):
            raise _braked(wait)

    def _read(self, token_id: bytes) -> tuple[TokenRow | None, Mapping[Role, Caller]]:
        row = self._database.read(lambda connection: token_store.by_id(connection, token_id))
        return row, {} if row is None else _callers(row)


def _callers(row: TokenRow) -> dict[Role, Caller]:
    """Return who the bearer of a token is. `StoreError` for limits that this version cannot hold anybody to."""
    if row.role not in set(Role):
        return {}
    role = Role(row.role)
    try:
        limits = decode_limits(row.limits)
    except InvalidInputError as error:
        raise StoreError(f"token {row.id.hex()}: {error}") from error
    if not limits.unlimited and role not in LIMITABLE:
        raise StoreError(f"token {row.id.hex()}: nothing holds a token of the role {role} to its limits: revoke it")
    rate = CALLS_PER_SECOND[role] if row.rate is None else row.rate
    return {role: Caller(token=row.id, role=role, owner=row.owner, limits=limits, rate=rate)}


def _bearer(authorization: str | None) -> str:
    """Return the token of an `Authorization`. Without one nobody has guessed: no failure is counted."""
    if authorization is None or not authorization[: len(SCHEME)].lower() == SCHEME:
        raise TokenRefusedError("a bearer token is needed: `keyvault token issue` makes one")
    if len(authorization) > MAX_AUTHORIZATION:
        raise TokenRefusedError(f"a token has at most {MAX_AUTHORIZATION} characters")
    return authorization[len(SCHEME) :].strip()


def _network(peer: str) -> str:
    """Return what stands for an address: of IPv6 its /64, of which one machine can have all."""
    if ":" not in peer:
        return peer
    try:
        return str(ipaddress.IPv6Network((peer.partition("%")[0], _IPV6_PREFIX), strict=False))
    except ValueError:
        return peer


def _braked(wait: float) -> RateLimitedError:
    return RateLimitedError("too many tokens from this address were refused", retry_after=wait)
