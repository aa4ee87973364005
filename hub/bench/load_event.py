"""The event that the load consists of: encoded once, its time patched in before every send."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Final

import orjson

MARKER: Final = b"@T"
_STAMP: Final = MARKER + b"0" * 19
STAMPED: Final = re.compile(rb"@T(\d{19})")
"""The time of sending in whatever arrives: Unix time in nanoseconds."""
STAMP_BYTES: Final = len(_STAMP)
ENTITIES: Final = 500


def needle() -> bytes:
    """What counts as one event in a stream of bytes: the marker and the digits that will not change for days."""
    return MARKER + str(time.time_ns())[:4].encode()


def _event(number: int, tenant: str, pad: int) -> bytes:
    return orjson.dumps(
        {
            "tenant_id": tenant,
            "type": "reservation",
            "action": "created",
            "data": {
                "reservation_id": f"R{number % ENTITIES:03d}",
                "room_type": "twin",
                "checkin_date": "2026-07-15",
                "checkout_date": "2026-07-17",
                "total_amount": 90,
                "status": "inquiry",
                "origin": "ota",
                "special_requests": _STAMP.decode() + "x" * pad,
            },
        }
    )


class LoadEvents:
    """Bodies and frames of the events of some tenants, `pad` bytes longer than they need to be."""

    def __init__(self, tenants: Sequence[str], pad: int) -> None:
        self._events = [_event(number, tenants[number % len(tenants)], pad) for number in range(ENTITIES)]
        self._batches: dict[int, bytes] = {}

    def body(self, count: int) -> bytes:
        """The body of `POST /api/v1/events` for `count` events sent now; one alone is not wrapped."""
        whole = self._batches.get(count)
        if whole is None:
            events = self._events[:count]
            whole = events[0] if count == 1 else b'{"events":[' + b",".join(events) + b"]}"
            self._batches[count] = whole
        return whole.replace(_STAMP, MARKER + b"%d" % time.time_ns())

    def frames(self, first: int, count: int) -> list[bytes]:
        """The messages that publish `count` events over a WebSocket; `ref` counts from `first`."""
        stamp = MARKER + b"%d" % time.time_ns()
        return [
            b'{"op":"publish","ref":%d,"event":%b}' % (ref, self._events[ref % ENTITIES].replace(_STAMP, stamp))
            for ref in range(first, first + count)
        ]
