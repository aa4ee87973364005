"""What goes out on time: leases, webhooks, the facts reports are made of, report runs."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Column,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Text,
    UniqueConstraint,
)

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """From the version before."""
    op.create_table(
        "leases",
        Column("name", String(60), primary_key=True),
        Column("holder", String(100), nullable=False),
        Column("fence", BigInteger, nullable=False),
        Column("beat", BigInteger, nullable=False),
    )
    op.create_table(
        "webhook_endpoints",
        Column("endpoint_id", String(36), primary_key=True),
        Column("tenant_id", String(100), nullable=False),
        Column("system", String(64), nullable=False),
        Column("url", Text, nullable=False),
        Column("description", Text, nullable=False),
        Column("patterns", Text, nullable=False),
        Column("critical_only", SmallInteger, nullable=False),
        Column("payload", String(10), nullable=False),
        Column("view", String(10), nullable=False),
        Column("secret", Text, nullable=False),
        Column("old_secret", Text, nullable=True),
        Column("old_until_ms", BigInteger, nullable=True),
        Column("rate_per_s", Integer, nullable=True),
        Column("state", String(20), nullable=False),
        Column("reason", Text, nullable=True),
        Column("since_ms", BigInteger, nullable=False),
        Column("since_n", BigInteger, nullable=False),
        Column("failing_ms", BigInteger, nullable=True),
        Column("last_error", Text, nullable=True),
        Column("succeeded_ms", BigInteger, nullable=True),
        Column("recover_ms", BigInteger, nullable=True),
        Column("recover_n", BigInteger, nullable=True),
        Column("until_ms", BigInteger, nullable=True),
        Column("until_n", BigInteger, nullable=True),
        Column("created_ms", BigInteger, nullable=False),
        Column("updated_ms", BigInteger, nullable=False),
        Column("version", BigInteger, nullable=False),
    )
    op.create_index("webhook_endpoints_by_tenant", "webhook_endpoints", ["tenant_id", "created_ms"])
    op.create_table(
        "webhook_places",
        Column("partition", SmallInteger, primary_key=True, autoincrement=False),
        Column("epoch", BigInteger, nullable=False),
        Column("id_ms", BigInteger, nullable=False),
        Column("id_n", BigInteger, nullable=False),
    )
    op.create_table(
        "webhook_deliveries",
        Column("endpoint_id", String(36), nullable=False),
        Column("replay_id", String(36), nullable=False),
        Column("id_ms", BigInteger, nullable=False),
        Column("id_n", BigInteger, nullable=False),
        Column("epoch", BigInteger, nullable=False),
        Column("partition", SmallInteger, nullable=False),
        Column("tenant_id", String(100), nullable=False),
        Column("event_id", String(36), nullable=False),
        Column("entity", Text, nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("due_ms", BigInteger, nullable=False),
        Column("attempted_ms", BigInteger, nullable=True),
        Column("error", Text, nullable=True),
        PrimaryKeyConstraint("endpoint_id", "replay_id", "id_ms", "id_n", "epoch"),
    )
    op.create_index("webhook_deliveries_by_place", "webhook_deliveries", ["endpoint_id", "id_ms", "id_n"])
    op.create_index("webhook_deliveries_by_entity", "webhook_deliveries", ["endpoint_id", "entity", "id_ms", "id_n"])
    op.create_table(
        "webhook_replays",
        Column("replay_id", String(36), nullable=False),
        Column("partition", SmallInteger, nullable=False),
        Column("id_ms", BigInteger, nullable=False),
        Column("id_n", BigInteger, nullable=False),
        Column("events", BigInteger, nullable=False),
        PrimaryKeyConstraint("replay_id", "partition"),
    )
    op.create_table(
        "report_runs",
        Column("run_id", String(36), primary_key=True),
        Column("tenant_id", String(100), nullable=False),
        Column("job", String(60), nullable=False),
        Column("due_ms", BigInteger, nullable=False),
        Column("report", String(20), nullable=False),
        Column("period_start", Integer, nullable=False),
        Column("period_end", Integer, nullable=False),
        Column("stage", String(20), nullable=False),
        Column("state", String(20), nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("event_id", String(36), nullable=True),
        Column("cursor", Text, nullable=True),
        Column("sequence", BigInteger, nullable=True),
        Column("data", Text, nullable=True),
        Column("started_ms", BigInteger, nullable=False),
        Column("finished_ms", BigInteger, nullable=True),
        Column("error", Text, nullable=True),
        Column("deliveries", Text, nullable=False),
        Column("settled", SmallInteger, nullable=False),
        UniqueConstraint("tenant_id", "job", "due_ms", name="report_runs_once"),
    )
    op.create_index("report_runs_by_period", "report_runs", ["tenant_id", "report", "period_start"])
    op.create_index("report_runs_by_due", "report_runs", ["due_ms"])
    op.create_index("report_runs_unsettled", "report_runs", ["settled", "finished_ms"])
    op.create_table(
        "report_marks",
        Column("tenant_id", String(100), nullable=False),
        Column("job", String(60), nullable=False),
        Column("due_ms", BigInteger, nullable=False),
        PrimaryKeyConstraint("tenant_id", "job"),
    )
    op.create_table(
        "stays",
        Column("tenant_no", Integer, nullable=False),
        Column("reservation_id", Text, nullable=False),
        Column("status", String(12), nullable=False),
        Column("room_type", Text, nullable=False),
        Column("origin", String(20), nullable=False),
        Column("channel", String(40), nullable=True),
        Column("currency", String(3), nullable=True),
        Column("amount", BigInteger, nullable=False),
        Column("adults", Integer, nullable=False),
        Column("children", Integer, nullable=False),
        Column("created_day", Integer, nullable=False),
        Column("checkin_day", Integer, nullable=False),
        Column("checkout_day", Integer, nullable=False),
        Column("arrived_day", Integer, nullable=True),
        Column("departed_day", Integer, nullable=True),
        Column("cancelled_day", Integer, nullable=True),
        Column("no_show_day", Integer, nullable=True),
        Column("first_day", Integer, nullable=False),
        Column("last_day", Integer, nullable=False),
        PrimaryKeyConstraint("tenant_no", "reservation_id"),
    )
    op.create_index("stays_by_day", "stays", ["tenant_no", "last_day"])
    op.create_table(
        "charges",
        Column("tenant_no", Integer, nullable=False),
        Column("day", Integer, nullable=False),
        Column("action", String(20), nullable=False),
        Column("category", String(20), nullable=False),
        Column("currency", String(3), nullable=False),
        Column("amount", BigInteger, nullable=False),
        Column("count", Integer, nullable=False),
        PrimaryKeyConstraint("tenant_no", "day", "action", "category", "currency"),
    )
    op.create_table(
        "rooms",
        Column("tenant_no", Integer, nullable=False),
        Column("room_id", Text, nullable=False),
        Column("room_type", Text, nullable=False),
        Column("first_day", Integer, nullable=False),
        Column("condition", String(20), nullable=False),
        Column("at_ms", BigInteger, nullable=False),
        PrimaryKeyConstraint("tenant_no", "room_id"),
    )
    op.create_table(
        "room_conditions",
        Column("tenant_no", Integer, nullable=False),
        Column("room_id", Text, nullable=False),
        Column("at_ms", BigInteger, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("condition", String(20), nullable=False),
        PrimaryKeyConstraint("tenant_no", "room_id", "at_ms", "sequence"),
    )
    op.create_table(
        "fact_places",
        Column("tenant_no", Integer, primary_key=True, autoincrement=False),
        Column("position", BigInteger, nullable=False),
        Column("epoch", BigInteger, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("id_ms", BigInteger, nullable=False),
        Column("id_n", BigInteger, nullable=False),
        Column("timezone", String(64), nullable=False),
        Column("rollover_hour", SmallInteger, nullable=False),
    )
    op.create_table(
        "late_days",
        Column("tenant_no", Integer, nullable=False),
        Column("day", Integer, nullable=False),
        Column("events", Integer, nullable=False),
        Column("sequence", BigInteger, nullable=False),
        PrimaryKeyConstraint("tenant_no", "day"),
    )
