"""A hub's real parts over a real log server and store, as a desk's engine asks them, and a log that fails over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from consumers.errors import HubRefused
from consumers.offline.hub_link import Batch
from hub.core.entry import Entry
from hub.log.setup import load_epochs
from schemas import strict_json
from schemas.cursor import ZERO
from schemas.errors import Problem
from schemas.registry import EVENT_TYPES
from schemas.sync import PullResponse, PushResponse, SnapshotResponse, batch_crc32
from tests.offline_life.clock import SimulatedClock
from tests.offline_life.hotel import TENANT
from tests.offline_life.hub_side import HubSide, claims

Kept = dict[bytes, bytes]


class RealHub:
    """Implements `consumers.offline.hub_link.SyncHub`. Everything that a pull or snapshot finds was archived for it."""

    def __init__(self, side: HubSide, device_id: str) -> None:
        self.side = side
        self.device_id = device_id
        self.token = claims("hotel-pms", device_id)
        self.pushes: list[list[str]] = []
        """The uuids of every push that arrived."""
        self.outcomes: list[str] = []
        """What was answered for them, item by item."""

    async def push(self, batch: Batch) -> PushResponse:
        items = [orjson.loads(one) for one in batch.items]
        self.pushes.append([one["uuid"] for one in items])
        body = {"device_id": self.device_id, "tenant_id": TENANT, "items": items, "cursor": batch.cursor}
        body |= {"batch_crc32": batch_crc32(batch.sums), "sent_at": batch.sent_at, "backlog": batch.backlog}
        try:
            answer = PushResponse.model_validate_json(await self.side.push(self.token, orjson.dumps(body)))
        except Problem as problem:
            raise _refused(problem) from problem
        self.outcomes += [one.outcome for one in answer.results]
        return answer

    async def pull(self, after: str | None, limit: int) -> PullResponse:
        try:
            return PullResponse.model_validate_json(await self.side.pull(self.token, after, limit))
        except Problem as problem:
            raise _refused(problem) from problem

    async def snapshot(self, after: str | None, limit: int) -> SnapshotResponse:
        try:
            return SnapshotResponse.model_validate_json(await self.side.snapshot(self.token, after, limit))
        except Problem as problem:
            raise _refused(problem) from problem

    async def happen(self, type: str, action: str, data: dict[str, Any]) -> None:
        """An event of the system of authority."""
        event = {"type": type, "action": action, "tenant_id": TENANT, "data": data}
        parsed = strict_json.parse(orjson.dumps(event))
        token = claims(EVENT_TYPES[type].authority or "hotel-pms", scopes=("publish:*",))
        await self.side.publisher.submit(parsed, parsed.tree, token)

    async def events(self, uuid: str | None = None) -> list[Entry]:
        """What the log has, or what it has of an item."""
        entries = await self.side.log.read(self.side.log.partition(TENANT), ZERO, 10_000)
        return [entry for entry in entries if uuid in (None, entry.event_id)]

    async def state(self, type: str, entity: str) -> dict[str, Any]:
        """What the hub's snapshot says of a record."""
        page = await self.snapshot(None, 1000)
        return next(one.data for one in page.records if (one.type, one.entity) == (type, entity))

    async def replica(self) -> Kept:
        """What a replica of the log has got up to now."""
        client = self.side.log.source.client
        return {key: await client.dump(key) for key in await client.keys("*")}

    async def fail_over(self, replica: Kept | None = None) -> None:
        """The replica takes over, and what it has not got is gone; None: it has got all. A new epoch begins."""
        client = self.side.log.source.client
        if replica is not None:
            await client.flushall()
            for key, value in replica.items():
                await client.restore(key, 0, value)
        await client.incr(self.side.log.keys.epoch(self.side.log.partition(TENANT)))
        await load_epochs(self.side.log.source, self.side.log)


def _refused(problem: Problem) -> HubRefused:
    return HubRefused(problem.code, problem.detail or "", retryable=False, errors=problem.errors)


@asynccontextmanager
async def real_hub(directory: Path, clock: SimulatedClock, device_id: str) -> AsyncIterator[RealHub]:
    """A hub without events."""
    side = HubSide(directory, clock)
    try:
        await side.boot()
        yield RealHub(side, device_id)
    finally:
        await side.close()
