"""What happens with an event once it came in, by whichever road: de-duplicated, queued, handled, acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import orjson
import structlog

from consumers.connection import Connection
from consumers.cursors import CursorStore
from consumers.delivery import Delivery, Workers
from consumers.errors import Disconnected
from consumers.http_api import Page, PagedEvent
from consumers.progress import Progress, Ticket
from schemas.cursor import Cursor
from schemas.frames import EventFrame, Gap, Subscribed

log = structlog.get_logger(__name__)

OnGap = Callable[[Gap], Awaitable[None]]

SUBSCRIPTION: Final = "events"
"""The id of the client's one subscription."""
_ACK_CURSORS: Final = 1000


class Intake:
    """Joins the roads events come by with the workers that handle them, and tells the hub and the store how far.

    `named`: the hub keeps the position too, and is sent acknowledgements.
    """

    def __init__(
        self, progress: Progress, workers: Workers, store: CursorStore, *, named: bool, on_gap: OnGap | None
    ) -> None:
        self.progress = progress
        self._workers = workers
        self._store = store
        self._named = named
        self._on_gap = on_gap
        self._changed = asyncio.Event()
        self._ending = False
        self._connection: Connection | None = None
        self._told: dict[str, str] = {}

    def finished(self, ticket: Ticket) -> None:
        """All handlers of the event have returned."""
        self.progress.finish(ticket)
        self._changed.set()

    async def event(self, frame: EventFrame, connection: Connection) -> None:
        """Take in a frame; waits for room among the workers."""
        await self._take_in(frame.cursor, frame.event, frame.replay, connection)

    async def gap(self, gap: Gap, connection: Connection | None = None) -> None:
        """Some events cannot be had: tell the owner, go on from `resume_from`."""
        log.warning("gap", tenant=gap.tenant_id, reason=gap.reason)
        self._told.pop(gap.tenant_id, None)
        ticket = self.progress.restart(gap.tenant_id, gap.resume_from)
        try:
            if self._on_gap is not None:
                with _paused(connection):
                    await self._on_gap(gap)
        except BaseException:
            self.progress.withdraw(ticket)
            raise
        self.finished(ticket)

    async def page(self, page: Page, *, tenant: str | None, guessed: bool) -> None:
        """Take in a page of a listing, of one tenant or (None) of all. `guessed`: it was not asked by a cursor."""
        gaps = [Gap.model_validate({"op": "gap", "id": SUBSCRIPTION, **gap}) for gap in page.gaps]
        for item in page.events:
            # A hole in the middle of a page lies between two events.
            for gap in [one for one in gaps if _before(one, item)]:
                gaps.remove(gap)
                await self.gap(gap)
            await self._take_in(item.cursor, item.event, False, None)
        for gap in gaps:
            await self.gap(gap)
        self.progress.move_to(page.next, tenant=tenant, guessed=guessed)
        self._changed.set()

    def subscribed(self, frame: Subscribed, connection: Connection) -> None:
        """The subscription stands on this connection: from here on acknowledgements go there.

        Raises:
            Disconnected: it stands too late; a new one, from the position known by now, stands right.
        """
        meetings = set()
        for tenant, position in frame.position.items():
            if self._named:
                meetings.add(self.progress.join_named(tenant, position))
            else:
                self.progress.begin(tenant, position)
        if "rewound" in meetings:
            log.warning("position_taken_from_hub", reason="events before the client polled were not handled yet")
        if "ahead" in meetings:
            raise Disconnected("the hub did not know the position reached by polling")
        self._told = dict(frame.position)
        self._connection = connection
        self._changed.set()

    def unsubscribed(self) -> None:
        """The connection is gone."""
        self._connection = None

    async def acknowledge(self) -> None:
        """Keep and acknowledge what is finished, one write for all that finished meanwhile, until `end`.

        Raises:
            Exception: what the cursor store raises.
        """
        while True:
            await self._changed.wait()
            self._changed.clear()
            await self.flush()
            if self._ending and not self._changed.is_set():
                return

    def end(self) -> None:
        """Let `acknowledge` return after what is finished now."""
        self._ending = True
        self._changed.set()

    async def flush(self) -> None:
        """Keep and acknowledge what is finished now."""
        if self.progress.moved:
            self.progress.moved = False
            try:
                await self._store.save(self.progress.kept())
            except BaseException:
                self.progress.moved = True
                raise
        connection, told = self._connection, self._told
        if connection is None or not self._named:
            return
        news = list(self.progress.ahead_of(told).items())
        try:
            for start in range(0, len(news), _ACK_CURSORS):
                cursors = dict(news[start : start + _ACK_CURSORS])
                await connection.send({"op": "ack", "cursors": cursors})
                told |= cursors
        except Disconnected:
            # The next connection is told.
            if self._connection is connection:
                self._connection = None

    async def _take_in(
        self, cursor: str, event: Mapping[str, Any], replay: bool, connection: Connection | None
    ) -> None:
        try:
            tenant, event_id, entity = event["tenant_id"], event["event_id"], event["entity"]
        except KeyError as error:
            raise Disconnected("the hub sent an event without its envelope") from error
        # A replay is asked for by an operator and comes beside the subscription: it moves nothing.
        ticket = None if replay else self.progress.admit(tenant, cursor)
        if ticket is None and not replay:
            # The hub counts what it sends as unacknowledged, also when it was finished before.
            if self._told.pop(tenant, None) is not None:
                self._changed.set()
            return
        delivery = Delivery(orjson.dumps(event), event_id, tenant, entity, cursor, ticket)
        if self._workers.offer(delivery):
            return
        try:
            with _paused(connection):
                await self._workers.put(delivery)
        except BaseException:
            if ticket is not None:
                self.progress.withdraw(ticket)
            raise


@contextmanager
def _paused(connection: Connection | None) -> Iterator[None]:
    """Nothing is read meanwhile."""
    if connection is None:
        yield
        return
    connection.stall()
    try:
        yield
    finally:
        connection.resume()


def _before(gap: Gap, item: PagedEvent) -> bool:
    return gap.tenant_id == item.event.get("tenant_id") and Cursor.decode(gap.resume_from).sequence < item.sequence
