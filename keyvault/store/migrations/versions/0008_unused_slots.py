"""Slots of closed rings that no scope sits in are destroyed, too."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    for column in ("slots_fenced_at", "slots_destroyed_at"):
        op.add_column("rings", sa.Column(column, sa.DateTime(timezone=True), nullable=True))
