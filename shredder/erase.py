"""Steps 2 to 4 of the destruction protocol: erase, prove, acknowledge. Every step can be repeated by any run.

"Destroyed" is written only for scopes and records whose proof is at hand, in the same transaction as the event that states it. All
calls to the engine of one run carry the run's *erasure* id, which the events name.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.metadata import version
from itertools import groupby
from typing import NamedTuple

from sqlalchemy.engine import Connection

from keyvault.custody.base import Proof, Target
from keyvault.custody.former import former
from keyvault.errors import KeyVaultError, NotProvenError
from keyvault.events import Event, EventType, Value, b64, instant, make_event, new_event_id
from keyvault.home import Home
from keyvault.scopes import KIND_RULES
from keyvault.store import fenced_records, groups, notices, outbox
from keyvault.store import scopes as scope_store
from keyvault.store.destructions import Destruction
from keyvault.store.scopes import ScopeRow
from keyvault.transit.base import audit_event
from keyvault.wrapped import CustodyCode
from shredder.fence import BACKUP_HORIZON
from shredder.notices import line as notice_line

TOOL = f"keyvault-shredder {version('keyvault-shredder')}"

PEOPLE = tuple(kind for kind, rules in KIND_RULES.items() if rules.names_person)
"""Kinds of which nothing that names a person is kept."""

Key = tuple[bytes, bytes]
"""A scope's id, and a record's tag in it, or none: `Target.key`."""


class Outcome(NamedTuple):
    """What became of one fenced scope, or record of it: destroyed at `at`, or still pending because of `error`."""

    scope_id: bytes
    record_tag: bytes = b""
    at: datetime | None = None
    error: KeyVaultError | None = None


class _Group(NamedTuple):
    """What one event tells of: the same destruction, proven in the same way; for records, of one scope."""

    destroy_id: bytes
    proof: Proof
    scope_id: bytes | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class _Run:
    home: Home
    causes: Mapping[bytes, Destruction]
    erasure: str
    at: datetime
    pending: Mapping[Key, bytes]
    rows: Mapping[bytes, ScopeRow]


def finish(
    home: Home, pending: Mapping[Key, bytes], rows: Mapping[bytes, ScopeRow], causes: Mapping[bytes, Destruction]
) -> list[Outcome]:
    """Erase, prove and acknowledge what is fenced.

    `pending` gives the id of each one's destruction, `rows` the scopes by id as they were fenced: where their keys sit
    does not change after that. `causes` are the stamped destructions by id.
    """
    erasure = new_event_id()
    with audit_event(erasure):
        proofs = _destroy(home, {key: Target(rows[key[0]], key[1]) for key in pending})
    run = _Run(home=home, causes=causes, erasure=erasure, at=home.clock.now(), pending=pending, rows=rows)
    proven = {key: proof for key, proof in proofs.items() if isinstance(proof, Proof)}
    failed = {key: error for key, error in proofs.items() if isinstance(error, KeyVaultError)}
    done = home.database.write(lambda connection: _acknowledge(run, connection, proven))
    if len(done) < len(pending):
        others = _destroyed_meanwhile(home, pending.keys() - done.keys())
        home.database.confirm(home.node)  # that run may never have heard from the standby
        failed = {key: error for key, error in failed.items() if key not in others}
        done |= others
        home.database.write(lambda connection: _report_failure(run, connection, failed))
    return [
        Outcome(key[0], key[1], done[key]) if key in done else Outcome(key[0], key[1], error=failed[key])
        for key in pending
    ]


def _destroy(home: Home, targets: Mapping[Key, Target]) -> dict[Key, Proof | KeyVaultError]:
    unknown = NotProvenError("the scope's custody is not available in this home")
    proofs: dict[Key, Proof | KeyVaultError] = dict.fromkeys(targets, unknown)
    for code, custody in home.custodies.items():
        some = {key: target for key, target in targets.items() if target.row.custody == code}
        proofs |= zip(some, custody.destroy(list(some.values())), strict=True)
    return proofs | _destroy_former(home, targets, proofs)


def _destroy_former(
    home: Home, targets: Mapping[Key, Target], proofs: Mapping[Key, Proof | KeyVaultError]
) -> dict[Key, Proof | KeyVaultError]:
    """Destroy the keys that scopes had before they were moved; what is proven of such a scope is that both its keys are gone."""
    moved = {key: row for key, target in targets.items() if not key[1] and (row := former(target.row)) is not None}
    if not moved:
        return {}
    gone = home.custodies[CustodyCode.DEDICATED].destroy([Target(row) for row in moved.values()])
    return {key: _both(proofs[key], proof) for key, proof in zip(moved, gone, strict=True)}


def _both(proof: Proof | KeyVaultError, of_former: Proof | KeyVaultError) -> Proof | KeyVaultError:
    if isinstance(proof, KeyVaultError):
        return proof
    return of_former if isinstance(of_former, KeyVaultError) else replace(proof, former=of_former)


# --- acknowledging ------------------------------------------------------------------------------------------------


def _acknowledge(run: _Run, connection: Connection, proven: Mapping[Key, Proof]) -> dict[Key, datetime]:
    """Mark as destroyed what no other run has marked, with its events; return when each was destroyed."""
    marked = _acknowledge_scopes(run, connection, [key for key in proven if not key[1]])
    records = fenced_records.acknowledge(connection, [key for key in proven if key[1]], at=run.at)
    mine = [key for key in proven if key in records or (not key[1] and key[0] in marked)]
    together = _grouped(run, proven, mine)
    events = [(_destroyed(run, group, keys), keys) for group, keys in together.items()]
    outbox.append(connection, [event for event, _ in events])
    if run.home.settings.notices is not None:
        notices.add(connection, [notice_line(event.id, keys, run.at) for event, keys in events])
    return dict.fromkeys(mine, run.at)


def _grouped(run: _Run, proven: Mapping[Key, Proof], keys: Sequence[Key]) -> dict[_Group, list[Key]]:
    """Group what one event tells of; what comes together is mostly of one group."""
    found: dict[_Group, list[Key]] = defaultdict(list)
    together = groupby(keys, key=lambda key: (run.pending[key], id(proven[key]), key[0] if key[1] else None))
    for (destroy_id, _, scope_id), some in together:
        members = list(some)
        found[_Group(destroy_id, proven[members[0]], scope_id)] += members
    return found


def _acknowledge_scopes(run: _Run, connection: Connection, proven: Sequence[Key]) -> set[bytes]:
    """Mark whole groups by their destructions, and what is left scope by scope; return the scopes that were not yet."""
    counted = Counter(run.pending[key] for key in proven)
    horizon = run.at + BACKUP_HORIZON
    whole = groups.acknowledge(connection, counted, at=run.at, horizon=horizon)
    marked = {key[0] for key in proven if run.pending[key] in whole}
    if len(whole) < len(counted):
        parted = counted.keys() - whole
        groups.part(connection, parted)
        left = [key[0] for key in proven if run.pending[key] in parted]
        marked |= scope_store.acknowledge(
            connection, left, destroy_ids=parted, people=PEOPLE, at=run.at, horizon=horizon
        )
    return marked


def _destroyed(run: _Run, group: _Group, keys: Sequence[Key]) -> Event:
    """Build `key.destroyed` of a group of scopes, or `record.destroyed` of records of one."""
    cause = run.causes[group.destroy_id]
    payload = {
        **_evidence(run, group, [run.rows[scope] for scope, _ in keys]),
        "fenced_at": _instant(cause.fenced_at),
        "lease_bound": _instant(cause.lease_bound),
    }
    commitments = [b64(run.rows[scope].commitment) for scope, _ in keys]
    if group.scope_id is None:
        return make_event(EventType.KEY_DESTROYED, {**payload, "scopes": commitments}, at=run.at)
    records = {"scope": commitments[0], "records": [b64(tag) for _, tag in keys]}
    return make_event(EventType.RECORD_DESTROYED, {**payload, **records}, at=run.at)


def _evidence(run: _Run, group: _Group, rows: Sequence[ScopeRow]) -> dict[str, Value]:
    return {
        "destroy_id": b64(group.destroy_id),
        "fence": run.causes[group.destroy_id].fence_event,
        "erasure": run.erasure,
        "horizon": instant(run.at + BACKUP_HORIZON),
        "custody": sorted({run.home.custodies[row.custody].name for row in rows}),
        "engine": run.home.engine.kind,
        "proof": asdict(group.proof, dict_factory=_without_nulls),
        "tool": TOOL,
    }


# --- what is left ---------------------------------------------------------------------------------------------------


def _destroyed_meanwhile(home: Home, keys: Collection[Key]) -> dict[Key, datetime]:
    """Return what another run has proven and acknowledged, and when."""

    def work(connection: Connection) -> dict[Key, datetime]:
        rows = scope_store.by_id(connection, [scope for scope, tag in keys if not tag])
        marks = fenced_records.by_key(connection, [key for key in keys if key[1]])
        scopes = {(row.id, b""): row.destroyed_at for row in rows.values() if row.destroyed_at is not None}
        return scopes | {key: mark.destroyed_at for key, mark in marks.items() if mark.destroyed_at is not None}

    return home.database.read(work)


def _report_failure(run: _Run, connection: Connection, failed: Mapping[Key, KeyVaultError]) -> None:
    by_cause: dict[bytes, list[Key]] = defaultdict(list)
    for key in failed:
        by_cause[run.pending[key]].append(key)
    events = []
    for destroy_id, keys in by_cause.items():
        payload = {
            "destroy_id": b64(destroy_id),
            "fence": run.causes[destroy_id].fence_event,
            "erasure": run.erasure,
            "fenced_at": _instant(run.causes[destroy_id].fenced_at),
            "lease_bound": _instant(run.causes[destroy_id].lease_bound),
            "scopes": [b64(run.rows[scope].commitment) for scope in dict.fromkeys(scope for scope, _ in keys)],
            "records": [b64(tag) for _, tag in keys if tag],
            "errors": sorted({type(failed[key]).__name__ for key in keys}),
        }
        events.append(make_event(EventType.DESTROY_FAILED, payload, at=run.at))
    outbox.append(connection, events)


def _without_nulls(items: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    return {name: value for name, value in items if value is not None}


def _instant(moment: datetime | None) -> str | None:
    return None if moment is None else instant(moment)
