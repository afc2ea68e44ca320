"""Facts, requests and notices; who suspended a scope; the policy in force."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema to this revision."""
    op.add_column("scopes", sa.Column("suspended_by", sa.SmallInteger(), nullable=True))
    op.execute("UPDATE scopes SET suspended_by = 1 WHERE state = 'suspended'")
    op.add_column("system", sa.Column("policy", sa.Text(), nullable=True))
    op.execute("CREATE INDEX ix_scopes_account ON scopes (account) WHERE account IS NOT NULL")
    _indices()
    op.execute("CREATE INDEX ix_scopes_suspended_by_facts ON scopes (account) WHERE suspended_by = 2")
    _facts()
    _requests()
    op.create_table(
        "notices",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_notices"),
    )


def _indices() -> None:
    """Let a sweep that finds nothing look at nothing: no index of it keeps what is destroyed."""
    op.drop_index("ix_scopes_due_at", "scopes")
    op.execute("CREATE INDEX ix_scopes_due_at ON scopes (due_at) WHERE due_at IS NOT NULL AND state <> 'destroyed'")
    op.execute(
        "CREATE INDEX ix_scopes_remembered ON scopes (horizon) "
        "WHERE state = 'destroyed' AND lookup IS NOT NULL AND salt IS NULL"
    )
    op.execute("CREATE INDEX ix_fenced_records_pending ON fenced_records (destroy_id) WHERE state = 'deactivated'")
    op.create_index("ix_certificate_openings_expires_at", "certificate_openings", ["expires_at"])


def _facts() -> None:
    op.create_table(
        "facts",
        sa.Column("subject", sa.LargeBinary(32), nullable=False),
        sa.Column("type", sa.String(24), nullable=False),
        sa.Column("detail", sa.String(72), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("reported_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_before", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("subject", "type", "detail", "at", name="pk_facts"),
    )
    op.create_table(
        "subjects",
        sa.Column("id", sa.LargeBinary(32), nullable=False),
        sa.Column("kind", sa.String(8), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("suspend_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("billed_through", sa.DateTime(timezone=True), nullable=True),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.CheckConstraint("kind IN ('account', 'user', 'contact', 'business')", name="ck_subjects_kind"),
        sa.PrimaryKeyConstraint("id", name="pk_subjects"),
    )
    for column in ("due_at", "suspend_at"):
        op.execute(f"CREATE INDEX ix_subjects_{column} ON subjects ({column}) WHERE NOT settled")


def _requests() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.LargeBinary(16), nullable=False),
        sa.Column("ticket", sa.LargeBinary(32), nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(32), nullable=False),
        sa.Column("kind", sa.String(12), nullable=False),
        sa.Column("requester", sa.String(12), nullable=False),
        sa.Column("account", sa.LargeBinary(32), nullable=True),
        sa.Column("code", sa.String(32), nullable=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("refusal", sa.String(24), nullable=True),
        sa.Column("digest", sa.LargeBinary(32), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("due_by", sa.DateTime(timezone=True), nullable=False),
        sa.Column("submitted_by", sa.LargeBinary(32), nullable=False),
        sa.Column("approved_by", sa.LargeBinary(32), nullable=True),
        sa.Column("approved_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("break_glass", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_requests"),
        sa.UniqueConstraint("ticket", "row", name="uq_requests_ticket_row"),
    )
    op.create_index("ix_requests_state_due_by", "requests", ["state", "due_by"])
    op.create_table(
        "request_items",
        sa.Column("request_id", sa.LargeBinary(16), nullable=False),
        sa.Column("scope_id", sa.LargeBinary(16), nullable=False),
        sa.Column("tag", sa.LargeBinary(8), nullable=False),
        sa.ForeignKeyConstraint(["request_id"], ["requests.id"], name="fk_request_items_request_id"),
        sa.ForeignKeyConstraint(["scope_id"], ["scopes.id"], name="fk_request_items_scope_id"),
        sa.PrimaryKeyConstraint("request_id", "scope_id", "tag", name="pk_request_items"),
    )
