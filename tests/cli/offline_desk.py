"""A desk that pushes to a hub which runs as a process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import httpx
from hub_process import PATIENCE_S, HubProcess

from hub.security.tokens import Tokens, own_key
from schemas.canonical import checksum
from schemas.sync import batch_crc32

CREATED = "2026-07-15T15:04:00+09:00"
BOOKING = {
    "room_type": "twin",
    "checkin_date": "2026-07-15",
    "checkout_date": "2026-07-17",
    "total_amount": 24000,
    "status": "confirmed",
    "origin": "phone",
}
ARRIVAL = {"room_number": "301", "actual_checkin_time": CREATED, "payment_status": "pending"}

Said = tuple[str, str, Mapping[str, Any]]


def push(hub: HubProcess, tenant: str, device: str, *said: Said) -> list[dict[str, Any]]:
    """Push what a device did first, (model, id, payload) each; the results."""
    items = [
        {
            "uuid": str(uuid4()),
            "model": model,
            "operation": "CREATE",
            "entity_id": id,
            "payload": payload,
            "createdAt": CREATED,
            "device_sequence": number,
            "checksum": checksum(dict(payload)),
        }
        for number, (model, id, payload) in enumerate(said, 1)
    ]
    body = {"device_id": device, "items": items, "backlog": len(items), "tenant_id": tenant}
    body["batch_crc32"] = batch_crc32(str(one["checksum"]) for one in items)
    token = Tokens([own_key(hub.directory / "data")]).issue("hotel-pms", [tenant], ["sync"], device_id=device)
    answer = httpx.post(
        f"{hub.url}/api/v1/sync/push",
        headers={"Authorization": f"Bearer {token}"},
        json=body,
        timeout=PATIENCE_S,
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


def conflict(hub: HubProcess, tenant: str) -> str:
    """Two desks give one room to two guests; the id of the conflict."""
    push(hub, tenant, "desk-1", ("Reservation", "R1", BOOKING), ("CheckIn", "R1", ARRIVAL))
    _, held = push(hub, tenant, "desk-2", ("Reservation", "R2", BOOKING), ("CheckIn", "R2", ARRIVAL))
    assert held["outcome"] == "conflict", held
    return str(held["conflict_id"])
