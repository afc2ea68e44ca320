"""Queries on tokens of the service. Of a token's secret the database has a hash only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.store.dialects import conditions
from keyvault.store.tables import tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenRow:
    """A token. `id` 16 bytes; `secret_hash` 32, SHA-256; `owner` 32, the pseudonym of who issued it. `limits`: JSON, or None for none.

    `rate`: calls per second of each worker; None for the role's own.
    """

    id: bytes
    name: str
    role: str
    secret_hash: bytes
    owner: bytes
    limits: str | None
    created_at: datetime
    expires_at: datetime
    rate: int | None = None
    revoked_at: datetime | None = None


def insert(connection: Connection, row: TokenRow) -> None:
    """Add a token."""
    connection.execute(sa.insert(tokens).values(asdict(row)))


def by_id(connection: Connection, token_id: bytes) -> TokenRow | None:
    """Return a token."""
    row = connection.execute(sa.select(tokens).where(tokens.c.id == token_id)).mappings().one_or_none()
    return None if row is None else TokenRow(**row)


def by_ids(connection: Connection, ids: Iterable[bytes]) -> dict[bytes, TokenRow]:
    """Return the tokens of these ids."""
    found: dict[bytes, TokenRow] = {}
    for condition in conditions(connection, tokens.c.id, ids):
        for row in connection.execute(sa.select(tokens).where(condition)).mappings():
            found[row["id"]] = TokenRow(**row)
    return found


def every(connection: Connection) -> list[TokenRow]:
    """Return all tokens, the oldest first."""
    rows = connection.execute(sa.select(tokens).order_by(tokens.c.created_at, tokens.c.id)).mappings()
    return [TokenRow(**row) for row in rows]


def revoke(connection: Connection, token_id: bytes, *, at: datetime) -> bool:
    """Revoke a token that is not revoked; return whether there was one."""
    statement = sa.update(tokens).where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None)).values(revoked_at=at)
    return connection.execute(statement).rowcount == 1
