"""One subscriber that reads the history from its beginning, and holds every event against the one before it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Final

import orjson

from hub.bench.load_process import serve_load
from hub.bench.raw import LoadError, open_websocket, text_frame

_EVENT: Final = re.compile(rb'"sequence":(\d+),"event":\{"event_id":"[^"]+","schema_version":\d+,"tenant_id":"([^"]+)"')
_GAP: Final = b'{"op":"gap"'


def run(asked: dict[str, Any], ready: Callable[[], None]) -> dict[str, Any]:
    """Read `events` events from the earliest on; what came, how fast, and whether anything was missing or doubled."""
    connection = open_websocket(asked["host"], asked["port"], asked["token"])
    ready()
    started = time.perf_counter()
    subscribe = {"op": "subscribe", "id": 1, "patterns": asked.get("patterns", ["*"]), "after": "earliest"}
    connection.sendall(text_frame(orjson.dumps(subscribe)))
    last: dict[bytes, int] = {}
    got = gaps = out_of_order = 0
    tail = b""
    while got < asked["events"]:
        piece = connection.recv(1 << 20)
        if not piece:
            raise LoadError(f"the hub closed the connection after {got} events")
        heard = tail + piece
        end = 0
        for found in _EVENT.finditer(heard):
            sequence, tenant = int(found[1]), found[2]
            out_of_order += sequence != last.get(tenant, 0) + 1
            last[tenant] = sequence
            got += 1
            end = found.end()
        gaps += heard.count(_GAP, max(0, len(tail) - len(_GAP) + 1))
        tail = heard[max(end, len(heard) - 400) :]
    elapsed = time.perf_counter() - started
    connection.close()
    return {
        "events": got,
        "events_per_s": round(got / elapsed),
        "gaps": gaps,
        "out_of_order": out_of_order,
        "seconds": round(elapsed, 2),
    }


if __name__ == "__main__":
    serve_load(run)
