"""The latest state of each entity, projected from the events."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, PrimaryKeyConstraint, SmallInteger, String, Text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """From the version before."""
    op.create_table(
        "generations",
        Column("generation", Integer, primary_key=True, autoincrement=False),
        Column("current", SmallInteger, nullable=False),
        Column("started_ms", BigInteger, nullable=False),
    )
    op.create_table(
        "projections",
        Column("generation", Integer, nullable=False),
        Column("tenant_no", Integer, nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("epoch", BigInteger, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("id_ms", BigInteger, nullable=False),
        Column("id_n", BigInteger, nullable=False),
        PrimaryKeyConstraint("generation", "tenant_no"),
    )
    op.create_table(
        "entities",
        Column("generation", Integer, nullable=False),
        Column("tenant_no", Integer, nullable=False),
        Column("type", String(40), nullable=False),
        Column("entity", Text, nullable=False),
        Column("revision", BigInteger, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("id_ms", BigInteger, nullable=False),
        Column("id_n", BigInteger, nullable=False),
        Column("schema_version", Integer, nullable=False),
        Column("seen_by_all", Text, nullable=False),
        Column("seen_by_some", Text, nullable=False),
        Column("data", LargeBinary, nullable=False),
        PrimaryKeyConstraint("generation", "tenant_no", "type", "entity"),
    )
