"""Steps 2 to 4 of the destruction protocol: erase, prove, acknowledge. Every step can be repeated by any run.

"Destroyed" is written only for scopes and records whose proof is at hand, in the same transaction as the event that states it. All
calls to the engine of one run carry the run's *erasure* id, which the events name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from importlib.metadata import version
from typing import NamedTuple

from sqlalchemy.engine import Connection

from keyvault.custody.base import Proof, Target
from keyvault.custody.former import former
from keyvault.errors import KeyVaultError, NotProvenError
from keyvault.events import EventType, Value, b64, instant, make_event, new_event_id
from keyvault.home import Home
from keyvault.scopes import KIND_RULES
from keyvault.states import Action, KeyState, apply
from keyvault.store import destructions, fenced_records, outbox
from keyvault.store import scopes as scope_store
from keyvault.store.destructions import Destruction
from keyvault.store.fenced_records import RecordRow
from keyvault.store.scopes import ScopeRow
from keyvault.transit.base import audit_event
from keyvault.wrapped import CustodyCode
from shredder.fence import BACKUP_HORIZON, lease_allowance, stamp

TOOL = "keyvault-shredder"

Key = tuple[bytes, bytes]
"""A scope's id, and a record's tag in it, or none: `Target.key`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
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


def finish(home: Home, pending: Mapping[Key, bytes], rows: Mapping[bytes, ScopeRow]) -> list[Outcome]:
    """Erase, prove and acknowledge what is fenced; `pending` gives the id of each one's destruction, `rows` the scopes by id."""
    ids = set(pending.values())
    causes = home.database.read(lambda connection: destructions.by_id(connection, sorted(ids)))
    stamp(home, ids)
    erasure = new_event_id()
    with audit_event(erasure):
        proofs = _destroy(home, [Target(rows[scope], tag) for scope, tag in pending])
    run = _Run(home=home, causes=causes, erasure=erasure, at=home.clock.now())
    proven = {key: proof for key, proof in proofs.items() if isinstance(proof, Proof)}
    failed = {key: error for key, error in proofs.items() if isinstance(error, KeyVaultError)}
    done = home.database.write(lambda connection: _acknowledge(run, connection, proven))
    if failed:
        done |= _destroyed_meanwhile(home, failed)
        failed = {key: error for key, error in failed.items() if key not in done}
        home.database.write(lambda connection: _report_failure(run, connection, failed, pending, rows))
    return [
        Outcome(scope_id=key[0], record_tag=key[1], error=failed[key])
        if key in failed
        else Outcome(scope_id=key[0], record_tag=key[1], at=done[key])
        for key in pending
    ]


def _destroy(home: Home, targets: Sequence[Target]) -> dict[Key, Proof | KeyVaultError]:
    unknown = NotProvenError("the scope's custody is not available in this home")
    proofs: dict[Key, Proof | KeyVaultError] = {target.key: unknown for target in targets}
    for code, custody in home.custodies.items():
        some = [target for target in targets if target.row.custody == code]
        proofs |= zip([target.key for target in some], custody.destroy(some), strict=True)
    return proofs | _destroy_former(home, targets, proofs)


def _destroy_former(
    home: Home, targets: Sequence[Target], proofs: Mapping[Key, Proof | KeyVaultError]
) -> dict[Key, Proof | KeyVaultError]:
    """Destroy the keys that scopes had before they were moved; what is proven of such a scope is that both its keys are gone."""
    moved = {target.key: row for target in targets if not target.record_tag and (row := former(target.row)) is not None}
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
    return _acknowledge_scopes(run, connection, proven) | _acknowledge_records(run, connection, proven)


def _acknowledge_scopes(run: _Run, connection: Connection, proven: Mapping[Key, Proof]) -> dict[Key, datetime]:
    locked = scope_store.by_id(connection, [scope for scope, tag in proven if not tag], lock=True)
    mine = [row for row in locked.values() if row.state is KeyState.DEACTIVATED]
    target = apply(KeyState.DEACTIVATED, Action.ACKNOWLEDGE)
    gone = {"sealed_name": None, "destroyed_at": run.at, "horizon": run.at + BACKUP_HORIZON}
    people = [row.id for row in mine if KIND_RULES[row.kind].names_person]
    others = [row.id for row in mine if not KIND_RULES[row.kind].names_person]
    scope_store.change_state(connection, people, before=[KeyState.DEACTIVATED], after=target, salt=None, **gone)
    scope_store.change_state(connection, others, before=[KeyState.DEACTIVATED], after=target, **gone)
    groups: dict[_Group, list[ScopeRow]] = defaultdict(list)
    for row in mine:
        groups[_Group(row.destroy_id or b"", proven[row.id, b""])].append(row)
    events = []
    for group, members in groups.items():
        payload = {
            **_evidence(run, group, members),
            "scopes": [b64(row.commitment) for row in members],
            "fenced_at": _latest(row.fenced_at for row in members),
            "lease_bound": _latest(row.lease_bound for row in members),
        }
        events.append(make_event(EventType.KEY_DESTROYED, payload, at=run.at))
    outbox.append(connection, events)
    earlier = {(row.id, b""): row.destroyed_at for row in locked.values() if row.destroyed_at is not None}
    return earlier | {(row.id, b""): run.at for row in mine}


def _acknowledge_records(run: _Run, connection: Connection, proven: Mapping[Key, Proof]) -> dict[Key, datetime]:
    locked = fenced_records.by_key(connection, [key for key in proven if key[1]], lock=True)
    mine = [mark for mark in locked.values() if mark.state is KeyState.DEACTIVATED]
    fenced_records.acknowledge(connection, [mark.key for mark in mine], at=run.at)
    scopes = scope_store.by_id(connection, {mark.scope_id for mark in mine})
    groups: dict[_Group, list[RecordRow]] = defaultdict(list)
    for mark in mine:
        groups[_Group(mark.destroy_id or b"", proven[mark.key], mark.scope_id)].append(mark)
    events = []
    for group, members in groups.items():
        row = scopes[members[0].scope_id]
        fenced = [mark.fenced_at for mark in members if mark.fenced_at is not None]
        payload = {
            **_evidence(run, group, [row]),
            "scope": b64(row.commitment),
            "records": [b64(mark.tag) for mark in members],
            "fenced_at": _latest(fenced),
            "lease_bound": _latest(moment + lease_allowance(run.home) for moment in fenced),
        }
        events.append(make_event(EventType.RECORD_DESTROYED, payload, at=run.at))
    outbox.append(connection, events)
    earlier = {mark.key: mark.destroyed_at for mark in locked.values() if mark.destroyed_at is not None}
    return earlier | {mark.key: run.at for mark in mine}


def _evidence(run: _Run, group: _Group, rows: Sequence[ScopeRow]) -> dict[str, Value]:
    return {
        "destroy_id": b64(group.destroy_id),
        "fence": run.causes[group.destroy_id].fence_event,
        "erasure": run.erasure,
        "horizon": instant(run.at + BACKUP_HORIZON),
        "custody": sorted({run.home.custodies[row.custody].name for row in rows}),
        "engine": run.home.engine.kind,
        "proof": asdict(group.proof, dict_factory=_without_nulls),
        "tool": f"{TOOL} {version(TOOL)}",
    }


# --- what is left ---------------------------------------------------------------------------------------------------


def _destroyed_meanwhile(home: Home, failed: Mapping[Key, KeyVaultError]) -> dict[Key, datetime]:
    """Return what another run has proven and acknowledged meanwhile, and when."""

    def work(connection: Connection) -> dict[Key, datetime]:
        rows = scope_store.by_id(connection, [scope for scope, tag in failed if not tag])
        marks = fenced_records.by_key(connection, [key for key in failed if key[1]])
        scopes = {(row.id, b""): row.destroyed_at for row in rows.values() if row.destroyed_at is not None}
        return scopes | {key: mark.destroyed_at for key, mark in marks.items() if mark.destroyed_at is not None}

    return home.database.read(work)


def _report_failure(
    run: _Run,
    connection: Connection,
    failed: Mapping[Key, KeyVaultError],
    pending: Mapping[Key, bytes],
    rows: Mapping[bytes, ScopeRow],
) -> None:
    groups: dict[bytes, list[Key]] = defaultdict(list)
    for key in failed:
        groups[pending[key]].append(key)
    events = []
    for destroy_id, keys in groups.items():
        payload = {
            "destroy_id": b64(destroy_id),
            "fence": run.causes[destroy_id].fence_event,
            "erasure": run.erasure,
            "scopes": [b64(rows[scope].commitment) for scope in dict.fromkeys(scope for scope, _ in keys)],
            "records": [b64(tag) for _, tag in keys if tag],
            "errors": sorted({type(failed[key]).__name__ for key in keys}),
        }
        events.append(make_event(EventType.DESTROY_FAILED, payload, at=run.at))
    outbox.append(connection, events)


def _without_nulls(items: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    return {name: value for name, value in items if value is not None}


def _latest(moments: Iterable[datetime | None]) -> str | None:
    known = [moment for moment in moments if moment is not None]
    return instant(max(known)) if known else None
