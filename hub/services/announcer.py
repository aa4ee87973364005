"""The hub's own notices to the systems it serves, as `system` events."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal
from uuid import UUID, uuid4, uuid5

import orjson
import structlog

from hub.core.entry import Entry
from hub.log.topology import RedisError
from hub.security.tokens import Claims
from hub.services.history import History
from hub.services.publisher import Publisher, Receipt
from hub.store.database import StoreUnavailable
from schemas import strict_json
from schemas.errors import Problem
from schemas.types import HUB, SYSTEMS

NEVER: Final = 1e12
SALTS: Final = 5
"""How many ids are derived from one that another's event has."""
_SALTED: Final = UUID("3d4c9a52-7b0e-5c1d-8e46-91a7f20b6c33")

log = structlog.get_logger("hub.announcer")


def own_claims(tenant_id: str) -> Claims:
    """What the hub publishes with for a tenant."""
    return Claims(HUB, "", HUB, frozenset({tenant_id}), frozenset({"publish:*", "subscribe:*"}), NEVER)


class Announcer:
    """Publishes as the hub itself."""

    def __init__(self, publisher: Publisher, history: History) -> None:
        self._publisher = publisher
        self._history = history

    async def publish(self, tenant_id: str, event: Mapping[str, Any]) -> Receipt:
        """Publish an event as the hub. With an `event_id` of its own it may be done again.

        Raises:
            Problem: it was not stored, or it is not known whether it was (`outcome_unknown`).
        """
        parsed = strict_json.parse(orjson.dumps(event))
        return await self._publisher.submit(parsed, parsed.tree, own_claims(tenant_id))

    async def publish_once(self, tenant_id: str, event: Mapping[str, Any]) -> Receipt:
        """Publish an event with an `event_id` that says which it is, once, however often it is tried.

        Whoever may publish for the tenant can reckon such an id and be there first: then the event comes under one that
        is derived from it. The receipt's `event_id` is the one that it came under.

        Raises:
            Problem: as `publish`.
        """
        for event_id in _ids(str(event["event_id"])):
            receipt = await self.publish(tenant_id, {**event, "event_id": event_id})
            if not receipt["duplicate"]:
                return receipt
            try:
                entry = await self._history.find(tenant_id, event_id)
            except (StoreUnavailable, RedisError, OSError) as error:
                raise Problem("outcome_unknown", str(error) or type(error).__name__) from error
            if _is_own(entry, event["type"], event["action"]):
                return receipt
            source = None if entry is None else entry.source
            log.warning("event_id_taken", tenant=tenant_id, event_id=event_id, source=source)
        # Who took all of these means to keep it from coming: better twice, if a hub dies now, than not at all.
        return await self.publish(tenant_id, {**event, "event_id": str(uuid4())})

    async def published(self, tenant_id: str, event_id: str, type: str, action: str) -> Entry | None:
        """What `publish_once` published by this id, if it did.

        Raises:
            StoreUnavailable, RedisError, OSError: the log or the store does not answer.
        """
        for one in _ids(event_id):
            entry = await self._history.find(tenant_id, one)
            if entry is None or _is_own(entry, type, action):
                return entry
        return None

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
        return await self.publish_once(tenant_id, event)


def _ids(event_id: str) -> Iterator[str]:
    """The ids that an event may come under, in the order they are tried."""
    yield event_id
    for number in range(1, SALTS + 1):
        yield str(uuid5(_SALTED, f"{event_id}/{number}"))


def _is_own(entry: Entry | None, type: str, action: str) -> bool:
    """Whether it is the hub's event, and of this kind: nobody else's can say that it is the hub's."""
    return entry is not None and (entry.source, entry.type, entry.action) == (HUB, type, action)
