"""Which items the hub took and lost again: its log lost its end, events that were answered for are gone. Pure.

Changes and states that a desk gets are archived at the hub, and only what is not archived yet can be lost. So an item
whose event came to the desk is safe for good, and never sent again: of one that is older than what the hub remembers,
a second event would be made. What can be lost are the answered items whose event has not come. Where nothing is left to
pull, their events lie at a later place, which there is not; or the history went on from an earlier place in another
epoch. An item that is sent again though its event is there is answered `duplicate`, so a wrong guess does no harm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schemas.cursor import Cursor
from schemas.errors import Problem


def place_of(cursor: str | None) -> Cursor | None:
    """Where a cursor points; None where it cannot be read."""
    if cursor is None:
        return None
    try:
        return Cursor.decode(cursor)
    except Problem:
        return None


def turned(before: str | None, now: str | None) -> bool:
    """Whether the history is another one now than the desk knew before; none before is another one, too."""
    known, found = place_of(before), place_of(now)
    return found is not None and (known is None or known.epoch != found.epoch)


def of_another(receipt: Mapping[str, Any], now: str | None) -> bool:
    """Whether a receipt was given in another epoch than that of a cursor."""
    given, found = place_of(receipt.get("cursor")), place_of(now)
    return given is not None and found is not None and given.epoch != found.epoch


def beyond(receipt: Mapping[str, Any], now: str | None) -> bool:
    """Whether a receipt's event lies at a later place than a cursor."""
    given, found = place_of(receipt.get("cursor")), place_of(now)
    return given is not None and found is not None and given.id > found.id


def lacks(version: Mapping[str, int], receipt: Mapping[str, Any], device_id: str) -> bool:
    """Whether a state with this version of its entity lacks the item that a receipt was given for.

    A device's items of an entity are taken in their order, and of the end that was lost none is left. So a state has an
    item if it counts as many of the device as there were with it.
    """
    told = receipt.get("version") or {}
    return bool(version.get(device_id, 0) < told.get(device_id, 1))
