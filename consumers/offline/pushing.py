"""Sends what waits at the desk: bounded batches, each again where it did not arrive whole, and no item in others' way.

A push that gets no answer may have been carried out; its items go out again and the hub knows them. That counts for no
retry: a retry is what the hub asks for, item by item.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, NamedTuple

import orjson
import structlog

from consumers.backoff import Random
from consumers.errors import Disconnected, HubRefused
from consumers.offline.comparison import Local
from consumers.offline.hub_link import Batch, SyncHub
from consumers.offline.items import QueueItem
from consumers.offline.seen import pushed_all, seen_by_waiting
from schemas.sync import MAX_ITEMS, ItemError, ItemResult, PushResponse

log = structlog.get_logger(__name__)

MAX_BATCH_BYTES: Final = 900 * 1024
"""The items of one push, before compression: below what a hub and the proxies before it take of a plain body."""
RESENDS: Final = 3
"""How often a batch that did not arrive as it was sent (its CRC-32 differs, R79) goes out again at once."""

_TOO_BIG: Final = frozenset({"too_large", "http_413"})
_UNREADABLE: Final = frozenset({"invalid_json", "http_400"})


@dataclass(slots=True)
class Tally:
    """What one sync has done so far."""

    pushed: int = 0
    """Items that have an answer."""
    pulled: int = 0
    batches: int = 0
    resent: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    snapshots: int = 0
    again: int = 0
    """Items that the hub had taken and lost, as it seems: they are queued once more."""
    freed: int = 0
    """Items that may be sent since the event of one before them came, for which they waited."""
    skew_ms: int | None = None
    """How far the desk's clock is ahead of the hub's, as the hub said last."""


class Written(NamedTuple):
    """An item, and as it goes over the line."""

    item: QueueItem
    wire: bytes


def chunks(items: Sequence[QueueItem], max_bytes: int = MAX_BATCH_BYTES) -> list[list[Written]]:
    """The items in their order, in pieces of at most `MAX_ITEMS` and below `max_bytes`; a larger one goes alone."""
    found: list[list[Written]] = []
    size = 0
    for item in items:
        wire = orjson.dumps(item.wire())
        if not found or size + len(wire) >= max_bytes or len(found[-1]) == MAX_ITEMS:
            found.append([])
            size = 0
        found[-1].append(Written(item, wire))
        size += len(wire) + 1
    return found


class Pusher:
    """Pushes until nothing is due. One call at a time."""

    def __init__(
        self,
        local: Local,
        hub: SyncHub,
        *,
        now: Callable[[], datetime],
        random: Random,
        told: Callable[[Tally], Awaitable[None]],
    ) -> None:
        """`told` hears of every batch that was answered."""
        self._local = local
        self._hub = hub
        self._now = now
        self._random = random
        self._told = told
        self._tells_seen = True

    async def push(self, tally: Tally) -> None:
        """Send everything that may be sent now. Cancelled: what is under way goes out again after the next start.

        Raises:
            Disconnected, AccessRefused, HubRefused: it was broken off; what had no answer waits again, as it was.
            LocalError: the database failed.
        """
        self._tells_seen = True
        while items := await self._local.call(lambda database: database.batch(MAX_ITEMS, now=self._now())):
            before = tally.pushed
            try:
                for chunk in chunks(items):
                    await self._send(chunk, tally)
            except Exception:
                await self._local.call(lambda database: database.release())
                raise
            if tally.pushed - before < len(items):
                # Answered in part: the rest waits as it was.
                await self._local.call(lambda database: database.release())
            await self._local.call(pushed_all)
            if tally.pushed == before:
                raise Disconnected("the answer names none of the items that were sent", sent=True)

    async def _send(self, chunk: Sequence[Written], tally: Tally) -> None:
        """Send one piece, again where it did not arrive whole, in halves where the hub will not have it so large."""
        for resends in range(RESENDS + 1):
            try:
                answer = await self._hub.push(await self._batch(chunk, plain=resends == RESENDS))
            except HubRefused as refusal:
                if _damaged(refusal) and resends < RESENDS:
                    tally.resent += 1
                    log.warning("batch_damaged_on_the_way", attempt=resends + 1, items=len(chunk))
                    continue
                if refusal.code == "invalid_cursor" and self._tells_seen:
                    # Of a history that this hub does not have; the next pull will find that too.
                    self._tells_seen = False
                    await self._send(chunk, tally)
                    return
                if refusal.code not in _TOO_BIG | _UNREADABLE:
                    raise
                await self._divide(chunk, tally, refusal)
            else:
                await self._settle(chunk, answer, tally)
            return

    async def _divide(self, chunk: Sequence[Written], tally: Tally, refusal: HubRefused) -> None:
        if len(chunk) > 1:
            middle = len(chunk) // 2
            await self._send(chunk[:middle], tally)
            await self._send(chunk[middle:], tally)
            return
        # One item alone. Whether it is to blame, a push without any tells.
        await self._hub.push(await self._batch((), plain=True))
        uuid = chunk[0].item.uuid
        log.error("item_not_taken", uuid=uuid, model=chunk[0].item.model, code=refusal.code)
        result = ItemResult(uuid=uuid, outcome="rejected", errors=[ItemError(path="", message=str(refusal))])
        await self._take([result], tally)

    async def _batch(self, chunk: Sequence[Written], *, plain: bool) -> Batch:
        backlog, seen = await self._local.call(lambda database: (database.counts().waiting, seen_by_waiting(database)))
        sent_at = self._now().astimezone(UTC).isoformat(timespec="milliseconds")
        sums = [one.item.checksum for one in chunk]
        return Batch([one.wire for one in chunk], sums, sent_at, backlog, seen if self._tells_seen else None, plain)

    async def _settle(self, chunk: Sequence[Written], answer: PushResponse, tally: Tally) -> None:
        uuids = [one.item.uuid for one in chunk]
        tally.batches += 1
        tally.skew_ms = answer.clock_skew_ms if answer.clock_skew_ms is not None else tally.skew_ms
        results = answer.results
        if len(results) == len(uuids):
            # An item that could not even be read is answered in its place, without its uuid.
            pairs = zip(results, uuids, strict=True)
            results = [one if one.uuid else one.model_copy(update={"uuid": uuid}) for one, uuid in pairs]
        sent = frozenset(uuids)
        await self._take([one for one in results if one.uuid in sent], tally)

    async def _take(self, results: Sequence[ItemResult], tally: Tally) -> None:
        jitter = self._random()
        settled = await self._local.call(lambda database: database.settle(results, now=self._now(), jitter=jitter))
        tally.pushed += len(results)
        tally.outcomes.update(settled.outcomes)
        for item in settled.failed:
            log.warning("item_failed", uuid=item.uuid, model=item.model, reason=item.last_error)
        await self._told(tally)


def _damaged(refusal: HubRefused) -> bool:
    """Whether the hub got something else than was sent: by its checksum, or by its compression."""
    return refusal.code == "invalid_request" and any(error.path in ("batch_crc32", "") for error in refusal.errors)
