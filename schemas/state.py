"""The state of an entity: what the events of one type have said about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from schemas.envelope import EventType


def merged(state: Mapping[str, Any], data: Mapping[str, Any], transient: Collection[str] = ()) -> dict[str, Any]:
    """`state` after an event with this `data`; neither is changed.

    A field that is present replaces the one before as a whole, `null` removes it, an absent one stays. `transient`
    fields speak of the event alone.
    """
    after = {**state, **data}
    if None in data.values():
        for name, value in data.items():
            if value is None:
                del after[name]
    for name in transient:
        after.pop(name, None)
    return after


def following(
    kind: EventType | None, state: Mapping[str, Any] | None, action: str, data: Mapping[str, Any]
) -> dict[str, Any]:
    """`state` after an event of this kind; None: it is the entity's first."""
    if kind is None:
        return merged(state or {}, data)
    return merged(state or {}, completed(kind, state, action, data), kind.transient)


def standing(state: Mapping[str, Any] | None, revision: int) -> Mapping[str, Any] | None:
    """What the entity's event of this revision is held against, of which `state` is known; None: it is the first.

    Before one of a later revision there was something, also where it is not kept, or may not be seen.
    """
    return state or (None if revision == 1 else {})


def completed(
    kind: EventType, state: Mapping[str, Any] | None, action: str, data: Mapping[str, Any]
) -> Mapping[str, Any]:
    """What an event says, with what follows from the state before it."""
    return data if kind.reckon is None else kind.reckon(data, action, state)
