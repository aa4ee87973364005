"""A queue whose desk gets another device id, as where two desks had the same one.

The hub knows an item by its device and its uuid. So what it has yet to take goes out as the new device's: with a uuid
and a sequence number of its own, and otherwise as it was made; the old item stays, discarded. What the hub has, or a
person decides on, remains the old device's. Works inside the caller's transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from consumers.offline.items import QueueItem
from consumers.offline.local_schema import QUEUE_COLUMNS
from consumers.offline.queue import OPEN, item_of, row_of
from consumers.offline.records import Records

_TAKEN: Final = frozenset({"applied", "duplicate", "resolved"})
_STAYS: Final = ("status", "laid", "retries", "not_before", "last_error", "errors", "conflict_id", "result")
"""Of an item that failed for another reason: it waits for a person as before."""
_COLUMNS: Final = ", ".join(QUEUE_COLUMNS)


class Moved(NamedTuple):
    """An item that is the new device's now: the uuid it had, and its JSON."""

    before: str
    item: QueueItem
    text: bytes


@dataclass(slots=True)
class _Lane:
    """One entity's items, in order. `seen` is its version as the desk knows it."""

    seen: Mapping[str, int]
    moved: int = 0
    stays: int = 0
    least: int = 0

    def base(self, base: Mapping[str, int], old: str, new: str) -> dict[str, int]:
        """What an item was made on. The old id's count becomes what was really seen of it: it had the items of before
        in it, which will be the new device's."""
        known = max(self.least, min(base.get(old, 0) - self.moved, self.seen.get(old, 0) + self.stays))
        self.least = known
        said = dict(base) | {old: known, new: self.seen.get(new, 0) + self.moved}
        return {actor: count for actor, count in said.items() if count or actor not in (old, new)}


def move(
    connection: sqlite3.Connection,
    records: Records,
    old: str,
    new: str,
    sequence: int,
    new_uuid: Callable[[], str],
) -> list[Moved]:
    """Make the items that the hub has yet to take the new device's, numbered from behind `sequence`. What was refused
    for its device is queued again; what failed for another reason stays failed."""
    lanes: dict[str, _Lane] = {}
    moved: list[Moved] = []
    query = f"SELECT {_COLUMNS} FROM queue WHERE status IN {OPEN} ORDER BY sequence"
    for row in connection.execute(query).fetchall():
        item = item_of(row)
        lane = lanes.setdefault(item.entity, _Lane(records.version(item.entity)))
        if item.status == "conflict" or (item.result or {}).get("outcome") in _TAKEN:
            lane.stays += 1
            continue
        sequence += 1
        tree: dict[str, Any] = orjson.loads(row[QUEUE_COLUMNS.index("item")]) | {
            "uuid": new_uuid().lower(),
            "device_id": new,
            "device_sequence": sequence,
            "base_version": lane.base(item.base_version, old, new),
        }
        lane.moved += 1
        text = orjson.dumps(tree)
        said = dict(zip(QUEUE_COLUMNS, row_of(tree, text, "queued", laid=True), strict=True))
        if item.status == "failed" and not refused_for_device(item):
            said |= {name: row[QUEUE_COLUMNS.index(name)] for name in _STAYS}
        connection.execute("UPDATE queue SET status = 'discarded', laid = 0 WHERE uuid = ?", (item.uuid,))
        places = ", ".join("?" * len(QUEUE_COLUMNS))
        connection.execute(f"INSERT INTO queue ({_COLUMNS}) VALUES ({places})", tuple(said.values()))
        moved.append(Moved(item.uuid, item_of(tuple(said.values())), text))
    records.lay({(one.item.type, one.item.entity) for one in moved})
    return moved


def refused_for_device(item: QueueItem) -> bool:
    """Whether the hub refused an item because another one has its number: two devices have one id."""
    return any(error.path == "device_sequence" for error in item.errors)
