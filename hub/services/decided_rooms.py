"""The room of a guest whose check-in a person has decided on: the reservation says the same, and people look after the
other room."""

from __future__ import annotations

from typing import Final
from uuid import UUID, uuid5

import structlog
import uuid_utils

from hub.core.conflicts import ROOM, STAY
from hub.core.sync_models import event_of
from hub.log.topology import RedisError
from hub.services.announcer import Announcer
from hub.services.publisher import Systems
from hub.services.sync_records import Known, SyncRecords
from hub.store.sync_conflicts import Conflict
from schemas.errors import Problem
from schemas.stay import IN_HOUSE, may_be_in_house

ATTEMPTS: Final = 10
"""How often a reservation may have moved on meanwhile."""
_NOTICES: Final = UUID("8d0c9a64-1f0e-5b0c-8a51-6d3f7c2e9b15")

log = structlog.get_logger("hub.conflicts")


class DecidedRooms:
    """Carries a decision on a guest who was checked in over to what else tells of it."""

    def __init__(self, records: SyncRecords, announcer: Announcer, systems: Systems) -> None:
        self._records = records
        self._announcer = announcer
        self._systems = systems

    async def settle(self, conflict: Conflict) -> None:
        """Have the reservation say that the guest is in, and in which room. Done again it changes nothing.

        Raises:
            Problem: `outcome_unknown`: the decision stands, and this is to be done again.
            StoreUnavailable: the same.
        """
        tenant_id, entity = conflict.tenant_id, conflict.entity
        try:
            for _ in range(ATTEMPTS):
                known = (await self._records.load(tenant_id, [entity]))[entity]
                stay, booking = known.data(STAY) or {}, known.data("reservation")
                room = stay.get(ROOM)
                if booking is None or not isinstance(room, str) or not may_be_in_house(stay, booking):
                    return
                housed = {"status": IN_HOUSE, ROOM: room}
                news = {name: value for name, value in housed.items() if booking.get(name) != value}
                if not news or await self._said(conflict, known, news):
                    await self._told(conflict, room)
                    return
                self._records.forget(tenant_id, entity)
        except (RedisError, OSError) as error:
            raise Problem("outcome_unknown", "the decision is published; resolve it again in the same way") from error
        except Problem as problem:
            raise Problem("outcome_unknown", f"the room is not settled yet: {problem.detail}") from problem
        raise Problem("outcome_unknown", f"{entity} keeps changing; resolve it again in the same way")

    async def _said(self, conflict: Conflict, known: Known, news: dict[str, str]) -> bool:
        """Publish the reservation with these fields; False where it has moved on meanwhile."""
        try:
            said = event_of("Reservation", "UPDATE", None, conflict.entity, news, known.said)
            event = {
                "event_id": str(uuid_utils.uuid7()),
                "type": said.type,
                "action": said.action,
                "data": said.data,
                "targets": known.audience(self._systems, said, conflict.system),
                "expected_revision": known.revision,
                "causation_id": conflict.conflict_id,
            }
            await self._announcer.publish(conflict.tenant_id, event)
        except Problem as problem:
            if problem.code == "conflict":
                return False
            if problem.code != "invalid_event":
                raise
            # What did not fit before is not mended here.
            log.warning("room_not_settled", conflict_id=conflict.conflict_id, error=problem.detail)
        return True

    async def _told(self, conflict: Conflict, room: str) -> None:
        """Ask people to look at a room that the guest was said to have and has not: it may be called occupied."""
        said = [one[name] for one in conflict.fields if one["field"] == ROOM for name in ("current", "incoming")]
        said.append(conflict.incoming.get(ROOM))
        for other in {one for one in said if isinstance(one, str)} - {room}:
            await self._announcer.announce(
                conflict.tenant_id,
                "notice",
                "sync-room",
                f"{conflict.entity} has room {room}, not {other}: see what states the two rooms are in, and set them",
                event_id=str(uuid5(_NOTICES, f"{conflict.conflict_id} {other}")),
                detail={
                    "conflict_id": conflict.conflict_id,
                    "entity": conflict.entity,
                    "room": room,
                    "other": other,
                },
            )
