"""A store of an earlier revision is brought to the newest with everything that was in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from keyvault.states import KeyState
from keyvault.store import groups, migrate, scopes
from keyvault.store.database import Database
from keyvault.store.tables import certificate_openings

SEALED = ["ring:1:AAECAwQ=", "vault:v1:/wD+", "embedded:v1:AAEC", None]

NOW = datetime(2026, 11, 30, 9, tzinfo=UTC)
DESTROY_ID = b"d" * 16
DESTRUCTION = sa.text(
    "INSERT INTO destructions (id, reason, ticket, requested_by, fence_event, created_at) "
    "VALUES (:id, 'x', :id, :id, 'e', CURRENT_TIMESTAMP)"
)
OPENING = sa.text(
    "INSERT INTO certificate_openings (scope_id, sealed, expires_at) VALUES (:id, :id, CURRENT_TIMESTAMP)"
)
SCOPE = sa.text(
    "INSERT INTO scopes (id, generation, custody, kind, lookup, commitment, sealed_name, state, created_at, fenced_at, lease_bound, "
    "destroy_id) VALUES (:id, 1, 1, 'consumer', :id, :id, :sealed, 'deactivated', CURRENT_TIMESTAMP, '2026-11-23 21:48:24+00:00', "
    "'2026-11-23 21:49:29+00:00', :destroy_id)"
)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    if request.param == "postgresql":
        url = request.getfixturevalue("postgres_url")
    with closing(Database(url, create=True)) as made:
        yield made


def upgrade_to(database: Database, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(migrate.__file__).parent / "migrations"))

    def work(connection: sa.Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    database.write(work)


def test_sealed_names_and_fences_of_the_first_revision_are_kept(database: Database) -> None:
    upgrade_to(database, "0001")
    ids = [bytes([number]) * 16 for number in range(len(SEALED))]

    def fill(connection: sa.Connection) -> None:
        connection.execute(DESTRUCTION, {"id": DESTROY_ID})
        for scope_id, sealed in zip(ids, SEALED, strict=True):
            connection.execute(SCOPE, {"id": scope_id, "sealed": sealed, "destroy_id": DESTROY_ID})

    database.write(fill)
    migrate.migrate(database)
    rows = database.read(lambda connection: scopes.by_id(connection, ids))
    assert [rows[scope_id].sealed_name for scope_id in ids] == SEALED
    assert {(str(row.fenced_at), str(row.lease_bound)) for row in rows.values()} == {
        ("2026-11-23 21:48:24+00:00", "2026-11-23 21:49:29+00:00")
    }


def test_openings_of_the_second_revision_are_kept_and_need_no_row_beside_them(database: Database) -> None:
    upgrade_to(database, "0001")
    scope_id, other = b"s" * 16, b"o" * 16

    def fill(connection: sa.Connection) -> None:
        connection.execute(DESTRUCTION, {"id": DESTROY_ID})
        connection.execute(SCOPE, {"id": scope_id, "sealed": None, "destroy_id": DESTROY_ID})
        connection.execute(OPENING, {"id": scope_id})

    database.write(fill)
    upgrade_to(database, "0002")
    migrate.migrate(database)
    database.write(lambda connection: connection.execute(OPENING, {"id": other}))
    kept = database.read(
        lambda connection: connection.execute(sa.select(certificate_openings.c.scope_id)).scalars().all()
    )
    assert set(kept) == {scope_id, other}


OF_THE_FIFTH = sa.text(
    "INSERT INTO scopes (id, generation, custody, kind, lookup, commitment, sealed_name, state, created_at, due_at, destroyed_at, destroy_id) "
    "VALUES (:id, 1, 1, 'consumer', :id, :id, NULL, :state, CURRENT_TIMESTAMP, CURRENT_TIMESTAMP, :destroyed_at, :destroy_id)"
)


def test_states_of_the_fifth_revision_are_kept_and_names_stay_taken(database: Database) -> None:
    upgrade_to(database, "0005")
    known = ["active", "suspended", "deactivated", "destroyed"]
    ids = {state: bytes([number]) * 16 for number, state in enumerate(known)}

    def fill(connection: sa.Connection) -> None:
        connection.execute(DESTRUCTION, {"id": DESTROY_ID})
        for state, scope_id in ids.items():
            ended = state in {"deactivated", "destroyed"}
            connection.execute(
                OF_THE_FIFTH,
                {
                    "id": scope_id,
                    "state": state,
                    "destroyed_at": "2026-11-23 21:48:24+00:00" if state == "destroyed" else None,
                    "destroy_id": DESTROY_ID if ended else None,
                },
            )

    database.write(fill)
    migrate.migrate(database)
    rows = database.read(lambda connection: scopes.newest_by_lookup(connection, ids.values()))
    assert {str(rows[scope_id].state): scope_id for scope_id in ids.values()} == ids
    assert database.read(scopes.awaiting_destruction) == [ids["deactivated"]]
    again = [row._replace(id=bytes(15) + row.id[:1], ring_epoch=0) for row in rows.values()]
    assert database.write(lambda connection: scopes.insert_new(connection, again)) == set(), "every name is taken"


def test_a_destruction_of_the_sixth_revision_that_is_half_acknowledged_is_ended_scope_by_scope(
    database: Database,
) -> None:
    upgrade_to(database, "0006")
    done, pending = bytes([1]) * 16, bytes([2]) * 16
    ended = {"destroy_id": DESTROY_ID, "destroyed_at": "2026-11-23 21:48:24+00:00"}

    def fill(connection: sa.Connection) -> None:
        connection.execute(DESTRUCTION, {"id": DESTROY_ID})
        connection.execute(OF_THE_FIFTH, {"id": done, "state": "destroyed", **ended})
        connection.execute(OF_THE_FIFTH, {"id": pending, "state": "deactivated", **ended, "destroyed_at": None})

    database.write(fill)
    migrate.migrate(database)
    for proven in (1, 2):
        at_once = partial(groups.acknowledge, proven={DESTROY_ID: proven}, at=NOW, horizon=NOW)
        assert database.write(at_once) == set(), "no row speaks for scopes that were fenced before rows did"
    database.write(partial(groups.part, destroy_ids=[DESTROY_ID]))
    one_by_one = partial(scopes.acknowledge, destroy_ids=[DESTROY_ID], people=[], at=NOW, horizon=NOW)
    assert database.write(partial(one_by_one, ids=[done, pending])) == {pending}
    rows = database.read(partial(scopes.by_id, ids=[done, pending]))
    assert {row.state for row in rows.values()} == {KeyState.DESTROYED}
    assert rows[done].destroyed_at != rows[pending].destroyed_at == NOW
