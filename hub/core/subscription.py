"""One subscription and how far it has come. Decisions only; `hub.services.feed` moves the bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hub.core.routing import Interest
from schemas.cursor import StreamId


@dataclass(slots=True)
class Subscription:
    """What was asked for, where it begins and what it has.

    `begin` is by partition, `begin_of` by tenant where that differs: only later events are delivered. `at` is by
    partition how far it has been served while it is not live; a live one has all that the dispatcher has routed.
    """

    id: int | str
    interest: Interest
    begin: list[StreamId]
    begin_of: dict[str, StreamId]
    at: list[StreamId]
    last_begin: list[StreamId]
    """By partition the latest of its beginnings: it goes live when the dispatcher has been there."""
    name: str | None = None
    batch_ms: int = 0
    changes_only: bool = False
    live: bool = False
    left_group: bool = False
    """It was live before: all it has to be sent lies after `at`."""
    sequences: dict[str, int] = field(default_factory=dict)
    """The tenants' last sequences at `at`, where they are known."""
    epochs: dict[str, int] = field(default_factory=dict)
    """The epochs those sequences were counted in, where they are known."""
    acked: dict[str, int] = field(default_factory=dict)
    """The tenants' last acknowledged sequences, where it has a name."""

    def wants(self, partition: int, id: StreamId, tenant_id: str, type: str, action: str, entity: str) -> bool:
        """Whether an event is one of its own."""
        if id <= self.begin_of.get(tenant_id, self.begin[partition]):
            return False
        return self.interest.wants(tenant_id, type, action, entity)

    def has(self, partition: int, id: StreamId) -> bool:
        """Whether it has been served up to this entry."""
        return self.live or id <= self.at[partition]


def due(
    behind: Iterable[Subscription],
    everyone: Iterable[Subscription],
    partition: int,
    id: StreamId,
    tenant_id: str,
    type: str,
    action: str,
    entity: str,
) -> bool:
    """Whether a connection that is catching up is sent this event now.

    It is when one of the subscriptions `behind` asks for it, unless another one that asks for it too has been served
    past it: an event that matches several subscriptions of a connection arrives once.
    """
    asked = False
    for one in behind:
        if not one.has(partition, id) and one.wants(partition, id, tenant_id, type, action, entity):
            asked = True
            break
    return asked and not any(
        one.has(partition, id) and one.wants(partition, id, tenant_id, type, action, entity) for one in everyone
    )
