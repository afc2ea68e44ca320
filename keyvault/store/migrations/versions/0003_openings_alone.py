"""Openings for certificates without a foreign key: a fence writes them beside their scopes, which are never deleted."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    # SQLite copies this table for it: what was fenced in the last 90 days.
    with op.batch_alter_table("certificate_openings") as table:
        table.drop_constraint("fk_certificate_openings_scope_id", type_="foreignkey")
