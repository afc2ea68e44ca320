"""Queries on requests and on what they name. Tickets, accounts and people stand in them as pseudonyms only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.store.dialects import conflict_insert, insert_rows
from keyvault.store.fenced_records import RecordKey
from keyvault.store.tables import request_items, requests

ItemKey = RecordKey
"""A scope's id (16 bytes), with a record's tag in it (8 bytes) or none for the whole scope."""
NO_CONTENT = bytes(32)
"""Stands for what was handed in where a rebuild could not find it out; no submission has it."""
_OWED = sa.and_(requests.c.break_glass, requests.c.approved_by.is_(None))


@dataclass(frozen=True, kw_only=True, slots=True)
class RequestRow:
    """One request. `id` 16 bytes; `ticket`, `content`, `account`, `digest`, `submitted_by`, `approved_by` 32 bytes each.

    `row`: in the file that it came with, from 1. `refusal`: the code of what it was refused for, or what voided its approval.
    """

    id: bytes
    ticket: bytes
    row: int
    content: bytes
    kind: str
    requester: str
    account: bytes | None = None
    code: str | None = None
    state: str
    refusal: str | None = None
    digest: bytes | None = None
    received_at: datetime
    due_by: datetime
    submitted_by: bytes
    approved_by: bytes | None = None
    approved_at: datetime | None = None
    ended_at: datetime | None = None
    break_glass: bool = False


def insert(connection: Connection, row: RequestRow) -> bool:
    """Add a request; return False where its ticket has one of that row already."""
    statement = conflict_insert(connection, requests).values(asdict(row))
    statement = statement.on_conflict_do_nothing(index_elements=["ticket", "row"]).returning(requests.c.id)
    return connection.execute(statement).scalar() is not None


def by_id(connection: Connection, request_id: bytes, *, lock: bool = False) -> RequestRow | None:
    """Return a request; `lock` holds it until the transaction ends."""
    query = sa.select(requests).where(requests.c.id == request_id)
    return _one(connection, query.with_for_update() if lock else query)


def by_ticket(connection: Connection, ticket: bytes, row: int) -> RequestRow | None:
    """Return the request that came with a row of a ticket."""
    return _one(connection, sa.select(requests).where(requests.c.ticket == ticket, requests.c.row == row))


def last_row(connection: Connection, ticket: bytes) -> int:
    """Return the highest row that a ticket has, 0 where it has none."""
    return connection.execute(sa.select(sa.func.max(requests.c.row)).where(requests.c.ticket == ticket)).scalar() or 0


def change(connection: Connection, request_id: bytes, **columns: Any) -> None:
    """Set columns of a request."""
    connection.execute(sa.update(requests).where(requests.c.id == request_id).values(**columns))


def in_states(connection: Connection, states: Iterable[str]) -> list[RequestRow]:
    """Return the requests in one of these states, those that are to be answered first in front."""
    query = sa.select(requests).where(requests.c.state.in_(sorted(set(states))))
    return _all(connection, query.order_by(requests.c.due_by, requests.c.id))


def page(
    connection: Connection,
    *,
    states: Iterable[str],
    owed: bool,
    due_until: datetime | None = None,
    after: RequestRow | None = None,
    limit: int | None = None,
) -> list[RequestRow]:
    """Return requests in one of these states and (`owed`) those that owe the approval, the first due in front, at most `limit`.

    `due_until`: only those to be answered by then. `after`: only those that come after this one.
    """
    chosen = requests.c.state.in_(sorted(set(states)))
    query = sa.select(requests).where(sa.or_(chosen, _OWED) if owed else chosen)
    if due_until is not None:
        query = query.where(requests.c.due_by <= due_until)
    if after is not None:
        same = sa.and_(requests.c.due_by == after.due_by, requests.c.id > after.id)
        query = query.where(sa.or_(requests.c.due_by > after.due_by, same))
    return _all(connection, query.order_by(requests.c.due_by, requests.c.id).limit(limit))


def unsigned(connection: Connection) -> list[RequestRow]:
    """Return the requests that were executed first, and still owe the approval."""
    query = sa.select(requests).where(_OWED)
    return _all(connection, query.order_by(requests.c.due_by, requests.c.id))


def items(connection: Connection, request_id: bytes) -> list[ItemKey]:
    """Return what a request names, in order."""
    query = sa.select(request_items.c.scope_id, request_items.c.tag).where(request_items.c.request_id == request_id)
    return sorted((row.scope_id, row.tag) for row in connection.execute(query))


def put_items(connection: Connection, request_id: bytes, keys: Sequence[ItemKey]) -> None:
    """Put down what a request names, in place of what it named before."""
    connection.execute(sa.delete(request_items).where(request_items.c.request_id == request_id))
    if keys:
        columns: dict[str, Sequence[Any]] = {
            "request_id": [request_id] * len(keys),
            "scope_id": [scope for scope, _ in keys],
            "tag": [tag for _, tag in keys],
        }
        insert_rows(connection, request_items, columns, conflicts=False)


def _one(connection: Connection, query: sa.Select[Any]) -> RequestRow | None:
    row = connection.execute(query).one_or_none()
    return None if row is None else RequestRow(**row._mapping)  # noqa: SLF001 - the documented way to a row's mapping


def _all(connection: Connection, query: sa.Select[Any]) -> list[RequestRow]:
    return [RequestRow(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001
