"""Who calls."""

from __future__ import annotations

from dataclasses import dataclass

from keyvault.limits import NO_LIMITS, Limits
from keyvault.tokens import Role


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who calls. `token` 16 bytes; `owner` 32 bytes, the pseudonym of who answers for the token; `rate`: calls a second of a worker."""

    token: bytes
    role: Role
    owner: bytes
    limits: Limits = NO_LIMITS
    rate: int = 0
