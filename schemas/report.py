"""What the hub's own reports carry in `detailed_data` of `analytics` events.

The field stays open: other generators may put there what they like. `detail_of` reads what this hub wrote, and whatever
else has the same shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.types import Day, Money

Stage = Literal["provisional", "final", "revised"]
Count = Annotated[int, Field(ge=0)]


class _Detail(BaseModel):
    # What another generator adds is carried through.
    model_config = ConfigDict(strict=True, extra="allow", frozen=True, hide_input_in_errors=True)


class Share(_Detail):
    """Sold nights and room revenue of one part of the whole: an origin with its channel, or a room type."""

    origin: str | None = None
    channel: str | None = None
    room_type: str | None = None
    nights: Count
    revenue: Money


class DayFigures(_Detail):
    """One business day of the period."""

    date: Day
    total_revenue: Money
    room_revenue: Money
    sold_room_nights: Count
    available_room_nights: Count
    arrivals: Count
    departures: Count


class Booked(_Detail):
    """Reservations taken in a period, for whenever, that were not cancelled since; their nights and their amount."""

    reservations: Count
    nights: Count
    revenue: Money


class Pickup(_Detail):
    """What was booked in the period, and in as many days right before it."""

    period: Booked
    previous: Booked


class Change(_Detail):
    """A figure that differs from what the last report on the period said."""

    figure: str
    before: Money | float | None
    after: Money | float | None


class ReportDetail(_Detail):
    """What stands behind the four figures. `stage`: the period was not over (provisional), it was (final), or events
    that came late changed a final report (revised)."""

    stage: Stage | None = None
    as_of: Annotated[str | None, Field(description="Cursor: every event up to there is counted")] = None
    rooms: Count | None = None
    sold_room_nights: Count | None = None
    available_room_nights: Annotated[Count | None, Field(description="Without rooms that were out of order")] = None
    out_of_order_room_nights: Count | None = None
    out_of_service_room_nights: Count | None = None
    day_uses: Count | None = None
    room_revenue: Money | None = None
    other_revenue: Money | None = None
    other_revenue_by_category: dict[str, Money] | None = None
    adr: Annotated[Money | None, Field(description="Room revenue a sold night")] = None
    revpar: Annotated[Money | None, Field(description="Room revenue an available room and night")] = None
    arrivals: Count | None = None
    departures: Count | None = None
    no_shows: Count | None = None
    cancellations: Count | None = None
    lead_time_days: Annotated[float | None, Field(ge=0, description="From booking to arrival, of the arrivals")] = None
    by_origin: list[Share] | None = None
    by_room_type: list[Share] | None = None
    days: list[DayFigures] | None = None
    pickup: Pickup | None = None
    changes: Annotated[list[Change] | None, Field(description="Against the last report on the period")] = None
    late_events: Count | None = None
    notes: list[str] | None = None


def detail_of(detailed_data: Mapping[str, Any]) -> ReportDetail:
    """The detail of a report, from the event's JSON.

    Raises:
        ValidationError: a field has another shape here: somebody else's report.
    """
    return ReportDetail.model_validate(detailed_data)
