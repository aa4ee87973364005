"""A hub in memory that speaks the `/sync` payloads: takes each item once, and fails in every way a test asks for."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from fake_hub import TENANT, cursor

from consumers.errors import AccessRefused, Disconnected, HubRefused
from consumers.offline.hub_link import Batch
from schemas.canonical import checksum
from schemas.cursor import Cursor
from schemas.errors import FieldError
from schemas.registry import EVENT_TYPES
from schemas.state import merged
from schemas.sync import (
    TYPES,
    Change,
    ItemError,
    ItemResult,
    PullResponse,
    PushResponse,
    SnapshotResponse,
    SyncItem,
    SyncRecord,
    batch_crc32,
    entity_of,
)


@dataclass
class FakeSyncHub:
    """Implements `consumers.offline.hub_link.SyncHub`. Faults and facts are plain attributes."""

    epoch: int = 7
    answers: dict[str, ItemResult] = field(default_factory=dict)
    """By entity: the answer to its items, which are not taken then."""
    waiting: int = 0
    """Answer `retry` to so many more items."""
    lose_answers: int = 0
    """Carry out so many pushes without an answer."""
    double: bool = False
    """Every push arrives twice; the second answer is the one that comes back."""
    damage: int = 0
    """So many pushes do not arrive as they were sent."""
    down: bool = False
    """Nobody answers, and connections are refused."""
    silent: bool = False
    """Requests are heard and never answered, until `cut`."""
    token_expired: bool = False
    problems: list[HubRefused | Disconnected | None] = field(default_factory=list)
    """What the next requests meet instead of being carried out; None: nothing, they are."""
    max_items: int = 500
    """More at once, or an item with the detail `too large`, is refused as `too_large`."""
    gone_to: int = 0
    """Changes up to this one are not in the history any more."""
    nameless: bool = False
    """Results come without the items' uuids."""

    def __post_init__(self) -> None:
        self.changes: list[Change] = []
        self.states: dict[tuple[str, str], dict[str, Any]] = {}
        self.versions: dict[str, dict[str, int]] = {}
        self.results: dict[str, ItemResult] = {}
        """By uuid: what became of the items that were taken."""
        self.pushes: list[list[str]] = []
        """The uuids of every push that arrived."""
        self.batches: list[Batch] = []
        self.pulls: list[str | None] = []
        self.snapshots: list[str | None] = []
        self.arrived = asyncio.Event()
        """Set by every request; a test clears it."""
        self.taken: list[dict[str, Any]] = []
        """Every item, as often as it had an effect."""
        self.roots: dict[int, int] = {}
        """The last change of earlier epochs that is still there, where their cursors are good up to it."""
        self._hanging: set[asyncio.Future[None]] = set()

    def head(self) -> str:
        return cursor(len(self.changes), epoch=self.epoch)

    def cut(self) -> None:
        """Whoever waits for an answer gets none."""
        for one in self._hanging:
            if not one.done():
                one.set_exception(Disconnected("the line is down", sent=True))

    def happen(self, model: str, entity_id: str, data: dict[str, Any], *, uuid: str | None = None, **said: Any) -> None:
        """An event of others, or of an item."""
        type, entity = TYPES[model], entity_of(model, entity_id)
        held = self.states.get((type, entity), {"data": {}, "revision": 0})
        actor = said.get("device_id") or "hotel-pms"
        version = self.versions.setdefault(entity, {})
        version[actor] = version.get(actor, 0) + 1
        number = len(self.changes) + 1
        own = EVENT_TYPES[type].entity_fields
        known = {own[0]: entity_id} if own else {}
        state = merged(held["data"], known | data, EVENT_TYPES[type].transient)
        self.states[type, entity] = {"data": state, "revision": sum(version.values()), "sequence": number}
        self.changes.append(
            Change.model_validate(
                {
                    "cursor": cursor(number, epoch=self.epoch),
                    "sequence": number,
                    "uuid": uuid or f"ffffffff-0000-4000-8000-{number:012d}",
                    "model": model,
                    "operation": "UPDATE",
                    "type": type,
                    "action": "updated",
                    "entity": entity,
                    "revision": sum(version.values()),
                    "version": dict(version),
                    "data": known | data,
                    "schema_version": EVENT_TYPES[type].newest,
                    "occurred_at": "2026-07-15T01:00:00Z",
                    **said,
                }
            )
        )

    def lose_history(self) -> None:
        """The log is replaced by another one: nobody's cursor is of it."""
        self.epoch += 1
        self.gone_to = len(self.changes)

    def fail_over(self, lost: int = 0, *, gap: bool = True) -> None:
        """A replica takes over that has not got the last changes; `gap`: no cursor of before is good any more."""
        changes = self.changes[: len(self.changes) - lost]
        gone = {change.uuid for change in self.changes[len(changes) :]}
        self.results = {uuid: result for uuid, result in self.results.items() if uuid not in gone}
        self.changes, self.states, self.versions = [], {}, {}
        for one in changes:
            entity_id = one.entity.partition(":")[2]
            self.happen(one.model, entity_id, one.data, uuid=one.uuid, device_id=one.device_id)
        if not gap:
            self.roots[self.epoch] = len(changes)
        self.epoch += 1

    # -- requests ------------------------------------------------------------------------------------------------------

    async def push(self, batch: Batch) -> PushResponse:
        await self.hear()
        items = [orjson.loads(one) for one in batch.items]
        self.batches.append(batch)
        self.pushes.append([item["uuid"] for item in items])
        if self.damage:
            self.damage -= 1
            items = items[:-1]
        return self.receive(items, batch_crc32(batch.sums))

    def receive(self, items: list[dict[str, Any]], crc32: int) -> PushResponse:
        """Take what a push says."""
        if batch_crc32(item["checksum"] for item in items) != crc32:
            said = [FieldError("batch_crc32", "is not")]
            raise HubRefused("invalid_request", "the batch is damaged", retryable=False, errors=said)
        if len(items) > self.max_items or any(item["payload"].get("detail") == "too large" for item in items):
            raise HubRefused("too_large", "fewer at a time", retryable=False)
        for _ in range(2 if self.double else 1):
            held: set[str] = set()
            results = [self._take(item, held) for item in items]
        if self.lose_answers:
            self.lose_answers -= 1
            raise Disconnected("no answer", sent=True)
        if self.nameless:
            results = [one.model_copy(update={"uuid": None}) for one in results]
        return PushResponse(results=results, server_time="2026-07-15T01:00:00Z", clock_skew_ms=12)

    async def pull(self, after: str | None, limit: int) -> PullResponse:
        await self.hear()
        self.pulls.append(after)
        place = Cursor.decode(after, TENANT) if after is not None else None
        start = 0 if place is None else place.sequence
        known = place is None or place.epoch == self.epoch or start <= self.roots.get(place.epoch, -1)
        if not known or start < self.gone_to:
            gap = {"tenant_id": TENANT, "reason": "epoch", "resume_from": self.head()}
            return PullResponse(changes=[], next=self.head(), more=True, gap=gap)
        page = self.changes[start : start + limit]
        end = start + len(page)
        here = page[-1].cursor if page else after or cursor(0, epoch=self.epoch)
        return PullResponse(changes=page, next=here, more=end < len(self.changes))

    async def snapshot(self, after: str | None, limit: int) -> SnapshotResponse:
        await self.hear()
        self.snapshots.append(after)
        keys = sorted(self.states)
        start = int(after or 0)
        records = [
            SyncRecord.model_validate(
                {
                    "type": type,
                    "entity": entity,
                    "version": self.versions[entity],
                    "schema_version": EVENT_TYPES[type].newest,
                    **self.states[type, entity],
                }
            )
            for type, entity in keys[start : start + limit]
        ]
        end = start + len(records)
        more = end < len(keys)
        return SnapshotResponse(records=records, cursor=self.head(), next=str(end) if more else None, more=more)

    # -- within --------------------------------------------------------------------------------------------------------

    async def hear(self) -> None:
        self.arrived.set()
        if self.down:
            raise Disconnected("cannot connect")
        if self.silent:
            future = asyncio.get_running_loop().create_future()
            self._hanging.add(future)
            try:
                await future
            finally:
                self._hanging.discard(future)
        # A request takes a turn, as on a line.
        await asyncio.sleep(0)
        if self.token_expired:
            raise AccessRefused(401, "token_expired")
        if self.problems and (problem := self.problems.pop(0)) is not None:
            raise problem

    def _take(self, raw: dict[str, Any], held: set[str]) -> ItemResult:
        """The answer for one item; what comes behind one that was not taken, of the same entity, waits."""
        result = self._answer(raw, held)
        if result.outcome in ("conflict", "rejected", "retry"):
            held.add(entity_of(raw["model"], raw["entity_id"]))
        return result

    def _answer(self, raw: dict[str, Any], held: set[str]) -> ItemResult:
        item = SyncItem.model_validate(raw)
        assert checksum(item.payload) == item.checksum
        if (known := self.results.get(item.uuid)) is not None:
            return known.model_copy(update={"outcome": "duplicate"}) if known.outcome == "applied" else known
        entity = entity_of(item.model, item.entity_id)
        if entity in held:
            return ItemResult(uuid=item.uuid, outcome="retry", errors=[ItemError(path="conflict", message="waits")])
        if (answer := self.answers.get(entity)) is not None:
            return answer.model_copy(update={"uuid": item.uuid})
        if self.waiting:
            self.waiting -= 1
            return ItemResult(uuid=item.uuid, outcome="retry", errors=[ItemError(path="", message="later")])
        self.taken.append(raw)
        self.happen(item.model, item.entity_id, item.payload, uuid=item.uuid, device_id="desk-1")
        change = self.changes[-1]
        result = ItemResult(
            uuid=item.uuid,
            outcome="applied",
            cursor=change.cursor,
            revision=change.revision,
            version=dict(change.version),
        )
        self.results[item.uuid] = result
        return result


def uuids(items: Sequence[Any]) -> list[str]:
    """The items' uuids, in their order."""
    return [item.uuid for item in items]
