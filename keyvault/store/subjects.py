"""Queries on subjects, and on the scopes that follow their standing. Rows leave as frozen values; the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.states import KeyState, SuspendedBy
from keyvault.store.dialects import chunks, conditions, conflict_insert, insert_rows
from keyvault.store.tables import scopes, subjects
from keyvault.subjects import FOLLOW_STANDING, AccountStatus, SubjectKind

ScopeMark = tuple[bytes, bytes]
"""A scope's id (16 bytes) and the commitment to its name (32 bytes), as its events carry them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SubjectRow:
    """What all facts about one subject come to. `id`: its pseudonym, 32 bytes; times aware, in UTC.

    `suspend_at`: from when its scopes are suspended; `due_at`: when they are to be destroyed. `settled`: all that was due is destroyed.
    """

    id: bytes
    kind: str
    status: str
    suspend_at: datetime | None = None
    due_at: datetime | None = None
    billed_through: datetime | None = None
    settled: bool = False


def by_id(
    connection: Connection, ids: Iterable[bytes], *, lock: bool = False, keep: bool = False
) -> dict[bytes, SubjectRow]:
    """Return the rows of these ids; one without facts has none.

    Until the transaction ends, `lock` holds them for a change, and `keep` lets nobody change them.
    """
    found: dict[bytes, SubjectRow] = {}
    for condition in conditions(connection, subjects.c.id, ids):
        query = sa.select(subjects).where(condition).order_by(subjects.c.id)
        if lock or keep:
            query = query.with_for_update(read=not lock)
        for row in connection.execute(query):
            found[row.id] = _value(row)
    return found


def lock_or_add(connection: Connection, kinds: Mapping[bytes, SubjectKind]) -> dict[bytes, SubjectRow]:
    """Return the rows of these subjects, made where there are none, and hold them until the transaction ends.

    In order of id, so that two importers cannot deadlock; the second one sees all facts that the first wrote.
    """
    ordered = sorted(kinds)
    columns: dict[str, Sequence[Any]] = {
        "id": ordered,
        "kind": [str(kinds[subject]) for subject in ordered],
        "status": [str(AccountStatus.ACTIVE)] * len(ordered),
        "settled": [False] * len(ordered),
    }
    if ordered:
        insert_rows(connection, subjects, columns)
    return by_id(connection, ordered, lock=True)


def put(connection: Connection, rows: Sequence[SubjectRow]) -> None:
    """Write rows in place of what was there."""
    for some in chunks(rows):
        statement = conflict_insert(connection, subjects).values([asdict(row) for row in some])
        changed = {column.name: statement.excluded[column.name] for column in subjects.columns if column.name != "id"}
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=changed))


def page(connection: Connection, *, after: bytes, limit: int) -> list[SubjectRow]:
    """Return rows by id, those behind `after`, at most `limit`."""
    query = sa.select(subjects).where(subjects.c.id > after).order_by(subjects.c.id).limit(limit)
    return [_value(row) for row in connection.execute(query)]


def hold_unsettled(connection: Connection) -> None:
    """Let no subject be settled until the transaction ends; many transactions may hold that at once.

    Whoever asks after this which subjects have ended, and puts scopes under the others, is sure that `due.settle` either comes later,
    and sees the scopes, or was seen. SQLite has one writer at a time and needs none of it.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock_shared(_SETTLING)))


def hold_settling(connection: Connection) -> None:
    """Wait for all who hold off settling, and keep others from it until the transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SETTLING)))


_SETTLING = int.from_bytes(b"settling")
"""The number of an advisory lock: such locks have no names."""


def ended(connection: Connection, ids: Iterable[bytes], *, now: datetime) -> set[bytes]:
    """Return which of these subjects nothing new may be put under: closed accounts, and whatever is due."""
    found: set[bytes] = set()
    closed = sa.and_(subjects.c.kind == str(SubjectKind.ACCOUNT), subjects.c.status == str(AccountStatus.CLOSED))
    for condition in conditions(connection, subjects.c.id, ids):
        query = sa.select(subjects.c.id).where(condition, sa.or_(closed, subjects.c.due_at <= now))
        found.update(connection.execute(query).scalars())
    return found


def withheld(connection: Connection, ids: Iterable[bytes], *, now: datetime) -> set[bytes]:
    """Return which of these subjects have their scopes suspended by facts now."""
    found: set[bytes] = set()
    for condition in conditions(connection, subjects.c.id, ids):
        found.update(
            connection.execute(sa.select(subjects.c.id).where(condition, subjects.c.suspend_at <= now)).scalars()
        )
    return found


# --- scopes that follow their subject ---------------------------------------------------------------------------------


def lock_suspendable(
    connection: Connection, *, now: datetime, among: Sequence[bytes] | None, limit: int
) -> list[ScopeMark]:
    """Return active scopes whose subject's instant of suspension has come, at most `limit`; they and their subjects stay as they are.

    `among` narrows that to subjects of these ids, at most `dialects.CHUNK`.
    """
    return _locked(
        connection,
        [
            scopes.c.state == str(KeyState.ACTIVE),
            scopes.c.kind.in_(sorted(str(kind) for kind in FOLLOW_STANDING)),
            sa.literal_column("NOT subjects.settled", sa.Boolean()),
            subjects.c.suspend_at <= now,
        ],
        among,
        limit,
    )


def lock_resumable(connection: Connection, *, among: Sequence[bytes] | None, limit: int) -> list[ScopeMark]:
    """Return scopes that facts suspended and whose subject has no instant of suspension any more; otherwise as `lock_suspendable`.

    An instant in the future is one: a clock that was set back resumes nothing.
    """
    return _locked(
        connection,
        [
            sa.literal_column(f"scopes.suspended_by = {int(SuspendedBy.FACTS)}", sa.Boolean()),
            scopes.c.state == str(KeyState.SUSPENDED),
            subjects.c.suspend_at.is_(None),
        ],
        among,
        limit,
    )


def _locked(
    connection: Connection, wanted: Sequence[sa.ColumnElement[bool]], among: Sequence[bytes] | None, limit: int
) -> list[ScopeMark]:
    query = (
        sa.select(scopes.c.id, scopes.c.commitment)
        .join_from(scopes, subjects, scopes.c.account == subjects.c.id)
        .where(*wanted)
        .limit(
            limit
        )  # without an order, which would have all scopes read to find none; whoever loses a deadlock tries again
        .with_for_update(of=[scopes, subjects])
    )
    if among is not None:
        (condition,) = conditions(connection, subjects.c.id, among)
        query = query.where(condition)
    return [(row.id, row.commitment) for row in connection.execute(query)]


def _value(row: sa.Row[Any]) -> SubjectRow:
    return SubjectRow(**row._mapping)  # noqa: SLF001 - the documented way to a row's mapping
