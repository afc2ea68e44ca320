"""Steps 2 to 4 of the destruction protocol: erase, prove, acknowledge. Every step can be repeated by any run.

"Destroyed" is written only for scopes whose proof is at hand, in the same transaction as the event that states it.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from importlib.metadata import version

from sqlalchemy.engine import Connection

from keyvault.custody.base import Proof
from keyvault.errors import KeyVaultError, NotProvenError, PermissionDeniedError, Unavailable
from keyvault.events import EventType, b64, instant, make_event
from keyvault.home import Home
from keyvault.scopes import KIND_RULES
from keyvault.states import Action, KeyState, apply
from keyvault.store import outbox
from keyvault.store import scopes as scope_store
from keyvault.store.destructions import Destruction
from keyvault.store.scopes import ScopeRow
from keyvault.transit.base import audit_event
from shredder.fence import BACKUP_HORIZON, stamp

TOOL = "keyvault-shredder"
ATTEMPTS = 3
PAUSE_SECONDS = 0.05
"""Between attempts: another run may have been between re-creating an interrupted deletion's key and deleting it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What became of one fenced scope: destroyed at `at`, or still pending because of `error`."""

    scope_id: bytes
    at: datetime | None = None
    error: KeyVaultError | None = None


def finish(home: Home, destruction: Destruction, rows: Sequence[ScopeRow]) -> list[Outcome]:
    """Erase, prove and acknowledge fenced scopes of one destruction (at most 1,000)."""
    stamp(home, destruction.id)
    with audit_event(destruction.fence_event):
        proofs = _erase_and_prove(home, rows)
    proven = {row.id: proof for row in rows if isinstance(proof := proofs[row.id], Proof)}
    failed = {row.id: proof for row in rows if isinstance(proof := proofs[row.id], KeyVaultError)}
    at = home.clock.now()
    acknowledged = home.database.write(lambda connection: _acknowledge(home, connection, destruction, proven, at))
    if failed:
        acknowledged |= _destroyed_meanwhile(home, failed)
        failed = {scope: error for scope, error in failed.items() if scope not in acknowledged}
        home.database.write(lambda connection: _report_failure(connection, destruction, rows, failed, at))
    return [
        Outcome(scope_id=row.id, error=failed[row.id])
        if row.id in failed
        else Outcome(scope_id=row.id, at=acknowledged[row.id])
        for row in rows
    ]


def _erase_and_prove(home: Home, rows: Sequence[ScopeRow]) -> dict[bytes, Proof | KeyVaultError]:
    proofs: dict[bytes, Proof | KeyVaultError] = {}
    for attempt in range(ATTEMPTS):
        left = [row for row in rows if not isinstance(proofs.get(row.id), Proof)]
        if not left or not _worth_another(proofs):
            break
        if attempt:
            time.sleep(PAUSE_SECONDS * attempt)
        for code, custody in home.custodies.items():
            some = [row for row in left if row.custody == code]
            # Always before the proof: an engine calls the key of an interrupted deletion absent while its archive is there.
            erased = custody.erase(some)
            for row, done, proof in zip(some, erased, custody.prove(some), strict=True):
                # A deletion that failed may have left the archive, and no proof can see that.
                proofs[row.id] = proof if done is None else done
    unknown = NotProvenError("the scope's custody is not available in this home")
    return {row.id: proofs.get(row.id, unknown) for row in rows}


def _worth_another(proofs: Mapping[bytes, Proof | KeyVaultError]) -> bool:
    """Try again where another run may have stood in the way; not where the engine is down or the role may not."""
    hopeless = (Proof, Unavailable, PermissionDeniedError)
    return not proofs or any(not isinstance(proof, hopeless) for proof in proofs.values())


def _acknowledge(
    home: Home, connection: Connection, destruction: Destruction, proven: Mapping[bytes, Proof], at: datetime
) -> dict[bytes, datetime]:
    """Mark as destroyed what no other run has marked, with one event; return when each was destroyed."""
    locked = scope_store.by_id(connection, proven, lock=True)
    mine = [row for row in locked.values() if row.state is KeyState.DEACTIVATED]
    earlier = {row.id: row.destroyed_at for row in locked.values() if row.destroyed_at is not None}
    if not mine:
        return earlier
    target = apply(KeyState.DEACTIVATED, Action.ACKNOWLEDGE)
    horizon = at + BACKUP_HORIZON
    gone = {"sealed_name": None, "destroyed_at": at, "horizon": horizon}
    people = [row.id for row in mine if KIND_RULES[row.kind].names_person]
    others = [row.id for row in mine if not KIND_RULES[row.kind].names_person]
    scope_store.change_state(connection, people, before=[KeyState.DEACTIVATED], after=target, salt=None, **gone)
    scope_store.change_state(connection, others, before=[KeyState.DEACTIVATED], after=target, **gone)
    (proof,) = {proven[row.id] for row in mine}  # one custody proves in one way
    payload = {
        "destroy_id": b64(destruction.id),
        "fence": destruction.fence_event,
        "scopes": [b64(row.commitment) for row in mine],
        "fenced_at": _bound(row.fenced_at for row in mine),
        "lease_bound": _bound(row.lease_bound for row in mine),
        "horizon": instant(horizon),
        "custody": sorted({home.custodies[row.custody].name for row in mine}),
        "engine": home.engine.kind,
        "proof": asdict(proof),
        "tool": f"{TOOL} {version(TOOL)}",
    }
    outbox.append(connection, [make_event(EventType.KEY_DESTROYED, payload, at=at)])
    return earlier | {row.id: at for row in mine}


def _destroyed_meanwhile(home: Home, failed: Mapping[bytes, KeyVaultError]) -> dict[bytes, datetime]:
    """Return what another run has proven and acknowledged meanwhile, and when."""
    rows = home.database.read(lambda connection: scope_store.by_id(connection, failed))
    return {row.id: row.destroyed_at for row in rows.values() if row.destroyed_at is not None}


def _report_failure(
    connection: Connection,
    destruction: Destruction,
    rows: Sequence[ScopeRow],
    failed: Mapping[bytes, KeyVaultError],
    at: datetime,
) -> None:
    if not failed:
        return
    payload = {
        "destroy_id": b64(destruction.id),
        "fence": destruction.fence_event,
        "scopes": [b64(row.commitment) for row in rows if row.id in failed],
        "errors": sorted({type(error).__name__ for error in failed.values()}),
    }
    outbox.append(connection, [make_event(EventType.DESTROY_FAILED, payload, at=at)])


def _bound(moments: Iterable[datetime | None]) -> str | None:
    known = [moment for moment in moments if moment is not None]
    return instant(max(known)) if known else None
