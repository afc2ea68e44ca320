"""Homes in ring custody, for tests: what was created, sealed and destroyed in one, and what must open because of that."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from keyvault import KeyVault, OpenRequest, SealRequest
from keyvault.custody.ring_state import RingStates
from keyvault.errors import KeyVaultError
from keyvault.home import Home
from keyvault.results import values_of
from keyvault.settings import load_settings, write_settings
from keyvault.states import KeyState
from keyvault.store import outbox, system, tables
from keyvault.store import scopes as scope_store
from keyvault.store.scopes import ScopeRow
from shredder.destroy import Destroyer
from tests.homes import TestHome

MONTH = f"{datetime.now(UTC):%Y-%m}"
OLD_MONTH = f"{datetime.now(UTC).replace(day=1) - timedelta(days=1):%Y-%m}"
CAUSE: dict[str, Any] = {"ticket": "T-1", "requested_by": "tester"}


def month(account: str, period: str = MONTH) -> str:
    return f"communications/{account}/{period}"


def consumer(number: object) -> str:
    return f"consumer/acct-1/{number}"


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """An envelope under a scope, or under a record of it."""

    scope: str
    record: str | None
    envelope: bytes

    @property
    def content(self) -> bytes:
        return f"{self.scope} {self.record}".encode()


@dataclass(kw_only=True)
class Ledger:
    """What became of a home's scopes and records, as a test remembers it."""

    home: TestHome
    scopes: set[str] = field(default_factory=set)
    items: list[Sealed] = field(default_factory=list)
    gone: set[tuple[str, str | None]] = field(default_factory=set)

    def create(self, *scopes: str, records: Iterable[str] = ()) -> None:
        """Create scopes, and seal something under each, and under these records of each account-month."""
        with self.home.vault() as vault:
            self.items += filled(vault, scopes, records)
        self.scopes |= set(scopes)

    def shred(self, *scopes: str) -> None:
        with self.home.destroyer() as destroyer:
            shred(destroyer, *scopes)
        self.gone |= {(scope, None) for scope in scopes}

    def shred_records(self, scope: str, *records: str) -> None:
        with self.home.destroyer() as destroyer:
            shred_records(destroyer, scope, *records)
        self.gone |= {(scope, record) for record in records}

    def is_gone(self, item: Sealed) -> bool:
        return not {(item.scope, None), (item.scope, item.record)}.isdisjoint(self.gone)

    @property
    def left(self) -> list[Sealed]:
        return [item for item in self.items if not self.is_gone(item)]


def filled(vault: KeyVault, scopes: Sequence[str], records: Iterable[str] = ()) -> list[Sealed]:
    """Create scopes, and seal something under each of them and of their records."""
    values_of(vault.ensure_scopes(scopes))
    wanted: list[tuple[str, str | None]] = [(scope, None) for scope in scopes]
    wanted += [(scope, record) for record in records for scope in scopes if scope.startswith("communications/")]
    requests = [
        SealRequest(plaintext=f"{scope} {record}".encode(), scopes=(scope,), record=record) for scope, record in wanted
    ]
    return [
        Sealed(scope=scope, record=record, envelope=envelope)
        for (scope, record), envelope in zip(wanted, values_of(vault.seal_many(requests)), strict=True)
    ]


def shred(destroyer: Destroyer, *scopes: str) -> None:
    errors = [outcome.error for outcome in destroyer.destroy(scopes, **CAUSE)]
    assert errors == [None] * len(scopes)


def shred_records(destroyer: Destroyer, scope: str, *records: str) -> None:
    outcomes = destroyer.destroy_records(scope, records, **CAUSE)
    errors = [outcome.error for outcome in outcomes]
    assert errors == [None] * len(records)


def opened(home: TestHome, items: Sequence[Sealed]) -> list[bytes | KeyVaultError]:
    with home.vault() as vault:
        return vault.open_many([OpenRequest(envelope=item.envelope) for item in items])


def assert_open(home: TestHome, items: Sequence[Sealed]) -> None:
    assert opened(home, items) == [item.content for item in items]


def slots(home: Home) -> dict[tuple[bytes, int], bytes]:
    """Return the scope in each slot of each ring that the database knows of; no two are in one."""
    query = sa.select(tables.scopes.c.ring_id, tables.scopes.c.slot, tables.scopes.c.id)
    rows = home.database.read(lambda connection: connection.execute(query).all())
    found = {(row.ring_id, row.slot): row.id for row in rows}
    assert len(found) == len(rows)
    return found


def revive(home: Home) -> None:
    """Do to a database what a thief would: everything is active, nothing was ever destroyed."""

    def work(connection: Connection) -> None:
        connection.execute(sa.update(tables.scopes).values(state=str(KeyState.ACTIVE), destroyed_at=None))
        connection.execute(sa.delete(tables.fenced_records))
        connection.execute(
            sa.update(tables.rings).values(
                dict.fromkeys(("epoch", "highest_version"), 0)
                | dict.fromkeys(("destroyed_at", "closed_at", "slots_fenced_at", "slots_destroyed_at"))
            )
        )

    home.database.write(work)


def told(home: Home, event_type: str, members: str) -> Counter[str]:
    """Return how often the events of a type name each of their `scopes` or `records`."""
    events = [json.loads(body) for _, body in home.database.read(lambda c: outbox.bodies(c, limit=100_000))]
    return Counter(member for event in events if event["type"] == event_type for member in event[members])


def with_capacity(home: TestHome, capacity: int) -> TestHome:
    """Let the home's new rings take so many scopes."""
    write_settings(home.path, replace(load_settings(home.path, {}), ring_capacity=capacity))
    return home


def states_of(home: Home) -> RingStates:
    row = home.database.read(system.load)
    assert row is not None
    return RingStates(home.engine, row.incarnation)


def row_of(home: Home, name: str) -> ScopeRow:
    lookup = home.keys.lookup(name.encode())
    return home.database.read(lambda c: scope_store.newest_by_lookup(c, [lookup]))[lookup]


def scope_share(home: Home, name: str) -> bytes:
    """Return the share that the ring's stored state gives for a scope; raises `PuncturedError` where it gives none."""
    row = row_of(home, name)
    node = states_of(home).load(row.ring_id or b"").state.derive(row.slot or 0)
    return bytes(node.share(row.id))
