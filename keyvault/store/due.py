"""Queries on what the retention policy's automatic rules make due: counted by month, listed by ring, checked again at the fence.

A rule is a value, so that this module decides nothing about the policy. Counting is done by the database, whatever the number of
scopes; ids leave in portions. Nothing that is fenced or destroyed is due: it is pending, or done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.due_rules import CLOSED, DueCount, DueRule
from keyvault.states import KeyState, SuspendedBy
from keyvault.store import subjects as subject_store
from keyvault.store.dialects import conditions, month_text
from keyvault.store.fenced_records import RecordKey
from keyvault.store.scopes import KINDS, LIVE
from keyvault.store.tables import fenced_records, scopes, subjects


def count_scopes(connection: Connection, rule: DueRule) -> list[DueCount]:
    """Count the live scopes that a rule makes due, by kind and by the month in which they became so."""
    if _nobody_is_due(connection, rule):
        return []
    return _counted(connection, _due_scopes(rule, scopes.c.kind, _month(connection, rule)))


def count_records(connection: Connection, rule: DueRule) -> list[DueCount]:
    """Count the single records that a rule makes due: deleted by a user, in scopes that stay."""
    if rule.deleted_after is None or _nobody_is_due(connection, rule):
        return []
    return _counted(connection, _due_records(rule, scopes.c.kind, _month(connection, rule)))


def rings(connection: Connection, rule: DueRule) -> list[tuple[bytes | None, int]]:
    """Return how many due scopes each ring holds, by id (16 bytes), and last how many are in none."""
    query = _due_scopes(rule, scopes.c.ring_id, sa.func.count()).group_by(scopes.c.ring_id)
    found = [(ring_id, count) for ring_id, count in connection.execute(query)]
    return sorted(found, key=lambda item: (item[0] is None, item[0] or b""))


def ids_in_rings(connection: Connection, rule: DueRule, ring_ids: Iterable[bytes]) -> list[bytes]:
    """Return the ids of the due scopes in these rings."""
    found: list[bytes] = []
    for condition in conditions(connection, scopes.c.ring_id, ring_ids):
        found += connection.execute(_due_scopes(rule, scopes.c.id).where(condition)).scalars()
    return found


def ids_in_no_ring(connection: Connection, rule: DueRule, *, after: bytes, limit: int) -> list[bytes]:
    """Return the ids of due scopes with a key of their own, by id, those behind `after`, at most `limit`."""
    query = _due_scopes(rule, scopes.c.id).where(scopes.c.ring_id.is_(None), scopes.c.id > after)
    return list(connection.execute(query.order_by(scopes.c.id).limit(limit)).scalars().all())


def records(connection: Connection, rule: DueRule, *, after: RecordKey, limit: int) -> list[RecordKey]:
    """Return due records by scope and tag, those behind `after`, at most `limit`."""
    if rule.deleted_after is None:
        return []
    columns = (fenced_records.c.scope_id, fenced_records.c.tag)
    query = _due_records(rule, *columns).where(sa.tuple_(*columns) > sa.tuple_(*map(sa.literal, after)))
    return [(row.scope_id, row.tag) for row in connection.execute(query.order_by(*columns).limit(limit))]


def still_due_scopes(connection: Connection, rule: DueRule, ids: Collection[bytes]) -> set[bytes]:
    """Return which of these scopes the rule makes due now; they, and facts that say so, stay as they are until the transaction ends."""
    _hold_subjects(connection, rule, ids)
    still: set[bytes] = set()
    for condition in conditions(connection, scopes.c.id, ids):
        query = _due_scopes(rule, scopes.c.id).where(condition).order_by(scopes.c.id).with_for_update(of=scopes)
        still.update(connection.execute(query).scalars().all())
    return still


def still_due_tags(connection: Connection, rule: DueRule, scope_id: bytes, tags: Collection[bytes]) -> set[bytes]:
    """As `still_due_scopes`, of records of one scope by their tags (8 bytes)."""
    _hold_subjects(connection, rule, [scope_id])
    query = _due_records(rule, fenced_records.c.tag).where(fenced_records.c.scope_id == scope_id)
    return set(tags) & set(connection.execute(query).scalars().all())


def settle(connection: Connection, rules: Sequence[DueRule]) -> None:
    """Mark the subjects that are due, and of which no rule finds anything any more: they are not looked at again.

    Whoever records new facts about a subject takes its mark away.
    """
    subject_store.hold_settling(connection)
    by_subject: dict[str, list[DueRule]] = {}
    for rule in rules:
        if rule.subject is not None:
            by_subject.setdefault(rule.subject, []).append(rule)
    for subject, of_subject in by_subject.items():
        left = [query for rule in of_subject for query in _left(rule)]
        statement = sa.update(subjects).where(
            UNSETTLED, subjects.c.kind == subject, subjects.c.due_at <= max(rule.until for rule in of_subject)
        )
        connection.execute(statement.where(*(~query.exists() for query in left)).values(settled=True))


# --- what a rule means in SQL -----------------------------------------------------------------------------------------

# Written out, so that a planner sees that the partial index holds all that is asked for.
UNSETTLED: sa.ColumnElement[bool] = sa.literal_column("NOT subjects.settled")


def _due_scopes(rule: DueRule, *columns: Any) -> sa.Select[Any]:
    if rule.subject is None:
        return sa.select(*columns).select_from(scopes).where(_of_kinds(rule), LIVE, scopes.c.due_at <= rule.until)
    source = scopes.join(subjects, scopes.c.account == subjects.c.id)
    return sa.select(*columns).select_from(source).where(*_due_subject(rule), *_in_scope(rule))


def _due_records(rule: DueRule, *columns: Any) -> sa.Select[Any]:
    source = scopes.join(subjects, scopes.c.account == subjects.c.id).join(
        fenced_records, fenced_records.c.scope_id == scopes.c.id
    )
    return sa.select(*columns).select_from(source).where(*_due_subject(rule), *_of_deleted_records(rule))


def _left(rule: DueRule) -> list[sa.Select[Any]]:
    """Select, for the subject of an outer statement, what is due of it."""
    mine = scopes.c.account == subjects.c.id
    found = [sa.select(scopes.c.id).where(mine, *_in_scope(rule)).correlate(subjects)]
    if rule.deleted_after is not None:
        source = scopes.join(fenced_records, fenced_records.c.scope_id == scopes.c.id)
        deleted = sa.select(scopes.c.id).select_from(source).where(mine, *_of_deleted_records(rule))
        found.append(deleted.correlate(subjects))
    return found


def _due_subject(rule: DueRule) -> list[sa.ColumnElement[bool]]:
    found = [UNSETTLED, subjects.c.kind == rule.subject, subjects.c.due_at <= rule.until]
    if rule.closed is not None:
        found.append(subjects.c.status == CLOSED if rule.closed else subjects.c.status != CLOSED)
    return found


def _in_scope(rule: DueRule) -> list[sa.ColumnElement[bool]]:
    found = [_of_kinds(rule), LIVE]
    if rule.deleted_after is not None:
        found += [scopes.c.suspended_by == SuspendedBy.USER, scopes.c.due_at > rule.deleted_after]
    return found


def _of_deleted_records(rule: DueRule) -> list[sa.ColumnElement[bool]]:
    whole = sa.func.coalesce(scopes.c.suspended_by, 0) == SuspendedBy.USER
    deleted = fenced_records.c.state == str(KeyState.SUSPENDED)
    return [_of_kinds(rule), LIVE, ~whole, scopes.c.due_at > rule.deleted_after, deleted]


def _of_kinds(rule: DueRule) -> sa.ColumnElement[bool]:
    return scopes.c.kind.in_(sorted(map(str, rule.kinds)))


def _month(connection: Connection, rule: DueRule) -> Any:
    return month_text(connection, scopes.c.due_at if rule.subject is None else subjects.c.due_at).label("due_month")


def _counted(connection: Connection, query: sa.Select[Any]) -> list[DueCount]:
    grouped = query.add_columns(sa.func.count().label("amount")).group_by(scopes.c.kind, sa.text("due_month"))
    return [DueCount(kind=KINDS[kind], month=month, count=count) for kind, month, count in connection.execute(grouped)]


def _nobody_is_due(connection: Connection, rule: DueRule) -> bool:
    """Tell from the index of subjects alone: a planner that joins may begin with all scopes."""
    if rule.subject is None:
        return False
    return not connection.execute(sa.select(sa.select(subjects.c.id).where(*_due_subject(rule)).exists())).scalar()


def _hold_subjects(connection: Connection, rule: DueRule, scope_ids: Collection[bytes]) -> None:
    if rule.subject is None:
        return
    for condition in conditions(connection, scopes.c.id, scope_ids):
        whose = sa.select(scopes.c.account).where(condition)
        held = sa.select(subjects.c.id).where(subjects.c.id.in_(whose)).order_by(subjects.c.id)
        connection.execute(held.with_for_update(read=True)).all()
