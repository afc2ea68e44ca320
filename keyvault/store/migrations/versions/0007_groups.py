"""Scopes that are destroyed together, and acknowledged by one row: that of their destruction."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

LIVE = "state IN ('active', 'suspended')"
ENDED = "state NOT IN ('active', 'suspended')"
HASHED = f"ALTER TABLE scopes ADD CONSTRAINT uq_scopes_live_lookup EXCLUDE USING hash (lookup WITH =) WHERE ({LIVE})"


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.add_column("destructions", sa.Column("scopes", sa.Integer(), nullable=True))
    for column in ("destroyed_at", "horizon"):
        op.add_column("destructions", sa.Column(column, sa.DateTime(timezone=True), nullable=True))
    op.add_column("scopes", sa.Column("grouped", sa.Boolean(), nullable=True))
    op.execute("CREATE INDEX ix_destructions_grouped ON destructions (horizon) WHERE scopes IS NOT NULL")
    op.execute("CREATE INDEX ix_scopes_grouped ON scopes (destroy_id) WHERE grouped IS NOT NULL")
    for name in ("ix_scopes_pending", "ix_scopes_due_at"):
        op.drop_index(name, "scopes")
    op.execute("CREATE INDEX ix_scopes_pending ON scopes (destroy_id) WHERE state = 'deactivated' AND grouped IS NULL")
    op.execute(f"CREATE INDEX ix_scopes_due_at ON scopes (due_at) WHERE due_at IS NOT NULL AND {LIVE}")
    _keep_lookups_apart()


def _keep_lookups_apart() -> None:
    """Let a fence take a row out of the index of what lives, and an acknowledgement touch none."""
    if op.get_bind().dialect.name == "postgresql":
        op.drop_constraint("uq_scopes_live_lookup", "scopes")
        op.execute(HASHED)
        op.drop_index("uq_scopes_lookup_generation", "scopes")
        op.execute(f"CREATE UNIQUE INDEX uq_scopes_lookup_generation ON scopes (lookup, generation) WHERE {ENDED}")
        # It was looked up for each row that is fenced, and a destruction's own row is written in the same transaction.
        op.drop_constraint("fk_scopes_destroy_id", "scopes")
        return
    op.drop_index("uq_scopes_live_lookup", "scopes")
    op.execute(f"CREATE UNIQUE INDEX uq_scopes_live_lookup ON scopes (lookup) WHERE {LIVE}")
