"""Leases with fencing tokens: who may work on something now. They let workers get on; safety never rests on one."""

from __future__ import annotations

import os
import socket
from datetime import UTC, datetime

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault.store.dialects import Moment, conflict_insert
from keyvault.store.tables import leases


def acquire(connection: Connection, name: str, *, now: Moment, until: Moment) -> int | None:
    """Take a lease that is free, has expired, or whose holder is dead; return its token, which grows with every holder, or None.

    `now` and `until` are the database's time.
    """
    token = _take(connection, name, until, leases.c.expires_at <= now)
    if token is not None:
        return token
    held: str | None = connection.execute(sa.select(leases.c.holder).where(leases.c.name == name)).scalar()
    if held is None or not _is_dead(held):
        return None
    return _take(connection, name, until, leases.c.holder == held)


def _take(connection: Connection, name: str, until: Moment, condition: sa.ColumnElement[bool]) -> int | None:
    """Write the lease, where there is one already only if the condition holds for it."""
    me = _holder(os.getpid())
    statement = conflict_insert(connection, leases).values(name=name, holder=me, token=1, expires_at=until)
    statement = statement.on_conflict_do_update(
        index_elements=["name"],
        set_={"holder": me, "token": leases.c.token + 1, "expires_at": until},
        where=condition,
    )
    token: int | None = connection.execute(statement.returning(leases.c.token)).scalar()
    return token


def renew(connection: Connection, name: str, token: int, *, until: Moment) -> bool:
    """Hold a lease for longer; False when it went to another holder meanwhile."""
    statement = sa.update(leases).where(leases.c.name == name, leases.c.token == token).values(expires_at=until)
    return connection.execute(statement).rowcount == 1


def release(connection: Connection, name: str, token: int, *, now: Moment) -> bool:
    """End a lease; False when it had expired and went to another holder meanwhile. Its token is never given out again."""
    statement = sa.update(leases).where(leases.c.name == name, leases.c.token == token).values(expires_at=now)
    return connection.execute(statement).rowcount == 1


def lock(connection: Connection, name: str) -> None:
    """Let whoever else calls this wait until the transaction ends, whoever has the lease, and if nobody ever had it."""
    never = datetime.fromtimestamp(0, UTC)
    row = conflict_insert(connection, leases).values(name=name, holder=_holder(0), token=0, expires_at=never)
    connection.execute(row.on_conflict_do_nothing())
    connection.execute(sa.select(leases.c.token).where(leases.c.name == name).with_for_update())


def _holder(pid: int) -> str:
    return f"{socket.gethostname()[:48]}/{pid}"


def _is_dead(holder: str) -> bool:
    """Tell whether a process of this machine is gone; of another machine's nobody knows."""
    pid = int(holder.rpartition("/")[2])
    if holder != _holder(pid):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
