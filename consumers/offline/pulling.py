"""Brings the desk up to date: a snapshot when it is empty or has lost the thread, then changes page by page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from consumers.clock import Clock
from consumers.errors import Disconnected, HubRefused
from consumers.offline.comparison import Local
from consumers.offline.database import LocalDatabase
from consumers.offline.hub_link import SyncHub
from consumers.offline.items import Applied
from consumers.offline.pushing import Tally
from consumers.offline.seen import about_to_pull
from schemas.sync import Change, PullResponse, SyncRecord

log = structlog.get_logger(__name__)

PAGE_CHANGES: Final = 500
PAGE_STATES: Final = 1000
"""States a page: one is written in one transaction, for which the desk's own operations wait."""
SETTLING_TRIES: Final = 6
"""How often a page without anything, though there is more, is asked for again: the hub is still writing it."""
SETTLING_S: Final = 0.05
"""The first pause of those; each is twice the one before."""
_UNKNOWN: Final = frozenset({"invalid_cursor", "invalid_request"})
"""A place in a snapshot, or in the changes, that the hub does not know (any more)."""


class Puller:
    """Pulls until there is no more. One call at a time."""

    def __init__(
        self,
        local: Local,
        hub: SyncHub,
        *,
        clock: Clock,
        told: Callable[[Tally], Awaitable[None]],
    ) -> None:
        """`told` hears of every page that has another behind it; what cannot wait for the last may be done there."""
        self._local = local
        self._hub = hub
        self._clock = clock
        self._told = told
        self.cursor: str | None = None
        """How far the desk has pulled, as far as this knows."""

    async def begin(self, tally: Tally) -> None:
        """Take the snapshot that an empty desk begins with, or go on with one that was broken off.

        Raises:
            Disconnected, AccessRefused, HubRefused, LocalError: it was broken off; what was taken stays.
        """
        self.cursor, going = await self._local.call(lambda database: (database.cursor, database.snapshotting))
        if self.cursor is None or going:
            await self._snapshot(tally, afresh=False)

    async def pull(self, tally: Tally) -> None:
        """Pull what is new. Where the hub's history does not reach back to the cursor, begin again with a snapshot; the
        queue stays. What the hub took and lost is queued again (`tally.again`): push, and pull once more.

        Raises:
            Disconnected, AccessRefused, HubRefused, LocalError: it was broken off; what was pulled stays.
        """
        await self.begin(tally)
        if await self._changes(tally):
            return
        await self._snapshot(tally, afresh=True)
        if not await self._changes(tally):
            raise HubRefused("gap", "the history does not reach back to its own snapshot", retryable=True)

    async def _changes(self, tally: Tally) -> bool:
        """Pull page by page; False: the history does not reach back to the cursor."""
        settling = 0
        while True:
            page = await self._page(self.cursor)
            if page is None or page.gap is not None:
                log.warning("history_lost", gap=None if page is None else page.gap)
                return False
            if page.changes or page.next != self.cursor:
                settling = 0
                changes, cursor = page.changes, page.next
                applied = await self._local.call(_applying(changes, cursor))
                self.cursor = cursor
                self._lost(applied.again, tally)
                tally.freed += applied.freed
                tally.pulled += len(changes)
            elif page.more:
                if settling == SETTLING_TRIES:
                    raise HubRefused("not_settled", "changes stay on their way at the hub", retryable=True)
                await self._clock.sleep(SETTLING_S * 2**settling)
                settling += 1
            if not page.more:
                self._lost(await self._local.call(lambda database: database.queue_lost()), tally)
                return True
            await self._told(tally)

    def _lost(self, again: int, tally: Tally) -> None:
        if again:
            log.warning("items_lost_by_the_hub", queued_again=again)
            tally.again += again

    async def _page(self, after: str | None) -> PullResponse | None:
        try:
            return await self._hub.pull(after, PAGE_CHANGES)
        except HubRefused as refusal:
            if refusal.code == "invalid_cursor" and after is not None:
                # Of another hub, or of this one before its data was restored.
                return None
            raise

    async def _snapshot(self, tally: Tally, *, afresh: bool) -> None:
        after = await self._local.call(lambda database: database.begin_snapshot(afresh=afresh))
        log.info("snapshot_begun", afresh=afresh, resumed=after is not None)
        tally.snapshots += 1
        while True:
            try:
                page = await self._hub.snapshot(after, PAGE_STATES)
            except HubRefused as refusal:
                if refusal.code not in _UNKNOWN or after is None:
                    raise
                after = await self._local.call(lambda database: database.begin_snapshot(afresh=True))
                continue
            if page.more and page.next is None:
                # Taken for the last page, it would remove all that is on the others.
                raise Disconnected("the answer tells of more pages, and not where", sent=True)
            follows = page.next if page.more else None
            records, cursor = page.records, page.cursor
            self._lost(await self._local.call(_adding(records, follows, cursor)), tally)
            tally.pulled += len(records)
            if follows is None:
                break
            after = follows
            await self._told(tally)
        await self._local.call(lambda database: database.end_snapshot(cursor))
        self.cursor = await self._local.call(lambda database: database.cursor)
        log.info("snapshot_taken", records=tally.pulled)


def _applying(changes: Sequence[Change], cursor: str) -> Callable[[LocalDatabase], Applied]:
    def work(database: LocalDatabase) -> Applied:
        about_to_pull(database)
        return database.apply_changes(changes, cursor)

    return work


def _adding(records: Sequence[SyncRecord], follows: str | None, cursor: str) -> Callable[[LocalDatabase], int]:
    def work(database: LocalDatabase) -> int:
        about_to_pull(database)
        return database.add_snapshot(records, follows, cursor)

    return work
