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
from consumers.states import States, Whole
from schemas.cursor import Cursor
from schemas.frames import EventFrame, Gap, Snapshot, Subscribed

log = structlog.get_logger(__name__)

OnGap = Callable[[Gap], Awaitable[None]]
OnSnapshot = Callable[[Snapshot], Awaitable[Any]]

Place = tuple[str, int, int | None]
"""An event's cursor and sequence, and the revision that its data is a patch of."""

SUBSCRIPTION: Final = "events"
"""The id of the client's one subscription."""
_ACK_CURSORS: Final = 1000


class Intake:
    """Joins the roads events come by with the workers that handle them, and tells the hub and the store how far.

    `named`: the hub keeps the position too, and is sent acknowledgements. `states`: events are put together from
    changes.
    """

    def __init__(
        self,
        progress: Progress,
        workers: Workers,
        store: CursorStore,
        *,
        named: bool,
        on_gap: OnGap | None,
        on_snapshot: OnSnapshot | None = None,
        states: States | None = None,
    ) -> None:
        self.progress = progress
        self._workers = workers
        self._store = store
        self._named = named
        self._on_gap = on_gap
        self._on_snapshot = on_snapshot
        self._states = states
        self._snapshot: dict[str, str] = {}
        """Where the snapshot under way is true, by tenant."""
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
        place = (frame.cursor, frame.sequence, frame.base_revision)
        await self._take_in(place, frame.event, frame.replay, connection)

    async def snapshot(self, page: Snapshot, connection: Connection | None = None) -> None:
        """Take in a page of a snapshot. Nothing counts as reached before `subscribed`."""
        if self._states is not None:
            self._states.fill(page.tenant_id, page.entities)
        if self._on_snapshot is not None:
            with _paused(connection):
                await self._on_snapshot(page)
        if not page.more and page.cursor is not None:
            self._snapshot[page.tenant_id] = page.cursor

    def snapshot_taken(self) -> None:
        """All pages were taken in: events follow from where they are true."""
        snapshot, self._snapshot = self._snapshot, {}
        for tenant, cursor in snapshot.items():
            self.progress.begin(tenant, cursor)
            if self._states is not None:
                self._states.known(tenant)

    async def gap(self, gap: Gap, connection: Connection | None = None) -> None:
        """Some events cannot be had: tell the owner, go on from `resume_from`."""
        log.warning("gap", tenant=gap.tenant_id, reason=gap.reason)
        self._told.pop(gap.tenant_id, None)
        if self._states is not None:
            self._states.drop(gap.tenant_id)
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
            await self._take_in((item.cursor, item.sequence, None), item.event, False, None)
        for gap in gaps:
            await self.gap(gap)
        self.progress.move_to(page.next, tenant=tenant, guessed=guessed)
        self._changed.set()

    def subscribed(self, frame: Subscribed, connection: Connection) -> None:
        """The subscription stands on this connection: from here on acknowledgements go there.

        Raises:
            Disconnected: it stands too late; a new one, from the position known by now, stands right.
        """
        self.snapshot_taken()
        if self._states is not None:
            self._states.connected()
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
        self, place: Place, event: Mapping[str, Any], replay: bool, connection: Connection | None
    ) -> None:
        cursor = place[0]
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
        try:
            whole = await self._whole(place, event, connection) if ticket is not None else None
            raw = orjson.dumps(event) if whole is None else whole.raw
            delivery = Delivery(raw, event_id, tenant, entity, cursor, ticket)
            if not self._workers.offer(delivery):
                with _paused(connection):
                    await self._workers.put(delivery)
        except BaseException:
            if ticket is not None:
                self.progress.withdraw(ticket)
            raise
        if whole is not None and self._states is not None:
            self._states.hold(whole)

    async def _whole(self, place: Place, event: Mapping[str, Any], connection: Connection | None) -> Whole | None:
        """The event put together, where the subscription is one to changes."""
        _, sequence, base_revision = place
        if self._states is None:
            return None
        try:
            whole = self._states.at_hand(event, sequence, base_revision)
            if whole is None:
                with _paused(connection):
                    whole = await self._states.asked(event, sequence, base_revision)
            return whole
        except KeyError as error:
            raise Disconnected("the hub sent an event without its envelope") from error


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
