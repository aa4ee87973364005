"""Settles one pushed item: decides it against what its entity is now, and publishes its event.

The event goes in only if the entity is still what the decision was made on (`expected_revision`); else it is decided
again. So what the log holds is the decision, and an item that comes again finds its event there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import replace
from typing import Any, Final

import orjson

from hub.core import conflicts, sync_models
from hub.core.conflicts import ROOM, STAY, Decision, Registers, Write
from hub.core.delivery import instant
from hub.core.entry import Entry
from hub.core.projection import Folding
from hub.core.versions import Vector, actor, includes
from hub.security.tokens import Claims
from hub.services import sync_outcomes
from hub.services.history import History
from hub.services.occupied_rooms import OccupiedRooms
from hub.services.publisher import Publisher
from hub.services.sync_intake import Intent
from hub.services.sync_outcomes import Settled
from hub.services.sync_records import Known, SyncRecords
from hub.services.sync_writes import Lane, SyncWrites
from hub.store.sync_items import Settlement, SyncItems
from schemas import strict_json
from schemas.billing import balanced
from schemas.cursor import ZERO
from schemas.envelope import EventType
from schemas.errors import FieldError, Problem
from schemas.registry import EVENT_TYPES
from schemas.stay import may_be_in_house
from schemas.sync import ItemResult
from schemas.types import HUB

MAX_TRIES: Final = 8
"""How often an item is decided anew because its entity moved on meanwhile."""
NEVER_FITS: Final = frozenset({"invalid_event", "not_authority", "forbidden", "too_large"})


class SyncSettling:
    """Settles items. What fails for now is answered by `retry`."""

    def __init__(
        self, history: History, publisher: Publisher, records: SyncRecords, items: SyncItems, rooms: OccupiedRooms
    ) -> None:
        self._history = history
        self._publisher = publisher
        self._records = records
        self._writes = SyncWrites(history, records, items)
        self._rooms = rooms

    async def settle(
        self,
        tenant_id: str,
        intent: Intent,
        claims: Claims,
        lane: Lane,
        now_ms: int,
        seen: int | None,
        *,
        again: bool = False,
    ) -> Settled:
        """Settle one item; the ones before it of its entity are settled.

        `lane` is its entity's; `seen` the tenant's last sequence that the device had pulled. `again`: the item came
        before.

        Raises:
            StoreUnavailable, RedisError, OSError: whether its event was stored is known when it comes again.
        """
        try:
            if again and (entry := await self._history.find(tenant_id, intent.uuid)) is not None:
                # The log's own memory of ids ends some days after the event, the archive's does not.
                return await self._there_already(tenant_id, intent, entry, entry.cursor, entry.revision, now_ms)
            done = await self._settled(tenant_id, intent, claims, lane, now_ms, seen)
            if done.result.outcome in ("conflict", "rejected"):
                # A push that was broken off may have published it, and others gone on from there: then it was taken.
                entry = await self._history.find(tenant_id, intent.uuid)
                if entry is not None:
                    return await self._there_already(tenant_id, intent, entry, entry.cursor, entry.revision, now_ms)
            return done
        finally:
            lane.known = None

    async def _settled(
        self, tenant_id: str, intent: Intent, claims: Claims, lane: Lane, now_ms: int, seen: int | None
    ) -> Settled:
        # Who checks a guest in brings them there, whatever others said; where else one does turns out on the way.
        room = _room(intent.said) if intent.item.model == "CheckIn" else None
        for _ in range(MAX_TRIES):
            async with self._turn(tenant_id, room):
                done = await self._try(tenant_id, intent, claims, lane, now_ms, seen, room)
            if isinstance(done, Settled):
                return done
            if done is not None:
                room = done
                continue
            self._records.forget(tenant_id, intent.entity)
            lane.known = None
        message = f"{intent.entity} is being changed by many at once; send it again"
        return sync_outcomes.later(intent, [FieldError("entity_id", message)])

    def _turn(self, tenant_id: str, room: str | None) -> AbstractAsyncContextManager[None]:
        return nullcontext() if room is None else self._rooms.turn(tenant_id, room)

    async def _known(self, tenant_id: str, lane: Lane) -> Known:
        if lane.known is None:
            lane.known = (await self._records.load(tenant_id, [lane.entity]))[lane.entity]
        return lane.known

    async def _taken(self, tenant_id: str, intent: Intent, room: str, seen: int | None) -> str | None:
        """Why a person is to look at a check-in: somebody whom the desk did not know of is in the room."""
        for stay in await self._rooms.of(tenant_id, room):
            knew = stay.actor == intent.pushed.device_id or (seen is not None and stay.sequence <= seen)
            if stay.reservation != intent.entity and not knew:
                return f"room {room} was given to {stay.reservation} meanwhile"
        return None

    async def _decide(self, intent: Intent, known: Known, registers: Callable[[], Awaitable[Registers]]) -> Decision:
        """What becomes of an item, its entity being what it is; its writes are asked for where others made some."""
        action = self._action(intent, known)
        base = self._base(intent, known)
        write = Write(
            intent.pushed.device_id,
            intent.pushed.system,
            intent.pushed.type,
            action,
            intent.pushed.created_ms,
            intent.uuid,
            intent.said,
            base,
            deletes=(intent.pushed.type, action) in sync_models.DELETIONS,
            undoes=sync_models.undoes(intent.item.model, intent.item.operation),
        )
        if includes(base, known.version):
            return conflicts.simple(write, known.data(write.type))
        return (await registers()).decide(write)

    @staticmethod
    def _base(intent: Intent, known: Known) -> Vector:
        """What the desk had seen: also everything it did itself."""
        device = intent.pushed.device_id
        own = max(intent.pushed.base_version.get(device, 0), known.version.get(device, 0))
        return {**intent.pushed.base_version, device: own}

    @staticmethod
    def _action(intent: Intent, known: Known) -> str:
        item = intent.item
        return sync_models.action_of(item.model, item.operation, item.action, intent.said, known.said)[1]

    async def _try(
        self,
        tenant_id: str,
        intent: Intent,
        claims: Claims,
        lane: Lane,
        now_ms: int,
        seen: int | None,
        turn: str | None,
    ) -> Settled | str | None:
        """One attempt, while this room's turn is held; the room whose turn it takes, if that is another one; None when
        the entity has moved on meanwhile."""
        known = await self._known(tenant_id, lane)
        if not known.may_be_seen_by(claims.system):
            message = f"{intent.entity} is there, and nothing of it is for {claims.system}; make another one"
            return sync_outcomes.refused(intent, [FieldError("entity_id", message)])
        try:
            decision = await self._decide(intent, known, lambda: self._writes.registers(tenant_id, lane, known))
            if decision.outcome != "conflict" and (room := _entered(intent, decision, known)) is not None:
                if room != turn:
                    return room
                if (reason := await self._taken(tenant_id, intent, room, seen)) is not None:
                    decision = Decision("conflict", intent.said, frozenset(intent.said), "manual", reason=reason)
            if decision.outcome == "conflict":
                return sync_outcomes.in_conflict(tenant_id, intent, known, decision, now_ms)
            try:
                planned = self._planned(intent, decision, known)
            except Problem as problem:
                if (reason := _apart_only(decision, problem)) is None:
                    raise
                decision = replace(decision, outcome="conflict", fields=intent.said, policy="manual", reason=reason)
                return sync_outcomes.in_conflict(tenant_id, intent, known, decision, now_ms)
            targets = known.audience(self._publisher.systems, planned, claims.system)
            event = self._event(tenant_id, intent, planned, known.revision, targets)
            parsed = strict_json.parse(orjson.dumps(event))
            receipt = await self._publisher.submit(parsed, parsed.tree, claims)
        except Problem as problem:
            if problem.code == "conflict":
                return None
            errors = sync_models.of_payload(problem.errors)
            if problem.code in NEVER_FITS:
                return sync_outcomes.refused(intent, errors or [FieldError("", problem.detail)])
            return sync_outcomes.later(
                intent, errors or [FieldError("", f"{problem.code}: {problem.detail or problem.body()['title']}")]
            )
        if receipt["duplicate"]:
            entry = await self._history.find(tenant_id, intent.uuid)
            return await self._there_already(tenant_id, intent, entry, receipt["cursor"], receipt["revision"], now_ms)
        after = _after(known, intent, planned, claims.system, targets, receipt["revision"])
        self._records.remember(tenant_id, intent.entity, after)
        return sync_outcomes.applied(tenant_id, intent, known, after, decision, receipt, now_ms)

    def _planned(self, intent: Intent, decision: Decision, known: Known) -> sync_models.Planned:
        fields = dict(decision.fields)
        if intent.pushed.type == "billing":
            fields = balanced(fields, self._action(intent, known), known.data("billing"))
        item = intent.item
        settled = decision.outcome == "resolved"
        return sync_models.event_of(
            item.model,
            item.operation,
            item.action,
            intent.entity,
            fields,
            known.said,
            deleted=decision.deleted if settled else None,
            touched=decision.touched,
        )

    @staticmethod
    def _event(
        tenant_id: str, intent: Intent, planned: sync_models.Planned, revision: int, targets: list[str]
    ) -> dict[str, Any]:
        event: dict[str, Any] = {
            "event_id": intent.uuid,
            "tenant_id": tenant_id,
            "type": planned.type,
            "action": planned.action,
            "occurred_at": instant(intent.pushed.created_ms),
            "device_id": intent.pushed.device_id,
            "created_offline": True,
            "targets": targets,
            "expected_revision": revision,
            "data": planned.data,
        }
        for name in ("temp_id", "correlation_id", "causation_id"):
            if (value := getattr(intent.item, name)) is not None:
                event[name] = value
        return event

    async def _there_already(
        self, tenant_id: str, intent: Intent, entry: Entry | None, cursor: str, revision: int, now_ms: int
    ) -> Settled:
        """The log has an event of this id: this item's from before, or somebody else's."""
        if entry is None:
            return sync_outcomes.later(
                intent, [FieldError("uuid", "is in the log, and its event is not found now; send it again")]
            )
        mine = actor(entry.event) == intent.pushed.device_id or (
            entry.source == HUB and entry.event.get("causation_id") == sync_outcomes.conflict_id(tenant_id, intent.uuid)
        )
        if not mine or entry.entity != intent.entity:
            return sync_outcomes.refused(intent, [FieldError("uuid", "is that of another event; make a new one")])
        self._records.forget(tenant_id, intent.entity)
        known = (await self._records.load(tenant_id, [intent.entity]))[intent.entity]
        receipt = {"cursor": cursor, "revision": revision}
        published = await self._as_published(tenant_id, intent, entry)
        if published is not None:
            done = sync_outcomes.applied(tenant_id, intent, published[0], known, published[1], receipt, now_ms)
            done.result.outcome = "duplicate"
            return done
        result = ItemResult(
            uuid=intent.uuid, outcome="duplicate", cursor=cursor, revision=revision, version=known.version
        )
        # Published by the hub when a person had decided, knowing everything.
        outcome, policy = ("resolved", "manual") if entry.source == HUB else ("applied", None)
        settlement = Settlement(intent.uuid, outcome, revision=revision, cursor=cursor, policy=policy)
        return Settled(result, settlement)

    async def _as_published(self, tenant_id: str, intent: Intent, entry: Entry) -> tuple[Known, Decision] | None:
        """How an item was decided whose event is there, and on what, which may be written down nowhere; None where the
        log tells neither."""
        earlier = [one for one in await self._records.events(tenant_id, intent.entity) if one.id < entry.id]
        if entry.source == HUB or len(earlier) != entry.revision - 1:
            return None
        before = Known()
        for one in earlier:
            before = before.after(one)

        async def registers() -> Registers:
            return Registers(await self._writes.of(tenant_id, earlier), before.version)

        try:
            decision = await self._decide(intent, before, registers)
            planned = self._planned(intent, decision, before)
        except Problem:
            return None
        data = entry.event["data"]
        same = planned.action == entry.action and all(data.get(name) == said for name, said in planned.data.items())
        return (before, decision) if same and decision.outcome != "conflict" else None


def _room(said: Mapping[str, Any]) -> str | None:
    return room if isinstance(room := said.get(ROOM), str) else None


def _entered(intent: Intent, decision: Decision, known: Known) -> str | None:
    """The room that an item brings a guest into, as it was decided: one who checks in, or moves while in house."""
    room, item = _room(decision.fields), intent.item
    if item.operation == "DELETE" or item.model not in ("CheckIn", "Reservation"):
        return None
    if item.model == "CheckIn":
        return room
    stay, booking = known.data(STAY) or {}, known.data("reservation") or {}
    moves = room != stay.get(ROOM, booking.get(ROOM)) and may_be_in_house(stay, {**booking, **decision.fields})
    return room if moves else None


def _apart_only(decision: Decision, problem: Problem) -> str | None:
    """Why a person is to look at fields that were edited apart: each of them fits, and all of them together do not.

    None where that is not what is wrong: a field by itself, or what its maker had seen already.
    """
    rules = [error for error in problem.errors if error.path == "payload"]
    if decision.outcome != "resolved" or not rules or len(rules) < len(problem.errors):
        return None
    return f"with what others changed meanwhile, {rules[0].message}"


def _after(
    known: Known, intent: Intent, planned: sync_models.Planned, system: str, targets: list[str], revision: int
) -> Known:
    kind: EventType = EVENT_TYPES[planned.type]
    folding = Folding(planned.type, known.states.get(planned.type))
    folding.add(
        {
            "schema_version": kind.newest,
            "revision": revision,
            "action": planned.action,
            "targets": targets,
            "created_offline": True,
            "device_id": intent.pushed.device_id,
            "data": {**planned.data, "updated_by_system": system},
        },
        0,
        ZERO,
    )
    state = folding.state
    assert state is not None
    return Known(revision, {**known.states, planned.type: state})
