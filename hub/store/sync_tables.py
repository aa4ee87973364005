"""The tables of devices that work offline: what they pushed, what was settled how, and whether they hold the same.

Conventions as in `hub.store.tables`.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, PrimaryKeyConstraint, SmallInteger, String, Table, Text

from hub.store.tables import metadata

sync_devices: Final = Table(
    "sync_devices",
    metadata,
    Column("tenant_id", String(100), nullable=False),
    Column("device_id", String(100), nullable=False),
    Column("system", String(64), nullable=False),
    Column("first_seen_ms", BigInteger, nullable=False),
    Column("last_seen_ms", BigInteger, nullable=False),
    Column("pushed_ms", BigInteger, nullable=True),
    Column("pulled_ms", BigInteger, nullable=True),
    # The highest sequence number that came, and how many items the device said to have left.
    Column("device_sequence", BigInteger, nullable=False),
    Column("backlog", BigInteger, nullable=True),
    # How far its clock is ahead of the hub's.
    Column("clock_skew_ms", BigInteger, nullable=True),
    # How far it has pulled.
    Column("cursor", Text, nullable=True),
    Column("sequence", BigInteger, nullable=True),
    # It was asked to sync, and has not since.
    Column("requested_ms", BigInteger, nullable=True),
    Column("compared_ms", BigInteger, nullable=True),
    Column("compared_equal", SmallInteger, nullable=True),
    PrimaryKeyConstraint("tenant_id", "device_id"),
)
"""Every device that has pushed or pulled."""

sync_items: Final = Table(
    "sync_items",
    metadata,
    Column("tenant_id", String(100), nullable=False),
    Column("uuid", String(36), nullable=False),
    Column("device_id", String(100), nullable=False),
    Column("device_sequence", BigInteger, nullable=False),
    Column("system", String(64), nullable=False),
    Column("model", String(20), nullable=False),
    Column("operation", String(10), nullable=False),
    # Named by the item, where its operation may mean several.
    Column("action", String(40), nullable=True),
    Column("type", String(40), nullable=False),
    Column("entity", Text, nullable=False),
    Column("checksum", String(64), nullable=False),
    # JSON: the version it was made on, and the payload as the desk said it.
    Column("base_version", Text, nullable=False),
    Column("payload", Text, nullable=False),
    # JSON list: what of it was news to its maker; null until it is known.
    Column("touched", Text, nullable=True),
    # By the device's clock, as it was sent, and corrected by what is known of that clock.
    Column("created_at", String(40), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("received_ms", BigInteger, nullable=False),
    # Null until it is settled: whether its event was stored, the log knows.
    Column("outcome", String(12), nullable=True),
    Column("revision", BigInteger, nullable=True),
    Column("cursor", Text, nullable=True),
    Column("policy", String(20), nullable=True),
    Column("winner", String(100), nullable=True),
    Column("conflict_id", String(36), nullable=True),
    Column("errors", Text, nullable=True),
    PrimaryKeyConstraint("tenant_id", "uuid"),
    Index("sync_items_by_entity", "tenant_id", "entity"),
    Index("sync_items_by_device", "tenant_id", "device_id", "device_sequence"),
    Index("sync_items_by_time", "received_ms"),
)
"""Every item that was pushed and could be read, as it was said: also what lost, and what was refused."""

sync_conflicts: Final = Table(
    "sync_conflicts",
    metadata,
    Column("conflict_id", String(36), primary_key=True),
    Column("tenant_id", String(100), nullable=False),
    Column("uuid", String(36), nullable=False),
    Column("device_id", String(100), nullable=False),
    Column("system", String(64), nullable=False),
    Column("model", String(20), nullable=False),
    Column("type", String(40), nullable=False),
    Column("entity", Text, nullable=False),
    # `open`, or `resolved`: by a policy, or by a person.
    Column("state", String(10), nullable=False),
    Column("policy", String(20), nullable=False),
    Column("winner", String(100), nullable=True),
    # Why a person is asked, in words.
    Column("reason", Text, nullable=True),
    # JSON: per contested field who said what; and both versions, whole.
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
    Index("sync_conflicts_by_item", "tenant_id", "uuid"),
    Index("sync_conflicts_by_entity", "tenant_id", "entity", "state"),
    Index("sync_conflicts_by_state", "state", "opened_ms"),
    Index("sync_conflicts_by_tenant", "tenant_id", "state", "opened_ms"),
)
"""Where two had changed the same: settled by a policy, or waiting for a person. The losing version is kept."""

sync_history: Final = Table(
    "sync_history",
    metadata,
    Column("sync_id", String(36), primary_key=True),
    Column("tenant_id", String(100), nullable=False),
    Column("device_id", String(100), nullable=False),
    # `push`, `pull`, `snapshot` or `compare`.
    Column("kind", String(10), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("duration_ms", Integer, nullable=False),
    Column("items", Integer, nullable=False),
    # JSON: outcome → how many.
    Column("outcomes", Text, nullable=False),
    Column("backlog", BigInteger, nullable=True),
    Column("clock_skew_ms", BigInteger, nullable=True),
    Index("sync_history_by_device", "tenant_id", "device_id", "at_ms"),
    Index("sync_history_by_time", "at_ms"),
)
"""What each device synced when (R109)."""

sync_comparisons: Final = Table(
    "sync_comparisons",
    metadata,
    Column("comparison_id", String(36), primary_key=True),
    Column("tenant_id", String(100), nullable=False),
    Column("device_id", String(100), nullable=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("cursor", Text, nullable=False),
    Column("root", String(64), nullable=False),
    Column("count", Integer, nullable=False),
    Column("equal", SmallInteger, nullable=False),
    # JSON list of `type entity`.
    Column("differing", Text, nullable=False),
    Column("repaired", Integer, nullable=False),
    Index("sync_comparisons_by_device", "tenant_id", "device_id", "at_ms"),
    Index("sync_comparisons_by_time", "at_ms"),
)
"""How devices' states compared with the hub's (R80)."""

integrity_runs: Final = Table(
    "integrity_runs",
    metadata,
    Column("tenant_id", String(100), nullable=False),
    # `daily` or `weekly`, and its first day in the property's calendar.
    Column("kind", String(10), nullable=False),
    Column("day", Integer, nullable=False),
    Column("made_ms", BigInteger, nullable=False),
    Column("ok", SmallInteger, nullable=False),
    # JSON: what was compared or counted, and what was found.
    Column("body", Text, nullable=False),
    PrimaryKeyConstraint("tenant_id", "kind", "day"),
)
"""The daily comparison and the weekly statistics of each property (R80, R81)."""
