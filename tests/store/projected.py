"""What the tests of the entities share: a random history, and what its states must be."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID
from zlib import crc32

import orjson
from archive_bench import EPOCH, T0

from hub.core.entry import Entry
from hub.services.projecting import Projection
from hub.store.archive import Batch, Place
from hub.store.entities import Entities, Key, restored
from hub.store.store import Store
from schemas.cursor import ZERO, StreamId
from schemas.registry import EVENT_TYPES

SYSTEMS = ("hotel-member", "hotel-pms", "hotel-saas")
TENANTS = ("naha", "default", "t-4", "t-5")
PARTITIONS = 2
KINDS = (("customer", "updated"), ("room", "status_changed"), ("checkin_checkout", "checked_in"))
FIELDS = ("a", "b", "c", "points_delta")


def partition_of(tenant: str) -> int:
    """As the log does it."""
    return crc32(tenant.encode()) % PARTITIONS


def said(
    number: int,
    tenant: str,
    sequence: int,
    revision: int,
    entity: str,
    data: dict[str, Any],
    *,
    type: str = "room",
    action: str = "status_changed",
    targets: Iterable[str] = SYSTEMS,
    epoch: int = EPOCH,
    at: int | None = None,
    version: int = 1,
    device: str | None = None,
) -> Entry:
    """One event, the `number`th of all; stored at ms `number` unless `at` says another. A `device` made it offline."""
    id = StreamId(T0 + (number if at is None else at), 0)
    event_id = str(UUID(int=number + 1))
    envelope = {
        "event_id": event_id,
        "schema_version": version,
        "tenant_id": tenant,
        "type": type,
        "action": action,
        "targets": list(targets),
        "entity": entity,
        "data": data,
        "revision": revision,
    }
    if device is not None:
        envelope |= {"device_id": device, "created_offline": True}
    raw = orjson.dumps(envelope)
    return Entry(id, epoch, tenant, sequence, revision, type, action, entity, event_id, id.ms, raw)


class History:
    """A hotel's life at random: few entities, several types on one, fields that come and go."""

    def __init__(self, seed: int, tenants: Sequence[str] = TENANTS) -> None:
        self.random = random.Random(seed)
        self.tenants = tenants
        self.entries: list[Entry] = []
        self._sequences: dict[str, int] = {}
        self._revisions: dict[tuple[str, str], int] = {}
        self._places: dict[int, Place] = {}

    def more(self, count: int, **fixed: Any) -> list[Entry]:
        """So many further events."""
        made = []
        for _ in range(count):
            tenant = self.random.choice(self.tenants)
            entity = f"reservation:R{self.random.randrange(6)}"
            type, action = self.random.choice(KINDS)
            data = {name: self.random.choice((None, 1, 2, "満室", {"x": None})) for name in self._some(FIELDS)}
            data["updated_by_system"] = self.random.choice(SYSTEMS)
            sequence = self._sequences[tenant] = self._sequences.get(tenant, 0) + 1
            revision = self._revisions[(tenant, entity)] = self._revisions.get((tenant, entity), 0) + 1
            facts: dict[str, Any] = {"type": type, "action": action, "targets": self._some(SYSTEMS) or ["hotel-pms"]}
            facts |= {"device": self.random.choice((None, None, "desk-1", "desk-2"))} | fixed
            made.append(said(len(self.entries), tenant, sequence, revision, entity, data, **facts))
            self.entries.append(made[-1])
        return made

    def _some(self, names: Sequence[str]) -> list[str]:
        return [name for name in names if self.random.random() < 0.6]

    async def archive(self, store: Store, entries: Sequence[Entry]) -> None:
        """Archive events as the archiver does."""
        batches = []
        for number in range(PARTITIONS):
            here = [entry for entry in entries if partition_of(entry.tenant_id) == number]
            if here:
                place = self._places.get(number, Place(0, ZERO))
                reached = max(place.id, here[-1].id)
                batches.append(Batch(number, place, here, here[-1].epoch, reached))
                self._places[number] = Place(here[-1].epoch, reached)
        await store.archive.write(batches)

    def states(self, entries: Sequence[Entry] | None = None) -> dict[tuple[str, str, str], dict[str, Any]]:
        """What all events lead to, spelled out."""
        found: dict[tuple[str, str, str], dict[str, Any]] = {}
        for entry in self.entries if entries is None else entries:
            key = (entry.tenant_id, entry.type, entry.entity)
            state = found.setdefault(key, {"data": {}, "all": set(SYSTEMS), "some": set(), "writers": {}})
            for name, value in entry.event["data"].items():
                state["data"][name] = value
            state["all"] &= set(entry.targets)
            state["some"] |= set(entry.targets)
            writer = entry.event.get("device_id") or entry.event["data"].get("updated_by_system", "unknown")
            state["writers"][writer] = state["writers"].get(writer, 0) + 1
            state["revision"], state["sequence"], state["id"] = entry.revision, entry.sequence, entry.id
        for (_, type, _), state in found.items():
            transient = EVENT_TYPES[type].transient
            state["data"] = {
                name: value for name, value in state["data"].items() if value is not None and name not in transient
            }
        return found


async def kept(store: Store, generation: int | None = None) -> dict[tuple[str, str, str], dict[str, Any]]:
    """The states that are stored, of the generation that is read or of another, as `History.states` spells them."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    tenants = await store.archive.tenants()
    for name, archived in tenants.items():
        if generation is None:
            _, rows = await store.entities.page(archived.tenant_no, 10_000)
        else:
            keys: list[Key] = [
                (archived.tenant_no, type, f"reservation:R{number}") for type, _ in KINDS for number in range(6)
            ]
            rows = list((await store.entities.fetch(generation, keys)).items())
        for (_, type, entity), row in rows:
            state = restored(row)
            found[(name, type, entity)] = {
                "data": state.data,
                "all": set(state.seen_by_all),
                "some": set(state.seen_by_some),
                "revision": state.revision,
                "sequence": state.sequence,
                "id": state.id,
                "writers": state.writers,
            }
    return found


async def projected(projection: Projection) -> int:
    """Project all that is archived; how many events were looked at."""
    done = 0
    while step := await projection.step():
        done += step
    return done


async def opened(entities: Entities) -> int:
    """The generation that is read."""
    return await entities.open(T0)
