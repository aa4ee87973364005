"""Replays to webhook endpoints: what is due is written down as owed, marked with the replay."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from hub.core.entry import Entry
from hub.core.routing import may_see
from hub.core.webhooks import owed
from hub.log.redrive import Handed
from hub.services.replayer import Failed
from hub.store.store import Store
from schemas.cursor import StreamId

WAITING: Final = 1000
"""Events of a replay that an endpoint is owed at a time: the rest waits in the history."""


class WebhookSink:
    """A `Sink` whose names are endpoints' ids."""

    def __init__(
        self, store: Store, changed: Callable[[], Awaitable[None]], *, wall: Callable[[], float] = time.time
    ) -> None:
        """`changed` is awaited when something was written down."""
        self._webhooks = store.webhooks
        self._queue = store.webhook_queue
        self._changed = changed
        self._wall = wall

    async def place(self, partition: int, replay_id: str) -> tuple[StreamId | None, int]:
        """How far a replay is in a partition: the last place looked at, and the events handed over."""
        return await self._queue.place_of(replay_id, partition)

    async def replay(
        self,
        partition: int,
        name: str,
        replay_id: str,
        expected: StreamId | None,
        at: StreamId,
        entries: Sequence[Entry],
    ) -> Handed:
        """Hand entries over, as `Sink.replay`.

        Raises:
            Failed: the endpoint is gone, or disabled.
        """
        endpoint = await self._webhooks.get(name)
        if endpoint is None or not endpoint.enabled:
            raise Failed(f"the webhook endpoint {name} is {'gone' if endpoint is None else 'disabled'}")
        waiting = await self._queue.held(name, replay_id)
        place, events = await self.place(partition, replay_id)
        if place != expected or (entries and waiting + len(entries) > WAITING):
            return Handed(place, events, False, waiting)
        now = int(self._wall() * 1000)
        found = [
            owed(endpoint, entry, partition, now, replay_id)
            for entry in entries
            if entry.tenant_id == endpoint.tenant_id and entry.readable and may_see(endpoint.system, entry.targets)
        ]
        if not await self._queue.replay(replay_id, name, partition, expected, at, found):
            place, events = await self.place(partition, replay_id)
            return Handed(place, events, False, waiting)
        if found:
            await self._changed()
        return Handed(at, events + len(found), True, waiting + len(found))
