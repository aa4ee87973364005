"""Runs the replays to consumer groups and webhooks: events from the history to where they wait for their reader, at the
replay's pace.

How far it is lies beside what waits there and moves together with it. So a hub that is killed doubles nothing, and
where several hubs run a replay at once, one gets on and the others stand by.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final, Protocol

import structlog

from hub.core.entry import Entry
from hub.core.pace import NEVER
from hub.log.redrive import Handed
from hub.log.topology import RedisError
from hub.services.ending import end
from hub.services.ledger import Recorder
from hub.services.replay_plan import Plan
from hub.services.replay_reading import Reading, wants
from hub.services.replay_watch import POLL_S, ReplayWatch, pace_of
from hub.store.database import StoreUnavailable
from hub.store.replays import Replay
from schemas.cursor import StreamId
from schemas.errors import Problem

BATCH: Final = 100
"""Events in one script call: bounds how long the server is busy with it."""
PAGE: Final = 500
FULL_S: Final = 0.25
"""Between two looks at a group's stream that is full."""
STANDBY_S: Final = 2.0
"""A replay that another hub got on with is left to it for so long, and as long as it gets on."""
TELL_S: Final = 1.0
RETRY_S: Final = 1.0

log = structlog.get_logger("hub.replays")


class Failed(Exception):
    """The replay cannot go on; the text says why."""


class Sink(Protocol):
    """Where replayed events wait for their reader. `name` is a group's, or an endpoint's id."""

    async def place(self, partition: int, replay_id: str) -> tuple[StreamId | None, int]:
        """How far a replay is in a partition: the last place looked at, and the events handed over."""

    async def replay(
        self,
        partition: int,
        name: str,
        replay_id: str,
        expected: StreamId | None,
        at: StreamId,
        entries: Sequence[Entry],
    ) -> Handed:
        """Hand entries over and move the replay's place from `expected` to `at`, both or neither.

        Neither when the place is another one, since somebody else moved it, or too many entries wait.

        Raises:
            Failed: nothing is handed over there any more.
        """


class Replayer:
    """Owned by the composition root, which awaits `stop`. One a deployment is enough; more do no harm."""

    def __init__(
        self, reading: Reading, watch: ReplayWatch, redrive: Sink, recorder: Recorder, webhooks: Sink | None = None
    ) -> None:
        self._reading = reading
        self._watch = watch
        self._sinks = {"group": redrive} if webhooks is None else {"group": redrive, "webhook": webhooks}
        self._recorder = recorder
        self._running: dict[str, asyncio.Task[None]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to run what there is to run."""
        self._task = asyncio.create_task(self._run(), name="replayer")

    async def stop(self) -> None:
        """Leave the replays where they are."""
        await end(self._task)

    async def _run(self) -> None:
        try:
            while True:
                for replay_id, task in list(self._running.items()):
                    if task.done():
                        del self._running[replay_id]
                for replay in self._watch.active:
                    target = replay.spec["asked"]["target"]
                    kind = next((kind for kind in self._sinks if kind in target), None)
                    if kind is not None and replay.state == "running" and replay.replay_id not in self._running:
                        self._running[replay.replay_id] = asyncio.create_task(
                            self._play(replay.replay_id, kind, target[kind]), name=f"replay-{replay.replay_id}"
                        )
                with suppress(TimeoutError):
                    async with asyncio.timeout(POLL_S):
                        await self._watch.news()
        finally:
            await end(*self._running.values())

    async def _play(self, replay_id: str, kind: str, name: str) -> None:
        """Run one replay until it is over or paused."""
        try:
            replay = self._watch.seen(replay_id)
            if replay is None:
                return
            replay = await self._watch.begin(replay)
            await _Run(self._reading, self._watch, self._sinks[kind], self._recorder, replay, kind, name).run()
        except Failed as error:
            await self._watch.end(replay_id, failed=str(error))
        except (StoreUnavailable, RedisError, OSError) as error:
            log.warning("replay_held_up", replay_id=replay_id, error=str(error) or type(error).__name__)
            await asyncio.sleep(RETRY_S)
        except Problem as problem:  # it is gone
            log.warning("replay_not_run", replay_id=replay_id, reason=str(problem))
        except Exception:  # the others go on
            log.exception("replay_failed", replay_id=replay_id)
            await asyncio.sleep(RETRY_S)


class _Run:
    """One replay in this hub's hands."""

    def __init__(
        self,
        reading: Reading,
        watch: ReplayWatch,
        sink: Sink,
        recorder: Recorder,
        replay: Replay,
        kind: str,
        name: str,
    ) -> None:
        self._reading = reading
        self._watch = watch
        self._sink = sink
        self._recorder = recorder
        self._replay = replay
        self._id = replay.replay_id
        self._kind = kind
        self._name = name
        self._plan = Plan.from_json(replay.spec["plan"])
        self._events: dict[int, int] = {}
        self._waiting: dict[int, int] = {}
        self._reached_ms: int | None = replay.progress.get("reached_ms")
        self._complete: set[int] = set()
        self._handed: dict[str, tuple[StreamId, StreamId, int]] = {}
        """By partition, what the ledger does not have yet: first place, last place, events."""

    async def run(self) -> None:
        """Until it is over, or no longer running; what another hub does is waited for."""
        spans = self._plan.spans(self._reading.history)
        tasks = [
            asyncio.create_task(self._partition(partition, begin, end)) for partition, (begin, end) in spans.items()
        ]
        try:
            running = set(tasks)
            while running:
                _, running = await asyncio.wait(running, timeout=TELL_S, return_when=asyncio.FIRST_EXCEPTION)
                await self._tell()
                if any(task.done() and task.exception() for task in tasks):
                    break
        finally:
            await end(*tasks)
        for task in tasks:
            task.result()
        if self._complete == spans.keys():
            await self._watch.end(self._id)

    async def _tell(self) -> None:
        self._record()
        await self._watch.tell(
            self._id,
            events=sum(self._events.values()),
            reached_ms=self._reached_ms,
            waiting=sum(self._waiting.values()),
            handed={str(partition): events for partition, events in self._events.items()},
        )

    def _goes_on(self) -> bool:
        seen = self._watch.seen(self._id)
        return seen is not None and seen.state == "running"

    async def _partition(self, partition: int, begin: StreamId, end: StreamId) -> None:
        place = await self._place(partition)
        while self._goes_on():
            at = begin if place is None else place
            if at >= end:
                self._complete.add(partition)
                return
            entries = await self._reading.page(self._plan, partition, at, end, PAGE)
            if entries:
                place = await self._hand_over(partition, place, entries)
            else:
                handed = await self._sink.replay(partition, self._name, self._id, place, end, ())
                place = handed.at
                self._events[partition] = handed.events

    async def _place(self, partition: int) -> StreamId | None:
        place, self._events[partition] = await self._sink.place(partition, self._id)
        told: Mapping[str, int] = self._replay.progress.get("handed", {})
        if place is None and told.get(str(partition), 0):
            raise Failed("the log lost how far the replay was; begin another one behind the last event handled")
        return place

    async def _hand_over(self, partition: int, place: StreamId | None, entries: list[Entry]) -> StreamId | None:
        """Hand a page over, each event when it is due; the place then, which another hub may have moved."""
        index = 0
        while index < len(entries) and self._goes_on():
            until, batch, due = self._due(entries, index)
            if until == index:
                await self._watch.wait(max(0.0, min(POLL_S, (due - self._watch.now()) / 1000)))
                continue
            reached = entries[until - 1].id
            handed = await self._sink.replay(partition, self._name, self._id, place, reached, batch)
            self._events[partition], self._waiting[partition] = handed.events, handed.waiting
            if handed.moved:
                place, index = reached, until
                if batch:
                    self._reached_ms = max(self._reached_ms or 0, batch[-1].timestamp_ms)
                    self._note(batch)
            elif handed.at != place:
                return await self._stand_by(partition, handed.at)
            else:
                await self._watch.wait(FULL_S)
        return place

    def _note(self, batch: list[Entry]) -> None:
        for entry in batch:
            first, _, events = self._handed.get(entry.tenant_id, (entry.id, entry.id, 0))
            self._handed[entry.tenant_id] = (first, entry.id, events + 1)

    def _record(self) -> None:
        """Tell the ledger, by ranges of what was handed over since the last time: each tenant's, as its part of the
        plan begins and ends for itself."""
        handed, self._handed = self._handed, {}
        for tenant, (first, last, events) in handed.items():
            self._recorder.replayed(
                self._id,
                f"{self._kind} {self._name}",
                self._reading.history.partition(tenant),
                first,
                last,
                events=events,
                system=self._name if self._kind == "group" else None,
                interests=[replace(self._plan.interest, tenants=None)],
                tenant_id=tenant,
                times=self._plan.times.get(tenant, (None, None)),
            )

    def _due(self, entries: list[Entry], index: int) -> tuple[int, list[Entry], float]:
        """From `index` on: up to where the entries can be dealt with now, those of them to hand over, and when the next
        is due."""
        seen = self._watch.seen(self._id)
        batch: list[Entry] = []
        if seen is None:
            return index, batch, NEVER
        pace, now = pace_of(seen), self._watch.now()
        until = index
        while until < len(entries):
            entry = entries[until]
            # Entries at one place are dealt with together: the place says of all of them that they went.
            tied = until > index and entries[until - 1].id == entry.id
            if wants(self._plan, entry):
                due = pace.due_ms(entry.timestamp_ms)
                if not tied and (due > now or len(batch) >= BATCH):
                    return until, batch, due
                batch.append(entry)
            until += 1
        return until, batch, NEVER

    async def _stand_by(self, partition: int, place: StreamId | None) -> StreamId | None:
        """Somebody else gets on with it: wait until nobody does."""
        while self._goes_on():
            await self._watch.wait(STANDBY_S)
            now, self._events[partition] = await self._sink.place(partition, self._id)
            if now == place:
                break
            place = now
        return place
