"""How much of a state a system may see: it sees the events that are for it, and those that it made itself."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from hub.core.routing import may_see
from schemas.registry import EVENT_TYPES
from schemas.types import SYSTEMS

Sight = Literal["whole", "some", "none"]


def publishes(system: str, type: str) -> bool:
    """Whether a system may publish anything of a type (R29)."""
    kind = EVENT_TYPES.get(type)
    return kind is None or system == kind.authority or bool(kind.others)


def sight(
    system: str,
    type: str,
    seen_by_all: Collection[str],
    seen_by_some: Collection[str],
    writers: Mapping[str, int] | None,
    updated_by: object,
) -> Sight:
    """Whether a system may see all events of a state, or none; `some` where only the events themselves can tell.

    `writers` is who made how many of them (`hub.core.versions`), None where that is not known; `updated_by` is the
    system that published the last.
    """
    if may_see(system, seen_by_all):
        return "whole"
    for_it = may_see(system, seen_by_some)
    if not publishes(system, type):
        return "some" if for_it else "none"
    if writers is None:
        return "some"
    if sum(writers.values()) == 1 and not for_it:
        return "whole" if updated_by == system else "none"
    if writers.keys() == {system}:
        return "whole"
    # What a device made is its system's, and whose the device is, stands in the event.
    others = all(name in SYSTEMS and name != system for name in writers)
    return "none" if others and not for_it else "some"
