"""When no process can hold a destroyed key any more, and how long that is from now.

Clients and services answer with what they keep until the lease bound that evidence states. Ring states that services keep beside that
decide nothing, but a state that was read just before the key was taken out of it can be held for one lease from then.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.engine import Connection

from keyvault.home import Home
from keyvault.store import destructions, fenced_records
from keyvault.store import scopes as scope_store
from shredder.erase import Key
from shredder.fence import lease_allowance


@dataclass(frozen=True, kw_only=True, slots=True)
class LeaseBound:
    """The end of leases on destroyed keys.

    `lease_bound`: the latest that evidence states; from then on nobody answers with these keys. `until`: from then on no process of the
    service holds what they came from, either. `seconds`: from the moment of asking until that, by the database's clock; 0 if it has passed.
    """

    lease_bound: datetime
    until: datetime
    seconds: float


def bound_of(home: Home, keys: Collection[Key]) -> LeaseBound | None:
    """Return the bound of destroyed scopes (an empty tag) and records; None where one of them is not destroyed, or there is none."""

    def work(connection: Connection) -> tuple[list[tuple[datetime | None, datetime | None]], datetime]:
        rows = scope_store.by_id(connection, {scope for scope, tag in keys if not tag})
        marks = fenced_records.by_key(connection, [key for key in keys if key[1]])
        causes = destructions.by_id(connection, {mark.destroy_id for mark in marks.values() if mark.destroy_id})
        ends = [(row.lease_bound, row.destroyed_at) for row in rows.values()]
        ends += [(causes[mark.destroy_id or b""].lease_bound, mark.destroyed_at) for mark in marks.values()]
        return ends, home.clock.now() if home.clock.simulated else home.database.now(connection)

    ends, now = home.database.read(work)
    known = [(bound, gone) for bound, gone in ends if bound is not None and gone is not None]
    if not known or len(known) < len(set(keys)):
        return None
    bound = max(bound for bound, _ in known)
    until = max(bound, max(gone for _, gone in known) + lease_allowance(home))
    return LeaseBound(lease_bound=bound, until=until, seconds=max(0.0, (until - now).total_seconds()))
