"""Looking things up of one small hotel among millions of events; and the history as a file."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final
from zlib import crc32

import httpx
import orjson

from hub.bench.figures import percentiles
from hub.bench.memory import ARCHIVED, until_projected
from hub.bench.target import own_hub
from hub.core.delivery import row
from hub.core.entry import Entry
from hub.store.archive import Batch, Place
from hub.store.database import Database, store_url
from hub.store.store import Store
from schemas.cursor import ZERO, StreamId

SMALL: Final = "bench-small"
"""A hotel of ten rooms, among large ones."""
_ROOMS: Final = 10
_SHARE: Final = 0.002
_LARGE: Final = 40
_PARTITIONS: Final = 8
_BATCH: Final = 1000
_EPOCH: Final = 7
_DAYS: Final = 60


def _history(events: int, event_bytes: int) -> Iterator[list[Entry]]:
    """A year's events of many hotels, in the order of their streams; the same every time."""
    chance = random.Random(1)
    begin = int(time.time() * 1000) - _DAYS * 86_400_000
    step = (_DAYS - 10) * 86_400_000 / events
    sequences: dict[str, int] = {}
    revisions: dict[tuple[str, str], int] = {}
    page: list[Entry] = []
    for number in range(events):
        small = chance.random() < _SHARE
        tenant = SMALL if small else f"bench-large-{chance.randrange(_LARGE)}"
        entity_id = str(chance.randrange(_ROOMS)) if small and chance.random() < 0.5 else f"R{number // 5}"
        type, action, data = _event(entity_id, chance)
        entity = f"{type}:{entity_id}"
        ms = int(begin + number * step)
        sequences[tenant] = sequences.get(tenant, 0) + 1
        revision = revisions[(tenant, entity)] = revisions.get((tenant, entity), 0) + 1
        event_id = str(uuid.UUID(int=chance.getrandbits(128), version=4))
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms / 1000)) + f".{ms % 1000:03d}Z"
        event = {"event_id": event_id, "schema_version": 1, "tenant_id": tenant, "type": type, "action": action}
        event |= {"priority": "HIGH", "sync_mode": "realtime", "targets": ["hotel-pms", "hotel-member"]}
        event |= {"delivery_guarantee": "at_least_once", "occurred_at": stamp, "recorded_at": stamp, "entity": entity}
        event |= {"data": data | {"origin_system": "hotel-pms", "updated_by_system": "hotel-pms", "synced_at": stamp}}
        raw = orjson.dumps(event | {"revision": revision})
        if len(raw) < event_bytes and type == "reservation":
            data["special_requests"] = "x" * (event_bytes - len(raw) - 24)
            raw = orjson.dumps(event | {"data": event["data"] | data, "revision": revision})  # type: ignore[operator]
        page.append(
            Entry(
                StreamId(ms, number % 1000), _EPOCH, tenant, sequences[tenant], revision, type, action, entity,
                event_id, ms, raw,
            )
        )  # fmt: skip
        if len(page) == _BATCH:
            yield page
            page = []
    if page:
        yield page


def _event(entity_id: str, chance: random.Random) -> tuple[str, str, dict[str, Any]]:
    if entity_id.isdigit():
        status = chance.choice(("vacant_clean", "vacant_dirty", "occupied", "cleaning"))
        room = {"room_id": entity_id, "room_number": entity_id, "room_type": "twin", "status": status}
        return "room", "status_changed", room | {"availability_date": "2026-07-15"}
    return (
        "reservation",
        "updated",
        {
            "reservation_id": entity_id,
            "room_type": "twin",
            "checkin_date": "2026-07-15",
            "checkout_date": "2026-07-17",
            "total_amount": chance.randrange(100, 900),
            "status": "confirmed",
            "origin": "ota",
        },
    )


async def _fill(url: str | None, data_dir: Path, events: int, event_bytes: int) -> list[Entry]:
    """Put a history into a store, and into its delivery ledger what would have become of it; the small hotel's."""
    store = Store(Database(store_url(url, data_dir)))
    mine: list[Entry] = []
    try:
        await store.open()
        places: dict[int, Place] = {}
        for page in _history(events, event_bytes):
            by_partition: dict[int, list[Entry]] = {}
            for entry in page:
                by_partition.setdefault(crc32(entry.tenant_id.encode()) % _PARTITIONS, []).append(entry)
            batches = [
                Batch(partition, places.get(partition, Place(0, ZERO)), found, _EPOCH, found[-1].id)
                for partition, found in by_partition.items()
            ]
            await store.archive.write(batches)
            places |= {batch.partition: Place(_EPOCH, batch.reached) for batch in batches}
            mine += [entry for entry in page if entry.tenant_id == SMALL]
            await store.ledger.write(
                [
                    row(
                        uuid.uuid4().bytes, "sent", partition, found[0].id, found[-1].id, hub="bench",
                        first_ms=found[-1].timestamp_ms, system=system, session=f"s{number}", channel="websocket",
                    )
                    for partition, found in by_partition.items()
                    for number, system in enumerate(("hotel-pms", "hotel-member"))
                ]
            )  # fmt: skip
    finally:
        await store.aclose()
    return mine


def lookups(directory: Path, settings: dict[str, str], *, events: int, times: int, event_bytes: int) -> dict[str, Any]:
    """Trace, entity history and snapshot of a hotel of ten rooms among so many events of others."""
    (directory / "data").mkdir(parents=True, exist_ok=True, mode=0o700)
    begun = time.perf_counter()
    mine = asyncio.run(_fill(settings.get("HUB_STORE_URL"), directory / "data", events, event_bytes))
    filled = time.perf_counter() - begun
    chance = random.Random(2)
    with own_hub(directory, ARCHIVED | settings) as hub:
        begun = time.perf_counter()
        until_projected(settings, directory)
        projected = time.perf_counter() - begun
        with httpx.Client(
            base_url=f"http://{hub.host}:{hub.port}/api/v1", headers={"Authorization": f"Bearer {hub.all_tenants}"}
        ) as client:
            asked: dict[str, Callable[[], httpx.Response]] = {
                "trace": lambda: client.get(f"/events/{chance.choice(mine).event_id}/trace", params={"tenant": SMALL}),
                "event": lambda: client.get(f"/events/{chance.choice(mine).event_id}", params={"tenant": SMALL}),
                "entity_history": lambda: client.get(
                    "/events", params={"tenant": SMALL, "entity": chance.choice(mine).entity, "limit": 1000}
                ),
                "snapshot": lambda: client.get("/snapshot", params={"tenant": SMALL, "type": "room"}),
                "snapshot_page": lambda: client.get("/snapshot", params={"tenant": SMALL, "limit": 100}),
            }
            found = {name: _timed(request, times) for name, request in asked.items()}
    file = directory / "data" / "store.db"
    size = file.stat().st_size if file.exists() else None
    return {
        "events": events,
        "of_the_small_hotel": len(mine),
        "filled_in_s": round(filled, 1),
        "projected_in_s": round(projected, 1),
        "store_mib": None if size is None else round(size / 2**20),
        **found,
    }


def _timed(request: Callable[[], httpx.Response], times: int) -> dict[str, Any]:
    """How long an answer takes, over many of them."""
    taken = []
    for _ in range(times):
        begun = time.perf_counter_ns()
        request().raise_for_status()
        taken.append(time.perf_counter_ns() - begun)
    ordered = sorted(taken)
    return percentiles(taken) | {"p95_ms": round(ordered[int(0.95 * len(ordered))] / 1e6, 3)}
