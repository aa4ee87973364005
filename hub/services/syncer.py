"""Takes what devices did while they were offline (R50, R77): each item exactly once, whatever comes twice or late.

An item is written down before anything of it is done. Its event has the item's uuid, so the log takes it once; what
became of it is written down after. Killed in between, the item's next coming finds the event, or does it then.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from typing import Any, Final, Protocol
from uuid import UUID, uuid5
from weakref import WeakValueDictionary

import structlog

from hub.core.delivery import instant
from hub.log.topology import RedisError
from hub.security.tokens import Claims
from hub.services.announcer import Announcer
from hub.services.history import History
from hub.services.sync_asker import Owners, device_of, require_owner, tenant_of
from hub.services.sync_intake import Intent, Place, about, intent_of, number_of, order_of, rejected, request_of, skew_of
from hub.services.sync_outcomes import Settled, failed, waiting
from hub.services.sync_records import Known, SyncRecords
from hub.services.sync_settling import SyncSettling
from hub.services.sync_writes import Lane
from hub.store.database import StoreUnavailable
from hub.store.sync_items import Pushed, Stored, SyncItems
from hub.telemetry import Metrics
from schemas.cursor import Cursor
from schemas.errors import FieldError, Problem
from schemas.strict_json import Parsed
from schemas.sync import TYPES, ItemResult, PushRequest, PushResponse

SKEW_TOLD_MS: Final = 5 * 60_000
"""A clock this far off is told to people, once a day."""
READ_AT_ONCE: Final = 16
"""Items that are read before others have their turn."""
LANES: Final = 32
"""Entities that are settled beside each other."""
MAX_PUSHES: Final = 4
"""Of one device at a time, the one that is at work included."""
_DONE: Final = frozenset({"applied", "resolved", "conflict"})
_NOTICES: Final = UUID("2c4d1b86-0b0b-5f0e-8f55-7a3c9e6d1f20")

log = structlog.get_logger("hub.syncer")


class Devices(Owners, Protocol):
    """Who keeps an eye on the devices."""

    async def pushed(
        self,
        tenant_id: str,
        device_id: str,
        system: str,
        *,
        items: int,
        outcomes: Mapping[str, int],
        device_sequence: int | None,
        backlog: int | None,
        clock_skew_ms: int | None,
        duration_ms: int,
    ) -> bool:
        """Note a push; whether the device is asked to sync."""
        ...


@dataclass
class _Turn:
    """Whose turn it is among the pushes of one device, and how many those are."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    taken: int = 0


class Syncer:
    """Answers pushes."""

    def __init__(
        self,
        history: History,
        settling: SyncSettling,
        records: SyncRecords,
        items: SyncItems,
        devices: Devices,
        announcer: Announcer,
        metrics: Metrics,
        *,
        finish: Callable[[str], Awaitable[bool]],
        zone: Callable[[str], tzinfo],
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`finish` closes a conflict whose decision is in the log, and tells whether it is closed."""
        self._history = history
        self._finish = finish
        self._settling = settling
        self._records = records
        self._items = items
        self._devices = devices
        self._announcer = announcer
        self._metrics = metrics
        self._zone = zone
        self._clock = clock
        self._turns: WeakValueDictionary[tuple[str, str], _Turn] = WeakValueDictionary()

    async def push(self, claims: Claims, parsed: Parsed) -> PushResponse:
        """Take a batch. The answer comes when everything that it calls done is durable.

        Raises:
            Problem: `forbidden`, `invalid_request`: nothing was taken; `overloaded`, `store_unavailable`,
                `log_unavailable`: the same batch may be sent again.
        """
        started = time.monotonic()
        now = self._clock()
        request = request_of(parsed)
        claims = claims.syncing()
        device_of(claims, request.device_id)
        tenant_id = tenant_of(claims, request.tenant_id)
        try:
            await require_owner(self._devices, claims, tenant_id, request.device_id)
            skew_ms = skew_of(request, now)
            async with self._turn(tenant_id, request.device_id):
                response = await self._take(claims, tenant_id, parsed, request, now, skew_ms)
            outcomes: Counter[str] = Counter(result.outcome for result in response.results)
            response.sync_requested = await self._devices.pushed(
                tenant_id,
                request.device_id,
                claims.system,
                items=len(request.items),
                outcomes=outcomes,
                device_sequence=max((one for one in map(number_of, request.items) if one), default=None),
                backlog=None if request.backlog is None else max(0, request.backlog - _finished(outcomes)),
                clock_skew_ms=skew_ms,
                duration_ms=int((time.monotonic() - started) * 1000),
            )
        except StoreUnavailable as error:
            raise Problem("store_unavailable", "the store does not answer now; send the batch again") from error
        except (RedisError, OSError) as error:
            raise Problem("log_unavailable", "the log does not answer now; send the batch again") from error
        if skew_ms is not None and abs(skew_ms) > SKEW_TOLD_MS:
            await self._tell_skew(tenant_id, request.device_id, skew_ms, now)
        return response

    @asynccontextmanager
    async def _turn(self, tenant_id: str, device_id: str) -> AsyncIterator[None]:
        """One push of a device at a time: where the line broke, its items come again while it is still at work."""
        turn = self._turns.setdefault((tenant_id, device_id), _Turn())
        if turn.taken == MAX_PUSHES:
            raise Problem("overloaded", f"{turn.taken} pushes of {device_id} are at work or wait; send the batch again")
        turn.taken += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.taken -= 1

    async def _take(
        self,
        claims: Claims,
        tenant_id: str,
        parsed: Parsed,
        request: PushRequest,
        now: datetime,
        skew_ms: int | None,
    ) -> PushResponse:
        seen = self._seen(request.cursor, tenant_id)
        results: list[ItemResult | None] = [None] * len(request.items)
        intents: dict[int, Intent] = {}
        for index, raw in enumerate(request.items):
            if index % READ_AT_ONCE == READ_AT_ONCE - 1:
                # Checksums of many large items take a while.
                await asyncio.sleep(0)
            read = intent_of(parsed, raw, request, claims.system, now, skew_ms or 0, lambda: self._zone(tenant_id))
            if isinstance(read, Intent):
                intents[index] = read
            else:
                results[index] = read
                self._metrics.sync_items.labels(_model(raw), read.outcome).inc()
        known = await self._known(tenant_id, intents)
        for index, result in (await self._checked(tenant_id, request.device_id, intents, known)).items():
            results[index] = result
            del intents[index]
        for index, intent in intents.items():
            if (stored := known.get(intent.uuid)) is not None:
                # Others may have been decided by what its first coming said of when it was made, and on what.
                pushed = intent.pushed._replace(created_ms=stored.created_ms, base_version=stored.base_version)
                intents[index] = replace(intent, pushed=pushed)
        order = order_of(request.items)
        refused: dict[str, tuple[Place, str]] = {}
        for index, one in enumerate(results):
            if one is not None and one.outcome == "rejected" and (entity := about(request.items[index])) is not None:
                here = (order[index], one.uuid or "an item")
                refused[entity] = min(here, refused.get(entity, here))
        now_ms = _ms(now)
        # Of one that stands in the batch twice, the second is answered when the first is done.
        first = {intent.uuid: index for index, intent in reversed(intents.items())}
        once = {index: intent for index, intent in intents.items() if first[intent.uuid] == index}
        await self._items.write(tenant_id, [intent.pushed for intent in once.values()], now_ms)
        settled = await self._settle(claims, tenant_id, request, once, now_ms, seen, order, refused, known)
        for index, intent in intents.items():
            done = settled[first[intent.uuid]]
            result = done.result
            if index not in once and result.outcome in ("applied", "resolved"):
                result = result.model_copy(update={"outcome": "duplicate"})
            results[index] = result
            self._metrics.sync_items.labels(intent.item.model, result.outcome).inc()
        answered = [result for result in results if result is not None]
        assert len(answered) == len(results)
        return PushResponse(results=answered, server_time=instant(_ms(now)), clock_skew_ms=skew_ms)

    async def _known(self, tenant_id: str, intents: Mapping[int, Intent]) -> dict[str, Stored]:
        """Those of these items that were written down before."""
        known = await self._items.known(tenant_id, {intent.uuid for intent in intents.values()})
        epoch = self._history.log.epochs[self._history.partition(tenant_id)]
        lost = []
        for stored in known.values():
            if stored.cursor is None or Cursor.decode(stored.cursor, tenant_id).epoch == epoch:
                continue
            if await self._history.find(tenant_id, stored.uuid) is None:
                # The log lost its event before that was archived, and the desk still has it.
                lost.append(stored.uuid)
        if lost:
            log.warning("lost_items_come_again", tenant=tenant_id, items=len(lost))
            await self._items.reopen(tenant_id, lost)
            known |= await self._items.known(tenant_id, lost)
        return known

    async def _checked(
        self, tenant_id: str, device_id: str, intents: Mapping[int, Intent], known: Mapping[str, Stored]
    ) -> dict[int, ItemResult]:
        """The answers for items that are known already, or that cannot be what they say they are."""
        numbers = {intent.pushed.device_sequence for intent in intents.values() if intent.uuid not in known}
        taken = await self._items.by_sequence(tenant_id, device_id, numbers)
        found: dict[int, ItemResult] = {}
        done: list[tuple[int, Stored]] = []
        first: dict[str, Intent] = {}
        for index, intent in intents.items():
            stored = known.get(intent.uuid)
            before = stored if stored is not None else first.setdefault(intent.uuid, intent).pushed
            if not _same(before, intent):
                whose = (
                    "an item of another device"
                    if before.device_id != intent.pushed.device_id
                    else "another item, with another payload, model, operation, action or entity_id"
                )
                said = f"is that of {whose}; nothing of this one was taken: make a new uuid"
                found[index] = rejected(intent.uuid, [FieldError("uuid", said)])
            elif stored is not None and stored.outcome in _DONE:
                done.append((index, stored))
            elif stored is None and taken.get(number := intent.pushed.device_sequence, intent.uuid) != intent.uuid:
                said = (
                    f"{number} of {device_id} was {taken[number]}: does another device use this device_id? "
                    "Give one of them a new id, and send its items again"
                )
                found[index] = rejected(intent.uuid, [FieldError("device_sequence", said)])
            else:
                taken.setdefault(intent.pushed.device_sequence, intent.uuid)
        versions = await self._records.load(tenant_id, {stored.entity for _, stored in done})
        for index, stored in done:
            found[index] = _again(stored, versions[stored.entity])
            await self._tell_again(tenant_id, stored)
        for index, result in found.items():
            self._metrics.sync_items.labels(intents[index].item.model, result.outcome).inc()
        return found

    async def _settle(
        self,
        claims: Claims,
        tenant_id: str,
        request: PushRequest,
        intents: Mapping[int, Intent],
        now_ms: int,
        seen: int | None,
        order: Sequence[Place],
        refused: Mapping[str, tuple[Place, str]],
        before: Mapping[str, Stored],
    ) -> dict[int, Settled]:
        """Settle items, those of one entity in order, and write down what became of them.

        `order` is each item's place in what the device did; `refused` says of which entities an item of the batch was
        refused, the first one's place and name; `before` are the items that came before.
        """
        lanes: dict[str, list[int]] = {}
        for index in sorted(intents, key=order.__getitem__):
            lanes.setdefault(intents[index].entity, []).append(index)
        known = await self._records.load(tenant_id, list(lanes))
        waiting_for = await self._items.held(tenant_id, request.device_id, list(lanes))
        held = {entity: conflict for entity, conflict in waiting_for.items() if not await self._finish(conflict)}
        settled: dict[int, Settled] = {}
        turn = asyncio.Semaphore(LANES)

        async def follow(entity: str, indexes: Sequence[int]) -> None:
            blocked = f"waits for the conflict {held[entity]}" if entity in held else None
            lane = Lane(entity, known[entity])
            for index in indexes:
                intent = intents[index]
                if blocked is None and (ahead := refused.get(entity)) is not None and ahead[0] < order[index]:
                    blocked = f"waits for {ahead[1]}, which came before it: rejected"
                if blocked is not None:
                    settled[index] = waiting(intent, blocked)
                    continue
                async with turn:
                    try:
                        done = await self._settling.settle(
                            tenant_id, intent, claims, lane, now_ms, seen, again=intent.uuid in before
                        )
                    except (StoreUnavailable, RedisError, OSError) as error:
                        log.warning("item_not_settled", uuid=intent.uuid, error=str(error) or type(error).__name__)
                        done = waiting(intent, "the hub could not look at it now; send it again")
                    except Exception:  # the others of the batch go on
                        log.exception("item_failed", uuid=intent.uuid)
                        done = failed(intent)
                settled[index] = done
                if done.result.outcome in ("conflict", "rejected", "retry"):
                    # What was done after it was done on top of it.
                    blocked = f"waits for {intent.uuid}, which came before it: {done.result.outcome}"

        await asyncio.gather(*(follow(entity, indexes) for entity, indexes in lanes.items()))
        await self._write(tenant_id, intents, settled)
        return settled

    async def _write(self, tenant_id: str, intents: Mapping[int, Intent], settled: dict[int, Settled]) -> None:
        conflicts = [done.conflict for done in settled.values() if done.conflict is not None]
        stand: Mapping[str, str] = {}
        try:
            stand = await self._items.settle(tenant_id, [done.settlement for done in settled.values()], conflicts)
            await self._corrected(tenant_id, intents, settled, stand)
        except StoreUnavailable:
            # Events are in the log whatever the store says; what waits for a person is nowhere yet.
            for index, done in settled.items():
                if done.result.outcome == "conflict":
                    settled[index] = waiting(intents[index], "the store does not answer now; send it again")
            log.warning("outcomes_not_stored", items=len(settled))
        for index, done in settled.items():
            decision = done.decision
            # What stands already was counted by whoever wrote it down.
            if decision is not None and decision.policy is not None and done.settlement.uuid not in stand:
                outcome = "open" if done.result.outcome == "conflict" else "resolved"
                self._metrics.conflicts.labels(intents[index].item.model, decision.policy, outcome).inc()
                if outcome == "resolved":
                    self._metrics.conflict_resolution_seconds.observe(0.0)
        await self._tell(tenant_id, settled.values())

    async def _corrected(
        self, tenant_id: str, intents: Mapping[int, Intent], settled: dict[int, Settled], stand: Mapping[str, str]
    ) -> None:
        """Where another push has settled an item meanwhile, and this one got no further: answer what it came to."""
        behind = {
            intents[index].uuid: index
            for index, done in settled.items()
            if stand.get(intents[index].uuid, done.result.outcome) != done.result.outcome
            and done.result.outcome in ("conflict", "rejected", "retry")
        }
        if not behind:
            return
        known = await self._items.known(tenant_id, behind)
        versions = await self._records.load(tenant_id, {stored.entity for stored in known.values()})
        for uuid, stored in known.items():
            if stored.outcome in _DONE:
                result = _again(stored, versions[stored.entity])
                settled[behind[uuid]] = Settled(result, settled[behind[uuid]].settlement)

    def _seen(self, cursor: str | None, tenant_id: str) -> int | None:
        """The last sequence that a device had pulled, as it says; None where that was of another history.

        Raises:
            Problem: `invalid_cursor`.
        """
        if cursor is None:
            return None
        found = Cursor.decode(cursor, tenant_id)
        epoch = self._history.log.epochs[self._history.partition(tenant_id)]
        return found.sequence if found.epoch == epoch else None

    # -- notices --------------------------------------------------------------------------------------------------

    async def _tell(self, tenant_id: str, settled: Iterable[Settled]) -> None:
        """Tell people what waits for them, and what a deletion overruled (R72)."""
        for done in settled:
            row, decision = done.conflict, done.decision
            if row is None or decision is None:
                continue
            if row.state == "open":
                message = f"{row.entity}: {row.reason or 'two changed the same'}; a person decides"
                await self._announce(tenant_id, "sync-conflict", message, f"open {row.conflict_id}", row, "warning")
            elif decision.policy == "delete_wins":
                others = ", ".join(decision.overruled) or row.device_id
                message = f"{row.entity} was deleted while {others} edited it: the deletion stands, the edit is kept"
                await self._announce(tenant_id, "sync-deletion", message, f"deleted {row.conflict_id}", row, "info")

    async def _tell_again(self, tenant_id: str, stored: Stored) -> None:
        """Whoever settled it may have died before that was told; told before, it is told once."""
        if stored.outcome == "conflict":
            message = f"{stored.entity}: two changed the same; a person decides"
            await self._announce(tenant_id, "sync-conflict", message, f"open {stored.conflict_id}", stored, "warning")
        elif stored.policy == "delete_wins":
            message = f"{stored.entity} was deleted while others edited it: the deletion stands, the edit is kept"
            await self._announce(tenant_id, "sync-deletion", message, f"deleted {stored.conflict_id}", stored, "info")

    async def _announce(self, tenant_id: str, topic: str, message: str, name: str, row: Any, severity: Any) -> None:
        detail = {
            "conflict_id": row.conflict_id,
            "uuid": row.uuid,
            "entity": row.entity,
            "model": row.model,
            "device_id": row.device_id,
            "policy": row.policy,
        }
        try:
            await self._announcer.announce(
                tenant_id,
                "notice",
                topic,
                message,
                event_id=str(uuid5(_NOTICES, name)),
                severity=severity,
                detail=detail,
            )
        except Problem as problem:
            # The conflict itself is written down, and listed.
            log.warning("conflict_not_announced", conflict=row.conflict_id, error=str(problem))

    async def _tell_skew(self, tenant_id: str, device_id: str, skew_ms: int, now: datetime) -> None:
        way = "ahead of" if skew_ms > 0 else "behind"
        minutes = abs(skew_ms) / 60_000
        try:
            await self._announcer.announce(
                tenant_id,
                "notice",
                "device-clock",
                f"the clock of {device_id} is {minutes:.0f} minutes {way} the hub's; set it right",
                event_id=str(uuid5(_NOTICES, f"skew {tenant_id} {device_id} {now:%Y-%m-%d}")),
                detail={"device_id": device_id, "clock_skew_ms": skew_ms},
            )
        except Problem as problem:
            log.warning("skew_not_announced", device=device_id, error=str(problem))


def _model(raw: Any) -> str:
    """The model that an item names, if it is one."""
    named = raw.get("model") if isinstance(raw, dict) else None
    return named if isinstance(named, str) and named in TYPES else "unknown"


def _same(before: Stored | Pushed, intent: Intent) -> bool:
    """Whether an item that came before is this one."""
    pushed = intent.pushed
    return (before.device_id, before.checksum, before.model, before.operation, before.action, before.entity) == (
        pushed.device_id,
        pushed.checksum,
        pushed.model,
        pushed.operation,
        pushed.action,
        pushed.entity,
    )


def _again(stored: Stored, known: Known) -> ItemResult:
    """The answer for an item that was settled before."""
    waits = stored.outcome == "conflict"
    return ItemResult(
        uuid=stored.uuid,
        outcome="conflict" if waits else "duplicate",
        cursor=stored.cursor,
        revision=stored.revision,
        version=known.version,
        policy=stored.policy,
        winner=stored.winner,
        conflict_id=stored.conflict_id,
    )


def _finished(outcomes: Mapping[str, int]) -> int:
    return sum(count for outcome, count in outcomes.items() if outcome not in ("retry", "rejected", "conflict"))


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
