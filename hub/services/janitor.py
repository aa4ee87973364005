"""Looks after the log: measures the groups, counts dead letters, trims what is old and finished."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import structlog

from hub.log import groups as consumer_groups
from hub.log.dead_letters import DeadLetters
from hub.log.groups import GroupState
from hub.log.stream_log import StreamLog
from hub.log.tenants import Tenants
from hub.log.topology import RedisError
from hub.services.ending import end
from hub.store.database import StoreUnavailable
from hub.telemetry import Metrics
from schemas.cursor import StreamId

EVERY_S: Final = 10.0
TRIM_EVERY: Final = 30
"""Rounds between trims."""

log = structlog.get_logger("hub.janitor")


class Janitor:
    """One a deployment is enough; more do no harm. `refresh` is awaited in every round.

    `places` gives the places of groups that keep theirs elsewhere; while it raises `StoreUnavailable`, nothing is
    trimmed.
    """

    def __init__(
        self,
        stream_log: StreamLog,
        dead_letters: DeadLetters,
        tenants: Tenants,
        metrics: Metrics,
        groups: Sequence[str],
        *,
        retention_hours: float,
        refresh: Callable[[], Awaitable[None]],
        places: Callable[[], Awaitable[Mapping[str, Mapping[int, StreamId]]]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = stream_log
        self._dead_letters = dead_letters
        self._tenants = tenants
        self._metrics = metrics
        self._groups = tuple(groups)
        self._retention_ms = int(retention_hours * 3_600_000)
        self._refresh = refresh
        self._places = places
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self.missing: list[str] = []
        """Groups that should be there and are not: somebody removed them."""

    def start(self) -> None:
        """Begin the rounds."""
        self._task = asyncio.create_task(self._run(), name="janitor")

    async def stop(self) -> None:
        """End the rounds."""
        await end(self._task)

    async def _run(self) -> None:
        rounds = 0
        while True:
            try:
                await self._refresh()
                await self._tenants.load()
                await self.measure()
                if rounds % TRIM_EVERY == 0:
                    await self.trim()
                rounds += 1
            except (RedisError, OSError) as error:
                log.warning("round_failed", error=str(error) or type(error).__name__)
            except Exception:  # the log must be looked after while the hub runs
                log.exception("round_failed")
            await asyncio.sleep(EVERY_S)

    async def measure(self) -> list[GroupState]:
        """Bring the metrics of groups and dead letters up to date."""
        states = await consumer_groups.group_states(self._log, int(self._clock() * 1000))
        for state in states:
            labels = (state.group, f"p{state.partition:02d}")
            self._metrics.group_lag.labels(*labels).set(-1 if state.lag is None else state.lag)
            self._metrics.group_oldest.labels(*labels).set(state.oldest_pending_s)
        found = {(state.group, state.partition) for state in states}
        missing = sorted(
            {group for group in self._groups for p in range(self._log.partitions) if (group, p) not in found}
        )
        if missing and missing != self.missing:
            log.error("groups_missing", groups=missing)
        self.missing = missing
        for group in await self._dead_letters.groups():
            self._metrics.dead_letters.labels(group).set(await self._dead_letters.count(group))
        return states

    async def trim(self) -> int:
        """Trim what is past the retention and finished by all; how many entries went."""
        now_ms = int(self._clock() * 1000)
        try:
            places = await self._places()
        except StoreUnavailable:
            return 0
        trimmed = await consumer_groups.trim(self._log, now_ms - self._retention_ms, now_ms, self._groups, places)
        self._metrics.trimmed.inc(trimmed)
        if trimmed:
            log.info("trimmed", entries=trimmed)
        return trimmed
