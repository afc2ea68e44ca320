"""What SQLAlchemy spells differently for each database."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection


def conflict_insert(connection: Connection, table: sa.Table) -> Any:
    """Return an insert that has `on_conflict_do_nothing` and `on_conflict_do_update`; only the dialect in use is imported."""
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert(table)
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert(table)
