"""The writes of one entity, as conflicts are decided on them: the log's events with what was pushed behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hub.core import sync_models
from hub.core.conflicts import Registers, Write
from hub.core.entry import Entry
from hub.core.versions import actor
from hub.services.history import History
from hub.services.sync_records import Known, SyncRecords
from hub.store.sync_items import Stored, SyncItems
from schemas.cursor import ZERO, StreamId
from schemas.types import HUB, TRACKING


@dataclass(slots=True)
class Lane:
    """One entity, while the items of a push that are about it are settled one after another."""

    entity: str
    known: Known | None = None
    """It as last heard of; None: look it up."""
    registers: Registers | None = None
    """Its writes, once an item had to be held against them; up to the event at `at` of the history `epoch`."""
    at: StreamId = ZERO
    epoch: int = 0


class SyncWrites:
    """Reads them. Methods raise `StoreUnavailable`, `RedisError` and `OSError` when store or log are away."""

    def __init__(self, history: History, records: SyncRecords, items: SyncItems) -> None:
        self._history = history
        self._records = records
        self._items = items

    async def registers(self, tenant_id: str, lane: Lane, known: Known) -> Registers:
        """The writes of a lane's entity: all of them the first time, then what has come since."""
        epoch = self._history.log.epochs[self._history.partition(tenant_id)]
        if lane.registers is None or lane.epoch != epoch:
            lane.registers, lane.at, lane.epoch = None, ZERO, epoch
        entries = await self._records.events(tenant_id, lane.entity, lane.at)
        writes = await self.of(tenant_id, entries)
        if lane.registers is None:
            lane.registers = Registers(writes, known.version)
        else:
            for write in writes:
                lane.registers.add(write)
        if entries:
            lane.at = entries[-1].id
        return lane.registers

    async def of(self, tenant_id: str, entries: Sequence[Entry]) -> list[Write]:
        """Events of an entity as writes: with what their makers said and had seen."""
        pushed = await self._items.known(tenant_id, [entry.event_id for entry in entries])
        return [_write(entry, pushed.get(entry.event_id)) for entry in entries]


def _write(entry: Entry, item: Stored | None) -> Write:
    """An event of the log as a write. One that a person settled was made knowing everything."""
    event = entry.event
    name = actor(event)
    system = event["data"].get("updated_by_system") or name
    deletes = (entry.type, entry.action) in sync_models.DELETIONS
    if item is None or item.device_id != name or item.policy == "manual" or item.type != entry.type:
        touched = None
        if item is not None and item.policy == "manual" and name == HUB:
            # Who decides stands in for the item's system, on everything it said; what both say, the desk knows.
            system, said, stands = item.system, item.payload, event["data"]
            touched = frozenset(one for one in {*said, *stands} if said.get(one) != stands.get(one)) - TRACKING
        return Write(
            name,
            system,
            entry.type,
            entry.action,
            entry.timestamp_ms,
            entry.event_id,
            event["data"],
            None,
            deletes,
            touched,
        )
    undoes = sync_models.undoes(item.model, item.operation)
    return Write(
        name,
        system,
        entry.type,
        entry.action,
        item.created_ms,
        entry.event_id,
        item.payload,
        item.base_version,
        # As it was meant: an edit that met a deletion went out as that deletion again.
        (item.operation == "DELETE" and not undoes)
        or (item.type, item.action) in sync_models.DELETIONS
        or (deletes and item.payload.get("status") == "cancelled"),
        item.touched,
        undoes,
    )
