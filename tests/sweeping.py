"""Sweeps in tests: a clock that is told the time, subjects as facts leave them, and what is still live."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import pytest
import sqlalchemy as sa

import keyvault.home
from keyvault.home import Home
from keyvault.results import values_of
from keyvault.states import KeyState
from keyvault.store import scopes as scope_store
from keyvault.store.dialects import conflict_insert
from keyvault.store.tables import subjects
from keyvault.testing import ManualClock
from tests.homes import TestHome


class SimulatedManualClock(ManualClock):
    """A clock that stands still, of a home whose time is simulated: the database's clock does not count."""

    simulated = True


def told_the_time(patch: pytest.MonkeyPatch, now: datetime) -> SimulatedManualClock:
    """Let every home that is opened from here on take its time from the clock that is returned."""
    clock = SimulatedManualClock(now)
    patch.setattr(keyvault.home, "make_clock", lambda _settings: clock)
    return clock


def create(home: TestHome, *names: str) -> None:
    with home.vault() as vault:
        values_of(vault.ensure_scopes(names))


def put_subject(
    home: Home, kind: str, name: str, *, due_at: datetime | None, status: str = "closed", **columns: Any
) -> None:
    """Write what facts about a subject come to."""
    row = {
        "id": home.keys.pseudonym_of(kind, name),
        "kind": kind,
        "status": status,
        "due_at": due_at,
        "settled": False,
        **columns,
    }

    def work(connection: sa.Connection) -> None:
        statement = conflict_insert(connection, subjects).values(row)
        connection.execute(statement.on_conflict_do_update(index_elements=["id"], set_=row))

    home.database.write(work)


def states(home: Home, names: Iterable[str]) -> dict[str, KeyState]:
    """Return each scope's state by name."""
    lookups = {home.keys.lookup(name.encode()): name for name in names}
    rows = home.database.read(lambda connection: scope_store.newest_by_lookup(connection, list(lookups)))
    return {lookups[lookup]: row.state for lookup, row in rows.items()}


def live(home: Home, names: Iterable[str]) -> set[str]:
    """Return the names of the scopes that are neither fenced nor destroyed."""
    return {name for name, state in states(home, names).items() if state in {KeyState.ACTIVE, KeyState.SUSPENDED}}
