"""Who calls, and whether they may: a bearer token in force, of the role that a route is for."""

from __future__ import annotations

from dataclasses import dataclass

from keyvault.clock import Clock
from keyvault.errors import NotPermittedError, TokenRefusedError
from keyvault.store import tokens as token_store
from keyvault.store.database import Database
from keyvault.tokens import Role, check_token, parse_token

SCHEME = "bearer "


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who calls. `token` 16 bytes; `owner` 32 bytes, the pseudonym of who answers for the token."""

    token: bytes
    role: Role
    owner: bytes


class Access:
    """Tells callers by their tokens. Thread-safe."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Read tokens from `database`."""
        self._database = database
        self._clock = clock

    def admit(self, authorization: str | None, role: Role) -> Caller:
        """Return who calls, by the request's `Authorization`. Raises `TokenRefusedError`, `NotPermittedError`, `Unavailable`."""
        if authorization is None or not authorization.lower().startswith(SCHEME):
            raise TokenRefusedError("a bearer token is needed: `keyvault token issue` makes one")
        presented = parse_token(authorization[len(SCHEME) :].strip())
        row = self._database.read(lambda connection: token_store.by_id(connection, presented.id))
        row = check_token(presented, row, self._clock.now())
        if row.role != role:
            raise NotPermittedError(f"this is for the role {role}, and the token's role is {row.role}")
        return Caller(token=row.id, role=Role(row.role), owner=row.owner)
