"""The tables, as the newest migration leaves them. The same on SQLite and PostgreSQL.

A place in a partition's stream is `id_ms, id_n`; times are Unix ms; a tenant is `tenant_no`, a number of this store's.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    text,
)

metadata: Final = MetaData()

tenants = Table(
    "tenants",
    metadata,
    # Integer, or SQLite would not number the rows by itself.
    Column("tenant_no", Integer, primary_key=True, autoincrement=True),
    Column("tenant_id", String(100), nullable=False, unique=True),
    Column("partition", SmallInteger, nullable=False),
    # The last archived event: how many came before it, the hash of the chain with it, where it lies.
    Column("position", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("id_ms", BigInteger, nullable=False),
    Column("id_n", BigInteger, nullable=False),
    # The last event that the retention removed; all zero while everything is there.
    Column("base_position", BigInteger, nullable=False),
    Column("base_hash", LargeBinary, nullable=False),
    Column("base_epoch", BigInteger, nullable=False),
    Column("base_sequence", BigInteger, nullable=False),
    Column("base_ms", BigInteger, nullable=False),
    Column("base_n", BigInteger, nullable=False),
)
"""Every property with archived events, and the two ends of its history."""

properties = Table(
    "properties",
    metadata,
    Column("tenant_id", String(100), primary_key=True),
    Column("settings", Text, nullable=False),
)
"""A copy of what the log knows of each property (JSON), for a log that was emptied."""

partitions = Table(
    "partitions",
    metadata,
    Column("partition", SmallInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("id_ms", BigInteger, nullable=False),
    Column("id_n", BigInteger, nullable=False),
)
"""How far each stream is archived. Moves in the same transaction as the events, and only from where its writer knew it
to be: of two archivers one wins."""

events = Table(
    "events",
    metadata,
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
    Index("events_by_tenant", "tenant_no", "id_ms", "id_n"),
    Index("events_by_id", "event_id", "tenant_no"),
    Index("events_by_entity", "tenant_no", "entity", "id_ms", "id_n"),
    postgresql_partition_by="RANGE (id_ms)",
)
"""The events. `position` counts a tenant's from 1 without a hole; `hash` is SHA-256 over the previous one's and all
that the row says of the event. An empty body: the event is stored already, at an earlier place. In PostgreSQL one
partition a month."""

generations = Table(
    "generations",
    metadata,
    Column("generation", Integer, primary_key=True, autoincrement=False),
    Column("current", SmallInteger, nullable=False),
    Column("started_ms", BigInteger, nullable=False),
)
"""Projections of the events onto entities: the one that is read, and perhaps one that is being built beside it."""

projections = Table(
    "projections",
    metadata,
    Column("generation", Integer, nullable=False),
    Column("tenant_no", Integer, nullable=False),
    # The last event that is in it.
    Column("position", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("id_ms", BigInteger, nullable=False),
    Column("id_n", BigInteger, nullable=False),
    PrimaryKeyConstraint("generation", "tenant_no"),
)
"""How far each tenant's events are projected. Moves in the same transaction as the entities."""

entities = Table(
    "entities",
    metadata,
    Column("generation", Integer, nullable=False),
    Column("tenant_no", Integer, nullable=False),
    Column("type", String(40), nullable=False),
    Column("entity", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("id_ms", BigInteger, nullable=False),
    Column("id_n", BigInteger, nullable=False),
    Column("schema_version", Integer, nullable=False),
    # JSON lists: systems that may see every event that is in `data`, and those that may see some of them.
    Column("seen_by_all", Text, nullable=False),
    Column("seen_by_some", Text, nullable=False),
    Column("data", LargeBinary, nullable=False),
    # JSON: who made how many of its events, `hub.core.versions`. Null of states that an earlier release projected.
    Column("writers", Text, nullable=True),
    PrimaryKeyConstraint("generation", "tenant_no", "type", "entity"),
)
"""The latest state of each entity, by the type of its events: a reservation and its stay are two rows."""

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", LargeBinary, primary_key=True),
    Column("kind", String(20), nullable=False),
    Column("partition", SmallInteger, nullable=False),
    # The events it is about: those of the partition (of the tenant, where it names one) in this range of places, both
    # ends included, that `interest` asks for.
    Column("from_ms", BigInteger, nullable=False),
    Column("from_n", BigInteger, nullable=False),
    Column("to_ms", BigInteger, nullable=False),
    Column("to_n", BigInteger, nullable=False),
    # How long the range is, in steps: what covers a place ends at most that much after it.
    Column("width", SmallInteger, nullable=False),
    Column("tenant_id", String(100), nullable=True),
    Column("event_id", String(100), nullable=True),
    Column("system", String(64), nullable=True),
    Column("channel", String(20), nullable=True),
    Column("session", String(100), nullable=True),
    Column("name", String(100), nullable=True),
    # A dead letter's id, a redriven entry's place, a replay's id.
    Column("ref", String(60), nullable=True),
    Column("hub", String(32), nullable=False),
    Column("interest", Text, nullable=True),
    Column("events", BigInteger, nullable=True),
    Column("attempts", Integer, nullable=True),
    Column("error", Text, nullable=True),
    Column("first_ms", BigInteger, nullable=False),
    Column("last_ms", BigInteger, nullable=False),
    Index("deliveries_by_place", "partition", "width", "to_ms", "to_n"),
    Index("deliveries_by_kind", "kind", "last_ms"),
)
"""The delivery ledger: what became of the events. A row says it of a range where a range says it. Tenants by name: a
hub may write of one that the archive has not seen yet."""

subscribers = Table(
    "subscribers",
    metadata,
    Column("system", String(64), nullable=False),
    Column("name", String(100), nullable=False),
    Column("tenant_id", String(100), nullable=False),
    Column("interest", Text, nullable=False),
    # The last event that it acknowledged, with everything before it; 0 where it has only begun.
    Column("sequence", BigInteger, nullable=False),
    Column("id_ms", BigInteger, nullable=False),
    Column("id_n", BigInteger, nullable=False),
    Column("acked_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("system", "name", "tenant_id"),
)
"""Who acknowledges events, and how far they came: the durable subscriptions."""

groups = Table(
    "groups",
    metadata,
    Column("name", String(100), nullable=False),
    Column("partition", SmallInteger, nullable=False),
    # Up to here the group has finished, and that is written down.
    Column("id_ms", BigInteger, nullable=False),
    Column("id_n", BigInteger, nullable=False),
    # The last dead letter that is written down, and how many the stream had ever had then.
    Column("dead_ms", BigInteger, nullable=False),
    Column("dead_n", BigInteger, nullable=False),
    Column("dead_count", BigInteger, nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    PrimaryKeyConstraint("name", "partition"),
)
"""Consumer groups as the ledger last saw them."""

replays = Table(
    "replays",
    metadata,
    Column("replay_id", String(36), primary_key=True),
    Column("target", String(300), nullable=False),
    Column("state", String(20), nullable=False),
    Column("spec", Text, nullable=False),
    Column("progress", Text, nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("updated_ms", BigInteger, nullable=False),
    Index("replays_by_target", "target", "created_ms"),
    Index(
        "replays_active",
        "target",
        unique=True,
        sqlite_where=text("state IN ('running', 'paused')"),
        postgresql_where=text("state IN ('running', 'paused')"),
    ),
)
"""Replays, finished ones too: what was asked for, where it goes, how far it is. One a target that is not over."""
