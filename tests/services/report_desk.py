"""Report jobs as the hub puts them together, over a rig's log and store, by a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import orjson
from feed_rig import Rig, claims, until
from replay_desk import Clock

from hub.core.entry import Entry
from hub.core.jobs import Job
from hub.log.tenants import Tenants
from hub.services.announcer import Announcer
from hub.services.fact_keeper import FactKeeper
from hub.services.publisher import Publisher, Systems
from hub.services.report_deliveries import ReportDeliveries
from hub.services.report_maker import ReportMaker
from hub.services.report_requests import ReportRequests
from hub.services.scheduler import LEASE, Scheduler
from hub.store.leases import Fence
from hub.store.runs import Run, RunFilter
from schemas import registry, strict_json
from schemas.cursor import ZERO

TENANT = "t-1"
TOKYO, LISBON = ZoneInfo("Asia/Tokyo"), ZoneInfo("Europe/Lisbon")


class Bureau:
    """One hub, as far as reports go. Its rounds are made by hand; whatever waits for the archive has it written."""

    def __init__(
        self,
        rig: Rig,
        clock: Clock,
        own: Sequence[Job] = (),
        *,
        catch_up_days: int = 62,
        outstanding_s: float = 300,
        systems: Systems | None = None,
    ) -> None:
        self.rig = rig
        self.clock = clock
        self.runs = rig.store.runs
        self.tenants = Tenants(rig.log)
        systems = systems or Systems()
        self.publisher = Publisher(rig.history, systems, rig.metrics, currency=self.tenants.currency)
        self.announcer = Announcer(self.publisher, rig.history)
        self.keeper = FactKeeper(rig.store, self._calendar_of)
        self.maker = ReportMaker(rig.history, self.announcer, self.keeper, wall=clock.wall, sleep=self._archive)
        deliveries = ReportDeliveries(rig.history, self.announcer, outstanding_s=outstanding_s, wall=clock.wall)
        self.scheduler = Scheduler(
            rig.store,
            self.tenants,
            self.maker,
            deliveries,
            rig.metrics,
            own,
            catch_up_days=catch_up_days,
            wall=clock.wall,
            sleep=clock.sleep,
        )
        self.requests = ReportRequests(self.runs, self.maker, self.tenants, systems, rig.metrics, wall=clock.wall)
        self.archives = True
        """Whether the archiver gets on."""
        self.fence = Fence(LEASE, 0)

    def _calendar_of(self, tenant_id: str) -> tuple[str, int]:
        tenant = self.tenants.get(tenant_id)
        return tenant.timezone, tenant.rollover_hour

    async def _archive(self, _: float) -> None:
        if self.archives:
            await self.archive()

    async def archive(self) -> None:
        """Archive all that the log has."""
        heads = await self.rig.log.tenants()
        head = self.rig.dispatcher.head
        await until(lambda: all(head(tenant).sequence >= last.sequence for tenant, last in heads.items()), "routing")
        while await self.rig.archiver.round():
            pass

    async def lead(self) -> Bureau:
        """Hold the lease, whoever held it."""
        leases = self.rig.store.leases
        held = await leases.take(LEASE, f"hub-{id(self)}", await leases.look(LEASE))
        assert held is not None
        self.fence = Fence(LEASE, held.fence)
        return self

    async def describe(self, tenant: str = TENANT, **values: Any) -> None:
        """Describe a property, and let its jobs begin now."""
        await self.tenants.put({"tenant_id": tenant} | values)
        await self.round()

    async def round(self) -> float:
        """Make all that is due; how long the scheduler would sleep then."""
        async with asyncio.timeout(60):
            while not (pause := await self.scheduler.round(self.fence)):
                pass
        return pause

    async def at(self, text: str, zone: ZoneInfo, fold: int = 0) -> float:
        """Make what is due at a time on a property's wall."""
        self.clock.now = datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold).timestamp()
        return await self.round()

    async def publish(self, event: dict[str, Any], tenant: str = TENANT) -> None:
        """Publish an event of a tenant, and archive it."""
        await self.announcer.publish(tenant, event)
        await self.archive()

    async def events(self, type: str = "analytics", tenant: str = TENANT) -> list[Entry]:
        """A tenant's events of a type, in order."""
        partition = self.rig.log.partition(tenant)
        found, after = [], ZERO
        while page := await self.rig.log.read(partition, after, 1000):
            found += [entry for entry in page if (entry.type, entry.tenant_id) == (type, tenant)]
            after = page[-1].id
        return found

    async def emitted(self, tenant: str = TENANT) -> list[tuple[str, str, str]]:
        """The reports that were emitted, in order: which, its first day, its stage."""
        found = []
        for entry in await self.events(tenant=tenant):
            data = entry.event["data"]
            found.append((entry.action, data["period_start"], data["detailed_data"]["stage"]))
        return found

    async def all(self, **wanted: Any) -> list[Run]:
        """The runs there are, the one due first first."""
        return (await self.runs.listed(RunFilter(**wanted), 10_000))[::-1]


def reservation(id: str, checkin: str, checkout: str, amount: int, **more: Any) -> dict[str, Any]:
    """A reservation that was taken, as a publisher hands it in."""
    data = {
        "reservation_id": id,
        "room_type": "twin",
        "checkin_date": checkin,
        "checkout_date": checkout,
        "total_amount": amount,
        "status": "confirmed",
        "origin": "phone",
    }
    return {"type": "reservation", "action": "created", "data": data | more}


async def squat(rig: Rig, event_id: str, event: dict[str, Any] | None = None, tenant: str = TENANT) -> None:
    """A publisher of the tenant's is there first with an id of the hub's own reckoning: an order's, or another's."""
    items = [{"name": "tea", "quantity": 1, "unit_price": 1}]
    order = {"order_id": "O1", "room_number": "101", "items": items, "total_amount": 1}
    event = {"type": "order", "action": "placed", "data": order} | (event or {}) | {"event_id": event_id}
    kind = registry.EVENT_TYPES[event["type"]]
    parsed = strict_json.parse(orjson.dumps(event))
    publisher = Publisher(rig.history, Systems(), rig.metrics)
    token = claims([tenant], kind.authority, ("publish:*",))
    receipt = await publisher.submit(parsed, parsed.tree, token)
    assert not receipt["duplicate"]
    await publisher.aclose()


def local(text: str, zone: ZoneInfo = TOKYO) -> float:
    """A time on a property's wall, Unix seconds."""
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def clock_at(text: str, zone: ZoneInfo = TOKYO) -> Clock:
    """A clock that stands there."""
    clock = Clock()
    clock.now = local(text, zone)
    return clock


def counted(rig: Rig, job: str, outcome: str) -> float:
    """How many runs came to that."""
    return float(rig.metrics.batch_runs.labels(job, outcome)._value.get())


class Hung:
    """A step that a hub comes to and never gets over."""

    def __init__(self) -> None:
        self.reached = asyncio.Event()

    async def __call__(self, *_: Any, **__: Any) -> Any:
        """Hang."""
        self.reached.set()
        await asyncio.Event().wait()
