"""Recording facts: each group of them is one transaction, with what it makes of its subjects and with its event.

The Python API beside `keyvault facts import`. Open the home as `shredder`: destructions follow from facts, and pseudonyms need a
system key. After a crash the same facts are recorded again: those that are known change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import islice

from sqlalchemy.engine import Connection

from keyvault.errors import InvalidInputError
from keyvault.events import Event, EventType, Value, b64, instant, make_event
from keyvault.home import Home
from keyvault.store import facts as fact_store
from keyvault.store import outbox
from keyvault.store import subjects as subject_store
from keyvault.store.database import Database
from keyvault.store.dialects import chunks
from keyvault.store.facts import FactRow
from keyvault.store.subjects import SubjectRow
from keyvault.subjects import SubjectKind
from shredder.fact_lines import Report
from shredder.facts import MAX_WAIT, Fact, FactType, judge, merge
from shredder.policy import Policy
from shredder.standing import Standing, apply_standing

GROUP = 500
"""Facts that are recorded in one transaction."""
FACTS_PER_EVENT = 200
"""As many as fit an event of 64 KiB, each with the longest type and detail."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Recorded:
    """What became of facts. `known`: reported before, or superseded by a later one. `subjects`: whose verdict changed."""

    new: int = 0
    known: int = 0
    subjects: int = 0
    standing: Standing = field(default_factory=Standing)

    def __add__(self, other: Recorded) -> Recorded:
        return Recorded(
            new=self.new + other.new,
            known=self.known + other.known,
            subjects=self.subjects + other.subjects,
            standing=self.standing + other.standing,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """Facts under pseudonyms, and the kinds of their subjects."""

    kinds: Mapping[bytes, SubjectKind]
    rows: Sequence[FactRow]
    reported_at: datetime
    not_before: datetime


def record_facts(home: Home, policy: Policy, facts: Iterable[Report], after: timedelta) -> Recorded:
    """Record facts under a policy, 500 in a transaction, and suspend or resume the scopes of their subjects.

    `after`: what they make due waits at least so long from now, 0 to 3,660 days; a fact that is known keeps the wait it was first
    reported with. Groups that were recorded stay when an error is raised: `Unavailable`, `InvalidInputError`, or the iterable's own.
    """
    if not timedelta() <= after <= MAX_WAIT:
        raise InvalidInputError(f"facts wait for 0 to {MAX_WAIT.days} days")
    done = Recorded()
    remaining = iter(facts)
    while reports := list(islice(remaining, GROUP)):
        recorded, changed = home.database.write(
            partial(_record, group=_pseudonymous(home, reports, after), policy=policy)
        )
        standing = apply_standing(home, changed, policy_version=policy.version)
        done += replace(recorded, standing=standing)
    # What an earlier run had recorded, and then died before its scopes followed.
    return done + Recorded(standing=apply_standing(home, policy_version=policy.version))


def rejudge(home: Home, policy: Policy) -> int:
    """Judge all subjects anew, as a change of policy asks for, in groups; return how many verdicts changed. Raises `Unavailable`."""
    return judge_all(home.database, policy)


def judge_all(database: Database, policy: Policy) -> int:
    """Do the same in a database of which there is no home yet."""
    changed = 0
    after = b""
    while rows := database.read(partial(subject_store.page, after=after, limit=GROUP)):
        ids = [row.id for row in rows]
        changed += len(database.write(partial(_judge_again, ids=ids, policy=policy)))
        after = ids[-1]
    return changed


def _judge_again(connection: Connection, *, ids: Sequence[bytes], policy: Policy) -> list[bytes]:
    before = subject_store.by_id(connection, ids, lock=True)
    known = fact_store.of_subjects(connection, ids)
    return _judge(
        connection, before, {subject: [_fact(row) for row in rows] for subject, rows in known.items()}, policy
    )


def _pseudonymous(home: Home, reports: Sequence[Report], after: timedelta) -> _Group:
    kinds: dict[bytes, SubjectKind] = {}
    rows = []
    now = home.clock.now()
    for report in reports:
        subject = home.keys.pseudonym_of(report.kind, report.subject)
        kinds[subject] = report.kind
        rows.append(
            FactRow(
                subject=subject,
                type=report.type,
                detail=report.value
                if report.account is None
                else home.keys.pseudonym_of(SubjectKind.ACCOUNT, report.account).hex(),
                at=report.at,
                reported_at=now,
                not_before=now + after,
            )
        )
    return _Group(kinds=kinds, rows=rows, reported_at=now, not_before=now + after)


def _record(connection: Connection, *, group: _Group, policy: Policy) -> tuple[Recorded, list[bytes]]:
    """Return what was new, and the ids of the subjects whose verdict changed."""
    # First the subjects' rows: whoever holds them sees every fact about them, and judges them all.
    before = subject_store.lock_or_add(connection, group.kinds)
    known = fact_store.of_subjects(connection, group.kinds)
    new: list[FactRow] = []
    superseded: list[FactRow] = []
    judged: dict[bytes, list[Fact]] = {}
    for subject, reported in _by_subject(group.rows).items():
        stored = {_fact(row).key: row for row in known.get(subject, ())}
        fresh = {_fact(row).key: row for row in reversed(reported)}
        facts = [_fact(row) for row in stored.values()]
        added, removed = merge(facts, [_fact(row) for row in fresh.values()])
        new += [fresh[fact.key] for fact in added]
        superseded += [stored[fact.key] for fact in removed]
        judged[subject] = [fact for fact in facts if fact not in removed] + added
    fact_store.remove(connection, superseded)
    fact_store.insert(connection, new)
    changed = _judge(connection, before, judged, policy)
    outbox.append(connection, list(_events(group, new, policy)))
    return Recorded(new=len(new), known=len(group.rows) - len(new), subjects=len(changed)), changed


def _judge(
    connection: Connection, before: Mapping[bytes, SubjectRow], facts: Mapping[bytes, Sequence[Fact]], policy: Policy
) -> list[bytes]:
    """Write the verdicts that changed, and return whose they are. What was settled is open again when something else is due."""
    changed = []
    for subject, known in facts.items():
        row = before[subject]
        verdict = judge(SubjectKind(row.kind), known, policy)
        after = replace(
            row,
            status=str(verdict.status),
            suspend_at=verdict.suspend_at,
            due_at=verdict.due_at,
            billed_through=verdict.billed_through,
            settled=row.settled and (row.due_at, row.suspend_at) == (verdict.due_at, verdict.suspend_at),
        )
        if after != row:
            changed.append(after)
    subject_store.put(connection, changed)
    return [row.id for row in changed]


def _events(group: _Group, rows: Sequence[FactRow], policy: Policy) -> Iterator[Event]:
    """Tell the new facts, so that due dates can be worked out from events alone."""
    for some in chunks(rows, FACTS_PER_EVENT):
        payload: dict[str, Value] = {
            "facts": [
                {
                    "subject": b64(row.subject),
                    "kind": str(group.kinds[row.subject]),
                    "type": str(row.type),
                    "detail": row.detail,
                    "at": instant(row.at),
                }
                for row in some
            ],
            "not_before": instant(group.not_before),
        }
        yield make_event(EventType.FACTS_RECORDED, payload, at=group.reported_at, policy=policy.version)


def _by_subject(rows: Iterable[FactRow]) -> dict[bytes, list[FactRow]]:
    found: dict[bytes, list[FactRow]] = {}
    for row in rows:
        found.setdefault(row.subject, []).append(row)
    return found


def _fact(row: FactRow) -> Fact:
    return Fact(type=FactType(row.type), detail=row.detail, at=row.at, not_before=row.not_before)
