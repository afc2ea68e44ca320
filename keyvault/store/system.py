"""The one row that says what this store belongs to, the pause flag, and the heartbeats of its nodes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.errors import StoreError
from keyvault.scopes import REFUSED_PURPOSES, RefusedPurposes
from keyvault.store.dialects import Moment, conflict_insert
from keyvault.store.tables import heartbeats, system


@dataclass(frozen=True, kw_only=True, slots=True)
class PolicyRow:
    """The retention policy in force. `digest`: 32 bytes; `refused_purposes` has every kind, with what no policy may leave out."""

    version: str
    digest: bytes
    refused_purposes: RefusedPurposes


@dataclass(frozen=True, kw_only=True, slots=True)
class SystemRow:
    """Identity of the store. `check_values`: name of a system key → hex of its 16-byte check value.

    `policy`: None until one is recorded.
    """

    home_id: str
    incarnation: int
    check_values: Mapping[str, str]
    log_origin: str
    paused: bool = False
    policy: PolicyRow | None = None


def load(connection: Connection) -> SystemRow | None:
    """Return the row, or None in a store that `init` has not finished."""
    row = connection.execute(sa.select(system)).one_or_none()
    if row is None:
        return None
    return SystemRow(
        home_id=row.home_id,
        incarnation=row.incarnation,
        check_values=json.loads(row.check_values),
        log_origin=row.log_origin,
        paused=row.paused,
        policy=_read_policy(row.policy),
    )


def create(connection: Connection, row: SystemRow) -> None:
    """Write the row; `StoreError` when another `init` was faster."""
    if load(connection) is not None:
        raise StoreError("another `keyvault init` finished in this store meanwhile: run it again")
    connection.execute(
        sa.insert(system).values(
            id=1,
            home_id=row.home_id,
            incarnation=row.incarnation,
            check_values=json.dumps(dict(row.check_values), sort_keys=True),
            log_origin=row.log_origin,
            paused=row.paused,
        )
    )


def is_paused(connection: Connection, *, lock: bool = False) -> bool:
    """Return whether destructions are paused; `lock` keeps the answer true until the transaction ends."""
    query = sa.select(system.c.paused)
    return bool(connection.execute(query.with_for_update(read=True) if lock else query).scalar_one())


def set_paused(connection: Connection, *, paused: bool) -> bool:
    """Set the flag; return whether that changed it."""
    statement = sa.update(system).where(system.c.paused != paused).values(paused=paused)
    return connection.execute(statement).rowcount == 1


def policy(connection: Connection, *, lock: bool = False) -> PolicyRow | None:
    """Return the policy in force; `lock` keeps others from changing it until the transaction ends."""
    query = sa.select(system.c.policy)
    return _read_policy(connection.execute(query.with_for_update() if lock else query).scalar_one())


def set_policy(connection: Connection, row: PolicyRow) -> None:
    """Record the policy that is in force from now on."""
    refused = {str(kind): sorted(purposes) for kind, purposes in row.refused_purposes.items() if purposes}
    body = {"version": row.version, "digest": row.digest.hex(), "refused_purposes": refused}
    connection.execute(sa.update(system).values(policy=json.dumps(body, sort_keys=True)))


def _read_policy(text: str | None) -> PolicyRow | None:
    if text is None:
        return None
    try:
        body = json.loads(text)
        refused = body["refused_purposes"]
        return PolicyRow(
            version=body["version"],
            digest=bytes.fromhex(body["digest"]),
            refused_purposes={kind: least.union(refused.get(kind, ())) for kind, least in REFUSED_PURPOSES.items()},
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(
            "the policy in the table `system` is not what this program writes: restore the row, or the database, from a backup"
        ) from error


def trusted_at(connection: Connection) -> datetime | None:
    """Return the highest time that a sweep trusted, or None before the first."""
    moment: datetime | None = connection.execute(sa.select(system.c.trusted_at)).scalar_one()
    return moment


def trust(connection: Connection, at: datetime) -> None:
    """Remember a trusted time; never goes back."""
    later = system.c.trusted_at.is_(None) | (system.c.trusted_at < at)
    connection.execute(sa.update(system).where(later).values(trusted_at=at))


def beat(connection: Connection, node: str, at: Moment) -> None:
    """Commit a sign of life: an old primary that is cut off from its standby cannot."""
    statement = conflict_insert(connection, heartbeats).values(node=node, beat_at=at)
    connection.execute(statement.on_conflict_do_update(index_elements=["node"], set_={"beat_at": at}))
