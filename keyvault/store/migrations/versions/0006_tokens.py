"""Tokens of the service, and what it hears of endings by."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.create_table(
        "tokens",
        sa.Column("id", sa.LargeBinary(16), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("role", sa.String(12), nullable=False),
        sa.Column("secret_hash", sa.LargeBinary(32), nullable=False),
        sa.Column("owner", sa.LargeBinary(32), nullable=False),
        sa.Column("limits", sa.Text(), nullable=True),
        sa.Column("rate", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_tokens"),
    )
    for table, column, name, where in ENDINGS:
        op.execute(f"CREATE INDEX {name} ON {table} ({column}) WHERE {where}")


ENDINGS = (
    ("scopes", "destroy_id", "ix_scopes_destroyed", "state = 'destroyed'"),
    ("fenced_records", "destroy_id", "ix_fenced_records_destroyed", "state = 'destroyed'"),
    (
        "outbox",
        "id",
        "ix_outbox_ending",
        "type IN ('destroy.fenced', 'key.destroyed', 'record.destroyed', 'scope.suspended', 'record.suspended')",
    ),
)
"""Indexes by which services hear at once of what others end."""
