"""What the tests of sync's reading side share: a hotel's life at random, and what a system must find of it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any
from uuid import uuid4

import orjson
from feed_rig import TENANTS, Rig, append

from hub.core.entry import Entry
from hub.core.sight import publishes
from hub.log.stream_log import Append
from schemas.cursor import ZERO
from schemas.registry import EVENT_TYPES
from schemas.sync import SYNCED_TYPES
from schemas.types import SYSTEMS

ONE = TENANTS[0]
PMS, SAAS, MEMBER = "hotel-pms", "hotel-saas", "hotel-member"
KINDS = (
    ("reservation", "updated"),
    ("checkin_checkout", "checked_in"),
    ("customer", "points_changed"),
    ("room", "status_changed"),
    ("alert", "raised"),
    ("operation_log", "recorded"),
    ("system", "notice"),
)
"""A reservation has two types of events; the last is none of sync."""
FIELDS = ("a", "b", "c", "points_delta")


def event(
    kind: tuple[str, str] = ("room", "status_changed"),
    entity: str = "room:1",
    by: str = PMS,
    *,
    tenant: str = ONE,
    device: str | None = None,
    targets: Iterable[str] = SYSTEMS,
    **data: Any,
) -> Append:
    """An event that a system published, or where `device` is given, its desk pushed."""
    made = append(tenant, kind, entity, tuple(targets), **data, updated_by_system=by)
    if device is None:
        return made
    whole = orjson.loads(made.head + b"0}") | {"device_id": device, "created_offline": True}
    del whole["revision"]
    return replace(made, head=orjson.dumps(whole)[:-1] + b',"revision":')


def life(draw: random.Random, count: int, entities: int = 4) -> list[Append]:
    """Some events of few entities: fields come, change and go; some are not for everybody."""
    made = []
    for _ in range(count):
        kind = draw.choice(KINDS)
        name = EVENT_TYPES[kind[0]].entity_type or kind[0]
        by = draw.choice([one for one in SYSTEMS if publishes(one, kind[0])] or [PMS])
        data: dict[str, Any] = {
            name: draw.choice((None, 1, 2.5, "満室", {"x": 1})) for name in FIELDS if draw.random() < 0.6
        }
        made.append(
            event(
                kind,
                f"{name}:{draw.randrange(entities)}" if kind[0] != "operation_log" else f"{name}:{uuid4()}",
                by,
                device=draw.choice((None, None, f"desk-{by}")),
                targets=[one for one in SYSTEMS if draw.random() < 0.7] or [PMS],
                **data,
            )
        )
    return made


async def entries(rig: Rig, tenant: str = ONE) -> list[Entry]:
    """All that was published of a tenant, as the log has it."""
    found = await rig.log.read(rig.log.partition(tenant), ZERO, 100_000)
    return [entry for entry in found if entry.tenant_id == tenant]


def visible(entry: Entry, system: str) -> bool:
    """Whether a device of a system is to see an event, spelled out."""
    mine = entry.event["data"]["updated_by_system"] == system
    return entry.type in SYNCED_TYPES and (mine or system == "hub" or system in entry.event["targets"])


def versions(all: Iterable[Entry]) -> dict[int, dict[str, int]]:
    """The version of its entity after each event, by sequence."""
    counts: dict[str, dict[str, int]] = {}
    found = {}
    for entry in all:
        actor = entry.event.get("device_id") or entry.event["data"]["updated_by_system"]
        mine = counts.setdefault(entry.entity, {})
        mine[actor] = mine.get(actor, 0) + 1
        found[entry.sequence] = dict(mine)
    return found


def states(all: Iterable[Entry], system: str) -> dict[tuple[str, str], tuple[int, dict[str, Any]]]:
    """Revision and data of what a device of a system holds after all events, by type and entity."""
    found: dict[tuple[str, str], tuple[int, dict[str, Any]]] = {}
    for entry in all:
        if visible(entry, system):
            key = (entry.type, entry.entity)
            transient = EVENT_TYPES[entry.type].transient
            data = found.get(key, (0, {}))[1] | entry.event["data"]
            held = {name: value for name, value in data.items() if value is not None and name not in transient}
            found[key] = (entry.revision, held)
    return found
