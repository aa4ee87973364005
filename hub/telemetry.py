"""Logs and metrics. One line a connection, request and failure; never a payload or a token."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_FAST = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
_LONG = (1, 10, 60, 300, 1800, 3600, 4 * 3600, 24 * 3600)
_RECOVERY = (0.5, 1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 900, 3600)
_SETTLEMENT = (0.1, 0.5, 1, 10, 60, 600, 3600, 4 * 3600, 24 * 3600, 3 * 24 * 3600, 7 * 24 * 3600, 30 * 24 * 3600)


class Metrics:
    """The hub's metrics. Tenants are never labels."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str, mode: str = "livesum") -> Gauge:
            return Gauge(name, text, labels, registry=registry, multiprocess_mode=mode)  # type: ignore[arg-type]

        self.published = counter(
            "hub_events_published_total", "Events handed in, by what became of them", "type", "outcome"
        )
        self.publish_seconds = Histogram(
            "hub_publish_seconds", "From hand-in to durable", registry=registry, buckets=_FAST
        )
        self.delivery_seconds = Histogram(
            "hub_delivery_seconds", "From recorded_at to written", ("channel",), registry=registry, buckets=_FAST
        )
        self.deliveries = counter("hub_deliveries_total", "Events written to readers", "channel", "system", "outcome")
        self.connections = gauge("hub_connections", "Open WebSocket connections", "system")
        self.connection_seconds = Histogram(
            "hub_connection_seconds", "How long connections lasted", registry=registry, buckets=_LONG
        )
        self.closes = counter("hub_closes_total", "Closed WebSocket connections", "code")
        self.lagging = gauge("hub_lagging_connections", "Connections reading by cursor because they are slow")
        self.resumes = counter("hub_resumes_total", "Subscriptions that began after a cursor", "outcome")
        self.frames = counter("hub_frames_total", "WebSocket frames", "direction")
        self.group_lag = gauge(
            "hub_group_lag",
            "Entries a consumer group has not been given (-1: unknown)",
            "group",
            "partition",
            mode="mostrecent",
        )
        self.group_oldest = gauge(
            "hub_group_oldest_pending_seconds",
            "Age of the oldest unacknowledged entry",
            "group",
            "partition",
            mode="mostrecent",
        )
        self.dead_letters = gauge("hub_dead_letters", "Dead letters waiting for a person", "group", mode="mostrecent")
        self.durable = gauge("hub_log_durable", "1 when an acknowledged publish is on disk", mode="mostrecent")
        self.ledger_rows = counter("hub_ledger_rows_total", "Rows of the delivery ledger that were stored")
        self.ledger_dropped = counter(
            "hub_ledger_dropped_total", "Rows of the delivery ledger lost because the store did not take them"
        )
        self.ledger_waiting = gauge("hub_ledger_waiting_rows", "Rows of the delivery ledger that wait for the store")
        self.log_restarts = counter("hub_log_restarts_total", "Restarts of the embedded server")
        self.store_lag = gauge("hub_store_lag_events", "Events that are not in the store yet", mode="mostrecent")
        self.trimmed = counter("hub_events_trimmed_total", "Events that left the stream: finished, and old")
        self.archived = counter("hub_events_archived_total", "Events written to the store")
        self.webhook_attempts = counter("hub_webhook_attempts_total", "Attempts at webhooks", "outcome")
        self.webhooks_waiting = gauge(
            "hub_webhooks_waiting", "Events that webhook endpoints are owed", mode="mostrecent"
        )
        self.webhook_endpoints = gauge("hub_webhook_endpoints", "Webhook endpoints", "state", mode="mostrecent")
        self.batch_runs = counter("hub_batch_runs_total", "Runs of report jobs", "job", "outcome")
        self.sync_items = counter(
            "hub_sync_items_total", "Items that devices pushed, by what became of them", "model", "outcome"
        )
        self.conflicts = counter(
            "hub_conflicts_total",
            "Conflicts, by the policy that settled them, or `manual`",
            "model",
            "policy",
            "outcome",
        )
        self.conflict_resolution_seconds = Histogram(
            "hub_conflict_resolution_seconds",
            "From a conflict's opening to its resolution",
            registry=registry,
            buckets=_SETTLEMENT,
        )
        self.offline_recovery_seconds = Histogram(
            "hub_offline_recovery_seconds",
            "From the first push of a device that was away to its backlog reaching nothing",
            registry=registry,
            buckets=_RECOVERY,
        )
        self.sync_devices = gauge("hub_sync_devices", "Devices that work offline", "state", mode="mostrecent")
        self.conflicts_open = gauge("hub_conflicts_open", "Conflicts that wait for a person", mode="mostrecent")
        self.sync_backlog = gauge(
            "hub_sync_backlog_items", "Items that wait at devices, by what they last said", mode="mostrecent"
        )
        self.integrity_runs = counter(
            "hub_integrity_runs_total", "Comparisons and statistics of properties", "kind", "outcome"
        )
        self.gaps = counter("hub_gaps_total", "Holes in the history that readers were told of", "reason")


def configure_logging(level: str, style: Literal["auto", "json", "console"]) -> None:
    """Send the hub's log, and that of the libraries, to stderr: JSON, or coloured text on a terminal."""
    pretty = style == "console" or (style == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if not pretty:
        shared.append(structlog.processors.format_exc_info)
    renderer: Any = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if pretty
        else structlog.processors.JSONRenderer(lambda event, **_: orjson.dumps(event, default=str).decode())
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    logging.getLogger("uvicorn.access").disabled = True
    for chatty in ("uvicorn.error", "websockets", "httpx", "httpcore", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))
