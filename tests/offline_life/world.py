"""Sixty days of one hotel with twelve devices, on simulated time: what people do, and when devices sync.

Everything is drawn from the seed, and one thing happens after the other, so that a seed is the same life each time.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, time, timedelta
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import orjson

from consumers.offline.errors import InvalidChange
from consumers.offline.items import LocalChange
from hub.services.conflict_desk import ResolveRequest
from hub.store.sync_conflicts import ConflictFilter
from schemas import strict_json
from schemas.errors import Problem

from .clock import SimulatedClock
from .desk_side import Accepted, DeskSide, DeviceDied
from .extras import Extras
from .faults import HOUR, MINUTE, Faults, Rates
from .hotel import FIRST_DAY, LISBON, TENANT, Deed, Past, deeds
from .hub_side import HubDied, HubSide, claims
from .ledger import Ledger

DEVICES: Final = (
    ("front-1", "hotel-pms"),
    ("front-2", "hotel-pms"),
    ("front-3", "hotel-pms"),
    ("front-4", "hotel-pms"),
    ("booking-1", "hotel-pms"),
    ("booking-2", "hotel-pms"),
    ("office-1", "hotel-pms"),
    ("housekeeping-1", "hotel-pms"),
    ("tablet-1", "hotel-saas"),
    ("tablet-2", "hotel-saas"),
    ("tablet-3", "hotel-saas"),
    ("loyalty-1", "hotel-member"),
)
FRONT: Final = ("front-1", "front-2", "front-3", "front-4", "booking-1", "booking-2")
CUSTOMERS: Final = 300
ELSEWHERE: Final = 0.13
"""How often somebody else than an entity's home desk does it."""
_LIVE: Final = ("confirmed", "waitlisted", "tentative")


class Violation(AssertionError):
    """Something that must never be."""


class World:
    """One life."""

    def __init__(
        self,
        seed: int,
        directory: Path,
        *,
        days: int = 60,
        every: int = 1,
        pace: float = 1.0,
        rates: Rates | None = None,
    ) -> None:
        """`every`th bookings alone, and `pace` times as long between syncs."""
        self.seed = seed
        self.days = days
        self.pace = pace
        self.past, self.deeds = deeds(days, every, seed % every)
        self.clock = SimulatedClock(datetime.combine(FIRST_DAY, time(), LISBON))
        self.draw = random.Random(f"life {seed}")
        self.hub = HubSide(directory, self.clock)
        self.faults = Faults(random.Random(f"faults {seed}"), self.clock, self.hub, self.at, rates or Rates())
        self.faults.racer = self._racer
        self.ledger = Ledger()
        self.desks = {
            name: DeskSide(
                name,
                system,
                directory,
                self.clock,
                lambda: self.hub,
                self.faults,
                self._accepted,
                f"{name} {seed}",
            )
            for name, system in DEVICES
        }
        self.counts: Counter[str] = Counter()
        self.extras = Extras(self, random.Random(f"extras {seed}"), 1 / every)
        self._said: dict[str, dict[str, Any]] = {}
        """What the plan's deeds have said of a reservation."""
        self._queue: list[tuple[float, int, Callable[[], Awaitable[None]]]] = []
        self._numbers = itertools.count()
        self._due: dict[str, float] = {}
        """When a device syncs next."""
        self._maybe: dict[str, list[list[str]]] = {}

    # -- time -----------------------------------------------------------------------------------------------------

    def at(self, seconds: float, do: Callable[[], Awaitable[None]]) -> None:
        """Do something so many seconds from now."""
        heapq.heappush(self._queue, (self.clock.seconds + seconds, next(self._numbers), do))

    def at_moment(self, moment: datetime, do: Callable[[], Awaitable[None]]) -> None:
        """Do something at a moment."""
        self.at(max(0.0, (moment - self.clock.now()).total_seconds()), do)

    @contextmanager
    def _one_after_the_other(self) -> Iterator[None]:
        """Lanes of one push are settled in turn, or a seed would not be the same life twice."""
        with patch("hub.services.syncer.LANES", 1):
            yield

    async def live(self) -> None:
        """All of it, up to the quiet at the end."""
        with self._one_after_the_other():
            await self.hub.boot()
            await self._before(self.past)
            for number, desk in enumerate(self.desks.values()):
                desk.open()
                self._sync_in(desk, MINUTE * number)
            self.faults.begin(list(self.desks.values()))
            for deed in self.deeds:
                self.at_moment(deed.at, lambda deed=deed: self._deed(deed))  # type: ignore[misc]
            for day in range(self.days):
                begin = datetime.combine(FIRST_DAY + timedelta(days=day), time(), LISBON)
                self.at_moment(begin + timedelta(hours=4), self._night)
                self.extras.plan(begin)
            end = self.days * 24 * HOUR
            while self._queue and self._queue[0][0] <= end:
                await self._next()
            await self._settle_down()

    async def _next(self) -> None:
        moment, _, do = heapq.heappop(self._queue)
        self.clock.seconds = max(self.clock.seconds, moment)
        await do()

    async def _settle_down(self) -> None:
        """All lines hold, every device runs, people decide what waits for them: until nothing moves any more."""
        self.faults.calm()
        end = self.clock.seconds + 30 * HOUR
        while self._queue and self._queue[0][0] <= end:
            await self._next()
        self._queue.clear()
        for _ in range(20):
            await self._decide(1.0)
            for desk in self.desks.values():
                self.clock.seconds += 40
                if not desk.up:
                    self._start(desk)
                await desk.sync()
            counts = [desk.database.counts() for desk in self.desks.values()]
            if not any(one.unsettled or one.unconfirmed for one in counts) and not await self._open_conflicts():
                break
            self.clock.seconds += 20 * MINUTE
        for desk in self.desks.values():
            await desk.sync()

    async def close(self) -> None:
        """Let everything go."""
        for desk in self.desks.values():
            desk.close()
        await self.hub.close()

    # -- before the first day -------------------------------------------------------------------------------------

    async def _before(self, past: Past) -> None:
        """What was done online: the bookings that are known, the rooms, the customers."""
        await self._publish("hotel-pms", "room", "status_changed", past.rooms.values())
        await self._publish("hotel-pms", "reservation", "created", past.reservations.values())
        for action, has in (("checked_in", False), ("checked_out", True)):
            stays = [one for one in past.stays.values() if ("actual_checkout_time" in one) is has]
            await self._publish("hotel-pms", "checkin_checkout", action, stays)
        guests = [
            {
                "customer_id": f"C-{number}",
                "name": f"Guest {number}",
                "email": f"guest{number}@example.com",
                "updatable_by_pms": True,
                "total_points": 0,
                "rank_id": "basic",
            }
            for number in range(CUSTOMERS)
        ]
        await self._publish("hotel-member", "customer", "created", guests)
        for name, data in past.reservations.items():
            self._said[name] = dict(data)
            self.extras.booked(name, data, name in past.stays)

    async def _publish(self, system: str, type: str, action: str, states: Any) -> None:
        token = claims(system, scopes=("publish:*",))
        receipts = []
        for data in states:
            parsed = strict_json.parse(orjson.dumps({"type": type, "action": action, "data": data}))
            receipts.append(self.hub.publisher.submit(parsed, parsed.tree, token))
        for receipt in receipts:
            await receipt

    # -- devices --------------------------------------------------------------------------------------------------

    def _accepted(self, accepted: Accepted) -> None:
        if accepted.items:
            self.ledger.accept(accepted.items)
        if accepted.maybe:
            self._maybe.setdefault(accepted.device, []).append(accepted.maybe)

    def _start(self, desk: DeskSide) -> None:
        desk.open()
        for made in self._maybe.pop(desk.name, []):
            kept = [item for uuid in made if (item := desk.database.item(uuid)) is not None]
            # The changes and the log's item, or nothing. One uuid is the log entry's own.
            if kept and len(kept) != len(made) - 1:
                raise Violation(f"{desk.name} kept {len(kept)} items of an operation of {len(made) - 1}")
            self.ledger.accept(kept)
            self.counts["kept_in_death" if kept else "lost_in_death"] += 1

    def died(self, desk: DeskSide) -> None:
        """Its process is gone; somebody starts it again, minutes or hours later."""
        desk.kill()
        self.counts["device_died"] += 1

        async def restart() -> None:
            if not desk.up:
                self._start(desk)
                self._sync_in(desk, self.draw.uniform(0, 2 * MINUTE))

        self.at(self.draw.choice((20.0, 2 * MINUTE, self.draw.uniform(0, 5 * HOUR))), restart)

    def _sync_in(self, desk: DeskSide, seconds: float) -> None:
        moment = self.clock.seconds + seconds
        if self._due.get(desk.name, moment + 1) <= moment:
            return
        self._due[desk.name] = moment

        async def sync() -> None:
            if self._due.get(desk.name) == moment:
                del self._due[desk.name]
                await self._sync(desk)

        self.at(seconds, sync)

    async def _sync(self, desk: DeskSide) -> None:
        if not desk.up:
            return
        if down := self.faults.down_for(desk):
            self._sync_in(desk, down + self.draw.uniform(1, 5 * MINUTE))
            return
        if self.draw.random() < self.faults.rates.device_dies:
            desk.doom(self.draw.randrange(14))
        try:
            whole = await desk.sync()
        except DeviceDied:
            self.died(desk)
            return
        if not whole:
            self._sync_in(desk, self.draw.uniform(MINUTE, 10 * MINUTE))
        else:
            self._sync_in(desk, self.draw.uniform(3 * HOUR, 6 * HOUR) * min(5.0, self.pace))

    def _racer(self, desk: DeskSide) -> DeskSide | None:
        """A device whose sync may come in while another one's push is looked at: one that checks nobody in.

        Two that check in wait for each other at the room's door.
        """
        found = []
        for one in self.desks.values():
            if one is desk or not one.up or one.syncing or one._mortality.left is not None:
                continue
            if not one.database.counts().waiting:
                continue
            if all(item.model != "CheckIn" for item in one.database.pending(limit=10_000)):
                found.append(one)
        return self.draw.choice(found) if found else None

    async def _night(self) -> None:
        """Once a day: what the hub and the devices do while nobody looks."""
        if not self.hub.dead:
            await self._guarded(self.hub.trim)
        if not self.hub.dead:
            await self.hub.devices.write()
        for desk in self.desks.values():
            if self.draw.random() < 0.02:
                desk.set_clock()
        await self._decide(0.6)

    async def _guarded(self, do: Callable[[], Awaitable[Any]]) -> Any:
        try:
            return await do()
        except HubDied:
            await self.faults.hub_died()
            return None

    # -- operations -----------------------------------------------------------------------------------------------

    def do(self, desk: DeskSide, changes: Sequence[LocalChange], operation: str) -> bool | None:
        """An operation at a desk. True: accepted; False: refused; None: the desk died in it, and who knows."""
        if not desk.up:
            return False
        if self.draw.random() < self.faults.rates.device_dies / 4:
            desk.doom(self.draw.randrange(6))
        try:
            desk.operate(changes, operation)
        except InvalidChange as error:
            self.counts["invalid"] += 1
            self.counts[f"invalid: {error}"[:150]] += 1
            return False
        except DeviceDied:
            self.died(desk)
            return None
        self.counts["operations"] += 1
        self.counts[f"operation {operation}"] += 1
        # Who is gone, and what was paid, is told at once; charges soon; the rest when it suits.
        wait = self.draw.uniform(5 * MINUTE, 30 * MINUTE)
        money = any(change.model == "Billing" for change in changes)
        self._sync_in(desk, 2 * MINUTE if operation == "departure" else wait if money else wait * self.pace)
        return True

    def home(self, name: str) -> DeskSide:
        """The desk that mostly looks after an entity."""
        return self.desks[random.Random(name).choice(FRONT)]

    def desks_for(self, name: str) -> list[DeskSide]:
        """Who does something about an entity: mostly its home desk; the others where that will not."""
        home = self.home(name)
        others = [self.desks[one] for one in FRONT if one != home.name]
        self.draw.shuffle(others)
        if self.draw.random() < ELSEWHERE:
            return [others[0], home, *others[1:]]
        return [home, *others]

    async def _deed(self, deed: Deed) -> None:
        """Somebody at some desk does it, unless no desk that works knows enough."""
        if deed.kind == "cleaned":
            self.do(self.desks["housekeeping-1"], [_room(deed)], "cleaned")
            return
        for desk in self.desks_for(deed.entity_id):
            if desk.up and deed.kind == "departure" and self._makes_sense(desk, deed):
                # The bill is made of what is known now, where the line holds.
                await self._sync(desk)
            if not desk.up or not self._makes_sense(desk, deed):
                continue
            changes = self._changes(desk, deed)
            done = self.do(desk, changes, deed.kind)
            if done is False:
                continue
            if done:
                said = self._said.setdefault(deed.entity_id, {})
                said |= deed.data.get("reservation", {})
                self.extras.happened(deed, said)
            return
        self.counts["nobody could"] += 1

    @staticmethod
    def _makes_sense(desk: DeskSide, deed: Deed) -> bool:
        entity = f"reservation:{deed.entity_id}"
        if deed.kind == "created":
            return desk.record("reservation", entity) is None
        booking, stay = desk.record("reservation", entity), desk.record("checkin_checkout", entity) or {}
        if booking is None:
            return False
        arrived, left = "actual_checkin_time" in stay, "actual_checkout_time" in stay
        if deed.kind == "departure":
            return arrived and not left
        return booking["status"] in _LIVE and not arrived

    def _changes(self, desk: DeskSide, deed: Deed) -> list[LocalChange]:
        changes: list[LocalChange] = []
        name = deed.entity_id
        if (stay := deed.data.get("checkin_checkout")) is not None:
            model = {"arrival": "CheckIn", "departure": "CheckOut", "no_show": "NoShow"}[deed.kind]
            changes.append(LocalChange(model, "CREATE", name, stay, "high"))  # type: ignore[arg-type]
        if (booking := deed.data.get("reservation")) is not None:
            said = self._said.get(name, {})
            news = {field: value for field, value in booking.items() if said.get(field) != value}
            if deed.kind == "created":
                changes.append(LocalChange("Reservation", "CREATE", name, booking))
            elif deed.kind == "cancelled" and self.draw.random() < 0.7:
                changes.append(LocalChange("Reservation", "DELETE", name, {}))
            else:
                changes.append(LocalChange("Reservation", "UPDATE", name, news))
        if "room" in deed.data:
            changes.append(_room(deed))
        if deed.kind == "departure":
            changes += self.extras.settlement(desk, name)
        return changes

    # -- people who decide ----------------------------------------------------------------------------------------

    async def _open_conflicts(self) -> list[dict[str, Any]]:
        person = claims("hotel-pms", scopes=("ops",))
        wanted = ConflictFilter(tenants=[TENANT], state="open")
        return (await self.hub.conflicts.listed(person, wanted, 500, None)).conflicts

    async def _decide(self, chance: float) -> None:
        """Somebody looks at what waits for a person, and decides some of it."""
        if self.hub.dead:
            return
        person = claims("hotel-pms", scopes=("ops",))
        for one in await self._open_conflicts():
            if self.draw.random() >= chance:
                continue
            if self.draw.random() < 0.05 * (self.faults.rates.hub_dies > 0):
                self.hub.doom(self.draw.randrange(4))
            asked = ResolveRequest.model_validate(self._decision(one))
            try:
                await self._guarded(
                    lambda one=one, asked=asked: self.hub.conflicts.resolve(person, one["conflict_id"], asked)  # type: ignore[misc]
                )
            except Problem as problem:
                # Decided before, otherwise, by somebody whose hub died before it could say so.
                if problem.code != "conflict":
                    raise
            if self.hub.dead:
                return
            self.counts["decided"] += 1
            self.counts[f"decided {one['type']}: {one['reason']}"[:90]] += 1

    def _decision(self, one: dict[str, Any]) -> dict[str, Any]:
        if one["type"] == "reservation":
            # Two that do not go together: what is so already stays.
            return {"choice": "current"}
        if one["type"] != "billing":
            return {"choice": self.draw.choice(("incoming", "current"))}
        # Money stays as the desk took it.
        return {"choice": "incoming"}


def _room(deed: Deed) -> LocalChange:
    data = deed.data["room"]
    return LocalChange("RoomStatus", "UPDATE", data["room_id"], data)
