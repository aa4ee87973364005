"""Version vectors (R75): which events of an entity somebody had seen.

An entity's version counts its events by who made them. The hub puts the events of an entity into one order, so what
it holds only grows; a desk that works offline names the version it had seen, and what others added since is what it
did not know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

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


def author(event: Any) -> str | None:
    """Who made an event; None of what is none: no state counts it (`hub.core.projection.Folding.add`)."""
    try:
        fits = (
            type(event["data"]) is dict
            and type(event["schema_version"]) is int
            and type(event["revision"]) is int
            and frozenset(event["targets"]) is not None
        )
    except (KeyError, TypeError):
        return None
    return actor(event) if fits else None


def tally(bodies: Iterable[bytes]) -> Vector:
    """Who made how many of these envelopes; one that lies elsewhere, with an empty body, is not counted."""
    found: Vector = {}
    for body in bodies:
        try:
            name = author(orjson.loads(body)) if body else None
        except ValueError:
            continue
        if name is not None:
            found[name] = found.get(name, 0) + 1
    return found


def total(vectors: Iterable[Mapping[str, int]]) -> Vector:
    """The version of an entity, from those of its states: each event is in one of them."""
    found: Vector = {}
    for vector in vectors:
        for name, count in vector.items():
            found[name] = found.get(name, 0) + count
    return found


def without(version: Mapping[str, int], others: Mapping[str, int]) -> Vector:
    """The version before these events of the entity, by who made them.

    Which of them were projected before versions were kept, nobody knows: those that the version does not count by name.
    """
    found = dict(version)
    for name, count in others.items():
        named = min(count, found.get(name, 0))
        for of, taken in ((name, named), (_EARLIER, min(count - named, found.get(_EARLIER, 0)))):
            if taken and found[of] == taken:
                del found[of]
            elif taken:
                found[of] -= taken
    return found


def exact(version: Mapping[str, int]) -> bool:
    """Whether all of its events are counted by who made them."""
    return _EARLIER not in version


def includes(version: Mapping[str, int], other: Mapping[str, int]) -> bool:
    """Whether who has seen `version` has seen all of `other`."""
    return all(version.get(name, 0) >= count for name, count in other.items())


def least(version: Mapping[str, int], other: Mapping[str, int]) -> Vector:
    """What both have seen."""
    return {name: min(count, other[name]) for name, count in version.items() if name in other}
