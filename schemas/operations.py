"""What the front desk records beside bookings (R56): `daily_report`, `alert`, `operation_log`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.envelope import Event, EventType, Others
from schemas.types import (
    HOTEL_MEMBER,
    HOTEL_PMS,
    HOTEL_SAAS,
    Currency,
    Day,
    EntityId,
    GuestName,
    Instant,
    Label,
    Money,
    Note,
    Tracked,
)

Count = Annotated[int, Field(ge=0)]


class DailyReportData(Tracked):
    """The night's close as a person submitted it; the entity is the business date."""

    business_date: Day
    total_revenue: Money
    currency: Currency | None = None
    arrivals: Count | None = None
    departures: Count | None = None
    rooms_occupied: Count | None = None
    cash_difference: Money | None = None
    submitted_by: GuestName | None = None
    notes: Note | None = None
    figures: dict[str, Any] = Field(default_factory=dict)


class DailyReportEvent(Event[DailyReportData]):
    """`daily_report.*`"""

    type: Literal["daily_report"]
    action: Literal["submitted", "corrected"]


class AlertData(Tracked):
    """Something a person should look at."""

    alert_id: EntityId
    severity: Literal["info", "warning", "critical"]
    message: Note
    room_number: Label | None = None
    raised_at: Instant | None = None


class AlertEvent(Event[AlertData]):
    """`alert.*`"""

    type: Literal["alert"]
    action: Literal["raised", "cleared"]


class OperationLogData(Tracked):
    """Who did what, when, on which device."""

    operation_id: EntityId
    operation: Label
    operator: GuestName | None = None
    device_id: Label | None = None
    target: Label | None = None
    result: Literal["success", "failed"] = "success"
    detail: Note | None = None


class OperationLogEvent(Event[OperationLogData]):
    """`operation_log.*`"""

    type: Literal["operation_log"]
    action: Literal["recorded"]


DAILY_REPORT = EventType(
    name="daily_report",
    event=DailyReportEvent,
    actions=("submitted", "corrected"),
    versions={1: DailyReportData},
    entity_fields=("business_date",),
    authority=HOTEL_PMS,
    priority="MEDIUM",
    targets=(HOTEL_MEMBER, HOTEL_PMS),
)
ALERT = EventType(
    name="alert",
    event=AlertEvent,
    actions=("raised", "cleared"),
    versions={1: AlertData},
    entity_fields=("alert_id",),
    authority=HOTEL_PMS,
    others={"raised": Others(), "cleared": Others()},
    targets=(HOTEL_PMS, HOTEL_SAAS),
)
OPERATION_LOG = EventType(
    name="operation_log",
    event=OperationLogEvent,
    actions=("recorded",),
    versions={1: OperationLogData},
    entity_fields=("operation_id",),
    authority=HOTEL_PMS,
    others={"recorded": Others()},
    priority="MEDIUM",
    targets=(HOTEL_PMS,),
)
