"""Reports of one large hotel: how fast its facts are made, how long its figures take, and what live traffic feels."""

from __future__ import annotations

import asyncio
import gc
import heapq
import random
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from zlib import crc32
from zoneinfo import ZoneInfo

import httpx
import orjson
import uvloop

from hub.bench.figures import percentiles, ratio
from hub.bench.memory import until_projected
from hub.bench.raw import LoadError
from hub.bench.runs import fanout
from hub.bench.target import Target, own_hub
from hub.cli.serve import SWITCH_INTERVAL_S
from hub.core.calendar import Period, Report, month_of, opens_ms, period_of
from hub.core.entry import Entry
from hub.core.figures import report_data
from hub.services.fact_keeper import FactKeeper
from hub.store.archive import Batch, Place
from hub.store.database import Database, store_url
from hub.store.store import Store
from schemas.cursor import ZERO, StreamId

TENANT: Final = "bench-hotel"
ZONE: Final = "Asia/Tokyo"
ROLLOVER_HOUR: Final = 5
MONTH: Final = month_of(date(2026, 7, 1))
_EPOCH: Final = 7
_PARTITION: Final = crc32(TENANT.encode()) % 8
"""Where a hub looks for it."""
_BATCH: Final = 10_000
_HOUR_MS: Final = 3_600_000
_DAY_MS: Final = 24 * _HOUR_MS
_LIFE: Final = (
    ("reservation", "created", "confirmed"),
    ("reservation", "confirmed", "confirmed"),
    ("checkin_checkout", "checked_in", ""),
    ("reservation", "checked_in", "checked_in"),
    ("room", "status_changed", "occupied"),
    ("billing", "charged", "food"),
    ("billing", "charged", "room"),
    ("checkin_checkout", "checked_out", ""),
    ("reservation", "checked_out", "checked_out"),
    ("room", "status_changed", "vacant_dirty"),
    ("room", "status_changed", "vacant_clean"),
)
"""The events of one stay."""
_ORIGINS: Final = (("ota", "booking"), ("ota", "expedia"), ("direct_web", None), ("phone", None), ("group", "gds"))
_ROOM_TYPES: Final = ("single", "twin", "double", "suite", "family")


def _stays(events: int) -> Iterator[tuple[list[int], dict[str, Any]]]:
    """The stays of a month, in order of booking: when each event happens, Unix ms, and the reservation's data."""
    chance = random.Random(1)
    begin = opens_ms(MONTH.start, ZoneInfo(ZONE), ROLLOVER_HOUR) - 5 * _DAY_MS
    count = events // len(_LIFE)
    for number in range(count):
        made = begin + number * 32 * _DAY_MS // count
        day = made // _DAY_MS * _DAY_MS + chance.randrange(1, 5) * _DAY_MS
        nights = chance.randrange(1, 5)
        # From three in the afternoon on, until before eleven: in UTC nine hours earlier.
        came = day + 6 * _HOUR_MS + chance.randrange(7 * _HOUR_MS)
        left = day + nights * _DAY_MS + chance.randrange(2 * _HOUR_MS)
        arrival = datetime.fromtimestamp(came / 1000, ZoneInfo(ZONE)).date()
        origin, channel = chance.choice(_ORIGINS)
        data = {
            "reservation_id": f"R{number}",
            "room_type": chance.choice(_ROOM_TYPES),
            "checkin_date": arrival.isoformat(),
            "checkout_date": (arrival + timedelta(days=nights)).isoformat(),
            "total_amount": chance.randrange(5_000, 60_000) * nights,
            "currency": "JPY",
            "origin": origin,
            "channel": channel,
            "adults": chance.randrange(1, 4),
            "children": chance.randrange(0, 2),
        }
        moments = [made, made + 60_000, came, came + 1, came + 2, came + 1000, left - 1000, left, left + 1, left + 2]
        yield [*moments, left + _HOUR_MS], data


def _history(events: int) -> Iterator[list[Entry]]:
    """Their events by time, some thousands at a time; the same every time."""
    chance = random.Random(2)
    waiting: list[tuple[int, int, int, dict[str, Any]]] = []
    page: list[Entry] = []
    sequence = 0

    def made(upto: int) -> Iterator[Entry]:
        nonlocal sequence
        while waiting and waiting[0][0] <= upto:
            ms, _, step, data = heapq.heappop(waiting)
            sequence += 1
            yield _entry(ms, sequence, step, data, str(uuid.UUID(int=chance.getrandbits(128), version=4)))

    for number, (moments, data) in enumerate(_stays(events)):
        for step, ms in enumerate(moments):
            heapq.heappush(waiting, (ms, number * len(_LIFE) + step, step, data))
        page += made(moments[0] - 1)
        while len(page) >= _BATCH:
            yield page[:_BATCH]
            page = page[_BATCH:]
    page += made(1 << 62)
    for start in range(0, len(page), _BATCH):
        yield page[start : start + _BATCH]


def _entry(ms: int, sequence: int, step: int, stay: dict[str, Any], event_id: str) -> Entry:
    type, action, what = _LIFE[step]
    id = stay["reservation_id"]
    stamp = datetime.fromtimestamp(ms / 1000, UTC).isoformat()
    data: dict[str, Any]
    if type == "reservation":
        entity, data = f"reservation:{id}", stay | {"status": what}
    elif type == "checkin_checkout":
        entity = f"reservation:{id}"
        data = {"reservation_id": id, "room_number": "101", "payment_status": "completed"}
    elif type == "billing":
        entity = f"billing:F-{id}"
        data = {"folio_id": f"F-{id}", "reservation_id": id, "amount": 1500 + sequence % 700, "category": what}
    else:
        number = str(100 + int(id[1:]) % 5000)
        entity = f"room:{number}"
        data = {"room_id": number, "room_number": number, "room_type": stay["room_type"], "status": what}
        data["availability_date"] = stay["checkout_date"]
    event = {"event_id": event_id, "schema_version": 1, "tenant_id": TENANT, "type": type, "action": action}
    event |= {"priority": "HIGH", "sync_mode": "realtime", "targets": ["hotel-pms", "hotel-member"]}
    event |= {"delivery_guarantee": "at_least_once", "occurred_at": stamp, "recorded_at": stamp, "entity": entity}
    event |= {"data": data | {"origin_system": "hotel-pms", "updated_by_system": "hotel-pms", "synced_at": stamp}}
    raw = orjson.dumps(event | {"revision": step + 1})
    return Entry(StreamId(ms, sequence), _EPOCH, TENANT, sequence, step + 1, type, action, entity, event_id, ms, raw)


@asynccontextmanager
async def _ticking(held: list[float]) -> AsyncIterator[None]:
    """Notes how long at most the loop kept a task waiting that wants to run every millisecond."""

    async def tick() -> None:
        while True:
            begun = time.perf_counter()
            await asyncio.sleep(0.001)
            held.append(time.perf_counter() - begun - 0.001)

    task = asyncio.create_task(tick())
    await asyncio.sleep(0.01)
    held.clear()
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _measured(work: Callable[[], Awaitable[Any]], times: int) -> dict[str, Any]:
    """How long it takes, over some times, and how long it holds the loop at most."""
    taken, all_held = [], list[float]()
    for _ in range(times):
        held: list[float] = []
        async with _ticking(held):
            begun = time.perf_counter_ns()
            await work()
            taken.append(time.perf_counter_ns() - begun)
        all_held += held
    ordered = sorted(taken)
    return {"s": round(ordered[len(ordered) // 2] / 1e9, 3), "at_most_s": round(ordered[-1] / 1e9, 3)} | _held(all_held)


def _held(held: list[float]) -> dict[str, Any]:
    found = percentiles([int(one * 1e9) for one in held])
    return {"loop_held_p99_ms": found["p99_ms"], "loop_held_at_most_ms": round(max(held, default=0.0) * 1000, 2)}


async def _run(url: str | None, data_dir: Path, events: int, times: int) -> dict[str, Any]:
    store = Store(Database(store_url(url, data_dir)))
    zone = ZoneInfo(ZONE)
    try:
        await store.open()
        begun = time.perf_counter()
        place, count = Place(0, ZERO), 0
        for page in _history(events):
            await store.archive.write([Batch(_PARTITION, place, page, _EPOCH, page[-1].id)])
            place, count = Place(_EPOCH, page[-1].id), count + len(page)
        filled = time.perf_counter() - begun

        keeper = FactKeeper(store, lambda _: (ZONE, ROLLOVER_HOUR))
        held: list[float] = []
        async with _ticking(held):
            begun = time.perf_counter()
            await keeper.catch_up(TENANT)
            built = time.perf_counter() - begun

        async def report(kind: Report, period: Period) -> None:
            await keeper.catch_up(TENANT)
            figures = await store.facts.figures(
                TENANT, period, currency="JPY", rooms=None, zone=zone, rollover_hour=ROLLOVER_HOUR
            )
            report_data(
                kind, period, figures, currency="JPY", stage="final", as_of="", generated_at=datetime.now(UTC)
            )  # fmt: skip

        middle = MONTH.start + timedelta(days=15)
        found: dict[str, Any] = {}
        kinds: tuple[Report, ...] = ("monthly_report", "weekly_report", "daily_report")
        for kind in kinds:
            period = period_of(kind, middle)
            found[kind] = await _measured(lambda kind=kind, period=period: report(kind, period), times)  # type: ignore[misc]
        return {
            "events": count,
            "filled_in_s": round(filled, 1),
            "facts_built_in_s": round(built, 1),
            "facts_events_per_s": round(count / built),
            "facts": _held(held),
            **found,
        }
    finally:
        await store.aclose()


def reports(
    directory: Path, settings: dict[str, str], *, events: int, times: int, subscribers: int, rate: float, seconds: float
) -> dict[str, Any]:
    """Facts and reports of a hotel with so many events in little more than a month, in a store of its own; and what so
    many live subscribers notice of monthly reports made one after the other."""
    data_dir = directory / "data"
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    # As a hub runs, or what a full collection and a switch of threads take would be measured.
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    found = uvloop.run(_run(settings.get("HUB_STORE_URL"), data_dir, events, times))
    if subscribers:
        live = {"subscribers": subscribers, "rate": rate, "seconds": seconds, "warm_s": 2.0, "event_bytes": 700}
        found["live"] = _beside_live(directory, settings, live)
    return found


def _beside_live(directory: Path, settings: dict[str, str], live: dict[str, Any]) -> dict[str, Any]:
    with own_hub(directory, settings) as hub:
        until_projected(settings, directory)
        quiet = fanout(hub, **live)
        with _Reporting(hub) as reporting:
            beside = fanout(hub, **live)
    return {
        "reports": len(reporting.taken_s),
        "report_s": round(sorted(reporting.taken_s)[len(reporting.taken_s) // 2], 3),
        "live_alone": {name: quiet[name] for name in ("deliveries_per_s", "p50_ms", "p99_ms")},
        "live_beside_reports": {name: beside[name] for name in ("deliveries_per_s", "p50_ms", "p99_ms")},
        "live_p99_ratio": ratio(beside["p99_ms"], quiet["p99_ms"]),
    }


class _Reporting:
    """Asks a hub for one monthly report after the other, in a thread, as long as the block runs."""

    def __init__(self, hub: Target) -> None:
        self._hub = hub
        self._thread = threading.Thread(target=self._run, name="reporting")
        self._over = threading.Event()
        self.taken_s: list[float] = []
        self._refused = ""

    def __enter__(self) -> _Reporting:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._refused:
            raise LoadError(f"a report was not made: {self._refused}")

    def _run(self) -> None:
        asked = {"tenant": TENANT, "report": "monthly_report", "date": MONTH.start.isoformat()}
        url = f"http://{self._hub.host}:{self._hub.port}/api/v1/reports/run"
        headers = {"Authorization": f"Bearer {self._hub.all_tenants}"}
        with httpx.Client(headers=headers, timeout=120) as client:
            while not self._over.is_set():
                begun = time.perf_counter()
                answer = client.post(url, json=asked)
                if answer.status_code != 201:
                    self._refused = answer.text[:500]
                    return
                self.taken_s.append(time.perf_counter() - begun)
