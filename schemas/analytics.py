"""`analytics` (R22, R23): reports computed by period."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from schemas.envelope import Event, EventType
from schemas.types import HOTEL_MEMBER, HOTEL_PMS, HOTEL_SAAS, Currency, Day, Instant, Money, SystemName, Tracked

Action = Literal["daily_report", "weekly_report", "monthly_report"]


class AnalyticsData(Tracked):
    """One report; its entity is the report type and the first day.

    `occupancy_rate` is a fraction of 1, `average_stay_duration` is in nights. What the hub's own reports have in
    `detailed_data` is typed in `schemas.report`.
    """

    report_type: Action
    period_start: Day
    period_end: Day
    total_revenue: Money
    currency: Currency | None = None
    occupancy_rate: Annotated[float, Field(ge=0, le=1)]
    customer_count: Annotated[int, Field(ge=0)]
    average_stay_duration: Annotated[float, Field(ge=0)]
    detailed_data: dict[str, Any] = Field(default_factory=dict)
    generated_by_system: SystemName = HOTEL_PMS
    generated_at: Instant

    @model_validator(mode="after")
    def _period_in_order(self) -> Self:
        if self.period_end < self.period_start:
            raise ValueError("period_end is before period_start")
        return self


class AnalyticsEvent(Event[AnalyticsData]):
    """`analytics.*`"""

    type: Literal["analytics"]
    action: Action


TYPE = EventType(
    name="analytics",
    event=AnalyticsEvent,
    actions=("daily_report", "weekly_report", "monthly_report"),
    versions={1: AnalyticsData},
    entity_fields=("report_type", "period_start"),
    authority=HOTEL_PMS,
    priority="MEDIUM",
    sync_mode="batch",
    targets=(HOTEL_MEMBER, HOTEL_SAAS),
)
