"""Version vectors (R75): which events of an entity somebody had seen.

An entity's version counts its events by who made them. The hub puts the events of an entity into one order, so what
it holds only grows; a desk that works offline names the version it had seen, and what others added since is what it
did not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Vector = dict[str, int]

_EARLIER = "earlier"
_NOBODY = "unknown"


def earlier(revision: int) -> Vector:
    """The version of a state that was projected before versions were kept."""
    return {_EARLIER: revision}


def actor(event: Mapping[str, Any]) -> str:
    """Who made an event: the device for what came by push, else the publishing system."""
    if event.get("created_offline") is True and isinstance(device := event.get("device_id"), str):
        return device
    data = event.get("data")
    system = data.get("updated_by_system") if isinstance(data, dict) else None
    return system if isinstance(system, str) else _NOBODY


def total(vectors: Iterable[Mapping[str, int]]) -> Vector:
    """The version of an entity, from those of its states: each event is in one of them."""
    found: Vector = {}
    for vector in vectors:
        for name, count in vector.items():
            found[name] = found.get(name, 0) + count
    return found


def includes(version: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether who has seen `version` has seen all of `other`."""
    return all(version.get(name, 0) >= count for name, count in other.items())


def least(version: Mapping[str, int], other: Mapping[str, int]) -> Vector:
    """What both have seen."""
    return {name: min(count, other[name]) for name, count in version.items() if name in other}
