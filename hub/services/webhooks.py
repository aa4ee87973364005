"""Sends webhooks: one hub at a time finds out what endpoints are owed and sends it, each endpoint by itself (R25).

What an endpoint is owed is in the store before it is sent, and so is every attempt before it is made; a hub that dies
in the middle of one makes it again. Endpoints know an event by its `webhook-id`, which is its event_id.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

import structlog

from hub.core.webhook_lane import MAX_EACH, Lane
from hub.core.webhooks import Delivery, Endpoint, owed
from hub.services.ending import end, first_of
from hub.services.history import History
from hub.services.webhook_attempts import HELD_UP_MS, Attempts
from hub.services.webhook_intake import Intake
from hub.services.webhook_journal import Journal
from hub.store.database import StoreUnavailable
from hub.store.leases import Fence
from hub.store.webhooks import Webhooks
from hub.telemetry import Metrics

POLL_S: Final = 1.0
"""How soon a change that was made on another hub is seen."""
PAGE: Final = 500
RECOVERY_HELD: Final = 1000
"""Deliveries of a recovery that wait, at most: the rest is looked for when there is room."""
RECOVERY: Final = "recover"
"""What stands for the replay in deliveries that a recovery found."""
STOP_S: Final = 3.0
"""How long attempts under way are waited for at the end."""
MEASURE_S: Final = 5.0
TIDY_S: Final = 3600.0

Endpoints = Callable[[], dict[str, list[Endpoint]]]
MakeIntake = Callable[[Endpoints, Callable[[], set[int]], Callable[[Sequence[Delivery]], None]], Intake]
MakeAttempts = Callable[[Journal], Attempts]

log = structlog.get_logger("hub.webhooks")


class WebhookService:
    """What a hub does while it holds the lease `webhooks`: `work`."""

    def __init__(
        self,
        history: History,
        metrics: Metrics,
        make_intake: MakeIntake,
        make_attempts: MakeAttempts,
        *,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._history = history
        self._store = history.store
        self._webhooks: Webhooks = history.store.webhooks
        self._queue = history.store.webhook_queue
        self._metrics = metrics
        self._make_intake = make_intake
        self._make_attempts = make_attempts
        self._wall = wall
        self._sleep = sleep
        self._lanes: dict[str, _Drive] = {}
        self._attempts: set[asyncio.Task[None]] = set()
        """Under way, for endpoints that are gone meanwhile too."""
        self._by_tenant: dict[str, list[Endpoint]] = {}
        self._served: set[int] = set()
        self._versions: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._seen: asyncio.Event = asyncio.Event()
        self.working = False

    def now_ms(self) -> int:
        """Unix ms."""
        return int(self._wall() * 1000)

    async def changed(self) -> None:
        """An endpoint was changed by this process: returns when that has taken effect, if it is for this one."""
        if self.working:
            # All who wait for the look that begins next share its event.
            seen = self._seen
            self._changed.set()
            await seen.wait()

    async def work(self, fence: Fence) -> None:
        """Until cancelled.

        Raises:
            LeaseLost: it is another hub's turn.
            StoreUnavailable, RedisError, OSError, Fenced: it is to be begun again.
        """
        journal = Journal(self._queue, fence)
        attempts = self._make_attempts(journal)
        intake = self._make_intake(lambda: self._by_tenant, lambda: self._served, self._offer)
        self._lanes, self._by_tenant, self._served, self._versions = {}, {}, set(), {}
        await intake.begin()
        tasks = [asyncio.create_task(journal.run(), name="webhook-journal")]
        try:
            # Before anything is looked through: where nobody asks for anything, events are passed over for good.
            await self._look(intake, attempts)
            self.working = True
            tasks.append(asyncio.create_task(self._follow(fence, intake, attempts), name="webhook-endpoints"))
            tasks.append(asyncio.create_task(intake.run(fence), name="webhook-intake"))
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.working = False
            self._seen.set()
            await end(*tasks[1:])
            await self._end(tasks[0])

    async def _end(self, writing: asyncio.Task[None]) -> None:
        """Take nothing more; what is under way may come to its end for some seconds."""
        drives, self._lanes = list(self._lanes.values()), {}
        await asyncio.gather(*(drive.stop_taking() for drive in drives))
        running = list(self._attempts)
        if running and not writing.done():
            await asyncio.wait(running, timeout=STOP_S)
        await end(*running, writing)

    # -- endpoints ------------------------------------------------------------------------------------------------

    async def _follow(self, fence: Fence, intake: Intake, attempts: Attempts) -> None:
        """Follow what becomes of the endpoints."""
        measured = tidied = 0.0
        while True:
            # What was changed before this look is seen by it.
            seen, self._seen = self._seen, asyncio.Event()
            self._changed.clear()
            try:
                await self._look(intake, attempts)
            finally:
                seen.set()
            for drive in list(self._lanes.values()):
                if drive.lane.endpoint.recover is not None and drive.lane.endpoint.until is not None:
                    await self._recover(fence, intake, drive)
            now = self._wall()
            if abs(now - measured) >= MEASURE_S:
                measured = now
                self._metrics.webhooks_waiting.set(await self._queue.total())
            if abs(now - tidied) >= TIDY_S:
                tidied = now
                await self._tidy(fence)
            await first_of(self._changed.wait(), self._sleep(POLL_S))

    async def _tidy(self, fence: Fence) -> None:
        """Forget what endpoints are owed that are gone, and how far replays were that are over."""
        await self._queue.forget_strangers(fence)
        for replay_id in await self._queue.replays():
            replay = await self._store.replays.get(replay_id)
            if replay is None or not replay.active:
                await self._queue.forget_replay(replay_id)

    async def _look(self, intake: Intake, attempts: Attempts) -> None:
        versions = await self._webhooks.versions()
        new = [id for id, version in versions.items() if self._versions.get(id) != version]
        found = {one.endpoint_id: one for one in await self._webhooks.some(new)} if new else {}
        for endpoint in found.values():
            if endpoint.enabled and not endpoint.adopted:
                found = found | {endpoint.endpoint_id: await self._adopt(endpoint, intake)}
        gone = [id for id in self._lanes if id not in versions or (id in found and not found[id].enabled)]
        for id in gone:
            drive = self._lanes.pop(id)
            await drive.stop_taking()
        self._versions = {id: found[id].version if id in found else version for id, version in versions.items()}
        for endpoint in found.values():
            if endpoint.enabled:
                self._put(endpoint, attempts)
        self._by_tenant, self._served = {}, set()
        for drive in self._lanes.values():
            self._serve(drive.lane.endpoint)
        states = [True] * len(self._lanes) + [False] * (len(versions) - len(self._lanes))
        self._metrics.webhook_endpoints.labels("enabled").set(states.count(True))
        self._metrics.webhook_endpoints.labels("disabled").set(states.count(False))

    def _serve(self, endpoint: Endpoint) -> None:
        self._by_tenant.setdefault(endpoint.tenant_id, []).append(endpoint)
        self._served.add(self._history.partition(endpoint.tenant_id))

    async def _adopt(self, endpoint: Endpoint, intake: Intake) -> Endpoint:
        """From here on an endpoint's events are found as they come; those since it was made are looked for."""
        place = intake.looked(self._history.partition(endpoint.tenant_id))

        def adopted(held: Endpoint) -> Endpoint:
            begin = held.recover
            if begin is None or begin >= place:
                # The intake has not come to where it was made.
                return replace(held, since=begin or place, recover=None, until=None)
            return replace(held, since=place, until=place)

        # At once, before anything is awaited: the intake goes on from here.
        self._serve(adopted(endpoint))
        return await self._webhooks.change(endpoint.endpoint_id, adopted) or replace(endpoint, state="disabled")

    def _put(self, endpoint: Endpoint, attempts: Attempts) -> None:
        # As adoption leaves it: what came before it was known here is still looked for, and goes first.
        paused = endpoint.until is not None and endpoint.since == endpoint.until
        drive = self._lanes.get(endpoint.endpoint_id)
        if drive is not None:
            drive.lane.paused = paused
            drive.lane.change(endpoint)
            # Something may have been written down for it behind this one's back, by a replay.
            drive.lane.reload()
            drive.wake()
            return
        drive = _Drive(Lane(endpoint), attempts, self._attempts, self._fill, self._refill, self.now_ms, self._sleep)
        drive.lane.paused = paused
        self._lanes[endpoint.endpoint_id] = drive
        drive.start()

    def _offer(self, deliveries: Sequence[Delivery]) -> None:
        """These were written down just now."""
        for delivery in deliveries:
            drive = self._lanes.get(delivery.key.endpoint_id)
            if drive is not None:
                drive.lane.offer_new(delivery, self.now_ms())
                drive.wake()

    async def _fill(self, lane: Lane) -> None:
        """Read on in the store, as far as there is room."""
        scan = lane.scanning()
        reached, more = lane.scanned, True
        try:
            found = await self._queue.waiting(lane.endpoint.endpoint_id, lane.scanned, PAGE)
            more = len(found) >= PAGE
            for delivery in found:
                if not lane.scanned_in(scan, delivery, self.now_ms()):
                    more = True
                    break
                reached = delivery.key.id
        finally:
            lane.scan_ended(scan, reached, more=more)

    async def _refill(self, lane: Lane, entity: str) -> None:
        """The next deliveries of an entity, which lie in the store."""
        while True:
            try:
                found = await self._queue.following(lane.endpoint.endpoint_id, entity, MAX_EACH)
            except StoreUnavailable:
                lane.reload()
                raise
            if not lane.refill(entity, found, whole=len(found) < MAX_EACH):
                return

    async def _recover(self, fence: Fence, intake: Intake, drive: _Drive) -> None:
        """Look through a page of what an endpoint is to be sent again."""
        endpoint = drive.lane.endpoint
        at, until = endpoint.recover, endpoint.until
        assert at is not None
        assert until is not None
        # While it is paused nothing becomes less, and what is looked through is short.
        if not drive.lane.paused and await self._queue.held(endpoint.endpoint_id, RECOVERY) >= RECOVERY_HELD:
            return
        partition = self._history.partition(endpoint.tenant_id)
        entries = []
        if at < until:
            entries = await self._history.read(partition, at, PAGE, upto=until, tenants=[endpoint.tenant_id])
        found = [
            owed(endpoint, entry, partition, intake.due(entry), RECOVERY)
            for entry in entries
            if entry.tenant_id == endpoint.tenant_id and endpoint.asks_for(entry)
        ]
        reached = entries[-1].id if entries and entries[-1].id < until else None
        if await self._queue.recover(fence, endpoint.endpoint_id, (at, until), reached, found):
            # The rest of it may have changed meanwhile.
            now_at = None if reached is None else until
            drive.lane.change(replace(drive.lane.endpoint, recover=reached, until=now_at))
            if found:
                drive.lane.reload()
            if reached is None:
                self._go_on(drive)
            drive.wake()
            if reached is not None:
                self._changed.set()
        else:
            # It was asked for anew.
            self._versions.pop(endpoint.endpoint_id, None)
            self._changed.set()

    @staticmethod
    def _go_on(drive: _Drive) -> None:
        drive.lane.paused = False
        drive.wake()


class _Drive:
    """One endpoint at work: takes what is due and has it attempted."""

    def __init__(
        self,
        lane: Lane,
        attempts: Attempts,
        under_way: set[asyncio.Task[None]],
        fill: Callable[[Lane], Awaitable[None]],
        refill: Callable[[Lane, str], Awaitable[None]],
        now_ms: Callable[[], int],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self.lane = lane
        self._under_way = under_way
        self._made_by = attempts
        self._fill = fill
        self._refill = refill
        self._now_ms = now_ms
        self._sleep = sleep
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name=f"webhook-{self.lane.endpoint.endpoint_id}")

    def wake(self) -> None:
        """There may be something to do."""
        self._awake.set()

    async def stop_taking(self) -> None:
        """Begin no further attempt."""
        await end(self._task)

    async def _run(self) -> None:
        while True:
            self._awake.clear()
            scanned = self.lane.scanned
            try:
                if self.lane.wants_more:
                    await self._fill(self.lane)
                now = self._now_ms()
                while (entity := self.lane.due_again(now)) is not None:
                    await self._refill(self.lane, entity)
                taken = False
                while (delivery := self.lane.take(now)) is not None:
                    self._attempt(delivery)
                    taken = True
                wait = self.lane.wait_ms(now)
                if self.lane.wants_more:
                    if not taken and self.lane.scanned != scanned:
                        # What is due may lie behind what is not.
                        continue
                    wait = min(wait or HELD_UP_MS, HELD_UP_MS)
            except StoreUnavailable as error:
                log.warning("webhooks_not_read", error=str(error))
                wait = HELD_UP_MS
            except Exception:  # the endpoint's others must go on
                log.exception("webhook_lane_failed", endpoint=self.lane.endpoint.endpoint_id)
                wait = HELD_UP_MS
            if wait is None:
                await self._awake.wait()
            else:
                await first_of(self._awake.wait(), self._sleep(wait / 1000))

    def _attempt(self, delivery: Delivery) -> None:
        task = asyncio.create_task(self._try(delivery), name=f"webhook-attempt-{delivery.event_id}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _try(self, delivery: Delivery) -> None:
        try:
            if await self._made_by.attempt(self.lane, delivery):
                await self._refill(self.lane, delivery.entity)
        except StoreUnavailable as error:
            log.warning("webhooks_not_read", error=str(error))
        except Exception:  # the others must go on
            log.exception("webhook_attempt_failed", event_id=delivery.event_id)
            self.lane.left(delivery, self._now_ms() + HELD_UP_MS)
        finally:
            self.wake()


__all__ = ["WebhookService"]
