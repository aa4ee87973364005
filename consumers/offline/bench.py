"""How fast a desk works and comes back: `python -m consumers.offline.bench --url WS --token T --tenant … ` prints one
JSON line.

Local operations are timed one by one on a real file. Then the line comes: what waits is pushed and pulled again; the
time counts from the desk's start, its probes included, until the hub has it all and the desk has seen it back. At last
an empty desk begins with a snapshot.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from consumers.http_api import api_root
from consumers.offline.database import LocalDatabase
from consumers.offline.desk import Desk
from consumers.offline.items import LocalChange

SYSTEM: Final = "hotel-pms"
BATCH: Final = 500
_BOOKING: Final = {
    "room_type": "twin",
    "checkin_date": "2026-07-15",
    "checkout_date": "2026-07-17",
    "total_amount": 24000,
    "status": "confirmed",
    "origin": "phone",
    "guest_name": "山田 太郎",
}


def _now() -> datetime:
    return datetime.now(UTC)


def work_offline(path: Path, tenant: str, items: int) -> list[float]:
    """`items` operations at a desk without a line, a booking and then edits of it; the seconds each took."""
    database = LocalDatabase.open(path, tenant_id=tenant, system=SYSTEM, now=_now)
    took = []
    try:
        # The operation log is an item of its own, so that half of the items are the desk's changes.
        for number in range(items // 2):
            entity = f"R{number // 2:06d}"
            change = (
                LocalChange("Reservation", "CREATE", entity, {"reservation_id": entity, **_BOOKING})
                if number % 2 == 0
                else LocalChange("Reservation", "UPDATE", entity, {"adults": 2, "special_requests": "高層階"})
            )
            began = time.perf_counter()
            database.operate([change], operator="bench", operation="book")
            took.append(time.perf_counter() - began)
    finally:
        database.close()
    return took


async def come_back(path: Path, url: str, token: str, tenant: str) -> dict[str, Any]:
    """Open a desk over what waits, and wait until the hub has it all."""
    began = time.perf_counter()
    async with await Desk.open(path, url=url, token=token, tenant_id=tenant, system=SYSTEM) as desk:
        waiting = (await desk.local.call(lambda database: database.counts())).waiting
        async for status in desk.status.follow():
            if status.state == "all_synced":
                break
        seconds = time.perf_counter() - began
        records = await desk.local.call(lambda database: database.digest().count)
        counters = desk.counters
        return {
            "items": waiting,
            "seconds": round(seconds, 3),
            "items_per_s": round(waiting / seconds),
            "pushed": counters.pushed,
            "pulled": counters.pulled,
            "records": records,
        }


async def fill(url: str, token: str, tenant: str, records: int) -> None:
    """Publish as many reservations as an empty desk is to begin with."""
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(base_url=api_root(url), headers=headers, timeout=60) as client:
        for start in range(0, records, BATCH):
            events = [
                {
                    "tenant_id": tenant,
                    "type": "reservation",
                    "action": "created",
                    "data": {"reservation_id": f"B{number:06d}", **_BOOKING},
                }
                for number in range(start, min(records, start + BATCH))
            ]
            (await client.post("events", content=orjson.dumps({"events": events}))).raise_for_status()
        # The hub's states follow its log; what is measured is a desk that begins on a quiet day.
        while True:
            digest = (await client.get("sync/digest", params={"tenant": tenant})).raise_for_status()
            if digest.json()["count"] >= records:
                return
            await asyncio.sleep(0.2)


async def measure(url: str, token: str, tenants: Sequence[str], sizes: Sequence[int], records: int) -> dict[str, Any]:
    """All of it; each size has a tenant and a desk of its own."""
    found: dict[str, Any] = {"resync": []}
    took: list[float] = []
    with tempfile.TemporaryDirectory(prefix="desk-bench-") as directory:
        for tenant, size in zip(tenants, sizes, strict=False):
            path = Path(directory) / tenant / "desk.db"
            path.parent.mkdir()
            took += work_offline(path, tenant, size)
            found["resync"].append(await come_back(path, url, token, tenant))
        took.sort()
        found["operations"] = len(took)
        found["operation_p50_ms"] = round(took[len(took) // 2] * 1000, 2)
        found["operation_p99_ms"] = round(took[int(len(took) * 0.99)] * 1000, 2)
        if records:
            tenant = tenants[len(sizes)]
            await fill(url, token, tenant, records)
            found["bootstrap"] = await come_back(Path(directory) / "empty.db", url, token, tenant)
    return found


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True, help="the hub's WebSocket")
    parser.add_argument("--token", required=True, help="with sync and publish scopes")
    parser.add_argument("--tenants", required=True, help="with commas: one a size, and one for the snapshot")
    parser.add_argument("--items", default="1000,10000", help="how many wait, with commas")
    parser.add_argument("--records", type=int, default=50_000, help="what an empty desk begins with; 0: none")
    asked = parser.parse_args()
    gc.freeze()
    sizes = [int(size) for size in asked.items.split(",")]
    found = asyncio.run(measure(asked.url, asked.token, asked.tenants.split(","), sizes, asked.records))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
