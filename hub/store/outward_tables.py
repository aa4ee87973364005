"""The tables of what goes out on time: webhooks, the facts reports are made of, and report runs.

Conventions as in `hub.store.tables`. A day is an integer, days since 1970-01-01, in the property's own calendar; money
is an integer of ten-thousandths.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from hub.store.tables import metadata

leases: Final = Table(
    "leases",
    metadata,
    Column("name", String(60), primary_key=True),
    Column("holder", String(100), nullable=False),
    # Counts who held it: a writer with an older number is turned away.
    Column("fence", BigInteger, nullable=False),
    # Counts signs of life. Whether it moves is what others judge by, each with its own clock.
    Column("beat", BigInteger, nullable=False),
)
"""Which hub does what only one may do at a time."""

webhook_endpoints: Final = Table(
    "webhook_endpoints",
    metadata,
    Column("endpoint_id", String(36), primary_key=True),
    Column("tenant_id", String(100), nullable=False),
    Column("system", String(64), nullable=False),
    Column("url", Text, nullable=False),
    Column("description", Text, nullable=False),
    # A JSON list; of what they name, where 1 in `critical_only`, events of priority CRITICAL alone.
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
    # Only later events are its own.
    Column("since_ms", BigInteger, nullable=False),
    Column("since_n", BigInteger, nullable=False),
    # Since when nothing succeeded; null while it works.
    Column("failing_ms", BigInteger, nullable=True),
    Column("last_error", Text, nullable=True),
    Column("succeeded_ms", BigInteger, nullable=True),
    # What is sent again: from here to there, both null when nothing is.
    Column("recover_ms", BigInteger, nullable=True),
    Column("recover_n", BigInteger, nullable=True),
    Column("until_ms", BigInteger, nullable=True),
    Column("until_n", BigInteger, nullable=True),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    # Counts changes, for those who remember it.
    Column("version", BigInteger, nullable=False),
    Index("webhook_endpoints_by_tenant", "tenant_id", "created_ms"),
)
"""Where webhooks go."""

webhook_places: Final = Table(
    "webhook_places",
    metadata,
    Column("partition", SmallInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("id_ms", BigInteger, nullable=False),
    Column("id_n", BigInteger, nullable=False),
)
"""How far each stream was looked through for webhooks. Moves in the transaction that writes down what they are owed."""

webhook_deliveries: Final = Table(
    "webhook_deliveries",
    metadata,
    Column("endpoint_id", String(36), nullable=False),
    # The replay that sends it again, or empty.
    Column("replay_id", String(36), nullable=False),
    Column("id_ms", BigInteger, nullable=False),
    Column("id_n", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("partition", SmallInteger, nullable=False),
    Column("tenant_id", String(100), nullable=False),
    Column("event_id", String(36), nullable=False),
    Column("entity", Text, nullable=False),
    # Attempts begun, that one included which may be under way.
    Column("attempts", Integer, nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    Column("attempted_ms", BigInteger, nullable=True),
    Column("error", Text, nullable=True),
    PrimaryKeyConstraint("endpoint_id", "replay_id", "id_ms", "id_n", "epoch"),
    Index("webhook_deliveries_by_place", "endpoint_id", "id_ms", "id_n"),
    Index("webhook_deliveries_by_entity", "endpoint_id", "entity", "id_ms", "id_n"),
)
"""What endpoints are owed: an event each, until it is delivered or given up."""

webhook_replays: Final = Table(
    "webhook_replays",
    metadata,
    Column("replay_id", String(36), nullable=False),
    Column("partition", SmallInteger, nullable=False),
    Column("id_ms", BigInteger, nullable=False),
    Column("id_n", BigInteger, nullable=False),
    Column("events", BigInteger, nullable=False),
    PrimaryKeyConstraint("replay_id", "partition"),
)
"""How far replays to webhooks are. Moves in the transaction that writes down what is owed."""

report_runs: Final = Table(
    "report_runs",
    metadata,
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
    # Of the event that the run emitted: its id is the run's, unless another's event had that.
    Column("event_id", String(36), nullable=True),
    Column("cursor", Text, nullable=True),
    Column("sequence", BigInteger, nullable=True),
    # The event's data, JSON.
    Column("data", Text, nullable=True),
    Column("started_ms", BigInteger, nullable=False),
    Column("finished_ms", BigInteger, nullable=True),
    Column("error", Text, nullable=True),
    # By target system, JSON; 1 in `settled` when every one has answered or was given up.
    Column("deliveries", Text, nullable=False),
    Column("settled", SmallInteger, nullable=False),
    UniqueConstraint("tenant_id", "job", "due_ms", name="report_runs_once"),
    Index("report_runs_by_period", "tenant_id", "report", "period_start"),
    Index("report_runs_by_due", "due_ms"),
    Index("report_runs_unsettled", "settled", "finished_ms"),
)
"""Every firing of a report job: one a tenant, job and due time."""

report_marks: Final = Table(
    "report_marks",
    metadata,
    Column("tenant_id", String(100), nullable=False),
    Column("job", String(60), nullable=False),
    Column("due_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_id", "job"),
)
"""Up to which due time each job has fired for each tenant, or was passed over."""

stays: Final = Table(
    "stays",
    metadata,
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
    # No figure of an earlier or a later day has anything of it.
    Column("first_day", Integer, nullable=False),
    Column("last_day", Integer, nullable=False),
    PrimaryKeyConstraint("tenant_no", "reservation_id"),
    Index("stays_by_day", "tenant_no", "last_day"),
)
"""One row a reservation: what reports count of it."""

charges: Final = Table(
    "charges",
    metadata,
    Column("tenant_no", Integer, nullable=False),
    Column("day", Integer, nullable=False),
    Column("action", String(20), nullable=False),
    Column("category", String(20), nullable=False),
    Column("currency", String(3), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("count", Integer, nullable=False),
    PrimaryKeyConstraint("tenant_no", "day", "action", "category", "currency"),
)
"""What was charged, refunded and corrected, summed by business day."""

rooms: Final = Table(
    "rooms",
    metadata,
    Column("tenant_no", Integer, nullable=False),
    Column("room_id", Text, nullable=False),
    Column("room_type", Text, nullable=False),
    Column("first_day", Integer, nullable=False),
    # As last said: `in_order`, `out_of_order` or `out_of_service`, and since when.
    Column("condition", String(20), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_no", "room_id"),
)
"""The rooms that were ever spoken of."""

room_conditions: Final = Table(
    "room_conditions",
    metadata,
    Column("tenant_no", Integer, nullable=False),
    Column("room_id", Text, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("condition", String(20), nullable=False),
    PrimaryKeyConstraint("tenant_no", "room_id", "at_ms", "sequence"),
)
"""When a room's condition changed; what came late is here in its place."""

fact_places: Final = Table(
    "fact_places",
    metadata,
    Column("tenant_no", Integer, primary_key=True, autoincrement=False),
    # The last event that is in the facts.
    Column("position", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("id_ms", BigInteger, nullable=False),
    Column("id_n", BigInteger, nullable=False),
    # The calendar they were made by.
    Column("timezone", String(64), nullable=False),
    Column("rollover_hour", SmallInteger, nullable=False),
)
"""How far each tenant's events are in the facts. Moves in the same transaction as the facts."""

late_days: Final = Table(
    "late_days",
    metadata,
    Column("tenant_no", Integer, nullable=False),
    Column("day", Integer, nullable=False),
    # Events that changed the day's figures after it was over, and the last of them.
    Column("events", Integer, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    PrimaryKeyConstraint("tenant_no", "day"),
)
"""Business days whose figures changed after they were over, until the reports on them are looked at again."""
