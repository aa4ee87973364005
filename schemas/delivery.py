"""What became of an event: the delivery log (R93) and the whole story of one event.

A system `acknowledged` (its durable subscription did), `handled` (its consumer group finished it) or was `delivered`
it (its webhook took it); it `failed` (a dead letter lies there, or a webhook was given up) or is `retrying`; it was
`sent` the event, or the event is `waiting` for it. All systems together: failed if any failed, retrying if any is,
success when every one acknowledged, handled or was delivered it, else pending.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.frames import CursorText

SystemStatus = Literal["acknowledged", "handled", "delivered", "failed", "retrying", "sent", "waiting"]
DeliveryStatus = Literal["success", "failed", "retrying", "pending"]
Step = Literal[
    "appended",
    "routed",
    "sent",
    "caught_up",
    "polled",
    "acknowledged",
    "handled",
    "retried",
    "dead_lettered",
    "redriven",
    "discarded",
    "replayed",
    "attempted",
    "delivered",
    "given_up",
]
Moment = Annotated[
    str, Field(description="RFC 3339, UTC, to the millisecond", json_schema_extra={"format": "date-time"})
]
Count = Annotated[int, Field(ge=0)]


class _Shown(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SystemDelivery(_Shown):
    """How far an event has come with one of its target systems."""

    status: SystemStatus
    at: Annotated[Moment | None, Field(description="Since when; null while waiting")] = None
    retry_count: Count = 0
    error_message: str | None = None
    waiting_for: Annotated[
        list[str], Field(description="Durable subscriptions that ask for the event and have not acknowledged it")
    ] = []


class EventDeliveryLog(_Shown):
    """The delivery log of one event (R93)."""

    event_id: str
    tenant_id: str
    event_type: str
    action: str
    entity: str
    sequence: Count
    cursor: CursorText
    source_system: Annotated[str | None, Field(description="The system that published it")]
    target_systems: list[str]
    delivery_status: DeliveryStatus
    delivery_time: Annotated[
        Count | None, Field(description="ms from its append to the last target's answer; null before success")
    ] = None
    retry_count: Count = 0
    error_message: str | None = None
    timestamp: Annotated[Moment, Field(description="When something last happened to it")]
    recorded_at: Annotated[Moment, Field(description="When it was stored")]
    outstanding: Annotated[bool, Field(description="Pending for longer than HUB_OUTSTANDING_S")] = False
    systems: Annotated[dict[str, SystemDelivery], Field(description="By target system")]


class TraceStep(_Shown):
    """One thing that happened to an event. What is null does not apply, or is not for the reader's token."""

    at: Annotated[Moment, Field(description="When; where a range of events was noted together, the latest it can be")]
    step: Step
    system: str | None = None
    group: Annotated[str | None, Field(description="The consumer group")] = None
    channel: Annotated[str | None, Field(description="websocket, poll, sse, webhook, or a replay's target")] = None
    session: Annotated[str | None, Field(description="The connection")] = None
    name: Annotated[str | None, Field(description="The durable subscription, or the webhook endpoint")] = None
    hub: Annotated[str | None, Field(description="The hub process that did it")] = None
    ref: Annotated[str | None, Field(description="The dead letter, or the replay")] = None
    attempts: Count | None = None
    error_message: str | None = None


class EventTrace(EventDeliveryLog):
    """The whole story of one event, oldest step first."""

    timeline: list[TraceStep]
    truncated: Annotated[bool, Field(description="There were more steps than are shown")] = False


class DeliveryPage(_Shown):
    """A page of delivery logs; `next` leads to those after it, and is null at the end."""

    deliveries: list[EventDeliveryLog]
    next: str | None = None
