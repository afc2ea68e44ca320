"""Smaller rows of scopes, and a fence's time where it belongs: one a destruction, not one a scope."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STAMPS = """
UPDATE destructions SET fenced_at = (
  SELECT max(stamped.fenced_at) FROM (
    SELECT destroy_id, fenced_at FROM scopes UNION ALL SELECT destroy_id, fenced_at FROM fenced_records
  ) AS stamped WHERE stamped.destroy_id = destructions.id
), lease_bound = (
  SELECT max(scopes.lease_bound) FROM scopes WHERE scopes.destroy_id = destructions.id
)
"""
# As `keyvault.store.tables.SealedText` writes them.
SEALED = r"""
ALTER TABLE scopes ALTER COLUMN sealed_name TYPE bytea USING CASE
  WHEN sealed_name LIKE 'ring:1:%' THEN '\x01'::bytea || decode(substr(sealed_name, 8), 'base64')
  WHEN sealed_name LIKE 'vault:v1:%' THEN '\x02'::bytea || decode(substr(sealed_name, 10), 'base64')
  ELSE '\x00'::bytea || convert_to(sealed_name, 'UTF8') END
"""
HASHED = """
ALTER TABLE scopes ADD CONSTRAINT uq_scopes_live_lookup EXCLUDE USING hash (lookup WITH =) WHERE (state <> 'destroyed')
"""


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.add_column("destructions", sa.Column("fenced_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("destructions", sa.Column("lease_bound", sa.DateTime(timezone=True), nullable=True))
    op.execute(STAMPS)
    for table, column in (("scopes", "fenced_at"), ("scopes", "lease_bound"), ("fenced_records", "fenced_at")):
        op.drop_column(table, column)
    for name in ("ix_scopes_destroy_id", "ix_scopes_state_due_at", "ix_scopes_account"):
        op.drop_index(name, "scopes")
    _index("ix_scopes_due_at", "due_at", "due_at IS NOT NULL")
    _index("ix_scopes_pending", "destroy_id", "state = 'deactivated'")
    if op.get_bind().dialect.name == "postgresql":
        _shrink()


def _shrink() -> None:
    """Do what only PostgreSQL needs, and what SQLite could do by copying the whole table only."""
    op.execute(SEALED)
    op.drop_index("uq_scopes_live_lookup", "scopes")
    op.execute(HASHED)
    op.drop_constraint("uq_scopes_lookup_generation", "scopes")
    _index("uq_scopes_lookup_generation", "lookup, generation", "state = 'destroyed'", unique=True)
    op.drop_constraint("uq_scopes_key_ref", "scopes")
    _index("uq_scopes_key_ref", "key_ref", "key_ref IS NOT NULL", unique=True)


def _index(name: str, columns: str, where: str, *, unique: bool = False) -> None:
    kind = "UNIQUE INDEX" if unique else "INDEX"
    op.execute(f"CREATE {kind} {name} ON scopes ({columns}) WHERE {where}")
