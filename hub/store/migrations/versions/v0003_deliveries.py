"""The delivery ledger, and replays."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, PrimaryKeyConstraint, SmallInteger, String, Text, text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """From the version before."""
    op.create_table(
        "deliveries",
        Column("id", LargeBinary, primary_key=True),
        Column("kind", String(20), nullable=False),
        Column("partition", SmallInteger, nullable=False),
        Column("from_ms", BigInteger, nullable=False),
        Column("from_n", BigInteger, nullable=False),
        Column("to_ms", BigInteger, nullable=False),
        Column("to_n", BigInteger, nullable=False),
        Column("width", SmallInteger, nullable=False),
        Column("tenant_id", String(100), nullable=True),
        Column("event_id", String(100), nullable=True),
        Column("system", String(64), nullable=True),
        Column("channel", String(20), nullable=True),
        Column("session", String(100), nullable=True),
        Column("name", String(100), nullable=True),
        Column("ref", String(60), nullable=True),
        Column("hub", String(32), nullable=False),
        Column("interest", Text, nullable=True),
        Column("events", BigInteger, nullable=True),
        Column("attempts", Integer, nullable=True),
        Column("error", Text, nullable=True),
        Column("first_ms", BigInteger, nullable=False),
        Column("last_ms", BigInteger, nullable=False),
    )
    op.create_index("deliveries_by_place", "deliveries", ["partition", "width", "to_ms", "to_n"])
    op.create_index("deliveries_by_kind", "deliveries", ["kind", "last_ms"])
    op.create_table(
        "subscribers",
        Column("system", String(64), nullable=False),
        Column("name", String(100), nullable=False),
        Column("tenant_id", String(100), nullable=False),
        Column("interest", Text, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("id_ms", BigInteger, nullable=False),
        Column("id_n", BigInteger, nullable=False),
        Column("acked_ms", BigInteger, nullable=False),
        PrimaryKeyConstraint("system", "name", "tenant_id"),
    )
    op.create_table(
        "groups",
        Column("name", String(100), nullable=False),
        Column("partition", SmallInteger, nullable=False),
        Column("id_ms", BigInteger, nullable=False),
        Column("id_n", BigInteger, nullable=False),
        Column("dead_ms", BigInteger, nullable=False),
        Column("dead_n", BigInteger, nullable=False),
        Column("dead_count", BigInteger, nullable=False),
        Column("at_ms", BigInteger, nullable=False),
        PrimaryKeyConstraint("name", "partition"),
    )
    op.create_table(
        "replays",
        Column("replay_id", String(36), primary_key=True),
        Column("target", String(300), nullable=False),
        Column("state", String(20), nullable=False),
        Column("spec", Text, nullable=False),
        Column("progress", Text, nullable=False),
        Column("created_ms", BigInteger, nullable=False),
        Column("updated_ms", BigInteger, nullable=False),
    )
    op.create_index("replays_by_target", "replays", ["target", "created_ms"])
    active = text("state IN ('running', 'paused')")
    op.create_index("replays_active", "replays", ["target"], unique=True, sqlite_where=active, postgresql_where=active)
