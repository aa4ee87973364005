"""What is known of a device that works offline, and how it is by that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Presence = Literal["online", "late", "offline", "never"]
Warning = Literal["offline", "skewed", "backlog", "unequal"]

ONLINE_MS: Final = 10 * 60_000
"""A device syncs every five minutes: one that missed two of these is late."""
OFFLINE_MS: Final = 24 * 3_600_000
"""A desk is to last a day without the hub (R103); past that somebody should look."""
SKEW_MS: Final = 60_000
"""A clock that is further off than a minute puts edits of the same field into the wrong order."""
BACKLOG: Final = 1000
"""Waiting items that are worth an alert (R54)."""


@dataclass(frozen=True, slots=True)
class Device:
    """One device of a tenant. Times are Unix ms."""

    tenant_id: str
    device_id: str
    system: str
    first_seen_ms: int
    last_seen_ms: int
    pushed_ms: int | None = None
    pulled_ms: int | None = None
    device_sequence: int = 0
    """The highest sequence number that came from it."""
    backlog: int | None = None
    """How many items it said to have left."""
    clock_skew_ms: int | None = None
    """How far its clock is ahead of the hub's."""
    cursor: str | None = None
    sequence: int | None = None
    """How far it has pulled."""
    requested_ms: int | None = None
    """It was asked to sync, and has not since."""
    compared_ms: int | None = None
    compared_equal: bool | None = None


def presence(device: Device, now_ms: int) -> Presence:
    """Whether the device is there: `never` while it has neither pushed nor pulled."""
    if device.pushed_ms is None and device.pulled_ms is None:
        return "never"
    silent = now_ms - device.last_seen_ms
    if silent < ONLINE_MS:
        return "online"
    return "late" if silent <= OFFLINE_MS else "offline"


def warnings(device: Device, now_ms: int) -> tuple[Warning, ...]:
    """What a person should look at."""
    found: list[Warning] = []
    if presence(device, now_ms) == "offline":
        found.append("offline")
    if abs(device.clock_skew_ms or 0) > SKEW_MS:
        found.append("skewed")
    if (device.backlog or 0) > BACKLOG:
        found.append("backlog")
    if device.compared_equal is False:
        found.append("unequal")
    return tuple(found)
