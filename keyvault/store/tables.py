"""Every table. The database never holds key material, not even wrapped, and no readable name.

Columns that later parts need (rings, leases, the log) are here from the first revision, so that no history must be rewritten.
"""

from __future__ import annotations

import binascii
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

REVISION = "0008"
"""The Alembic revision these tables are at; `Store.check_version` compares it with the database."""


class UTCDateTime(TypeDecorator[datetime]):
    """An aware datetime in UTC on every dialect; refuses naive ones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:
        """Store in UTC; SQLite keeps no zone, so there it is stored naive."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a naive datetime has no place in the store")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name == "sqlite" else moment

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002 - the signature is SQLAlchemy's
        """Give back an aware UTC datetime."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class SealedText(TypeDecorator[str]):
    """A ciphertext's text, kept as bytes: one that says which mark it begins with, and what the base64 behind that stands for.

    A third smaller than the text, which is the largest column of the largest table. Text of any other form follows a zero byte.
    """

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> bytes | None:  # noqa: ARG002 - the signature is SQLAlchemy's
        """Shorten what will read back as it was."""
        return None if value is None else pack_sealed(value)

    def process_result_value(self, value: bytes | str | None, dialect: Any) -> str | None:  # noqa: ARG002
        """Give the text again; SQLite still holds the text itself in rows of before."""
        return value if value is None or isinstance(value, str) else unpack_sealed(bytes(value))


_SEALED_MARKS = {1: "ring:1:", 2: "vault:v1:"}


def pack_sealed(text: str) -> bytes:
    """Return the bytes in which `SealedText` keeps a text."""
    for code, mark in _SEALED_MARKS.items():
        if text.startswith(mark):
            try:
                data = binascii.a2b_base64(text[len(mark) :], strict_mode=True)
            except binascii.Error:
                break
            if binascii.b2a_base64(data, newline=False).decode() == text[len(mark) :]:
                return bytes((code,)) + data
    return b"\0" + text.encode()


def unpack_sealed(data: bytes) -> str:
    """Return the text that `pack_sealed` made these bytes of."""
    if data[0] == 0:
        return data[1:].decode()
    return _SEALED_MARKS[data[0]] + binascii.b2a_base64(data[1:], newline=False).decode()


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

LIVE = text("state IN ('active', 'suspended')")

scopes = Table(
    "scopes",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),
    Column("generation", Integer, nullable=False),
    Column("custody", SmallInteger, nullable=False),
    Column("key_ref", String(64), nullable=True, unique=True),
    Column("ring_id", LargeBinary(16), ForeignKey("rings.id"), nullable=True),
    Column("slot", Integer, nullable=True),
    Column("kind", String(16), nullable=False),
    Column("period", String(7), nullable=True),
    Column("due_at", UTCDateTime, nullable=True),
    Column("account", LargeBinary(32), nullable=True),
    Column("lookup", LargeBinary(32), nullable=True),
    Column("commitment", LargeBinary(32), nullable=False),
    Column("salt", LargeBinary(32), nullable=True),
    Column("sealed_name", SealedText, nullable=True),
    Column("state", String(12), nullable=False),
    Column("suspended_by", SmallInteger, nullable=True),
    Column("created_at", UTCDateTime, nullable=False),
    Column("destroyed_at", UTCDateTime, nullable=True),
    Column("horizon", UTCDateTime, nullable=True),
    Column("destroy_id", LargeBinary(16), ForeignKey("destructions.id"), nullable=True),
    Column("grouped", Boolean, nullable=True),
    UniqueConstraint("lookup", "generation"),
    UniqueConstraint("ring_id", "slot"),
    CheckConstraint("state IN ('active', 'suspended', 'deactivated', 'destroyed')", name="state"),
    CheckConstraint("generation >= 1", name="generation"),
)
# On PostgreSQL the migration makes these, and the first two constraints above, smaller: each holds only the rows that it is for, and
# what keeps live look-ups apart is an exclusion constraint over a hash index. `keyvault.store.scopes.insert_new` keeps the rest apart.
# And there no foreign key has a destruction looked up for each scope that it fences.
SHAPED_BY_DIALECT = frozenset(
    {"uq_scopes_key_ref", "uq_scopes_lookup_generation", "uq_scopes_live_lookup", "fk_scopes_destroy_id"}
)
Index("uq_scopes_live_lookup", scopes.c.lookup, unique=True, sqlite_where=LIVE)
Index("ix_scopes_due_at", scopes.c.due_at, postgresql_where=LIVE, sqlite_where=LIVE)
Index("ix_scopes_account", scopes.c.account)
BY_FACTS = text("suspended_by = 2")
Index("ix_scopes_suspended_by_facts", scopes.c.account, postgresql_where=BY_FACTS, sqlite_where=BY_FACTS)
ALONE = text("state = 'deactivated' AND grouped IS NULL")
Index("ix_scopes_pending", scopes.c.destroy_id, postgresql_where=ALONE, sqlite_where=ALONE)
GROUPED = text("grouped IS NOT NULL")
Index("ix_scopes_grouped", scopes.c.destroy_id, postgresql_where=GROUPED, sqlite_where=GROUPED)
REMEMBERED = text("state = 'destroyed' AND lookup IS NOT NULL AND salt IS NULL")
Index("ix_scopes_remembered", scopes.c.horizon, postgresql_where=REMEMBERED, sqlite_where=REMEMBERED)

DESTROYED = text("state = 'destroyed'")
Index("ix_scopes_destroyed", scopes.c.destroy_id, postgresql_where=DESTROYED, sqlite_where=DESTROYED)

rings = Table(
    "rings",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),
    Column("incarnation", Integer, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("highest_version", BigInteger, nullable=False),
    Column("capacity", Integer, nullable=False),
    Column("chunks", Integer, nullable=False),
    Column("month", String(7), nullable=True),
    Column("opened_at", UTCDateTime, nullable=True),
    Column("closed_at", UTCDateTime, nullable=True),
    Column("destroyed_at", UTCDateTime, nullable=True),
    Column("covered_by", String(64), nullable=True),
    Column("slots_fenced_at", UTCDateTime, nullable=True),
    Column("slots_destroyed_at", UTCDateTime, nullable=True),
)

destructions = Table(
    "destructions",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),
    Column("reason", String(32), nullable=False),
    Column("ticket", LargeBinary(32), nullable=False),
    Column("requested_by", LargeBinary(32), nullable=False),
    Column("fence_event", String(36), nullable=False, unique=True),
    Column("created_at", UTCDateTime, nullable=False),
    Column("not_before", UTCDateTime, nullable=True),
    Column("fenced_at", UTCDateTime, nullable=True),
    Column("lease_bound", UTCDateTime, nullable=True),
    Column("scopes", Integer, nullable=True),
    Column("destroyed_at", UTCDateTime, nullable=True),
    Column("horizon", UTCDateTime, nullable=True),
)
HOLDING = text("scopes IS NOT NULL")
Index("ix_destructions_grouped", destructions.c.horizon, postgresql_where=HOLDING, sqlite_where=HOLDING)

fenced_records = Table(
    "fenced_records",
    metadata,
    Column("scope_id", LargeBinary(16), ForeignKey("scopes.id"), primary_key=True),
    Column("tag", LargeBinary(8), primary_key=True),
    Column("state", String(12), nullable=False),
    Column("destroyed_at", UTCDateTime, nullable=True),
    Column("destroy_id", LargeBinary(16), ForeignKey("destructions.id"), nullable=True),
)

PENDING = text("state = 'deactivated'")
Index("ix_fenced_records_pending", fenced_records.c.destroy_id, postgresql_where=PENDING, sqlite_where=PENDING)

Index("ix_fenced_records_destroyed", fenced_records.c.destroy_id, postgresql_where=DESTROYED, sqlite_where=DESTROYED)

certificate_openings = Table(
    "certificate_openings",
    metadata,
    Column("scope_id", LargeBinary(16), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("expires_at", UTCDateTime, nullable=False),
)

Index("ix_certificate_openings_expires_at", certificate_openings.c.expires_at)

intents = Table(
    "intents",
    metadata,
    Column("key_ref", String(64), primary_key=True),
    Column("state", String(12), nullable=False),
    Column("created_at", UTCDateTime, nullable=False),
    CheckConstraint("state IN ('open', 'abandoned')", name="state"),
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(96), primary_key=True),
    Column("holder", String(64), nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("expires_at", UTCDateTime, nullable=False),
)

heartbeats = Table(
    "heartbeats",
    metadata,
    Column("node", String(64), primary_key=True),
    Column("beat_at", UTCDateTime, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("event_id", String(36), nullable=False, unique=True),
    Column("schema_version", SmallInteger, nullable=False),
    Column("type", String(32), nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("leaf_index", BigInteger, nullable=True, unique=True),
)

UNLOGGED = text("leaf_index IS NULL")
Index("ix_outbox_unlogged", outbox.c.id, postgresql_where=UNLOGGED, sqlite_where=UNLOGGED)

ENDING = text("type IN ('destroy.fenced', 'key.destroyed', 'record.destroyed', 'scope.suspended', 'record.suspended')")
"""Events that whoever keeps keys must hear of; as a text, because only so does a database know the index for it."""
Index("ix_outbox_ending", outbox.c.id, postgresql_where=ENDING, sqlite_where=ENDING)

unlogged_creations = Table(
    "unlogged_creations",
    metadata,
    Column("created_at", UTCDateTime, primary_key=True),
    Column("last_event", BigInteger, primary_key=True, autoincrement=False),
)

system = Table(
    "system",
    metadata,
    Column("id", SmallInteger, primary_key=True),
    Column("home_id", String(36), nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("check_values", Text, nullable=False),
    Column("log_origin", String(128), nullable=False),
    Column("checkpoint", Text, nullable=True),
    Column("log_size", BigInteger, nullable=False),
    Column("paused", Boolean, nullable=False),
    Column("trusted_at", UTCDateTime, nullable=True),
    Column("policy", Text, nullable=True),
    CheckConstraint("id = 1", name="single_row"),
)

# --- retention ------------------------------------------------------------------------------------------------------

facts = Table(
    "facts",
    metadata,
    Column("subject", LargeBinary(32), primary_key=True),
    Column("type", String(24), primary_key=True),
    Column("detail", String(72), primary_key=True),
    Column("at", UTCDateTime, primary_key=True),
    Column("reported_at", UTCDateTime, nullable=False),
    Column("not_before", UTCDateTime, nullable=False),
)

subjects = Table(
    "subjects",
    metadata,
    Column("id", LargeBinary(32), primary_key=True),
    Column("kind", String(8), nullable=False),
    Column("status", String(16), nullable=False),
    Column("suspend_at", UTCDateTime, nullable=True),
    Column("due_at", UTCDateTime, nullable=True),
    Column("billed_through", UTCDateTime, nullable=True),
    Column("settled", Boolean, nullable=False),
    CheckConstraint("kind IN ('account', 'user', 'contact', 'business')", name="kind"),
)
UNSETTLED = text("NOT settled")
Index("ix_subjects_due_at", subjects.c.due_at, postgresql_where=UNSETTLED, sqlite_where=UNSETTLED)
Index("ix_subjects_suspend_at", subjects.c.suspend_at, postgresql_where=UNSETTLED, sqlite_where=UNSETTLED)

requests = Table(
    "requests",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),
    Column("ticket", LargeBinary(32), nullable=False),
    Column("row", Integer, nullable=False),
    Column("content", LargeBinary(32), nullable=False),
    Column("kind", String(12), nullable=False),
    Column("requester", String(12), nullable=False),
    Column("account", LargeBinary(32), nullable=True),
    Column("code", String(32), nullable=True),
    Column("state", String(20), nullable=False),
    Column("refusal", String(24), nullable=True),
    Column("digest", LargeBinary(32), nullable=True),
    Column("received_at", UTCDateTime, nullable=False),
    Column("due_by", UTCDateTime, nullable=False),
    Column("submitted_by", LargeBinary(32), nullable=False),
    Column("approved_by", LargeBinary(32), nullable=True),
    Column("approved_at", UTCDateTime, nullable=True),
    Column("ended_at", UTCDateTime, nullable=True),
    Column("break_glass", Boolean, nullable=False),
    UniqueConstraint("ticket", "row"),
)
Index("ix_requests_state_due_by", requests.c.state, requests.c.due_by)

request_items = Table(
    "request_items",
    metadata,
    Column("request_id", LargeBinary(16), ForeignKey("requests.id"), primary_key=True),
    Column("scope_id", LargeBinary(16), ForeignKey("scopes.id"), primary_key=True),
    Column("tag", LargeBinary(8), primary_key=True),
)

notices = Table(
    "notices",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("body", LargeBinary, nullable=False),
)

# --- the service ----------------------------------------------------------------------------------------------------

tokens = Table(
    "tokens",
    metadata,
    Column("id", LargeBinary(16), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("role", String(12), nullable=False),
    Column("secret_hash", LargeBinary(32), nullable=False),
    Column("owner", LargeBinary(32), nullable=False),
    Column("limits", Text, nullable=True),
    Column("rate", Integer, nullable=True),
    Column("created_at", UTCDateTime, nullable=False),
    Column("expires_at", UTCDateTime, nullable=False),
    Column("revoked_at", UTCDateTime, nullable=True),
)
