"""Figures of real bookings, by way of events, archive and facts, against a count of the file's rows themselves.

The file is no part of the project; without it this is skipped.
"""

from __future__ import annotations

import calendar
import csv
import io
import os
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest

from hub.core.booking_rows import Refusal, read_booking
from hub.core.bookings import plan_bookings
from hub.core.calendar import Period, business_day, month_of
from hub.core.entry import Entry
from hub.core.figures import Figures, report_data
from hub.services.booking_file import ZONE, portuguese_hotels
from hub.services.fact_keeper import FactKeeper
from hub.store.archive import Batch, Place
from hub.store.database import Database, store_url
from hub.store.store import Store
from schemas.cursor import ZERO, StreamId
from schemas.registry import EVENT_TYPES, validate_data

REAL_FILE = Path(
    os.environ.get("HOTEL_BOOKINGS")
    or Path(__file__).parents[2].joinpath("..", "shared", "data", "hotel_bookings.zip").resolve()
)
ROLLOVER, ROOMS, EPOCH = 5, 300, 1
HOTELS = {"City Hotel": "city-hotel", "Resort Hotel": "resort-hotel"}
FROM, TO = date(2015, 10, 15), date(2017, 1, 31)
"""Arrivals: whoever is in the house in 2016 arrived then."""


def _table() -> list[tuple[int, dict[str, str]]]:
    """The rows of guests who were to arrive in that time, with their line numbers."""
    with zipfile.ZipFile(REAL_FILE) as archive, archive.open("hotel_bookings.csv") as raw:
        rows = list(enumerate(csv.DictReader(io.TextIOWrapper(raw, encoding="utf-8", newline="")), 2))
    return [(line, row) for line, row in rows if FROM <= _arrival(row) <= TO]


def _arrival(row: dict[str, str]) -> date:
    month = list(calendar.month_name).index(row["arrival_date_month"])
    return date(int(row["arrival_date_year"]), month, int(row["arrival_date_day_of_month"]))


@dataclass
class _Row:
    """A booking, straight from its row."""

    booked: date
    arrival: date
    nights: int
    ending: str
    ended: date
    amount: Decimal
    guests: int
    room_type: str
    origin: tuple[str, str | None]

    @property
    def stayed(self) -> int:
        """The nights it stayed, whatever was booked."""
        return (self.ended - self.arrival).days

    def spread(self) -> list[Decimal]:
        """Its amount over its nights, the first ones with the rest; a day use's on its day."""
        units, count = int(self.amount * 10_000), max(1, self.stayed)
        return [Decimal(units // count + (1 if number < units % count else 0)) / 10_000 for number in range(count)]


def _row(row: dict[str, str]) -> _Row:
    arrival = _arrival(row)
    nights = int(row["stays_in_weekend_nights"]) + int(row["stays_in_week_nights"])
    children = [row["children"], row["babies"]]
    return _Row(
        booked=arrival - timedelta(days=int(row["lead_time"])),
        arrival=arrival,
        nights=nights,
        ending=row["reservation_status"],
        ended=date.fromisoformat(row["reservation_status_date"]),
        amount=Decimal(row["adr"]) * nights,
        guests=max(1, int(row["adults"]) + (0 if "NA" in children else sum(map(int, children)))),
        room_type=row["assigned_room_type"].strip(),
        origin=_origin(row),
    )


def _origin(row: dict[str, str]) -> tuple[str, str | None]:
    segment, way = row["market_segment"], row["distribution_channel"]
    channel = {"TA/TO": "ta_to", "Direct": "direct", "Corporate": "corporate", "GDS": "gds"}.get(way)
    segments = {"Online TA": "ota", "Offline TA/TO": "travel_agent", "Groups": "group", "Corporate": "corporate"}
    segments["Aviation"] = "corporate"
    if way == "GDS":
        return "gds", channel
    if segment in segments:
        return segments[segment], channel
    if way in ("TA/TO", "Corporate"):
        return {"TA/TO": "travel_agent", "Corporate": "corporate"}[way], channel
    if "Direct" in (segment, way):
        return "walk_in" if row["lead_time"] == "0" else "direct_web", channel
    return "import", channel


class _Count:
    """What the rows say of a hotel's days."""

    def __init__(self, rows: list[_Row]) -> None:
        self.rows = rows
        self.in_house: dict[date, list[tuple[_Row, Decimal]]] = defaultdict(list)
        self.by: dict[str, dict[date, list[_Row]]] = {
            name: defaultdict(list) for name in ("in", "out", "no", "gone", "made")
        }
        for row in rows:
            self.by["made"][row.booked].append(row)
            if row.ending == "Check-Out":
                self.by["in"][row.arrival].append(row)
                self.by["out"][row.ended].append(row)
                for number, part in enumerate(row.spread()):
                    self.in_house[row.arrival + timedelta(days=number)].append((row, part))
            elif row.ending == "No-Show":
                self.by["no"][row.arrival].append(row)
            else:
                self.by["gone"][row.ended].append(row)

    def of(self, name: str, days: list[date]) -> list[_Row]:
        return [row for day in days for row in self.by[name][day]]

    def check(self, period: Period, found: Figures) -> None:
        """Every figure: counts and money to the last digit."""
        days = [period.start + timedelta(days=number) for number in range(period.days)]
        present = [(row, part) for day in days for row, part in self.in_house[day]]
        nights = [(row, part) for row, part in present if row.stayed > 0]
        revenue = sum((part for _, part in present), Decimal(0))
        came, left = self.of("in", days), self.of("out", days)
        assert found.sold_room_nights == len(nights)
        assert found.day_uses == len(present) - len(nights)
        assert found.room_revenue == revenue
        assert found.guests == sum(row.guests for row in {id(row): row for row, _ in present}.values())
        assert (found.arrivals, found.departures) == (len(came), len(left))
        assert (found.no_shows, found.cancellations) == (len(self.of("no", days)), len(self.of("gone", days)))
        assert found.departed_nights == sum(row.stayed for row in left)
        assert found.lead_days == sum((row.arrival - row.booked).days for row in came)
        for parts, kind in ((found.by_origin, "origin"), (found.by_room_type, "room_type")):
            expected: dict[Any, list[Any]] = defaultdict(lambda: [0, Decimal(0)])
            for row, part in present:
                expected[getattr(row, kind)][0] += row.stayed > 0
                expected[getattr(row, kind)][1] += part
            named = {(part.origin, part.channel) if kind == "origin" else part.room_type: part for part in parts}
            assert {name: [part.nights, part.revenue] for name, part in named.items()} == expected
        for line in found.days:
            today = self.in_house[line.day]
            assert line.room_revenue == sum((part for _, part in today), Decimal(0))
            assert line.sold == sum(row.stayed > 0 for row, _ in today)
            assert (line.arrivals, line.departures) == (len(self.by["in"][line.day]), len(self.by["out"][line.day]))
        earlier = [day - timedelta(days=period.days) for day in days]
        for pickup, when in ((found.pickup, days), (found.previous_pickup, earlier)):
            kept = [row for row in self.of("made", when) if row.ending != "Canceled"]
            booked = sum(row.stayed if row.ending == "Check-Out" else row.nights for row in kept)
            assert pickup == (len(kept), booked, sum((row.amount for row in kept), Decimal(0)))

        data = report_data("monthly_report", period, found, currency="EUR", stage="final", as_of="", generated_at=_NOW)
        assert validate_data(EVENT_TYPES["analytics"], 1, data) == []
        available = ROOMS * period.days
        assert data["occupancy_rate"] == round(min(1.0, len(nights) / available), 6)
        stay = sum(row.stayed for row in left) / len(left) if left else 0
        assert data["average_stay_duration"] == pytest.approx(stay, abs=0.00005)
        if nights:
            assert data["detailed_data"]["adr"] == pytest.approx(float(revenue) / len(nights), abs=0.00005)
        assert data["detailed_data"]["revpar"] == pytest.approx(float(revenue) / available, abs=0.00005)


_NOW = datetime(2017, 1, 1, tzinfo=UTC)


def _entries(rows: list[tuple[int, dict[str, str]]]) -> Iterator[list[Entry]]:
    """Their events as an archiver takes them, but for the rooms': which room it was the file does not say."""
    sequences: Counter[str] = Counter()
    page = []
    zone = portuguese_hotels()["City Hotel"].zone
    for number, event in enumerate(plan_bookings(rows, portuguese_hotels()).events()):
        draft = event.draft
        if draft["type"] == "room":
            continue
        ms = int(event.at.timestamp() * 1000)
        assert business_day(ms, zone, ROLLOVER) == event.at.date()
        sequences[event.tenant] += 1
        sequence = sequences[event.tenant]
        entity = f"reservation:{draft['data']['reservation_id']}"
        raw = orjson.dumps(draft | {"schema_version": 1, "entity": entity, "revision": sequence, "targets": []})
        page.append(
            Entry(
                StreamId(ms, number), EPOCH, event.tenant, sequence, sequence, draft["type"], draft["action"], entity,
                draft["event_id"], ms, raw,
            )
        )  # fmt: skip
        if len(page) == 10_000:
            yield page
            page = []
    yield page


@pytest.mark.skipif(not REAL_FILE.exists(), reason="hotel_bookings.zip is not there; HOTEL_BOOKINGS may name it")
async def test_figures_of_real_bookings_are_those_of_their_rows(tmp_path: Path) -> None:
    """All of 2016 in both hotels: months, weeks and the days of two months agree with the rows to the last digit."""
    rows = _table()
    properties = portuguese_hotels()
    counts = {
        hotel: _Count([
            _row(row)
            for line, row in rows
            if row["hotel"] == hotel and not isinstance(read_booking(line, row, b"", 1, properties), Refusal)
        ])
        for hotel in HOTELS
    }  # fmt: skip
    store = Store(Database(store_url(None, tmp_path)))
    try:
        await store.open()
        place = Place(0, ZERO)
        for page in _entries(rows):
            await store.archive.write([Batch(0, place, page, EPOCH, page[-1].id)])
            place = Place(EPOCH, page[-1].id)
        keeper = FactKeeper(store, lambda _: (ZONE, ROLLOVER))
        year = [month_of(date(2016, month, 1)) for month in range(1, 13)]
        weeks = [
            Period(date(2016, 1, 3) + timedelta(weeks=7 * n), date(2016, 1, 9) + timedelta(weeks=7 * n))
            for n in range(7)
        ]
        days = [Period(day, day) for month in (2, 8) for day in _days(year[month - 1])]
        for hotel, tenant in HOTELS.items():
            await keeper.catch_up(tenant)
            for period in year + weeks + days:
                found = await store.facts.figures(
                    tenant,
                    period,
                    currency="EUR",
                    rooms=ROOMS,
                    zone=properties[hotel].zone,
                    rollover_hour=ROLLOVER,
                )
                counts[hotel].check(period, found)
            # An ordinary departure changes no day that was over; one before its time does.
            early = [row for row in counts[hotel].rows if row.ending == "Check-Out" and row.stayed != row.nights]
            touched = {row.arrival + timedelta(days=number) for row in early for number in range(row.stayed)}
            assert {late.day for late in await store.facts.late(tenant)} <= touched
    finally:
        await store.aclose()


def _days(period: Period) -> list[date]:
    return [period.start + timedelta(days=number) for number in range(period.days)]
