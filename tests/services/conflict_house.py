"""Conflicts that wait for a person, over a rig's log and store, by a clock that the test moves."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import orjson
from feed_rig import Rig, claims, until
from replay_desk import T0, Clock

from hub.core.entry import Entry
from hub.security.tokens import Claims
from hub.services.announcer import Announcer
from hub.services.conflict_desk import ConflictDesk, ResolveRequest
from hub.services.publisher import Publisher, Systems
from hub.services.sync_records import SyncRecords
from hub.store.sync_conflicts import SyncConflicts
from hub.store.sync_items import ConflictMet, Pushed, Settlement, SyncItems
from schemas import registry, strict_json
from schemas.canonical import checksum
from schemas.cursor import ZERO
from schemas.sync import TYPES, entity_of

TENANT = "t-1"
DEVICE = "desk-1"
ANNA = claims([TENANT], "hotel-pms", ("sync",), device_id="desk-2")
BOOKED = {
    "reservation_id": "R1",
    "room_type": "twin",
    "checkin_date": "2026-07-15",
    "checkout_date": "2026-07-17",
    "total_amount": 24000,
    "status": "confirmed",
    "origin": "phone",
    "currency": "JPY",
}
ARRIVED = {"reservation_id": "R1", "room_number": "301", "payment_status": "pending", "currency": "JPY"}


def person(name: str, system: str = "hotel-pms", scopes: tuple[str, ...] = ("ops",), **more: Any) -> Claims:
    """Somebody's token."""
    made = claims([TENANT], system, scopes, **more)
    return Claims(name, made.token_id, made.system, made.tenants, made.scopes, made.expires_at, None, made.view)


class ConflictHouse:
    """A desk for conflicts, and short words to bring some about."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.clock = Clock()
        self.publisher = Publisher(rig.history, Systems(), rig.metrics)
        self.announcer = Announcer(self.publisher, rig.history)
        self.records = SyncRecords(rig.history)
        self.conflicts = SyncConflicts(rig.store.database)
        self.items = SyncItems(rig.store.database)
        self.woken: list[tuple[str, str]] = []
        self.desk = self.another()

    def another(self) -> ConflictDesk:
        """The desk of another hub."""

        async def wake(tenant: str, device: str, _: str) -> None:
            self.woken.append((tenant, device))

        return ConflictDesk(
            self.conflicts,
            SyncRecords(self.rig.history),
            self.rig.history,
            self.announcer,
            Systems(),
            self.rig.metrics,
            wake,
            wall=self.clock.wall,
        )

    async def publish(self, type: str, action: str, data: dict[str, Any], **more: Any) -> dict[str, Any]:
        """An event of the system of authority."""
        event = {"type": type, "action": action, "data": data} | more
        parsed = strict_json.parse(orjson.dumps(event))
        token = claims([TENANT], registry.EVENT_TYPES[type].authority, ("publish:*",))
        return await self.publisher.submit(parsed, parsed.tree, token)

    async def open(
        self,
        payload: dict[str, Any],
        *,
        model: str = "CheckIn",
        operation: str = "CREATE",
        entity_id: str = "R1",
        contested: tuple[str, ...] = ("room_number",),
        action: str | None = None,
        tenant: str = TENANT,
    ) -> str:
        """An item that waits for a person, as the syncer leaves it; the conflict's id."""
        type, entity, uuid, conflict_id = TYPES[model], entity_of(model, entity_id), str(uuid4()), str(uuid4())
        known = (await self.records.load(tenant, [entity]))[entity]
        current = known.data(type) or {}
        base = {"hotel-pms": 1}
        await self.items.write(
            tenant,
            [
                Pushed(
                    uuid=uuid,
                    device_id=DEVICE,
                    device_sequence=7,
                    system="hotel-pms",
                    model=model,
                    operation=operation,
                    action=action,
                    type=type,
                    entity=entity,
                    checksum=checksum(payload),
                    base_version=base,
                    payload=payload,
                    created_at="2026-07-15T10:03:00+09:00",
                    created_ms=T0 - 61_000,
                )
            ],
            T0 - 1000,
        )
        fields = [
            {
                "field": name,
                "base": None,
                "current": current.get(name),
                "incoming": payload.get(name),
                "current_by": "hotel-pms",
                "incoming_by": DEVICE,
                "winner": None,
            }
            for name in contested
        ]
        row = ConflictMet(
            conflict_id,
            uuid,
            DEVICE,
            "hotel-pms",
            model,
            type,
            entity,
            "open",
            "manual",
            None,
            "others changed it",
            fields,
            current,
            payload,
            known.revision,
            T0 - 1000,
        )
        settled = Settlement(uuid, "conflict", sorted(payload), policy="manual", conflict_id=conflict_id)
        await self.items.settle(tenant, [settled], [row])
        return conflict_id

    async def resolve(
        self, conflict_id: str, choice: Any, by: Claims = ANNA, desk: ConflictDesk | None = None, **more: Any
    ) -> dict[str, Any]:
        """Decide."""
        asked = ResolveRequest.model_validate({"choice": choice} | more)
        return await (desk or self.desk).resolve(by, conflict_id, asked)

    async def checked_in_twice(self) -> str:
        """The desk gives 302 to a guest whom another one has put into 301."""
        await self.publish("reservation", "created", BOOKED)
        await self.publish("checkin_checkout", "checked_in", ARRIVED)
        return await self.open(ARRIVED | {"room_number": "302", "payment_status": "completed"})

    async def events(self) -> list[Entry]:
        """All of the tenant."""
        entries = await self.rig.log.read(self.rig.log.partition(TENANT), ZERO, 1000)
        return [entry for entry in entries if entry.tenant_id == TENANT]

    async def archive(self) -> None:
        """Archive everything."""
        last = (await self.rig.log.tenants())[TENANT].sequence
        await until(lambda: self.rig.dispatcher.head(TENANT).sequence >= last, "routing")
        while await self.rig.archiver.round():
            pass

    async def of(self, conflict_id: str) -> list[Entry]:
        """The events by the uuid of a conflict's item."""
        found = await self.conflicts.get(conflict_id)
        assert found is not None
        return [entry for entry in await self.events() if entry.event_id == found.uuid]

    async def state(self, type: str = "checkin_checkout", entity: str = "reservation:R1") -> dict[str, Any]:
        """What is so now, but for who said it last."""
        known = (await SyncRecords(self.rig.history).load(TENANT, [entity]))[entity]
        tracked = ("updated_by_system", "synced_at", "origin_system")
        return {name: value for name, value in (known.data(type) or {}).items() if name not in tracked}

    def counted(self, choice: str, model: str = "CheckIn") -> float:
        """How many conflicts were resolved so."""
        return float(self.rig.metrics.conflicts.labels(model, "manual", choice)._value.get())
