"""First tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.create_table(
        "destructions",
        sa.Column("id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("reason", sa.String(length=32), nullable=False),
        sa.Column("ticket", sa.LargeBinary(length=32), nullable=False),
        sa.Column("requested_by", sa.LargeBinary(length=32), nullable=False),
        sa.Column("fence_event", sa.String(length=36), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_destructions")),
        sa.UniqueConstraint("fence_event", name=op.f("uq_destructions_fence_event")),
    )
    op.create_table(
        "heartbeats",
        sa.Column("node", sa.String(length=64), nullable=False),
        sa.Column("beat_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("node", name=op.f("pk_heartbeats")),
    )
    op.create_table(
        "intents",
        sa.Column("key_ref", sa.String(length=64), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("state IN ('open', 'abandoned')", name=op.f("ck_intents_state")),
        sa.PrimaryKeyConstraint("key_ref", name=op.f("pk_intents")),
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.String(length=96), nullable=False),
        sa.Column("holder", sa.String(length=64), nullable=False),
        sa.Column("token", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("event_id", sa.String(length=36), nullable=False),
        sa.Column("schema_version", sa.SmallInteger(), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("leaf_index", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("event_id", name=op.f("uq_outbox_event_id")),
        sa.UniqueConstraint("leaf_index", name=op.f("uq_outbox_leaf_index")),
    )
    op.create_table(
        "rings",
        sa.Column("id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("incarnation", sa.Integer(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("highest_version", sa.BigInteger(), nullable=False),
        sa.Column("capacity", sa.Integer(), nullable=False),
        sa.Column("chunks", sa.Integer(), nullable=False),
        sa.Column("month", sa.String(length=7), nullable=True),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("destroyed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("covered_by", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rings")),
    )
    op.create_table(
        "system",
        sa.Column("id", sa.SmallInteger(), nullable=False),
        sa.Column("home_id", sa.String(length=36), nullable=False),
        sa.Column("incarnation", sa.Integer(), nullable=False),
        sa.Column("check_values", sa.Text(), nullable=False),
        sa.Column("log_origin", sa.String(length=128), nullable=False),
        sa.Column("checkpoint", sa.Text(), nullable=True),
        sa.Column("paused", sa.Boolean(), nullable=False),
        sa.Column("trusted_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("id = 1", name=op.f("ck_system_single_row")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_system")),
    )
    op.create_table(
        "scopes",
        sa.Column("id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("custody", sa.SmallInteger(), nullable=False),
        sa.Column("key_ref", sa.String(length=64), nullable=True),
        sa.Column("ring_id", sa.LargeBinary(length=16), nullable=True),
        sa.Column("slot", sa.Integer(), nullable=True),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("period", sa.String(length=7), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("account", sa.LargeBinary(length=32), nullable=True),
        sa.Column("lookup", sa.LargeBinary(length=32), nullable=True),
        sa.Column("commitment", sa.LargeBinary(length=32), nullable=False),
        sa.Column("salt", sa.LargeBinary(length=32), nullable=True),
        sa.Column("sealed_name", sa.Text(), nullable=True),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("fenced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("destroyed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("lease_bound", sa.DateTime(timezone=True), nullable=True),
        sa.Column("horizon", sa.DateTime(timezone=True), nullable=True),
        sa.Column("destroy_id", sa.LargeBinary(length=16), nullable=True),
        sa.CheckConstraint(
            "state IN ('active', 'suspended', 'deactivated', 'destroyed')", name=op.f("ck_scopes_state")
        ),
        sa.CheckConstraint("generation >= 1", name=op.f("ck_scopes_generation")),
        sa.ForeignKeyConstraint(["destroy_id"], ["destructions.id"], name=op.f("fk_scopes_destroy_id")),
        sa.ForeignKeyConstraint(["ring_id"], ["rings.id"], name=op.f("fk_scopes_ring_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_scopes")),
        sa.UniqueConstraint("key_ref", name=op.f("uq_scopes_key_ref")),
        sa.UniqueConstraint("lookup", "generation", name=op.f("uq_scopes_lookup_generation")),
        sa.UniqueConstraint("ring_id", "slot", name=op.f("uq_scopes_ring_id_slot")),
    )
    op.create_index("ix_scopes_account", "scopes", ["account"], unique=False)
    op.create_index("ix_scopes_destroy_id", "scopes", ["destroy_id"], unique=False)
    op.create_index("ix_scopes_state_due_at", "scopes", ["state", "due_at"], unique=False)
    op.create_index(
        "uq_scopes_live_lookup",
        "scopes",
        ["lookup"],
        unique=True,
        postgresql_where=sa.text("state <> 'destroyed'"),
        sqlite_where=sa.text("state <> 'destroyed'"),
    )
    op.create_table(
        "certificate_openings",
        sa.Column("scope_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["scope_id"], ["scopes.id"], name=op.f("fk_certificate_openings_scope_id")),
        sa.PrimaryKeyConstraint("scope_id", name=op.f("pk_certificate_openings")),
    )
    op.create_table(
        "fenced_records",
        sa.Column("scope_id", sa.LargeBinary(length=16), nullable=False),
        sa.Column("tag", sa.LargeBinary(length=8), nullable=False),
        sa.Column("state", sa.String(length=12), nullable=False),
        sa.Column("fenced_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("destroyed_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("destroy_id", sa.LargeBinary(length=16), nullable=True),
        sa.ForeignKeyConstraint(["destroy_id"], ["destructions.id"], name=op.f("fk_fenced_records_destroy_id")),
        sa.ForeignKeyConstraint(["scope_id"], ["scopes.id"], name=op.f("fk_fenced_records_scope_id")),
        sa.PrimaryKeyConstraint("scope_id", "tag", name=op.f("pk_fenced_records")),
    )
