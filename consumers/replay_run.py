"""Receiving one replay: a connection of its own, so that the live position does not move."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson
import structlog

from consumers.backoff import Random, full_jitter
from consumers.clock import Clock
from consumers.connection import Connection
from consumers.credential import Credential
from consumers.delivery import Delivery, Workers
from consumers.errors import ConsumerError, Disconnected, SubscriptionRefused
from consumers.intake import OnGap
from consumers.progress import Progress, Ticket
from schemas.frames import Error, EventFrame, Gap, Notice, Subscribed

log = structlog.get_logger(__name__)

SUBSCRIPTION: Final = "replay"


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """How a replay ended: `done`, `cancelled` or `failed` as its operator or the hub had it, `stopped` by this client.

    `events`: how many were handled.
    """

    replay_id: str | None
    state: Literal["done", "cancelled", "failed", "stopped"]
    events: int


class ReplayRun:
    """One replay, over as many connections as it takes. `run` once."""

    def __init__(
        self,
        url: str,
        asked: Mapping[str, Any],
        workers: Workers,
        credential: Credential,
        *,
        on_gap: OnGap | None,
        clock: Clock,
        random: Random,
    ) -> None:
        self._url = url
        self._asked = {**asked, "id": SUBSCRIPTION}
        self._workers = workers
        self._credential = credential
        self._on_gap = on_gap
        self._clock = clock
        self._random = random
        self._progress = Progress({})
        self._replay_id: str | None = None
        self._waiting = 0
        self._finished = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self, stopping: asyncio.Event) -> ReplayResult:
        """Receive and handle until the replay ends, or `stopping` is set.

        Raises:
            AccessRefused, SubscriptionRefused, HandlerFailed, UnreadableEvent: as `HubClient.run`.
        """
        async with asyncio.TaskGroup() as group:
            handling = group.create_task(self._workers.run(self._done_with), name="hub-replay-workers")
            following = group.create_task(self._follow(), name="hub-replay")
            stop = group.create_task(stopping.wait(), name="hub-replay-stop")
            await asyncio.wait({following, stop}, return_when=asyncio.FIRST_COMPLETED)
            stop.cancel()
            if not following.done():
                following.cancel()
                await asyncio.wait({following})
            self._workers.stop()
            await asyncio.wait({handling})
        if following.cancelled():
            return ReplayResult(self._replay_id, "stopped", self._finished)
        return ReplayResult(self._replay_id, following.result(), self._finished)

    def _done_with(self, ticket: Ticket) -> None:
        self._progress.finish(ticket)
        self._finished += 1
        self._waiting -= 1
        if self._waiting == 0:
            self._idle.set()

    async def _follow(self) -> Literal["done", "cancelled", "failed"]:
        attempt = 0
        while True:
            connection: Connection | None = None
            try:
                connection = await Connection.open(self._url, await self._credential.renew(), self._clock)
                state = await self._read(connection)
                await self._idle.wait()
                return state
            except Disconnected as error:
                log.info("hub_connection_ended", reason=error.reason, code=error.code)
                # A connection that stood is no reason to wait longer than after the first that did not.
                attempt = 0 if connection is not None else attempt + 1
            finally:
                if connection is not None:
                    await connection.close()
            await self._clock.sleep(full_jitter(attempt, self._random))

    async def _read(self, connection: Connection) -> Literal["done", "cancelled", "failed"]:
        reached = self._progress.after((), named=False)
        again = {} if reached is None else {"after": reached, "replay_id": self._replay_id}
        await connection.send(self._asked | again)
        async with aclosing(connection.frames()) as frames:
            async for frame in frames:
                match frame:
                    case EventFrame():
                        await self._take_in(frame, connection)
                    case Gap():
                        await self._gap(frame, connection)
                    case Notice(code="replay_done"):
                        self._replay_id = frame.detail["replay_id"]
                        state: Literal["done", "cancelled", "failed"] = frame.detail["state"]
                        return state
                    case Notice(code="token_expiring"):
                        await self._refresh(connection)
                    case Error(id="replay"):
                        if not frame.retryable:
                            raise SubscriptionRefused(frame.code, frame.message)
                        raise Disconnected(f"no replay now: {frame.code}")
                    case Subscribed():
                        log.info("replay_subscribed", patterns=frame.patterns)
                    case Notice() | Error():
                        log.info("hub_notice", code=frame.code)
        raise Disconnected("the connection ended")

    async def _take_in(self, frame: EventFrame, connection: Connection) -> None:
        event = frame.event
        if frame.replay_id != self._replay_id:
            # Another one than before: its places have nothing to do with the last one's.
            await self._stalled(connection, self._idle.wait())
            self._replay_id, self._progress = frame.replay_id, Progress({})
        ticket = self._progress.admit(event["tenant_id"], frame.cursor)
        if ticket is None:
            return
        delivery = Delivery(
            orjson.dumps(event),
            event["event_id"],
            event["tenant_id"],
            event["entity"],
            frame.cursor,
            ticket,
            frame.replay_id,
        )
        self._waiting += 1
        self._idle.clear()
        if not self._workers.offer(delivery):
            await self._stalled(connection, self._workers.put(delivery))

    async def _gap(self, gap: Gap, connection: Connection) -> None:
        log.warning("gap", tenant=gap.tenant_id, reason=gap.reason)
        if self._on_gap is not None:
            await self._stalled(connection, self._on_gap(gap))

    @staticmethod
    async def _stalled(connection: Connection, something: Awaitable[Any]) -> None:
        """Await something; nothing is read meanwhile."""
        connection.stall()
        try:
            await something
        finally:
            connection.resume()

    async def _refresh(self, connection: Connection) -> None:
        if not self._credential.renewable:
            log.warning("token_expires_soon", remedy="give HubClient a function that fetches a token")
            return
        try:
            await connection.send({"op": "refresh", "token": await self._credential.renew()})
        except ConsumerError as error:
            log.warning("token_not_refreshed", reason=str(error))
