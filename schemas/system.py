"""`system`: the hub's own notices to the systems it serves."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from schemas.envelope import Event, EventType
from schemas.types import HUB, EntityId, Note, Tracked


class SystemData(Tracked):
    """A notice: `topic` is what it is about and its entity."""

    topic: EntityId
    severity: Literal["info", "warning", "critical"] = "info"
    message: Note
    detail: dict[str, Any] = Field(default_factory=dict)


class SystemEvent(Event[SystemData]):
    """`system.*`"""

    type: Literal["system"]
    action: Literal["notice", "alarm"]


TYPE = EventType(
    name="system",
    event=SystemEvent,
    actions=("notice", "alarm"),
    versions={1: SystemData},
    entity_fields=("topic",),
    authority=HUB,
)
