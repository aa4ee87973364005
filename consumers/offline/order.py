"""In which order waiting items go to the hub (R55, R61): urgent first, never out of order within an entity. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

FIRST: Final = frozenset({"CheckIn", "CheckOut", "NoShow"})
"""The models that go before all others, whatever their priority; so does a settled bill."""

_PRIORITIES: Final = {"high": 0, "medium": 1, "low": 2}
_HOLDING: Final = frozenset({"failed", "conflict", "syncing"})


class Waiting(NamedTuple):
    """What the order is decided by. `not_before` in ms of Unix time; `first`: of the most urgent kind."""

    sequence: int
    entity: str
    status: str
    first: bool
    priority: str
    amount: float
    not_before: int


def settles(model: str, operation: str, action: str | None, pays: bool) -> bool:
    """Whether an item is a settled bill. `pays`: its payload has a `payment_method`."""
    return model == "Billing" and (action == "settled" or (action is None and operation == "CREATE" and pays))


def next_up(items: Iterable[Waiting], limit: int, now_ms: int) -> list[int]:
    """The sequences of the items to send next, at most `limit`, out of all that are queued, syncing, failed or in
    conflict.

    An item is as urgent as the most urgent one that waits behind it in its entity's lane. One that failed, waits for a
    person, is on its way or may not be sent yet stops its lane, and no other.
    """
    lanes: dict[str, list[Waiting]] = {}
    for item in sorted(items):
        lanes.setdefault(item.entity, []).append(item)
    ranked: list[tuple[tuple[int, int, float, int], int]] = []
    for lane in lanes.values():
        free = len(lane)
        for place, item in enumerate(lane):
            if item.status in _HOLDING or item.not_before > now_ms:
                free = place
                break
        # What waits behind the stop cannot be hurried by hurrying what is before it.
        most: tuple[int, int, float, int] | None = None
        for item in reversed(lane[:free]):
            rank = (0 if item.first else 1, _PRIORITIES.get(item.priority, 1), -item.amount, item.sequence)
            most = rank if most is None or rank < most else most
            ranked.append((most, item.sequence))
    return [sequence for _, sequence in sorted(ranked)[:limit]]
