"""Bringing a database to the newest revision. There is no way back: an older program refuses a newer database."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy.engine import Connection

from keyvault.errors import StoreVersionError
from keyvault.store.database import Database


def migrate(database: Database) -> None:
    """Run the revisions that are missing, all in one transaction. `StoreVersionError` for a database from a newer program."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))

    def upgrade(connection: Connection) -> None:
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            raise StoreVersionError(f"the database cannot be migrated by this program: {error}") from error

    database.write(upgrade)
