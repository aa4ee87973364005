"""When the desk syncs, and what a sync is: begin with a snapshot where there is nothing, push what waits, pull what is
new. One at a time.

Triggers: the desk's start and the line's return; an interval (R58); a button (R59); operations, check-ins, check-outs
and settlements at once and others a moment later (R60); the hub's wish; an event of others. While the line is down they
wait. A sync that fails in a way that may pass is tried again `max_retries` times, ever later (R51, R85); after that the
next trigger tries.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Literal, NamedTuple

import structlog

from consumers.backoff import Random, full_jitter
from consumers.clock import Clock
from consumers.errors import AccessRefused, ConsumerError, Disconnected, HubRefused
from consumers.offline.comparison import HELD, Local
from consumers.offline.database import LocalDatabase
from consumers.offline.errors import LocalDamaged, LocalError
from consumers.offline.hub_link import SyncHub
from consumers.offline.items import WAITING, Counts, QueueItem, SyncNote
from consumers.offline.pulling import Puller
from consumers.offline.pushing import Pusher, Tally

log = structlog.get_logger(__name__)

Trigger = Literal["start", "recovery", "manual", "requested", "operation", "interval", "retry", "live"]
State = Literal["done", "interrupted", "failed", "session_expired", "refused", "local_error", "offline", "stopped"]
"""done: nothing is left that the hub could be told of or tell. interrupted: no answer; whether the line holds, a probe
tells. failed: the hub could not, or would not. session_expired, refused: it does not take the token. local_error: the
desk's database failed. offline, stopped: it was not tried."""
Phase = Literal["snapshot", "push", "pull"]

COALESCE_S: Final = 0.125
"""How long an operation that is not urgent waits for others to go with it."""
NEWS_GAP_S: Final = 0.0625
"""The least time between two pulls for others' events: a busy hub must not make each desk ask for each event."""
RETRY_BASE_S: Final = 1.0
RETRY_CAP_S: Final = 60.0
PAGE: Final = 500

_RANK: Final[tuple[Trigger, ...]] = (
    "recovery",
    "start",
    "manual",
    "requested",
    "operation",
    "retry",
    "interval",
    "live",
)


class Progress(NamedTuple):
    """How far a sync is. `total` counts items to push; None where it is not known."""

    trigger: Trigger
    phase: Phase
    done: int
    total: int | None


@dataclass(frozen=True, slots=True)
class SyncOutcome:
    """What a sync came to. `counts` are those after it; `outcomes` what the hub said, by outcome.

    `sendable` of the waiting items wait for a later moment, the others for a person's word on one before them.

    `retry_in_s`: it failed, and is tried again by itself after so long.
    """

    trigger: Trigger
    state: State
    pushed: int = 0
    pulled: int = 0
    batches: int = 0
    resent: int = 0
    snapshots: int = 0
    outcomes: Mapping[str, int] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)
    sendable: int = 0
    duration_s: float = 0.0
    skew_ms: int | None = None
    detail: str | None = None
    error: BaseException | None = None
    retry_in_s: float | None = None

    @property
    def synced(self) -> bool:
        """Whether each has all of the other's: nothing waits, failed or is in conflict."""
        return self.state == "done" and not (self.counts.waiting or self.counts.failed or self.counts.conflict)


class SyncEngine:
    """Syncs one desk. `run` is a task of its owner's; the rest may be called while it runs."""

    def __init__(
        self,
        local: Local,
        hub: SyncHub,
        *,
        clock: Clock,
        now: Callable[[], datetime],
        random: Random,
        interval_s: float,
        max_retries: int,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        on_outcome: Callable[[SyncOutcome], None] = lambda outcome: None,
    ) -> None:
        """`now` gives aware datetimes. What is told must not raise."""
        self._local = local
        self._clock = clock
        self._now = now
        self._random = random
        self._interval_s = interval_s
        self._max_retries = max_retries
        self._on_progress = on_progress
        self._on_outcome = on_outcome
        self._pusher = Pusher(local, hub, now=now, random=random, told=self._pushed)
        self._puller = Puller(local, hub, clock=clock, told=self._pulled)
        self._wants: dict[Trigger, float] = {}
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[SyncOutcome]] = []
        self._online = False
        self._stopping = False
        self._failures = 0
        self._pulled_at = -math.inf
        self._news: str | None = None
        self._trigger: Trigger = "start"
        self._total = 0

    @property
    def cursor(self) -> str | None:
        """How far the desk has pulled, as far as it is known yet."""
        return self._puller.cursor

    def request(self, trigger: Trigger, after_s: float = 0.0) -> None:
        """Sync, when the line holds; `after_s` seconds from now at the latest."""
        self._wants[trigger] = min(self._wants.get(trigger, math.inf), self._clock.monotonic() + after_s)
        self._wake.set()

    def news(self, cursor: str | None) -> None:
        """An event is at the hub; None: one may be."""
        if self._beyond(cursor):
            self._news = None if "live" in self._wants and self._news is None else cursor
            since = self._clock.monotonic() - self._pulled_at
            self.request("live", max(0.0, NEWS_GAP_S - since))

    def line(self, up: bool, trigger: Trigger = "recovery") -> None:
        """The line is back, or broken. What is under way is cut off by whoever holds the line."""
        self._online = up
        self._failures = 0
        if up:
            self.request(trigger)
        else:
            self._answer(self._waiters, SyncOutcome("manual", "offline", detail="the line is down"))

    async def sync(self) -> SyncOutcome:
        """Sync now, and tell what it came to; begins anew where one is under way. Cancelled: it goes on."""
        if self._stopping:
            return SyncOutcome("manual", "stopped")
        if not self._online:
            return SyncOutcome("manual", "offline", detail="the line is down")
        waiter: asyncio.Future[SyncOutcome] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self.request("manual")
        return await waiter

    def stop(self) -> None:
        """Let `run` end: after the sync under way, and one more where operations wait and the line holds."""
        self._stopping = True
        self._wake.set()

    async def run(self) -> None:
        """Sync whenever there is a reason to, until `stop`."""
        self.request("interval", self._interval_s)
        try:
            while (due := await self._due()) is not None:
                await self._sync(due)
        finally:
            self._answer(self._waiters, SyncOutcome("manual", "stopped"))

    async def _due(self) -> set[Trigger] | None:
        """Wait until there is a reason to sync; None: stop."""
        while True:
            now = self._clock.monotonic()
            if self._stopping:
                # What was done at the desk just now goes out, not later.
                due: set[Trigger] = {"operation"} if self._online and "operation" in self._wants else set()
                if not due:
                    return None
            else:
                due = {trigger for trigger, at in self._wants.items() if at <= now} if self._online else set()
            for trigger in due:
                del self._wants[trigger]
            if due == {"live"} and not self._beyond(self._news):
                # The desk's own event, which the sync that pushed it has pulled by now.
                continue
            if due:
                return due
            left = min(self._wants.values(), default=math.inf) - now if self._online else math.inf
            self._wake.clear()
            with suppress(TimeoutError):
                async with self._clock.timeout(None if math.isinf(left) else left):
                    await self._wake.wait()

    def _beyond(self, cursor: str | None) -> bool:
        """Whether there may be something to pull at a cursor; None: it is not known where."""
        # Within one history cursors sort as text in the order of events.
        here = self._puller.cursor
        return cursor is None or here is None or cursor[:17] != here[:17] or cursor > here

    async def _sync(self, due: set[Trigger]) -> None:
        """One sync, for all these reasons."""
        trigger = next(one for one in _RANK if one in due)
        waiters, self._waiters = self._waiters, []
        began = self._clock.monotonic()
        self._trigger = trigger
        tally = Tally()
        state: State = "stopped"
        error: BaseException | None = None
        try:
            await self._carry_out(trigger, tally)
            state = "done"
        except ConsumerError as failure:
            state, error = _state_of(failure), failure
        except Exception as failure:
            log.exception("sync_broke", trigger=trigger)
            state, error = "failed", failure
        finally:
            if state == "stopped":
                # Cancelled: nobody shall wait for what does not come.
                self._answer(waiters, SyncOutcome(trigger, "stopped"))
        now = self._clock.monotonic()
        if tally.pulled or tally.pushed:
            self._pulled_at = now
        outcome = SyncOutcome(trigger, "failed")
        try:
            outcome = await self._outcome(trigger, state, error, tally, now - began)
        finally:
            self._answer(waiters, outcome)
        self._on_outcome(outcome)

    async def _carry_out(self, trigger: Trigger, tally: Tally) -> None:
        if trigger in ("manual", "requested"):
            await self._local.call(lambda database: database.hasten())
        if trigger != "live":
            await self._puller.begin(tally)
            await self._look_back(tally)
            await self._push(tally)
        again, freed = tally.again, tally.freed
        await self._puller.pull(tally)
        if tally.again > again or tally.freed > freed:
            # What the pull made sendable goes out with this sync.
            await self._push(tally)
            await self._puller.pull(tally)

    async def _look_back(self, tally: Tally) -> None:
        """Where an answer came and its event did not: see whether the hub lost it, before what was done after it is
        sent and taken first."""
        if await self._local.call(lambda database: database.unpulled):
            try:
                await self._puller.pull(tally)
            except HubRefused as refusal:
                log.warning("pull_before_push_refused", reason=str(refusal))

    async def _push(self, tally: Tally) -> None:
        counts = await self._local.call(lambda database: database.counts())
        self._total = tally.pushed + counts.waiting
        if counts.waiting:
            self._on_progress(Progress(self._trigger, "push", tally.pushed, self._total))
            await self._pusher.push(tally)

    async def _pushed(self, tally: Tally) -> None:
        self._total = max(self._total, tally.pushed)
        self._on_progress(Progress(self._trigger, "push", tally.pushed, self._total))

    async def _pulled(self, tally: Tally) -> None:
        """Between two pages: operations of the meantime do not wait for the last one."""
        phase: Phase = "pull" if self._puller.cursor is not None else "snapshot"
        self._on_progress(Progress(self._trigger, phase, tally.pulled, None))
        if self._wants.get("operation", math.inf) <= self._clock.monotonic():
            del self._wants["operation"]
            await self._push(tally)

    async def _outcome(
        self, trigger: Trigger, state: State, error: BaseException | None, tally: Tally, duration_s: float
    ) -> SyncOutcome:
        if state == "done":
            self._failures = 0
        retry_in_s = self._retry(state, error)
        # One that was begun for something else has done what the interval is for.
        if trigger != "live" or state != "done":
            self._wants["interval"] = self._clock.monotonic() + self._interval_s
        counts, sendable = Counts(), 0
        detail = None if error is None else str(error) or type(error).__name__
        try:
            counts = await self._local.call(lambda database: database.counts())
            if counts.queued:
                sendable, soonest = await self._left_over()
                if soonest is not None and state == "done":
                    self.request("retry", soonest)
            if trigger != "live" or state != "done":
                note = SyncNote(
                    self._now(),
                    trigger,
                    state,
                    round(duration_s * 1000),
                    tally.pushed,
                    tally.pulled,
                    dict(tally.outcomes),
                    detail,
                )
                if tally.pushed or tally.pulled or state != "done" or trigger in ("manual", "requested", "recovery"):
                    await self._local.call(lambda database: database.note_sync(note))
        except LocalError as failure:
            state, error, detail = "local_error", failure, str(failure)
        return SyncOutcome(
            trigger,
            state,
            tally.pushed,
            tally.pulled,
            tally.batches,
            tally.resent,
            tally.snapshots,
            dict(tally.outcomes),
            counts,
            sendable,
            duration_s,
            tally.skew_ms,
            detail,
            error,
            retry_in_s,
        )

    def _retry(self, state: State, error: BaseException | None) -> float | None:
        """Try again by itself, where that may help and was not tried often enough."""
        passing = state in ("interrupted", "local_error") or (state == "failed" and _may_pass(error))
        if not passing or isinstance(error, LocalDamaged):
            return None
        self._failures += 1
        if self._failures > self._max_retries:
            return None
        delay = full_jitter(self._failures - 1, self._random, base=RETRY_BASE_S, cap=RETRY_CAP_S)
        self.request("retry", delay)
        return delay

    async def _left_over(self) -> tuple[int, float | None]:
        """How many waiting items wait for nobody's word, and in how many seconds the first that was put off is due."""
        now, after, sendable = self._now(), 0, 0
        soonest: float | None = None
        stopped: set[str] = set()
        # Page by page: the desk's operations may come in between.
        while page := await self._local.call(_pending(after)):
            for item in page:
                if item.status not in WAITING or any(error.path == HELD for error in item.errors):
                    stopped.add(item.entity)
                sendable += item.entity not in stopped
                if item.status == "queued" and item.not_before is not None and item.not_before > now:
                    left = (item.not_before - now).total_seconds()
                    soonest = left if soonest is None else min(soonest, left)
            after = page[-1].device_sequence
        return sendable, soonest

    def _answer(self, waiters: list[asyncio.Future[SyncOutcome]], outcome: SyncOutcome) -> None:
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(outcome)
        waiters.clear()


def _state_of(error: ConsumerError) -> State:
    match error:
        case AccessRefused():
            return "session_expired" if error.code == 401 else "refused"
        case Disconnected():
            return "interrupted"
        case LocalError():
            return "local_error"
        case _:
            return "failed"


def _may_pass(error: BaseException | None) -> bool:
    return error.retryable if isinstance(error, HubRefused) else not isinstance(error, ConsumerError)


def _pending(after: int) -> Callable[[LocalDatabase], list[QueueItem]]:
    return lambda database: database.pending(after=after, limit=PAGE)
