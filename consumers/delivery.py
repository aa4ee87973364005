"""Handing events to handlers: one entity's in order, retried, bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import structlog
from pydantic import ValidationError

from consumers.backoff import Random, full_jitter
from consumers.clock import Clock
from consumers.errors import HandlerFailed, UnreadableEvent
from consumers.handlers import Handler, Handlers
from consumers.progress import Ticket
from consumers.replayed import replaying
from schemas.envelope import Event
from schemas.registry import UnknownEvent, read

log = structlog.get_logger(__name__)

OnFailure = Callable[[Event[Any], Exception], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to its handlers. `ticket`: its place in the position it counts for, if it does; `replay`:
    the replay it belongs to."""

    raw: bytes
    event_id: str
    tenant: str
    entity: str
    cursor: str
    ticket: Ticket | None
    replay: str | None = None


class Workers:
    """Handles deliveries, those of one entity in the order they came. At most `queue_size` wait.

    Args:
        attempts: calls of one handler for one event before it counts as failed.
        handler_timeout: seconds one call may take; None for no limit.
        on_failure: takes over an event that failed; when it returns, the event counts as handled.
    """

    def __init__(
        self,
        handlers: Handlers,
        *,
        concurrency: int,
        queue_size: int,
        attempts: int,
        handler_timeout: float | None,
        on_failure: OnFailure | None,
        clock: Clock,
        random: Random,
    ) -> None:
        self._handlers = handlers
        self._attempts = attempts
        self._handler_timeout = handler_timeout
        self._on_failure = on_failure
        self._clock = clock
        self._random = random
        share = max(1, queue_size // concurrency)
        self._queues = [asyncio.Queue[Delivery](share) for _ in range(concurrency)]
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_handler: set[asyncio.Task[Any]] = set()
        self._stopping = False

    def offer(self, delivery: Delivery) -> bool:
        """Queue without waiting; False when there is no room."""
        try:
            self._queue_of(delivery).put_nowait(delivery)
        except asyncio.QueueFull:
            return False
        return True

    async def put(self, delivery: Delivery) -> None:
        """Queue, waiting for room. When cancelled, the delivery is not queued."""
        await self._queue_of(delivery).put(delivery)

    async def run(self, finished: Callable[[Ticket], None]) -> None:
        """Handle until `stop`; `finished` is told of every event whose handlers have all returned.

        When cancelled, handlers under way are cancelled too.

        Raises:
            HandlerFailed: a handler failed for good and no `on_failure` took over.
            UnreadableEvent: an event cannot even be read as an envelope.
        """
        async with asyncio.TaskGroup() as group:
            self._tasks = {group.create_task(self._work(queue, finished)) for queue in self._queues}
            if self._stopping:
                self.stop()

    def stop(self) -> None:
        """Let events in a handler finish, start no further one. What is queued or waits for a retry is left."""
        self._stopping = True
        for task in self._tasks - self._in_handler:
            task.cancel()

    async def _work(self, queue: asyncio.Queue[Delivery], finished: Callable[[Ticket], None]) -> None:
        while not self._stopping:
            delivery = await queue.get()
            if await self._handle(delivery) and delivery.ticket is not None:
                finished(delivery.ticket)

    async def _handle(self, delivery: Delivery) -> bool:
        try:
            event = read(delivery.raw)
        except Exception as error:
            await self._unreadable(delivery, error)
            return True
        handlers = self._handlers.find(event.type, event.action)
        if not handlers:
            log.info("event_without_handler", name=event.name, event_id=event.event_id)
        with replaying(delivery.replay):
            for handler in handlers:
                if not await self._attempt(handler, event, delivery):
                    return False
        return True

    async def _attempt(self, handler: Handler, event: Event[Any], delivery: Delivery) -> bool:
        """Whether the handler, or `on_failure`, has dealt with the event; False when stopped before."""
        failure: Exception
        for attempt in range(self._attempts):
            try:
                await self._undisturbed(self._call(handler, event))
                return True
            except asyncio.CancelledError as error:
                if _being_cancelled():
                    raise
                failure = RuntimeError("something the handler awaited was cancelled")
                failure.__cause__ = error
            except Exception as error:
                failure = error
            log.warning(
                "handler_failed",
                name=event.name,
                event_id=event.event_id,
                attempt=attempt + 1,
                attempts=self._attempts,
                error=type(failure).__name__,
            )
            if self._stopping:
                return False
            if attempt + 1 < self._attempts:
                await self._clock.sleep(full_jitter(attempt, self._random))
        failed = HandlerFailed(event.name, event.event_id, delivery.cursor, self._attempts)
        failed.__cause__ = failure
        if self._on_failure is None:
            raise failed
        await self._undisturbed(self._on_failure(event, failure))
        return True

    async def _call(self, handler: Handler, event: Event[Any]) -> None:
        if self._handler_timeout is None:
            await handler(event)
        else:
            async with self._clock.timeout(self._handler_timeout):
                await handler(event)

    async def _unreadable(self, delivery: Delivery, error: Exception) -> None:
        unreadable = UnreadableEvent(delivery.event_id, delivery.cursor)
        unreadable.__cause__ = error
        log.error("event_unreadable", event_id=delivery.event_id, tenant=delivery.tenant)
        if self._on_failure is None:
            raise unreadable
        try:
            bare = UnknownEvent.model_validate_json(delivery.raw)
        except ValidationError:
            raise unreadable from error
        await self._undisturbed(self._on_failure(bare, unreadable))

    async def _undisturbed(self, call: Awaitable[None]) -> None:
        """Await user code, which `stop` lets finish."""
        task = asyncio.current_task()
        assert task is not None
        self._in_handler.add(task)
        try:
            await call
        finally:
            self._in_handler.discard(task)

    def _queue_of(self, delivery: Delivery) -> asyncio.Queue[Delivery]:
        if len(self._queues) == 1:
            return self._queues[0]
        return self._queues[crc32(f"{delivery.tenant} {delivery.entity}".encode()) % len(self._queues)]


def _being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
