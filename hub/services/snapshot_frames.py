"""A subscription's snapshot: for each tenant `snapshot` frames, the last with the cursor that events come after."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import orjson

from hub.core.routing import Interest
from hub.log.topology import RedisError
from hub.security.tokens import Claims
from hub.services.history import History
from hub.services.snapshots import Scope, Shown, Snapshots
from schemas.errors import FieldError, Problem
from schemas.frames import MAX_MESSAGE_BYTES, Subscribe

FRAME_BYTES: Final = MAX_MESSAGE_BYTES - 2048
"""What the entities of a frame may take; the rest of it is for the other fields."""


class _Sink(Protocol):
    def send(self, op: str, **fields: Any) -> None: ...


async def send_snapshot(
    history: History,
    sink: _Sink,
    claims: Claims,
    frame: Subscribe,
    interest: Interest,
    room: Callable[[], Awaitable[None]],
) -> dict[str, str]:
    """Send it; the cursor of each tenant, which everything after the snapshot comes after.

    `room` waits until the socket takes another frame. Cancelled, it leaves nothing behind.

    Raises:
        Problem: `after` stands beside `snapshot`; `store_unavailable`, `log_unavailable`. Frames may have been sent:
            without `subscribed` after them they are no snapshot.
    """
    for other in ("after", "replay"):
        if getattr(frame, other, None) is not None:
            error = FieldError(other, "does not go with snapshot: events follow from the snapshot's own cursors")
            raise Problem("invalid_request", f"{other} {error.message}", [error])
    scope = Scope.of(claims, wanted=frame.patterns, entities=frame.entities or ())
    snapshots = Snapshots(history)
    try:
        tenants = await history.tenants() if interest.tenants is None else interest.tenants
    except (RedisError, OSError) as failure:
        raise Problem("log_unavailable", "the log cannot be read now; subscribe again") from failure
    cursors: dict[str, str] = {}
    for tenant in sorted(tenants):
        waiting: list[Shown] = []
        size = 0
        async for shown, cursor in snapshots.walk(scope, tenant):
            for one in shown:
                taken = len(one.json())
                if waiting and size + taken > FRAME_BYTES:
                    await room()
                    _send(sink, frame, tenant, waiting, None)
                    waiting, size = [], 0
                waiting.append(one)
                size += taken
            if cursor is not None:
                await room()
                _send(sink, frame, tenant, waiting, cursor)
                cursors[tenant] = cursor
    return cursors


def _send(sink: _Sink, frame: Subscribe, tenant_id: str, shown: list[Shown], cursor: str | None) -> None:
    entities = [
        {
            "type": one.type,
            "entity": one.entity,
            "revision": one.revision,
            "sequence": one.sequence,
            "data": orjson.Fragment(one.data),
        }
        for one in shown
    ]
    last = {} if cursor is None else {"cursor": cursor}
    sink.send("snapshot", id=frame.id, tenant_id=tenant_id, entities=entities, more=cursor is None, **last)
