"""`POST /replays`: which part of the history goes out again, where to, and how fast.

`to` is the end of the time range, as in `GET /events`; where the events go is `target`.
"""

from __future__ import annotations

import math
from datetime import date, datetime
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from schemas.envelope import UuidText
from schemas.frames import CHANNEL_FORM, Entity, Pattern
from schemas.types import Model, SystemName, TenantId, read_day, read_instant

SLOWEST: Final = 0.01
FASTEST: Final = 100_000.0
GROUP_FORM: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"

Speed = Literal["recorded", "full"] | float


def read_speed(value: Any) -> Speed:
    """`recorded`, `full`, or how many times faster than recorded: a number, also as text like `10` or `x10`.

    Raises:
        ValueError: it is none of these, or faster or slower than makes sense.
    """
    if value == "recorded" or value == "full":
        return "recorded" if value == "recorded" else "full"
    number = value
    if isinstance(value, str):
        try:
            number = float(value.lower().removeprefix("x"))
        except ValueError:
            number = None
    if isinstance(number, bool) or not isinstance(number, int | float) or not math.isfinite(number):
        raise ValueError("must be `recorded`, `full` or a number: how many times faster than recorded")
    if not SLOWEST <= number <= FASTEST:
        raise ValueError(f"must be between {SLOWEST:g} and {FASTEST:g}; or `full`, as fast as it goes")
    return float(number)


def read_time(value: str) -> date | datetime:
    """An instant, or a date in the property's own calendar.

    Raises:
        ValueError: it is neither.
    """
    if len(value) == 10:
        return read_day(value)
    try:
        return read_instant(value)
    except ValueError:
        raise ValueError(
            "must be an instant with an offset, like 2026-11-17T10:00:00+09:00, or a property's date like 2026-11-17"
        ) from None


def _time(value: str) -> str:
    read_time(value)
    return value


TimeText = Annotated[str, AfterValidator(_time), Field(max_length=40)]
SpeedValue = Annotated[
    Speed,
    BeforeValidator(read_speed),
    WithJsonSchema(
        {"anyOf": [{"enum": ["recorded", "full"]}, {"type": "number", "minimum": SLOWEST, "maximum": FASTEST}]}
    ),
]


class Target(Model):
    """Where the events go: a channel of a system, a consumer group's own stream, or a webhook. One of them."""

    system: SystemName | None = None
    channel: Annotated[str, Field(pattern=CHANNEL_FORM)] | None = None
    group: Annotated[str, Field(pattern=GROUP_FORM)] | None = None
    webhook: Annotated[str, Field(min_length=1, max_length=100)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Target:
        channel = self.system is not None and self.channel is not None
        if (self.system is None) != (self.channel is None):
            raise ValueError("a channel has a system and a name: give system and channel")
        if [channel, self.group is not None, self.webhook is not None].count(True) != 1:
            raise ValueError("give system and channel, or group, or webhook")
        return self

    @property
    def text(self) -> str:
        """The target as one text."""
        if self.group is not None:
            return f"group {self.group}"
        if self.webhook is not None:
            return f"webhook {self.webhook}"
        return channel_text(str(self.system), str(self.channel))


def channel_text(system: str, channel: str) -> str:
    """A system's channel as one text."""
    return f"channel {system} {channel}"


class Selection(Model):
    """Which events. All of it by default; what is not given does not narrow it.

    `from` and `to`: when the event was recorded, `from` inclusive; an instant as `to` is exclusive, a date stands for
    the whole day in each property's zone. `after` and `until`: cursors, the event of `until` included.
    """

    tenants: Annotated[list[TenantId], Field(min_length=1, max_length=1000)] | None = None
    patterns: Annotated[list[Pattern], Field(min_length=1, max_length=64)] | None = None
    entities: Annotated[list[Entity], Field(min_length=1, max_length=1000)] | None = None
    from_: Annotated[TimeText | None, Field(alias="from")] = None
    to: TimeText | None = None
    after: Annotated[str, Field(max_length=60_000)] | None = None
    until: Annotated[str, Field(max_length=60_000)] | None = None
    speed: SpeedValue = "recorded"


class ReplayRequest(Selection):
    """A replay to be made, or with `dry_run` only looked at; then it needs no target. Sent again with the same
    `replay_id` it makes no other."""

    target: Target | None = None
    replay_id: UuidText | None = None
    dry_run: bool = False
