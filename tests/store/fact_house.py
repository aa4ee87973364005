"""What the tests of the facts share: a hotel whose events are put into an archive, and its figures counted by hand."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import orjson

from hub.core.calendar import Period, number_of
from hub.core.entry import Entry
from hub.core.facts import Folding, tardy
from hub.core.said import UNITS, Calendar, read
from hub.core.stays import Stay, share
from hub.store.archive import Batch, Place
from hub.store.store import Store
from schemas.cursor import ZERO, StreamId

TENANT = "naha"
ZONE, ROLLOVER = "Asia/Tokyo", 5
CALENDAR = Calendar(ZoneInfo(ZONE), ROLLOVER)
FIRST = date(2026, 7, 1)
DAY0 = number_of(FIRST)
EPOCH = 7
HOUR = 3_600_000
START = Place(0, ZERO)


def ms(day: int, hour: float = 12) -> int:
    """A moment of the `day`th day from July 1st on, by the property's clock."""
    return (DAY0 + day) * 24 * HOUR + int((hour - 9) * HOUR)


def on(day: int) -> str:
    """Its date."""
    return date.fromordinal(FIRST.toordinal() + day).isoformat()


class House:
    """A tenant's events, and where the archive has them."""

    def __init__(self, tenant: str = TENANT, place: Place = START) -> None:
        self.tenant = tenant
        self.entries: list[Entry] = []
        self.place = place
        self._archived = 0

    def tell(
        self,
        type: str,
        action: str,
        id: str,
        at: int,
        data: Any,
        *,
        recorded: int | None = None,
        event_id: int | None = None,
        body: bytes | None = None,
    ) -> Entry:
        """One more event that happened at a moment, and was recorded then or at another one."""
        sequence = len(self.entries) + 1
        key = str(UUID(int=event_id or sequence))
        ms = at if recorded is None else recorded
        entity = f"{'reservation' if type == 'checkin_checkout' else type}:{id}"
        envelope = {
            "event_id": key,
            "schema_version": 1,
            "tenant_id": self.tenant,
            "type": type,
            "action": action,
            "targets": ["hotel-pms"],
            "occurred_at": datetime.fromtimestamp(at / 1000, UTC).isoformat(),
            "entity": entity,
            "data": data,
            "revision": sequence,
        }
        raw = orjson.dumps(envelope) if body is None else body
        self.entries.append(
            Entry(StreamId(ms, sequence), EPOCH, self.tenant, sequence, sequence, type, action, entity, key, ms, raw)
        )
        return self.entries[-1]

    def book(self, id: str, at: int, action: str = "created", *, recorded: int | None = None, **changes: Any) -> Entry:
        """A reservation's event: from the 5th to the 8th day, of two, for 300."""
        data = {
            "reservation_id": id,
            "room_type": "twin",
            "checkin_date": on(5),
            "checkout_date": on(8),
            "total_amount": 300,
            "status": "confirmed",
            "origin": "ota",
            "adults": 2,
        }
        return self.tell("reservation", action, id, at, data | changes, recorded=recorded)

    def desk(self, id: str, at: int, action: str, *, recorded: int | None = None) -> Entry:
        """What happens at the desk."""
        return self.tell("checkin_checkout", action, id, at, {"reservation_id": id}, recorded=recorded)

    async def archive(self, store: Store) -> None:
        """Put what is new into the archive, wherever the stream has it."""
        new = self.entries[self._archived :]
        reached = max(self.place.id, *(entry.id for entry in new))
        await store.archive.write([Batch(0, self.place, new, EPOCH, reached)])
        self.place, self._archived = Place(EPOCH, reached), len(self.entries)

    def folded(self) -> Folding:
        """All of it, at once and without a store."""
        events = [
            said
            for entry in self.entries
            if (said := read(entry.type, entry.action, entry.entity, entry.sequence, entry.id.ms, entry.raw, CALENDAR))
        ]
        folding = Folding(CALENDAR, {}, {}, {id: [] for id in tardy(events, {})})
        for said in events:
            folding.add(said)
        return folding


def live(house: House, count: int, chance: random.Random) -> None:
    """A hotel's life at random: stays that overlap, change and are told late, charges, rooms."""
    for _ in range(count):
        day = chance.randrange(0, 40)
        at = ms(day, chance.uniform(5, 29))
        recorded = at if chance.random() < 0.8 else at + chance.randrange(0, 6) * 24 * HOUR
        what = chance.random()
        id = f"R{chance.randrange(1 + count // 6)}"
        if what < 0.45:
            begin = day + chance.randrange(-2, 6)
            house.book(
                id,
                at,
                chance.choice(("created", "updated", "confirmed", "cancelled", "checked_in", "checked_out")),
                recorded=recorded,
                status=chance.choice(("confirmed", "confirmed", "checked_in", "checked_out", "cancelled", "no_show")),
                checkin_date=on(begin),
                checkout_date=on(begin + chance.randrange(0, 6)),
                total_amount=chance.choice((0, 100, 100.01, 333.3333, 99.9999)),
                origin=chance.choice(("ota", "phone")),
                channel=chance.choice((None, "direct", "gds")),
                room_type=chance.choice(("twin", "single", "suite")),
                currency=chance.choice((None, "JPY", "JPY", "USD")),
                adults=chance.randrange(0, 4),
            )
        elif what < 0.75:
            house.desk(id, at, chance.choice(("checked_in", "checked_in", "checked_out", "no_show")), recorded=recorded)
        elif what < 0.85:
            data = {"amount": chance.choice((1, 2.5, -3.3333)), "currency": chance.choice((None, "JPY", "EUR"))}
            data["category"] = chance.choice(("food", "room", "tax", "discount", "other"))
            action = chance.choice(("charged", "refunded", "corrected", "settled"))
            house.tell("billing", action, "F1", at, data, recorded=recorded)
        else:
            status = chance.choice(("occupied", "vacant_clean", "out_of_order", "out_of_service"))
            data = {"status": status, "room_type": "twin"}
            house.tell("room", "status_changed", f"{chance.randrange(6)}", at, data, recorded=recorded)


def counted(folding: Folding, period: Period, currency: str, rooms: int | None) -> dict[str, Any]:
    """The figures of a period, day by day and stay by stay; money in ten-thousandths."""
    days = range(number_of(period.start), number_of(period.end) + 1)
    found: Counter[str] = Counter()
    origins: Counter[Any] = Counter()
    kinds: Counter[Any] = Counter()
    per_day: Counter[Any] = Counter()
    for stay in folding.stays.values():
        own = stay.currency in (None, currency)
        present = False
        for day in days:
            night = _night(stay, day)
            if night is None:
                continue
            present = True
            money = night if own else 0
            sold = int(stay.nights > 0)
            found["sold"] += sold
            found["day_uses"] += 1 - sold
            parts: list[tuple[Counter[Any], Any]] = [
                (origins, (stay.origin, stay.channel)),
                (kinds, stay.room_type),
                (per_day, day),
            ]
            for counter, part in parts:
                counter[part, "nights"] += sold
                counter[part, "money"] += money
        found["guests"] += stay.guests if present else 0
        if stay.arrived_day in days:
            found["arrivals"] += 1
            found["lead"] += max(0, stay.checkin_day - stay.created_day)
            per_day[stay.arrived_day, "arrivals"] += 1
        if stay.departed_day in days:
            found["departures"] += 1
            found["departed_nights"] += stay.nights
            per_day[stay.departed_day, "departures"] += 1
        found["no_shows"] += stay.no_show_day in days
        found["cancellations"] += stay.cancelled_day in days
        if stay.cancelled_day is None and stay.status:
            for name, range_ in (("now", days), ("before", range(days[0] - len(days), days[0]))):
                if stay.created_day in range_:
                    found[f"booked_{name}"] += 1
                    found[f"booked_nights_{name}"] += max(0, stay.checkout_day - stay.checkin_day)
                    found[f"booked_money_{name}"] += stay.amount if own else 0
    for key, amount, _ in folding.charges:
        if key.day in days and key.currency in ("", currency) and key.category not in ("room", "tax"):
            per_day[key.day, "other"] += -amount if key.action == "refunded" else amount
    for day in days:
        closes = (day + 1) * 24 * HOUR + (ROLLOVER - 9) * HOUR
        known = [id for id, room in folding.rooms.items() if room.first_day <= day]
        conditions = [_condition(folding, id, closes) for id in known]
        out = conditions.count("out_of_order")
        found["out_of_order"] += out
        found["out_of_service"] += conditions.count("out_of_service")
        per_day[day, "available"] = max(0, (len(known) if rooms is None else rooms) - out)
    return {"totals": +found, "origins": _some(origins), "kinds": _some(kinds), "days": _some(per_day)}


def said_by(figures: Any) -> dict[str, Any]:
    """Figures in the same form."""

    def units(value: Any) -> int:
        return int(value * UNITS)

    totals = Counter(
        sold=figures.sold_room_nights, day_uses=figures.day_uses, guests=figures.guests, arrivals=figures.arrivals,
        lead=figures.lead_days, departures=figures.departures, departed_nights=figures.departed_nights,
        no_shows=figures.no_shows, cancellations=figures.cancellations, out_of_order=figures.out_of_order_room_nights,
        out_of_service=figures.out_of_service_room_nights,
    )  # fmt: skip
    for name, booked in (("now", figures.pickup), ("before", figures.previous_pickup)):
        totals[f"booked_{name}"] = booked.reservations
        totals[f"booked_nights_{name}"] = booked.nights
        totals[f"booked_money_{name}"] = units(booked.revenue)
    origins, kinds, days = Counter[Any](), Counter[Any](), Counter[Any]()
    for part in figures.by_origin:
        origins[(part.origin, part.channel), "nights"] = part.nights
        origins[(part.origin, part.channel), "money"] = units(part.revenue)
    for part in figures.by_room_type:
        kinds[part.room_type, "nights"] = part.nights
        kinds[part.room_type, "money"] = units(part.revenue)
    for line in figures.days:
        day = number_of(line.day)
        days[day, "nights"], days[day, "money"] = line.sold, units(line.room_revenue)
        days[day, "other"], days[day, "available"] = units(line.other_revenue), line.available
        days[day, "arrivals"], days[day, "departures"] = line.arrivals, line.departures
    assert figures.room_revenue == sum(part.revenue for part in figures.by_origin)
    assert figures.other_revenue == sum(figures.other_by_category.values())
    assert figures.available_room_nights == sum(line.available for line in figures.days)
    return {"totals": +totals, "origins": _some(origins), "kinds": _some(kinds), "days": _some(days)}


def _some(counter: Counter[Any]) -> dict[Any, int]:
    return {key: value for key, value in counter.items() if value}


def _night(stay: Stay, day: int) -> int | None:
    if stay.arrived_day is None or not stay.arrived_day <= day <= stay.arrived_day + max(0, stay.nights - 1):
        return None
    return share(stay.amount, stay.nights, day - stay.arrived_day)


def _condition(folding: Folding, id: str, before_ms: int) -> str:
    told: Iterable[tuple[int, int, str]] = (
        (at, sequence, condition)
        for (room, at, sequence), condition in folding.conditions.items()
        if room == id and at < before_ms
    )
    return max(told, default=(0, 0, "in_order"))[2]
