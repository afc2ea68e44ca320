"""A store of an earlier revision is brought to the newest with everything that was in it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from keyvault.store import migrate, scopes
from keyvault.store.database import Database
from keyvault.store.tables import certificate_openings

SEALED = ["ring:1:AAECAwQ=", "vault:v1:/wD+", "embedded:v1:AAEC", None]

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
