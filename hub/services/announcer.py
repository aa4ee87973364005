"""The hub's own notices to the systems it serves, as `system` events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import orjson

from hub.security.tokens import Claims
from hub.services.publisher import Publisher, Receipt
from schemas import strict_json
from schemas.types import HUB, SYSTEMS

NEVER: Final = 1e12


def own_claims(tenant_id: str) -> Claims:
    """What the hub publishes with for a tenant."""
    return Claims(HUB, "", HUB, frozenset({tenant_id}), frozenset({"publish:*", "subscribe:*"}), NEVER)


class Announcer:
    """Publishes as the hub itself."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    async def publish(self, tenant_id: str, event: Mapping[str, Any]) -> Receipt:
        """Publish an event as the hub. With an `event_id` of its own it may be done again.

        Raises:
            Problem: it was not stored, or it is not known whether it was (`outcome_unknown`).
        """
        parsed = strict_json.parse(orjson.dumps(event))
        return await self._publisher.submit(parsed, parsed.tree, own_claims(tenant_id))

    async def announce(
        self,
        tenant_id: str,
        action: Literal["notice", "alarm"],
        topic: str,
        message: str,
        *,
        event_id: str,
        severity: Literal["info", "warning", "critical"] = "warning",
        detail: Mapping[str, Any] | None = None,
        system: str | None = None,
    ) -> Receipt:
        """Tell a tenant's systems, or one of them. Announced again with the same `event_id` it is told once.

        Raises:
            Problem: as `publish`.
        """
        event: dict[str, Any] = {
            "event_id": event_id,
            "type": "system",
            "action": action,
            "data": {"topic": topic, "severity": severity, "message": message, "detail": dict(detail or {})},
        }
        if system in SYSTEMS:
            event["targets"] = [system]
        return await self.publish(tenant_id, event)
