"""A desk as the hub sees it: makes items with checksums and numbers, pushes batches, pulls."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import httpx
import orjson
from house import House

from hub.app import Hub
from schemas.canonical import checksum
from schemas.sync import batch_crc32

BOOKING = {
    "room_type": "twin",
    "checkin_date": "2026-07-15",
    "checkout_date": "2026-07-17",
    "total_amount": 24000,
    "status": "confirmed",
    "origin": "phone",
}
CREATED = "2026-07-15T15:04:00+09:00"


class Property(House):
    """A hub that many tests share, and the property that one of them has for itself."""

    def __init__(self, hub: Hub, tenant: str) -> None:
        super().__init__(hub)
        self.tenant = tenant

    def token(self, system: str = "hotel-pms", tenants: Iterable[str] = (), **more: Any) -> str:
        """A token for this property."""
        more.setdefault("scopes", ("publish:*", "subscribe:*"))
        return super().token(system, tenants or (self.tenant,), **more)


class Desk:
    """One device of one system."""

    def __init__(self, house: House, device_id: str = "desk-1", system: str = "hotel-pms", **token: Any) -> None:
        self.house = house
        self.device_id = device_id
        self.token = {"system": system, "scopes": ("sync",), **token}
        self._numbers = itertools.count(1)

    def item(
        self,
        model: str,
        entity_id: str,
        payload: Mapping[str, Any],
        operation: str = "CREATE",
        base: Mapping[str, int] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """An operation at this desk."""
        made = {
            "uuid": str(uuid.uuid4()),
            "model": model,
            "operation": operation,
            "entity_id": entity_id,
            "payload": dict(payload),
            "createdAt": CREATED,
            "device_sequence": next(self._numbers),
            "base_version": dict(base or {}),
            "priority": "medium",
            "checksum": checksum(dict(payload)),
        }
        return made | more

    def batch(self, *items: Any, **more: Any) -> dict[str, Any]:
        """The body of a push."""
        sums = [one.get("checksum", "") if isinstance(one, dict) else "" for one in items]
        return {"device_id": self.device_id, "batch_crc32": batch_crc32(sums), "items": list(items)} | more

    async def send(self, body: Any, **headers: str) -> httpx.Response:
        """POST /sync/push."""
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return await self.house.http.post(
            "/sync/push", content=content, headers=self.house.headers(**self.token) | headers
        )

    async def push(self, *items: Any, **more: Any) -> list[dict[str, Any]]:
        """Push, and be sure that it was looked at: a result an item."""
        response = await self.send(self.batch(*items, **more))
        assert response.status_code == 200, response.text
        results: list[dict[str, Any]] = response.json()["results"]
        assert len(results) == len(items)
        return results

    async def one(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Make one item, push it, and give its result."""
        return (await self.push(self.item(*args, **kwargs)))[0]

    async def events(self, **query: str) -> list[dict[str, Any]]:
        """Every event of the tenant."""
        headers = self.house.headers(system="hotel-pms")
        response = await self.house.http.get("/events", params={"limit": "1000", **query}, headers=headers)
        found: list[dict[str, Any]] = [one["event"] for one in response.json()["events"]]
        return found
