"""Devices that work offline: what they pushed, what was settled how; and who made each state's events."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, PrimaryKeyConstraint, SmallInteger, String, Text

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """From the version before."""
    # Null of states that were projected before.
    op.add_column("entities", Column("writers", Text, nullable=True))
    op.create_table(
        "sync_devices",
        Column("tenant_id", String(100), nullable=False),
        Column("device_id", String(100), nullable=False),
        Column("system", String(64), nullable=False),
        Column("first_seen_ms", BigInteger, nullable=False),
        Column("last_seen_ms", BigInteger, nullable=False),
        Column("pushed_ms", BigInteger, nullable=True),
        Column("pulled_ms", BigInteger, nullable=True),
        Column("device_sequence", BigInteger, nullable=False),
        Column("backlog", BigInteger, nullable=True),
        Column("clock_skew_ms", BigInteger, nullable=True),
        Column("cursor", Text, nullable=True),
        Column("sequence", BigInteger, nullable=True),
        Column("requested_ms", BigInteger, nullable=True),
        Column("compared_ms", BigInteger, nullable=True),
        Column("compared_equal", SmallInteger, nullable=True),
        PrimaryKeyConstraint("tenant_id", "device_id"),
    )
    op.create_table(
        "sync_items",
        Column("tenant_id", String(100), nullable=False),
        Column("uuid", String(36), nullable=False),
        Column("device_id", String(100), nullable=False),
        Column("device_sequence", BigInteger, nullable=False),
        Column("system", String(64), nullable=False),
        Column("model", String(20), nullable=False),
        Column("operation", String(10), nullable=False),
        Column("action", String(40), nullable=True),
        Column("type", String(40), nullable=False),
        Column("entity", Text, nullable=False),
        Column("checksum", String(64), nullable=False),
        Column("base_version", Text, nullable=False),
        Column("payload", Text, nullable=False),
        Column("touched", Text, nullable=True),
        Column("created_at", String(40), nullable=False),
        Column("created_ms", BigInteger, nullable=False),
        Column("received_ms", BigInteger, nullable=False),
        Column("outcome", String(12), nullable=True),
        Column("revision", BigInteger, nullable=True),
        Column("cursor", Text, nullable=True),
        Column("policy", String(20), nullable=True),
        Column("winner", String(100), nullable=True),
        Column("conflict_id", String(36), nullable=True),
        Column("errors", Text, nullable=True),
        PrimaryKeyConstraint("tenant_id", "uuid"),
    )
    op.create_index("sync_items_by_entity", "sync_items", ["tenant_id", "entity"])
    op.create_index("sync_items_by_device", "sync_items", ["tenant_id", "device_id", "device_sequence"])
    op.create_index("sync_items_by_time", "sync_items", ["received_ms"])
    op.create_table(
        "sync_conflicts",
        Column("conflict_id", String(36), primary_key=True),
        Column("tenant_id", String(100), nullable=False),
        Column("uuid", String(36), nullable=False),
        Column("device_id", String(100), nullable=False),
        Column("system", String(64), nullable=False),
        Column("model", String(20), nullable=False),
        Column("type", String(40), nullable=False),
        Column("entity", Text, nullable=False),
        Column("state", String(10), nullable=False),
        Column("policy", String(20), nullable=False),
        Column("winner", String(100), nullable=True),
        Column("reason", Text, nullable=True),
        Column("fields", Text, nullable=False),
        Column("current", Text, nullable=False),
        Column("incoming", Text, nullable=False),
        Column("current_revision", BigInteger, nullable=False),
        Column("opened_ms", BigInteger, nullable=False),
        Column("resolved_ms", BigInteger, nullable=True),
        Column("resolved_by", String(200), nullable=True),
        Column("choice", String(10), nullable=True),
        Column("resolution", Text, nullable=True),
        Column("revision", BigInteger, nullable=True),
        Column("cursor", Text, nullable=True),
    )
    op.create_index("sync_conflicts_by_item", "sync_conflicts", ["tenant_id", "uuid"])
    op.create_index("sync_conflicts_by_entity", "sync_conflicts", ["tenant_id", "entity", "state"])
    op.create_index("sync_conflicts_by_state", "sync_conflicts", ["state", "opened_ms"])
    op.create_index("sync_conflicts_by_tenant", "sync_conflicts", ["tenant_id", "state", "opened_ms"])
    op.create_table(
        "sync_history",
        Column("sync_id", String(36), primary_key=True),
        Column("tenant_id", String(100), nullable=False),
        Column("device_id", String(100), nullable=False),
        Column("kind", String(10), nullable=False),
        Column("at_ms", BigInteger, nullable=False),
        Column("duration_ms", Integer, nullable=False),
        Column("items", Integer, nullable=False),
        Column("outcomes", Text, nullable=False),
        Column("backlog", BigInteger, nullable=True),
        Column("clock_skew_ms", BigInteger, nullable=True),
    )
    op.create_index("sync_history_by_device", "sync_history", ["tenant_id", "device_id", "at_ms"])
    op.create_index("sync_history_by_time", "sync_history", ["at_ms"])
    op.create_table(
        "sync_comparisons",
        Column("comparison_id", String(36), primary_key=True),
        Column("tenant_id", String(100), nullable=False),
        Column("device_id", String(100), nullable=False),
        Column("at_ms", BigInteger, nullable=False),
        Column("cursor", Text, nullable=False),
        Column("root", String(64), nullable=False),
        Column("count", Integer, nullable=False),
        Column("equal", SmallInteger, nullable=False),
        Column("differing", Text, nullable=False),
        Column("repaired", Integer, nullable=False),
    )
    op.create_index("sync_comparisons_by_device", "sync_comparisons", ["tenant_id", "device_id", "at_ms"])
    op.create_index("sync_comparisons_by_time", "sync_comparisons", ["at_ms"])
    op.create_table(
        "integrity_runs",
        Column("tenant_id", String(100), nullable=False),
        Column("kind", String(10), nullable=False),
        Column("day", Integer, nullable=False),
        Column("made_ms", BigInteger, nullable=False),
        Column("ok", SmallInteger, nullable=False),
        Column("body", Text, nullable=False),
        PrimaryKeyConstraint("tenant_id", "kind", "day"),
    )
