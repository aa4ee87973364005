"""Webhooks as the hub puts them together, over a rig's log and store, with endpoints that answer as a test says."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import orjson
from feed_rig import Rig, append, until
from replay_desk import Clock

from hub.core.webhooks import Endpoint
from hub.log.stream_log import Appended
from hub.services.announcer import Announcer
from hub.services.ending import end
from hub.services.ledger import Recorder
from hub.services.publisher import Publisher, Systems
from hub.services.webhook_attempts import Attempts
from hub.services.webhook_intake import Intake
from hub.services.webhook_sender import Answer
from hub.services.webhooks import WebhookService
from hub.store.leases import Fence
from schemas.cursor import StreamId

SCHEDULE = (5.0, 300.0, 1800.0)
TENANT = "t-1"
HOUR_MS = 3_600_000


def answer(kind: str = "delivered", status: int | None = 200, **more: Any) -> Answer:
    """What an endpoint answers."""
    fields: dict[str, Any] = {"seconds": 0.001, "error": None, "retry_after_s": None, "body": b""}
    if kind != "delivered":
        fields["error"] = f"HTTP {status}: no" if status else kind
    return Answer(status=status, kind=kind, **fields | more)  # type: ignore[arg-type]


REFUSED = answer("refused", 500)
GONE = answer("gone", 410)


@dataclass
class Request:
    """What an endpoint was sent."""

    url: str
    headers: Mapping[str, str]
    body: dict[str, Any]
    at: float
    event_id: str
    attempt: int


class Endpoints:
    """All endpoints of a test."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.requests: list[Request] = []
        self.answers: Callable[[Request], Answer] = lambda _: answer()
        self.hanging: set[str] = set()
        """URLs that answer nothing until they are taken out."""
        self.before: Callable[[Request], Any] | None = None

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        request = Request(
            url, headers, orjson.loads(body), self._clock.now, headers["webhook-id"], int(headers["hub-attempt"])
        )
        if self.before is not None:
            await self.before(request)
        self.requests.append(request)
        while url in self.hanging:  # noqa: ASYNC110 - the test lets it go
            await asyncio.sleep(0.001)
        return self.answers(request)

    async def aclose(self) -> None:
        """Nothing to close."""

    def to(self, url: str) -> list[str]:
        """The ids of the events that a URL was sent, in order."""
        return [request.event_id for request in self.requests if request.url == url]


class Webhooks:
    """One hub's webhooks. `begin` and `end` it."""

    def __init__(self, rig: Rig, endpoints: Endpoints, clock: Clock, fence: Fence) -> None:
        self.rig, self.clock, self.endpoints, self.fence = rig, clock, endpoints, fence
        self.recorder = Recorder(rig.metrics, rig.log.partition, clock=clock.wall)
        self.recorder.start(rig.store.ledger)
        self.publisher = Publisher(rig.history, Systems(), rig.metrics)
        self.service = WebhookService(
            rig.history, rig.metrics, self._intake, self._attempts, wall=clock.wall, sleep=clock.sleep
        )
        self._task: asyncio.Task[None] | None = None

    def _intake(self, endpoints: Any, served: Any, offer: Any) -> Intake:
        rig = self.rig
        return Intake(
            rig.history,
            rig.dispatcher,
            rig.store.webhook_queue,
            endpoints,
            served,
            offer,
            lambda entry: int(self.clock.now * 1000) + HOUR_MS,
            now_ms=self.service.now_ms,
            delivered=rig.store.ledger.known,
        )

    def _attempts(self, journal: Any) -> Attempts:
        return Attempts(
            self.rig.history,
            self.endpoints,  # type: ignore[arg-type]
            journal,
            self.recorder,
            Announcer(self.publisher, self.rig.history),
            self.rig.metrics,
            SCHEDULE,
            wall=self.clock.wall,
            spread=lambda: 0.5,
        )

    async def begin(self) -> Webhooks:
        """Work, as one that holds the lease."""
        self._task = asyncio.create_task(self.service.work(self.fence))
        await until(lambda: self.service.working or (self._task is not None and self._task.done()), "webhooks to begin")
        await self.service.changed()
        return self

    async def end(self) -> None:
        """End at once, as one that is killed."""
        assert self._task is not None
        await end(self._task)
        await self.recorder.stop()
        await self.publisher.aclose()

    @property
    def over(self) -> asyncio.Task[None]:
        """Its work."""
        assert self._task is not None
        return self._task


class Shop:
    """A rig with webhooks on it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.clock = Clock()
        self.endpoints = Endpoints(self.clock)
        self.working: list[Webhooks] = []
        self._fences = 0

    async def hub(self) -> Webhooks:
        """Another hub, which takes the lease."""
        leases = self.rig.store.leases
        lease = await leases.take("webhooks", f"hub-{len(self.working)}", await leases.look("webhooks"))
        assert lease is not None
        made = Webhooks(self.rig, self.endpoints, self.clock, Fence(lease.name, lease.fence))
        self.working.append(made)
        return await made.begin()

    async def close(self) -> None:
        """End all of them."""
        for hub in self.working:
            await hub.end()

    async def endpoint(self, name: str = "a", **fields: Any) -> Endpoint:
        """Make one, as the desk does."""
        tenant = fields.pop("tenant_id", TENANT)
        head = (await self.rig.history.heads([tenant]))[tenant]
        made = Endpoint(
            str(uuid4()),
            tenant,
            fields.pop("system", "hotel-pms"),
            f"https://{name}.example/hook",
            tuple(fields.pop("patterns", ("*",))),
            fields.pop("critical_only", False),
            "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz",
            StreamId(0, 0),
            0,
            0,
            recover=head.id,
            **fields,
        )
        await self.rig.store.webhooks.create(made)
        for hub in self.working:
            await hub.service.changed()
        return made

    async def publish(self, entity: str = "room:1", tenant: str = TENANT, **data: Any) -> str:
        """Store an event; its id."""
        event = append(tenant, entity=entity, **data)
        outcome = await self.rig.log.submit(event)
        assert isinstance(outcome, Appended)
        return event.event_id

    async def received(self, count: int) -> list[Request]:
        """Once so many requests were made."""
        await until(lambda: len(self.endpoints.requests) >= count, f"{count} requests")
        return self.endpoints.requests

    async def waiting(self, endpoint: Endpoint) -> dict[str, tuple[int, int]]:
        """What the store says an endpoint is owed: attempts and due time by event."""
        rows = await self.rig.store.webhook_queue.waiting(endpoint.endpoint_id, StreamId(0, 0), 10_000)
        return {row.event_id: (row.attempts, row.due_ms) for row in rows}

    async def settled(self, endpoint: Endpoint) -> None:
        """Until it is owed nothing."""
        async with asyncio.timeout(20):
            while await self.waiting(endpoint):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
