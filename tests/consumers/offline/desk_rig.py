"""A desk on a clock that only the test moves, and what the hub would say to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID

from consumers.offline.database import LocalDatabase
from consumers.offline.items import LocalChange, QueueItem
from schemas.sync import Change, ItemError, ItemResult, SyncRecord

JAPAN = timezone(timedelta(hours=9))
DEVICE = "desk-1"


@dataclass
class DeskClock:
    """Gives the desk its time and its uuids."""

    at: datetime = datetime(2026, 7, 15, 10, 0, tzinfo=JAPAN)
    made: int = 0
    first: int = 0

    def now(self) -> datetime:
        return self.at

    def uuid(self) -> str:
        self.made += 1
        return str(UUID(int=(self.first << 64) + self.made, version=4))

    def pass_by(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


@dataclass
class DeskRig:
    """One desk's file, which is opened, closed and opened again."""

    path: Path
    clock: DeskClock = field(default_factory=DeskClock)

    def open(self, **named: Any) -> LocalDatabase:
        wanted: dict[str, Any] = {"tenant_id": "default", "system": "hotel-pms", "device_id": DEVICE, **named}
        return LocalDatabase.open(self.path, now=self.clock.now, new_uuid=self.clock.uuid, **wanted)


def reservation(id: str = "R1", **said: Any) -> dict[str, Any]:
    """A reservation's whole data."""
    return {
        "reservation_id": id,
        "room_type": "standard",
        "checkin_date": "2026-07-15",
        "checkout_date": "2026-07-16",
        "total_amount": 16800,
        "status": "confirmed",
        "origin": "phone",
        **said,
    }


def booked(id: str = "R1", **said: Any) -> LocalChange:
    return LocalChange("Reservation", "CREATE", id, reservation(id, **said))


def changed(id: str = "R1", **said: Any) -> LocalChange:
    return LocalChange("Reservation", "UPDATE", id, said)


def checked_in(id: str = "R1", room: str = "301") -> LocalChange:
    return LocalChange("CheckIn", "CREATE", id, {"room_number": room, "payment_status": "pending"}, "high")


def do(database: LocalDatabase, *changes: LocalChange, operation: str = "front desk") -> list[QueueItem]:
    return database.operate(changes, operator="佐藤", operation=operation, role="front")


def result(item: QueueItem | str, outcome: Any = "applied", **said: Any) -> ItemResult:
    """What the hub says of one item."""
    return ItemResult(uuid=item if isinstance(item, str) else item.uuid, outcome=outcome, **said)


def taken(items: Iterable[QueueItem]) -> list[ItemResult]:
    """The hub took them all; it tells no versions."""
    return [result(item) for item in items]


def wrong(path: str, message: str) -> list[ItemError]:
    return [ItemError(path=path, message=message)]


def event(data: dict[str, Any], revision: int, **said: Any) -> Change:
    """A pulled change of a reservation, by the hotel-pms unless said otherwise."""
    return Change.model_validate(
        {
            "cursor": "c",
            "sequence": revision,
            "uuid": str(UUID(int=(1 << 100) + revision, version=4)),
            "model": "Reservation",
            "operation": "UPDATE",
            "type": "reservation",
            "action": "updated",
            "entity": f"reservation:{data.get('reservation_id', 'R1')}",
            "revision": revision,
            "version": {"hotel-pms": revision},
            "data": data,
            "schema_version": 1,
            "occurred_at": "2026-07-15T01:00:00Z",
            **said,
        }
    )


def state(id: str = "R1", revision: int = 1, **said: Any) -> SyncRecord:
    """A reservation in a snapshot."""
    fields = {
        "type": "reservation",
        "entity": f"reservation:{id}",
        "revision": revision,
        "sequence": revision,
        "version": {"hotel-pms": revision},
        "data": reservation(id),
        "schema_version": 1,
    }
    return SyncRecord.model_validate(fields | said)
