"""The state of an entity: what the events of one type have said about it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any


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
