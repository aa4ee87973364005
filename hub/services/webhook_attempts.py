"""One attempt at one webhook: written down, signed, sent, and what follows from the answer."""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final
from uuid import UUID, uuid5

import orjson
import structlog

from hub.core.entry import NOT_AN_EVENT, Entry
from hub.core.webhook_lane import Lane
from hub.core.webhooks import GIVE_UP_MS, Delivery, Endpoint, next_due, thin
from hub.log.topology import RedisError
from hub.security.webhook_signatures import signature_header
from hub.services.announcer import Announcer
from hub.services.history import History
from hub.services.ledger import Recorder
from hub.services.webhook_journal import Journal
from hub.services.webhook_sender import Answer, WebhookSender
from hub.store.database import StoreUnavailable
from hub.store.webhook_queue import REPLAY_ID_LENGTH, Noted
from hub.telemetry import Metrics
from schemas.errors import Problem

HELD_UP_MS: Final = 1000
"""An attempt that could not be made, for our own reasons, is looked at again after so long."""
SUCCESS_NOTED_MS: Final = 60_000
NAMESPACE: Final = UUID("b7a9c0d2-6d0e-5f0a-9a3c-0f6d8f1f2a11")
REMEMBERED: Final = 500
"""Events read from the history: the next endpoint may be owed the same one."""

log = structlog.get_logger("hub.webhooks")


def message(
    endpoint: Endpoint, entry: Entry, now_ms: int, attempt: int, replay_id: str = ""
) -> tuple[dict[str, str], bytes]:
    """Headers and body of a webhook, signed by the Standard Webhooks specification."""
    body = entry.json(endpoint.view) if endpoint.payload == "full" else orjson.dumps(thin(entry))
    timestamp = now_ms // 1000
    headers = {
        "content-type": "application/json",
        "webhook-id": entry.event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature_header(endpoint.secrets(now_ms), entry.event_id, timestamp, body),
        "hub-attempt": str(attempt),
        "hub-cursor": entry.cursor,
        "hub-sequence": str(entry.sequence),
    }
    if replay_id:
        headers["hub-replay"] = replay_id
    return headers, body


class Attempts:
    """One hub's, as long as it holds the lease."""

    def __init__(
        self,
        history: History,
        sender: WebhookSender,
        journal: Journal,
        recorder: Recorder,
        announcer: Announcer,
        metrics: Metrics,
        schedule: Sequence[float],
        *,
        wall: Callable[[], float] = time.time,
        spread: Callable[[], float] = random.random,
    ) -> None:
        """`schedule`: seconds before the second, third … attempt. `spread`: a number from 0 to 1 for each wait."""
        self._history = history
        self._webhooks = history.store.webhooks
        self._sender = sender
        self._journal = journal
        self._recorder = recorder
        self._announcer = announcer
        self._metrics = metrics
        self._schedule = schedule
        self._wall = wall
        self._spread = spread
        self._read: OrderedDict[tuple[str, str], Entry] = OrderedDict()

    def _now_ms(self) -> int:
        return int(self._wall() * 1000)

    async def attempt(self, lane: Lane, delivery: Delivery) -> bool:
        """Make the attempt that `lane` gave, and tell it what came of it; True when the store may have later ones of
        its entity, for which the lane waits."""
        attempt = delivery.attempts + 1
        try:
            entry = await self._entry(delivery)
            if entry is not None:
                await self._journal.begun(delivery.key, attempt, self._now_ms())
        except (StoreUnavailable, RedisError, OSError) as error:
            log.warning("webhook_held_up", event_id=delivery.event_id, error=str(error) or type(error).__name__)
            lane.left(delivery, self._now_ms() + HELD_UP_MS)
            return False
        if entry is None:
            log.error("webhook_event_gone", event_id=delivery.event_id, endpoint=delivery.key.endpoint_id)
            lane.breaker.left()
            return await self._give_up(lane, delivery, "the event is no longer in the history", None)
        endpoint = lane.endpoint
        if not _named(delivery) and not endpoint.asks_for(entry):
            lane.breaker.left()
            return await self._give_up(lane, delivery, "the endpoint no longer asks for it", None)
        delivery.attempts = attempt
        try:
            headers, body = message(endpoint, entry, self._now_ms(), attempt, _named(delivery))
        except NOT_AN_EVENT as error:
            lane.breaker.left()
            return await self._give_up(lane, delivery, f"the event cannot be read: {type(error).__name__}", None)
        answer = await self._sender.send(endpoint.url, headers, body)
        self._metrics.webhook_attempts.labels(answer.kind).inc()
        if answer.kind == "delivered":
            return await self._delivered(lane, delivery, entry)
        return await self._failed(lane, delivery, answer)

    async def _entry(self, delivery: Delivery) -> Entry | None:
        entry = delivery.entry
        if entry is None:
            key = (delivery.tenant_id, delivery.event_id)
            entry = self._read.get(key)
            if entry is None:
                entry = await self._history.at(delivery.tenant_id, delivery.key.id)
                if entry is None or entry.event_id != delivery.event_id:
                    entry = await self._history.find(delivery.tenant_id, delivery.event_id)
                if entry is not None:
                    self._read[key] = entry
                    if len(self._read) > REMEMBERED:
                        self._read.popitem(last=False)
        delivery.entry = entry
        return entry if entry is not None and entry.readable else None

    async def _delivered(self, lane: Lane, delivery: Delivery, entry: Entry) -> bool:
        now = self._now_ms()
        lane.breaker.succeeded()
        if delivery.attempts == 1 and not delivery.key.replay_id:
            self._metrics.delivery_seconds.labels("webhook").observe(max(0, now - entry.timestamp_ms) / 1000)
        self._metrics.deliveries.labels("webhook", lane.endpoint.system, "sent").inc()
        self._recorder.webhook("delivered", delivery, lane.endpoint.system, now)
        endpoint = lane.endpoint
        noted = None
        if endpoint.failing_ms is not None or now - (endpoint.succeeded_ms or 0) >= SUCCESS_NOTED_MS:
            noted = Noted(None, None, now)
            lane.endpoint = replace(lane.endpoint, **noted._asdict())
        await self._journal.settled(delivery.key, endpoint.endpoint_id, noted)
        return lane.settled(delivery)

    async def _failed(self, lane: Lane, delivery: Delivery, answer: Answer) -> bool:
        now = self._now_ms()
        endpoint = lane.endpoint
        lane.breaker.failed(now)
        log.info(
            "webhook_failed",
            endpoint=endpoint.endpoint_id,
            event_id=delivery.event_id,
            attempt=delivery.attempts,
            error=answer.error,
        )
        noted = Noted(endpoint.failing_ms or now, answer.error, endpoint.succeeded_ms)
        lane.endpoint = replace(lane.endpoint, **noted._asdict())
        due = next_due(now, delivery.attempts, self._schedule, self._spread(), answer.retry_after_s)
        self._recorder.webhook("attempted", delivery, endpoint.system, now, answer.error)
        if answer.kind == "gone":
            await self._disable(lane, "it answered 410 Gone")
        elif noted.failing_ms is not None and now - noted.failing_ms >= GIVE_UP_MS:
            await self._disable(lane, f"it failed for {GIVE_UP_MS // 86_400_000} days; last: {answer.error}")
        if due is None:
            return await self._give_up(lane, delivery, answer.error, noted)
        await self._journal.again(delivery.key, due, answer.error, endpoint.endpoint_id, noted)
        lane.again(delivery, due, self._now_ms())
        return False

    async def _give_up(self, lane: Lane, delivery: Delivery, why: str | None, noted: Noted | None) -> bool:
        log.error(
            "webhook_given_up",
            endpoint=delivery.key.endpoint_id,
            event_id=delivery.event_id,
            attempts=delivery.attempts,
            error=why,
        )
        self._recorder.webhook("given_up", delivery, lane.endpoint.system, self._now_ms(), why)
        self._metrics.webhook_attempts.labels("given_up").inc()
        await self._journal.settled(delivery.key, lane.endpoint.endpoint_id, noted)
        return lane.settled(delivery)

    async def _disable(self, lane: Lane, why: str) -> None:
        """Say so first: told twice is told once. Where that fails, the next failure tries again."""
        if not lane.endpoint.enabled:
            return
        endpoint = lane.endpoint
        lane.endpoint = replace(endpoint, state="disabled")
        log.error("webhook_disabled", endpoint=endpoint.endpoint_id, reason=why)
        try:
            await self._announcer.announce(
                endpoint.tenant_id,
                "alarm",
                f"webhook:{endpoint.endpoint_id}",
                f"The webhook endpoint {endpoint.endpoint_id} of {endpoint.system} was disabled: {why}. "
                "Mend it, enable it, and recover what it missed",
                event_id=str(uuid5(NAMESPACE, f"{endpoint.endpoint_id}/disabled/{endpoint.version}")),
                severity="critical",
                detail={"endpoint_id": endpoint.endpoint_id, "system": endpoint.system, "reason": why},
                system=endpoint.system,
            )
            now = self._now_ms()
            await self._webhooks.change(
                endpoint.endpoint_id, lambda held: replace(held, state="disabled", reason=why, updated_ms=now)
            )
        except BaseException as error:
            # Its state alone: the rest of it may have changed meanwhile.
            lane.endpoint = replace(lane.endpoint, state="enabled")
            if not isinstance(error, Problem | StoreUnavailable):
                raise
            log.warning("webhook_not_disabled", endpoint=endpoint.endpoint_id, error=str(error))


def _named(delivery: Delivery) -> str:
    """The replay, where it is one that somebody asked for by name."""
    return delivery.key.replay_id if len(delivery.key.replay_id) == REPLAY_ID_LENGTH else ""
