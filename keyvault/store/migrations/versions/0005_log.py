"""What is in the log: which creations are not yet, and how far its checkpoint is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.create_table(
        "unlogged_creations",
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_event", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("created_at", "last_event", name="pk_unlogged_creations"),
    )
    op.execute("CREATE INDEX ix_outbox_unlogged ON outbox (id) WHERE leaf_index IS NULL")
    op.add_column("system", sa.Column("log_size", sa.BigInteger(), server_default="0", nullable=False))
