"""Fencing anew what a run had fenced and erased when database and fence were lost before the fence had reached the log.

The engine, whose head is that of this very log, has no key of such a scope, although nothing in the log ends it. Left alive it would be an
alarm for ever, and its ring's next destruction would be refused. Fenced, the next run proves that the key is gone, and the log says so.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from functools import partial

from sqlalchemy.engine import Connection

from keyvault.events import MAX_SCOPES_PER_EVENT, EventType, Value, b64, make_event, new_event_id
from keyvault.store import destructions, outbox
from keyvault.store import scopes as scope_store
from keyvault.store.database import Database
from keyvault.store.destructions import Destruction
from keyvault.store.dialects import chunks
from keyvault.system_keys import SystemKeys

REASON = "database-lost"
TICKET = REQUESTED_BY = "rebuild"
DESTROY_ID_BYTES = 16


def fence_lost(database: Database, keys: SystemKeys, ids: Sequence[bytes], *, policy: str, now: datetime) -> None:
    """Fence these live scopes, at most 1,000 an event. Nobody approved it in this log: `approvals` is 0."""
    for some in chunks(sorted(ids), MAX_SCOPES_PER_EVENT):
        cause = Destruction(
            id=secrets.token_bytes(DESTROY_ID_BYTES),
            reason=REASON,
            ticket=keys.pseudonym_of("ticket", TICKET),
            requested_by=keys.pseudonym_of("person", REQUESTED_BY),
            fence_event=new_event_id(),
            created_at=now,
        )
        database.write(partial(_fence, ids=some, cause=cause, policy=policy))


def _fence(connection: Connection, *, ids: Sequence[bytes], cause: Destruction, policy: str) -> None:
    rows = scope_store.by_id(connection, ids)
    destructions.insert(connection, cause)
    scope_store.fence(connection, ids, cause.id)
    payload: dict[str, Value] = {
        "destroy_id": b64(cause.id),
        "reason": cause.reason,
        "ticket": b64(cause.ticket),
        "requested_by": b64(cause.requested_by),
        "approvals": 0,
        "approved_by": None,
        "request": None,
        "scopes": [b64(rows[scope].commitment) for scope in ids],
        "records": [],
    }
    event = make_event(
        EventType.DESTROY_FENCED, payload, at=cause.created_at, event_id=cause.fence_event, policy=policy
    )
    outbox.append(connection, [event])
