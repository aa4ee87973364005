"""The replays that are not over, as the store has them, read twice a second.

So what is asked of any hub takes effect on the one that runs the replay, and what is asked of this one at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from hub.core.pace import Pace
from hub.security.tokens import Claims
from hub.services.ending import end, first_of
from hub.store.database import StoreUnavailable
from hub.store.replays import Replay, Replays
from schemas.errors import Problem

POLL_S: Final = 0.5
IDLE_S: Final = 24 * 3600
"""A replay to a channel that nobody received, paused or resumed for so long fails: its target is free again."""
_TOUCH_MS: Final = 3_600_000

log = structlog.get_logger("hub.replays")


class _Touched(Exception):
    """Somebody did something about the replay meanwhile."""


class ReplayWatch:
    """Owned by the composition root, which awaits `stop`."""

    def __init__(
        self,
        replays: Replays,
        opened: Callable[[], bool],
        *,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """`opened`: whether the store was brought to this release's version; before that nothing is asked of it."""
        self.replays = replays
        self._opened = opened
        self._wall = wall
        self._sleep = sleep
        self._known: dict[str, Replay] = {}
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._run(), name="replay-watch")

    async def stop(self) -> None:
        """Look no more."""
        await end(self._task)

    def now(self) -> int:
        """Unix ms, by the clock that replays are paced by."""
        return int(self._wall() * 1000)

    async def _run(self) -> None:
        while True:
            try:
                if self._opened():
                    await self.look()
            except (StoreUnavailable, OSError) as error:
                log.debug("replays_not_read", error=str(error))
            except Exception:  # pauses and cancellations must be seen while the hub runs
                log.exception("replay_watch_failed")
            await asyncio.sleep(POLL_S)

    async def look(self) -> None:
        """Read them now.

        Raises:
            StoreUnavailable: what was known before stays known.
        """
        found = {replay.replay_id: replay for replay in await self.replays.active()}
        for replay_id in self._known.keys() - found.keys():
            ended = await self.replays.get(replay_id)
            if ended is not None:
                self.saw(ended)
        for replay in found.values():
            self.saw(replay)
            if self._idle(replay):
                await self._give_up(replay)

    def saw(self, replay: Replay) -> None:
        """Take note of a replay as it is now."""
        held = self._known.get(replay.replay_id)
        if held is not None and held.updated_ms > replay.updated_ms:
            return
        if replay.active:
            self._known[replay.replay_id] = replay
        else:
            self._known.pop(replay.replay_id, None)
        if held is None or held.state != replay.state or pace_of(held) != pace_of(replay):
            news, self._news = self._news, asyncio.Event()
            news.set()

    @property
    def active(self) -> list[Replay]:
        """Those that are not over, as last seen."""
        return list(self._known.values())

    def to(self, system: str, channel: str) -> list[Replay]:
        """Those that go to a channel and are not over."""
        return [replay for replay in self._known.values() if goes_to(replay, system, channel)]

    def seen(self, replay_id: str) -> Replay | None:
        """One of them; None when it is over."""
        return self._known.get(replay_id)

    async def news(self) -> None:
        """Until some replay begins, ends, pauses or goes on."""
        await self._news.wait()

    async def wait(self, seconds: float) -> None:
        """The same; at most so long by the clock that replays are paced by."""
        await first_of(self.news(), self._sleep(seconds))

    async def begin(self, replay: Replay) -> Replay:
        """Begin one, unless it was begun: its pace counts from now.

        Raises:
            StoreUnavailable: it is not written down, and so not begun.
        """
        if replay.progress.get("started_ms") is not None:
            return replay
        now = self.now()
        begun = await self.replays.note(
            replay.replay_id,
            now,
            lambda held: held.progress | kept(pace_of(held).started(now)) if held.state == "running" else held.progress,
        )
        self.saw(begun)
        return begun

    async def tell(self, replay_id: str, **progress: object) -> None:
        """Write down how far one is. What is behind what another hub wrote changes nothing."""

        def change(held: Replay) -> dict[str, object]:
            behind = int(held.progress.get("events", 0)) > int(str(progress.get("events", 0)))
            return held.progress if behind else held.progress | progress

        self.saw(await self.replays.note(replay_id, self.now(), change))

    async def touch(self, replay: Replay) -> None:
        """Somebody receives it, though nothing may be due for long. Written down once an hour.

        Raises:
            StoreUnavailable: it is not written down.
        """
        now = self.now()
        if now - replay.updated_ms >= _TOUCH_MS:
            self.saw(await self.replays.note(replay.replay_id, now, lambda held: held.progress | {"touched_ms": now}))

    def _idle(self, replay: Replay) -> bool:
        to_channel = "channel" in replay.spec["asked"]["target"]
        return to_channel and replay.state == "running" and self.now() - replay.updated_ms > IDLE_S * 1000

    async def _give_up(self, replay: Replay) -> None:
        def ending(held: Replay) -> dict[str, object]:
            if not self._idle(held):
                raise _Touched
            return held.progress | {"finished_ms": self.now(), "detail": f"nobody received it for {IDLE_S // 3600} h"}

        with suppress(_Touched, Problem):
            self.saw(await self.replays.move(replay.replay_id, "fail", self.now(), ending))
            log.info("replay_given_up", replay_id=replay.replay_id)

    async def end(self, replay_id: str, *, failed: str | None = None) -> None:
        """It is done, or failed and why. One that somebody cancelled meanwhile stays cancelled."""
        now = self.now()
        ending = {"finished_ms": now} | ({} if failed is None else {"detail": failed})
        try:
            action = "finish" if failed is None else "fail"
            ended = await self.replays.move(replay_id, action, now, lambda held: held.progress | ending)  # type: ignore[arg-type]
        except Problem:
            return
        log.info("replay_ended", replay_id=replay_id, state=ended.state, detail=failed)
        self.saw(ended)


def holds(claims: Claims, replay: Replay) -> bool:
    """Whether a token holds every tenant of a job; for others it is not there."""
    return all(claims.holds(tenant) for tenant in replay.spec["plan"]["ends"])


def goes_to(replay: Replay, system: str, channel: str) -> bool:
    """Whether a job goes to this channel."""
    target = replay.spec["asked"]["target"]
    return (target.get("system"), target.get("channel")) == (system, channel)


def pace_of(replay: Replay) -> Pace:
    """The pace of a job."""
    progress = replay.progress
    return Pace(
        replay.spec["plan"]["speed"],
        replay.spec["counts"]["first_ms"],
        progress.get("started_ms"),
        progress.get("paused_ms", 0),
        progress.get("paused_since_ms"),
    )


def kept(pace: Pace) -> dict[str, int | None]:
    """What of a pace changes, as it stands in a job's progress."""
    return {
        "started_ms": pace.started_ms,
        "paused_ms": pace.paused_ms,
        "paused_since_ms": pace.paused_since_ms,
    }
