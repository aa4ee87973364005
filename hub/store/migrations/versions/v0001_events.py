"""The archive: every event of every tenant, in a chain."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, PrimaryKeyConstraint, SmallInteger, String, Text

revision = "0001"
down_revision = None


def upgrade() -> None:
    """From the version before."""
    op.create_table(
        "tenants",
        Column("tenant_no", Integer, primary_key=True, autoincrement=True),
        Column("tenant_id", String(100), nullable=False, unique=True),
        Column("partition", SmallInteger, nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("hash", LargeBinary, nullable=False),
        Column("epoch", BigInteger, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("id_ms", BigInteger, nullable=False),
        Column("id_n", BigInteger, nullable=False),
        Column("base_position", BigInteger, nullable=False),
        Column("base_hash", LargeBinary, nullable=False),
        Column("base_epoch", BigInteger, nullable=False),
        Column("base_sequence", BigInteger, nullable=False),
        Column("base_ms", BigInteger, nullable=False),
        Column("base_n", BigInteger, nullable=False),
    )
    op.create_table(
        "partitions",
        Column("partition", SmallInteger, primary_key=True, autoincrement=False),
        Column("epoch", BigInteger, nullable=False),
        Column("id_ms", BigInteger, nullable=False),
        Column("id_n", BigInteger, nullable=False),
    )
    op.create_table(
        "events",
        Column("partition", SmallInteger, nullable=False),
        Column("id_ms", BigInteger, nullable=False),
        Column("id_n", BigInteger, nullable=False),
        Column("epoch", BigInteger, nullable=False),
        Column("tenant_no", Integer, nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("revision", BigInteger, nullable=False),
        Column("type", String(40), nullable=False),
        Column("action", String(40), nullable=False),
        Column("entity", Text, nullable=False),
        Column("event_id", LargeBinary, nullable=False),
        Column("recorded_ms", BigInteger, nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("hash", LargeBinary, nullable=False),
        PrimaryKeyConstraint("partition", "id_ms", "id_n", "epoch"),
        postgresql_partition_by="RANGE (id_ms)",
    )
    op.create_index("events_by_tenant", "events", ["tenant_no", "id_ms", "id_n"])
    op.create_index("events_by_id", "events", ["event_id", "tenant_no"])
    op.create_index("events_by_entity", "events", ["tenant_no", "entity", "id_ms", "id_n"])
