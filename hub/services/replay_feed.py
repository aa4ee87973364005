"""Replays on a connection: subscriptions to a channel of its system, which get that channel's replays and nothing else.

Nothing is copied to a channel. A subscription reads the history for itself, at the pace that the job's record gives, so
any hub can serve any of it. One task a subscription; the connection's feed owns them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import orjson
import structlog

from hub.core import wire
from hub.core.entry import Entry
from hub.core.pace import NEVER
from hub.core.routing import Codec, Interest, may_see
from hub.log.topology import RedisError
from hub.security.tokens import Claims
from hub.services.ending import end
from hub.services.ledger import Recorder
from hub.services.opening import allows, interest_of
from hub.services.replay_plan import Plan, common
from hub.services.replay_reading import Reading
from hub.services.replay_watch import POLL_S, ReplayWatch, goes_to, holds, pace_of
from hub.store.database import StoreUnavailable
from hub.store.replays import Replay
from hub.telemetry import Metrics
from schemas import patterns
from schemas.cursor import Cursor, StreamId, split
from schemas.errors import FieldError, Problem
from schemas.frames import Subscribe
from schemas.replay import channel_text

MAX_SUBSCRIPTIONS: Final = 8
"""Replay subscriptions of one connection: each reads the history for itself."""
CHUNK_BYTES: Final = 128 * 1024
TELL_MS: Final = 1000
RETRY_S: Final = 1.0
_REMEMBERED: Final = 256

log = structlog.get_logger("hub.replays")


class Sink(Protocol):
    """A connection, as far as its replays are concerned."""

    @property
    def writable(self) -> bool:
        """False while the socket's buffer is over its high-water mark."""

    def write(self, frames: bytes) -> None:
        """Write ready-made frames."""

    def send(self, op: str, **fields: Any) -> None:
        """Write one frame of fields."""


@dataclass(slots=True)
class _Subscription:
    """One of them. `resume`: the replay to go on with, and how far its tenants were sent."""

    id: int | str
    channel: str
    interest: Interest
    resume: Replay | None
    places: dict[str, StreamId]
    served: deque[str] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    """The replays that came to their end here."""
    events: int = 0
    told_ms: int = 0
    reached_ms: int | None = None
    written: dict[str, tuple[StreamId, StreamId, int]] = field(default_factory=dict)
    """By tenant, what the ledger does not have yet: first place, last place, events."""
    buffer: list[bytes] = field(default_factory=list)
    size: int = 0
    task: asyncio.Task[None] | None = None


class _Over(Exception):
    """The replay was cancelled, or failed."""


class ReplayFeed:
    """The replay subscriptions of one connection. Its feed owns them and awaits `close`."""

    def __init__(
        self,
        sink: Sink,
        claims: Callable[[], Claims],
        reading: Reading,
        watch: ReplayWatch,
        metrics: Metrics,
        codec: Codec,
        recorder: Recorder,
    ) -> None:
        self._sink = sink
        self._claims = claims
        self._reading = reading
        self._watch = watch
        self._metrics = metrics
        self._codec: Codec = codec
        self._open: dict[int | str, _Subscription] = {}
        self._recorder = recorder
        self._room = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()

    def __contains__(self, id: object) -> bool:
        return id in self._open

    def __len__(self) -> int:
        return len(self._open)

    async def subscribe(self, frame: Subscribe) -> None:
        """Open a subscription: `subscribed`, then the replay that runs, or the next; each ends with `replay_done`.

        Raises:
            Problem: it is not allowed, or asks for what only live subscriptions have.
        """
        assert frame.replay is not None
        wrong = [name for name in ("name", "snapshot", "changes_only", "batch_ms") if getattr(frame, name)]
        if wrong:
            raise Problem(
                "invalid_request",
                f"{wrong[0]} is not for a replay",
                [FieldError(name, "is not for a replay") for name in wrong],
            )
        interest = interest_of(self._claims(), frame)
        resume, places = await self._resumed(frame, interest)
        if frame.id in self._open:
            raise Problem("invalid_request", f"the subscription {frame.id!r} is open", [FieldError("id", "is in use")])
        if any(one.channel == frame.replay for one in self._open.values()):
            said = "has a subscription on this connection"
            raise Problem("invalid_request", f"the channel {frame.replay} {said}", [FieldError("replay", said)])
        if len(self._open) >= MAX_SUBSCRIPTIONS:
            raise Problem("rate_limited", f"a connection has at most {MAX_SUBSCRIPTIONS} subscriptions to replays")
        one = _Subscription(frame.id, frame.replay, interest, resume, places)
        self._open[frame.id] = one
        self._sink.send(
            "subscribed",
            id=frame.id,
            patterns=frame.patterns,
            tenants=["*"] if interest.tenants is None else sorted(interest.tenants),
            recovered=True,
            position={},
            changes_only=False,
        )
        one.task = asyncio.create_task(self._run(one), name="replay-subscription")

    async def _resumed(self, frame: Subscribe, interest: Interest) -> tuple[Replay | None, dict[str, StreamId]]:
        """Where an interrupted one goes on."""
        if frame.replay_id is None:
            if frame.after not in (None, "earliest", "latest"):
                said = "says which replay `after` is a place of"
                raise Problem("invalid_request", f"replay_id: {said}", [FieldError("replay_id", said)])
            return None, {}
        try:
            replay = await self._watch.replays.get(frame.replay_id)
        except StoreUnavailable as error:
            raise Problem("store_unavailable", "the replays cannot be read now; subscribe again") from error
        claims = self._claims()
        if replay is None or not (goes_to(replay, claims.system, str(frame.replay)) and holds(claims, replay)):
            raise Problem("not_found", f"there is no replay {frame.replay_id} to this channel")
        cursors: dict[str, Cursor] = {}
        if isinstance(frame.after, dict):
            for tenant in frame.after:
                if interest.tenants is not None and tenant not in interest.tenants:
                    raise Problem("forbidden", f"the subscription does not hold the tenant {tenant}")
            cursors = {tenant: Cursor.decode(text, tenant) for tenant, text in frame.after.items()}
        elif frame.after is not None and frame.after not in ("earliest", "latest"):
            ends = replay.spec["plan"]["ends"]
            cursors = split(frame.after, sorted(ends if interest.tenants is None else interest.tenants))
        return replay, {tenant: cursor.id for tenant, cursor in cursors.items()}

    def unsubscribe(self, id: int | str) -> None:
        """Close a subscription that is open."""
        one = self._open.pop(id)
        if one.task is not None:
            # It writes nothing any more; who closes the connection awaits its end.
            one.task.cancel()
            self._ending.add(one.task)
            one.task.add_done_callback(self._ending.discard)

    def allowed(self, claims: Claims) -> bool:
        """Whether every open subscription would be allowed to another token of the same system."""
        return all(allows(claims, one.interest) for one in self._open.values())

    def resume(self) -> None:
        """The socket has room again."""
        self._room.set()

    async def close(self) -> None:
        """End all of them."""
        tasks = [*self._ending, *(one.task for one in self._open.values() if one.task is not None)]
        self._open.clear()
        await end(*tasks)

    # -- one subscription -----------------------------------------------------------------------------------------

    async def _run(self, one: _Subscription) -> None:
        while self._open.get(one.id) is one:
            replay, one.resume = one.resume, None
            if replay is None:
                replay = self._next(one)
                if replay is None:
                    await self._watch.wait(POLL_S)
                    continue
                one.places = {}
            try:
                await self._serve(one, replay)
            except Exception:  # the connection's other subscriptions go on
                log.exception("replay_subscription_failed", replay_id=replay.replay_id)
                self._sink.send(
                    "error", id=one.id, code="internal", message="the hub failed; subscribe again", retryable=True
                )
                self._open.pop(one.id, None)
                return

    def _next(self, one: _Subscription) -> Replay | None:
        """A replay to its channel that did not come yet; before others, one that needs nobody else to begin it."""
        claims = self._claims()
        there = [
            replay
            for replay in self._watch.to(claims.system, one.channel)
            if replay.replay_id not in one.served and holds(claims, replay)
        ]
        ready = (replay for replay in there if pace_of(replay).started_ms is not None or whole(one.interest, replay))
        return next(ready, there[0] if there else None)

    async def _serve(self, one: _Subscription, replay: Replay) -> None:
        """All of one replay, from `one.places` on."""
        one.events = int(replay.progress.get("events", 0)) if one.places else 0
        one.reached_ms = replay.progress.get("reached_ms")
        while True:
            try:
                if replay.active:
                    replay = await self._running(one, replay)
                plan = Plan.from_json(replay.spec["plan"]).after(one.places)
                await self._play(one, replay, plan)
                await self._flush(one)
                await self._tell(one, replay)
                if whole(one.interest, replay):
                    await self._watch.end(replay.replay_id)
                state = "done"
                break
            except _Over as over:
                await self._flush(one)
                self._record(one, replay)
                state = str(over)
                break
            except (StoreUnavailable, RedisError, OSError) as error:
                log.warning("replay_held_up", replay_id=replay.replay_id, error=str(error) or type(error).__name__)
                await self._watch.wait(RETRY_S)
        one.served.append(replay.replay_id)
        detail = {
            "sub": one.id,
            "channel": one.channel,
            "replay_id": replay.replay_id,
            "state": state,
            "events": one.events,
        }
        self._sink.send("notice", code="replay_done", detail=detail)

    async def _running(self, one: _Subscription, replay: Replay) -> Replay:
        """The replay once it has begun; the first subscription that gets all of it begins it."""
        while True:
            replay = await self._now(one, replay)
            if pace_of(replay).started_ms is not None:
                return replay
            if replay.state == "running" and whole(one.interest, replay):
                return await self._watch.begin(replay)
            await self._watch.wait(POLL_S)

    async def _now(self, one: _Subscription, replay: Replay) -> Replay:
        """The replay as it is now.

        Raises:
            _Over: it was cancelled, or failed. One that is done for another subscription goes on here.
            CancelledError: the subscription was closed.
        """
        if self._open.get(one.id) is not one:
            raise asyncio.CancelledError
        seen = self._watch.seen(replay.replay_id)
        if seen is None and replay.active:
            seen = await self._watch.replays.get(replay.replay_id)
        replay = replay if seen is None else seen
        if replay.state in ("cancelled", "failed"):
            raise _Over(replay.state)
        return replay

    async def _play(self, one: _Subscription, replay: Replay, plan: Plan) -> None:
        system, head = self._claims().system, _head(replay.replay_id)
        async for page in self._reading.entries(plan):
            for entry in page:
                if one.interest.wants(entry.tenant_id, entry.type, entry.action, entry.entity) and may_see(
                    system, entry.targets
                ):
                    while (wait := self._wait_ms(replay := await self._now(one, replay), entry)) > 0:
                        await self._flush(one)
                        await self._tell(one, replay, now_and_then=True)
                        await self._watch.wait(min(POLL_S, wait / 1000))
                    self._put(one, head, entry)
                    if one.size >= CHUNK_BYTES:
                        await self._flush(one)
                        await self._tell(one, replay, now_and_then=True)
                one.places[entry.tenant_id] = entry.id
            await asyncio.sleep(0)

    def _wait_ms(self, replay: Replay, entry: Entry) -> float:
        due = pace_of(replay).due_ms(entry.timestamp_ms)
        return POLL_S * 1000 if due == NEVER else due - self._watch.now()

    def _put(self, one: _Subscription, head: bytes, entry: Entry) -> None:
        try:
            event = entry.json(self._claims().view)
        except (KeyError, TypeError, ValueError):  # whoever wrote that, the others' events go on
            log.exception("entry_not_readable", id=str(entry.id))
            return
        payload = b'{"op":"event","cursor":"%b","sequence":%d,%b,"sub":%b,"event":%b}' % (
            entry.cursor.encode(),
            entry.sequence,
            head,
            orjson.dumps(one.id),
            event,
        )
        frame = wire.framed(payload, self._codec)
        one.buffer.append(frame)
        one.size += len(frame)
        one.events += 1
        one.reached_ms = max(one.reached_ms or 0, entry.timestamp_ms)
        one.places[entry.tenant_id] = entry.id
        first, _, events = one.written.get(entry.tenant_id, (entry.id, entry.id, 0))
        one.written[entry.tenant_id] = (first, entry.id, events + 1)

    def _record(self, one: _Subscription, replay: Replay) -> None:
        """Tell the ledger, by ranges of what was written since the last time: each tenant's, as its part of the plan
        begins and ends for itself."""
        written, one.written = one.written, {}
        plan = Plan.from_json(replay.spec["plan"])
        interest = both(one.interest, plan.interest)
        for tenant, (first, last, events) in written.items():
            self._recorder.replayed(
                replay.replay_id,
                channel_text(self._claims().system, one.channel),
                self._reading.history.partition(tenant),
                first,
                last,
                events=events,
                system=self._claims().system,
                interests=[replace(interest, tenants=None)],
                tenant_id=tenant,
                times=plan.times.get(tenant, (None, None)),
            )

    async def _flush(self, one: _Subscription) -> None:
        """Write what is ready, and wait until the socket has room for more."""
        if one.buffer and self._open.get(one.id) is one:
            self._sink.write(b"".join(one.buffer))
            self._metrics.deliveries.labels("websocket", self._claims().system, "replayed").inc(len(one.buffer))
        one.buffer.clear()
        one.size = 0
        while not self._sink.writable:
            self._room.clear()
            await self._room.wait()

    async def _tell(self, one: _Subscription, replay: Replay, *, now_and_then: bool = False) -> None:
        now = self._watch.now()
        if now_and_then and now - one.told_ms < TELL_MS:
            return
        one.told_ms = now
        self._record(one, replay)
        if not whole(one.interest, replay):
            return
        # What cannot be told now, is told with the next.
        with suppress(StoreUnavailable):
            await self._watch.tell(replay.replay_id, events=one.events, reached_ms=one.reached_ms)
            await self._watch.touch(replay)


def both(one: Interest, other: Interest) -> Interest:
    """What both ask for."""
    tenants = one.tenants if other.tenants is None else other.tenants
    if one.tenants is not None and other.tenants is not None:
        tenants = one.tenants & other.tenants
    entities = one.entities if other.entities is None else other.entities
    if one.entities is not None and other.entities is not None:
        entities = one.entities & other.entities
    return Interest(tenants, common(one.patterns, other.patterns), entities)


def whole(interest: Interest, replay: Replay) -> bool:
    """Whether someone who asks for this gets every event of a job: only then its begin and its end are theirs."""
    plan = replay.spec["plan"]
    if interest.tenants is not None and not interest.tenants.issuperset(plan["ends"]):
        return False
    if interest.entities is not None and (
        plan["entities"] is None or not interest.entities.issuperset(plan["entities"])
    ):
        return False
    kinds = (kind.partition(".") for kind in replay.spec["counts"]["by_type"])
    return all(any(patterns.matches(one, type, action) for one in interest.patterns) for type, _, action in kinds)


def _head(replay_id: str) -> bytes:
    return b'"replay":true,"replay_id":"%b"' % replay_id.encode()
