"""A server that must wait for a standby which does not answer: nothing rests on a commit that it did not confirm (design, G3)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from keyvault import KeyVault
from keyvault.custody.ring_reading import RingReader
from keyvault.errors import Unavailable
from keyvault.home import Home
from keyvault.results import values_of
from keyvault.states import KeyState
from keyvault.store import outbox
from keyvault.store import scopes as scope_store
from keyvault.store.database import Database
from keyvault.store.scopes import ScopeRow
from keyvault.store.tables import heartbeats
from shredder.destroy import Destroyer
from tests.homes import TestHome, embedded_home
from tests.servers import PostgresServer, running_postgres
from tests.servers.postgres import libpq_url

NAME, OTHER = "consumer/acct-1/one", "consumer/acct-1/two"
WAITING = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
MESSAGE = r"^the standby did not confirm the commit: nothing may rest on it yet; try again$"


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """A server of this module's own, whose configuration it may change."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, server: PostgresServer, custody: str) -> TestHome:
    home = embedded_home(tmp_path, store_url=server.create_database(), custody=custody)
    with home.vault() as vault:
        values_of(vault.ensure_scopes([NAME, OTHER]))
    return home


@contextlib.contextmanager
def missing_standby(server: PostgresServer) -> Iterator[None]:
    """Let the server wait for a standby that does not exist, and somebody cancel every wait."""
    with psycopg.connect(libpq_url(server.url), autocommit=True) as administrator:
        _require_standby(administrator, "'nobody'")
        stop = Event()
        canceller = Thread(target=_cancel_waits, args=(server, stop))
        canceller.start()
        try:
            yield
        finally:
            stop.set()
            canceller.join()
            _require_standby(administrator, "''")


def _require_standby(administrator: psycopg.Connection[tuple[object, ...]], names: str) -> None:
    administrator.execute(f"ALTER SYSTEM SET synchronous_standby_names = {names}".encode())
    administrator.execute("SELECT pg_reload_conf()")
    shown: tuple[object, ...] | None = None
    while shown != (names.strip("'"),):
        shown = administrator.execute("SHOW synchronous_standby_names").fetchone()


def _cancel_waits(server: PostgresServer, stop: Event) -> None:
    with psycopg.connect(libpq_url(server.url), autocommit=True) as connection:
        while not stop.wait(0.02):
            for (pid,) in connection.execute(WAITING).fetchall():
                connection.execute("SELECT pg_cancel_backend(%s)", (pid,))


def row_of(home: Home, name: str) -> ScopeRow:
    lookup = home.keys.lookup(name.encode())
    return home.database.read(lambda c: scope_store.newest_by_lookup(c, [lookup]))[lookup]


def has_key(home: Home, row: ScopeRow) -> bool:
    if row.ring_id is None:
        return row.key_ref in home.engine.list_keys()
    state = RingReader(home.engine, 1).load(row.ring_id).state
    return row.slot not in state.punctured


def event_types(home: Home) -> list[str]:
    events = home.database.read(lambda c: outbox.bodies(c, limit=1000))
    return [kind for kind in ("destroy.fenced", "key.destroyed") if any(kind.encode() in body for _, body in events)]


def test_a_commit_that_the_standby_did_not_confirm_is_none(server: PostgresServer) -> None:
    database = Database(server.create_database())
    database.write(lambda connection: connection.execute(sa.text("CREATE TABLE t (n INTEGER)")))
    insert = sa.text("INSERT INTO t VALUES (1)")
    with missing_standby(server):
        for _ in range(2):
            with pytest.raises(Unavailable, match=MESSAGE):
                database.write(lambda connection: connection.execute(insert))
    database.write(lambda connection: connection.execute(insert))
    assert database.read(lambda connection: connection.execute(sa.text("SELECT count(*) FROM t")).scalar()) == 3
    database.close()


def test_a_fence_that_the_standby_did_not_confirm_erases_nothing(server: PostgresServer, home: TestHome) -> None:
    with home.opened() as opened:
        destroyer = Destroyer(opened)
        with missing_standby(server):
            with pytest.raises(Unavailable, match=MESSAGE):
                destroyer.destroy([NAME], ticket="T-1", requested_by="tester")
            row = row_of(opened, NAME)
            assert row.state is not KeyState.DESTROYED
            assert has_key(opened, row)
            assert "key.destroyed" not in event_types(opened)
        assert [outcome.error for outcome in destroyer.finish_pending()] in ([], [None])
        assert destroyer.destroy([NAME], ticket="T-1", requested_by="tester")[0].error is None
        assert row_of(opened, NAME).state is KeyState.DESTROYED
        assert not has_key(opened, row)
        assert event_types(opened) == ["destroy.fenced", "key.destroyed"]


def test_trying_again_does_not_make_a_fence_of_it(server: PostgresServer, home: TestHome) -> None:
    """The rows are there from the first attempt on, but no standby has them: a new primary would know nothing of the fence."""
    with home.opened() as opened:
        destroyer = Destroyer(opened)
        with missing_standby(server):
            for _ in range(4):
                with pytest.raises(Unavailable, match=MESSAGE):
                    destroyer.destroy([NAME], ticket="T-1", requested_by="tester")
                assert has_key(opened, row_of(opened, NAME)), "the key was erased behind a fence that no standby has"
        assert destroyer.destroy([NAME], ticket="T-1", requested_by="tester")[0].error is None


def test_trying_again_does_not_make_an_acknowledgement_of_it(
    server: PostgresServer, home: TestHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with home.opened() as opened, contextlib.ExitStack() as outage:
        destroyer = Destroyer(opened)
        kills = "delete_keys" if opened.custody.name == "dedicated" else "trim"
        kill = getattr(opened.engine, kills)

        def last(*args: Any, **kwargs: Any) -> Any:
            """The standby goes when the key is erased: what is committed from then on is the first that it does not confirm."""
            result = kill(*args, **kwargs)
            monkeypatch.undo()
            outage.enter_context(missing_standby(server))
            return result

        monkeypatch.setattr(opened.engine, kills, last)
        with pytest.raises(Unavailable, match=MESSAGE):
            destroyer.destroy([NAME], ticket="T-1", requested_by="tester")
        with pytest.raises(Unavailable, match=MESSAGE):
            destroyer.destroy([NAME], ticket="T-1", requested_by="tester")
        outage.close()
        assert destroyer.destroy([NAME], ticket="T-1", requested_by="tester")[0].error is None
        assert row_of(opened, NAME).state is KeyState.DESTROYED


def test_no_key_is_issued_on_a_heartbeat_that_the_standby_did_not_confirm(
    server: PostgresServer, home: TestHome
) -> None:
    with home.opened("issuer") as opened:
        with missing_standby(server), pytest.raises(Unavailable, match=MESSAGE):
            KeyVault(opened).seal(b"x", [OTHER])
        vault = KeyVault(opened)
        assert vault.open(vault.seal(b"x", [OTHER])) == b"x"
        beats = opened.database.read(lambda c: [row.node for row in c.execute(sa.select(heartbeats))])
        assert beats == [opened.node]
