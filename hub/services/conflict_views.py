"""Conflicts as the API says them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from hub.core.delivery import instant
from hub.core.entry import Entry
from hub.core.versions import actor
from hub.services.sync_records import Known
from hub.store.sync_conflicts import Conflict, ConflictItem
from schemas.types import TRACKING


def shown(conflict: Conflict) -> dict[str, Any]:
    """A conflict as listings say it."""
    claim, resolved = conflict.claim, conflict.state == "resolved"
    return {
        "conflict_id": conflict.conflict_id,
        "tenant_id": conflict.tenant_id,
        "state": conflict.state,
        "policy": conflict.policy,
        "reason": conflict.reason,
        "model": conflict.model,
        "type": conflict.type,
        "entity": conflict.entity,
        "uuid": conflict.uuid,
        "device_id": conflict.device_id,
        "system": conflict.system,
        "fields": list(conflict.fields),
        "opened_at": instant(conflict.opened_ms),
        "resolving": None
        if claim is None or resolved
        else {"by": claim.by, "choice": claim.choice, "since": instant(claim.at_ms)},
        "resolved": None if not resolved else _shown_resolution(conflict),
    }


def _shown_resolution(conflict: Conflict) -> dict[str, Any]:
    claim = conflict.claim
    return {
        "at": None if conflict.resolved_ms is None else instant(conflict.resolved_ms),
        "by": None if claim is None else claim.by,
        "choice": None if claim is None else claim.choice,
        "data": None if claim is None else claim.data,
        "reason": None if claim is None else claim.reason,
        "winner": conflict.winner,
        "revision": conflict.revision,
        "cursor": conflict.cursor,
    }


def compared(conflict: Conflict, item: ConflictItem, known: Known, events: Collection[Entry]) -> list[dict[str, Any]]:
    """Field by field: the contested ones first, then what else the item says."""
    held, incoming = conflict.current, conflict.incoming
    present = known.data(conflict.type) or {}
    contested: dict[str, Mapping[str, Any]] = {one["field"]: one for one in conflict.fields}
    found = []
    for name in (*contested, *(name for name in incoming if name not in contested and name not in TRACKING)):
        one = contested.get(name, {})
        writer = _writer(events, conflict, name)
        found.append(
            {
                "field": name,
                "contested": name in contested,
                "base": one.get("base"),
                "current": one.get("current", held.get(name)),
                "current_by": one.get("current_by") or (None if writer is None else actor(writer)),
                "current_at": None if writer is None else writer["occurred_at"],
                "incoming": incoming.get(name),
                "incoming_by": conflict.device_id,
                "incoming_at": instant(item.created_ms),
                "present": present.get(name),
            }
        )
    return found


def _writer(events: Collection[Entry], conflict: Conflict, name: str) -> Mapping[str, Any] | None:
    """The event that gave a field the value which the item met."""
    found = None
    for entry in events:
        if entry.type != conflict.type or entry.revision > conflict.current_revision:
            continue
        data = entry.event["data"]
        if name in data and (found is None or found["data"].get(name) != data[name]):
            found = entry.event
    return found
