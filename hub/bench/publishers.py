"""The publishing side of the load, over HTTP or WebSocket; latencies run from sending to the receipt."""

from __future__ import annotations

import selectors
import time
from collections import deque
from collections.abc import Callable
from itertools import cycle
from typing import Any, Final

from hub.bench.figures import percentiles
from hub.bench.load_event import LoadEvents
from hub.bench.load_process import serve_load
from hub.bench.raw import HttpConnection, LoadError, open_websocket, text_frame

_BURST: Final = 64
_BURSTS_OPEN: Final = 4
_PUBLISHED: Final = b'"op":"published"'
_ERROR: Final = b'"op":"error"'
_MAX_BATCH: Final = 500


def run(asked: dict[str, Any], ready: Callable[[], None]) -> dict[str, Any]:
    """Set up, wait for the word, publish in the way asked for."""
    way: Callable[[dict[str, Any], LoadEvents, Callable[[], None]], dict[str, Any]] = {
        "paced": paced,
        "batches": batches,
        "socket": over_socket,
        "lone": lone,
        "lone socket": lone_over_socket,
    }[asked["way"]]
    return way(asked, LoadEvents(asked["tenants"], asked["pad"]), ready)


def _dial(asked: dict[str, Any]) -> HttpConnection:
    return HttpConnection(asked["host"], asked["port"], asked["token"])


def paced(asked: dict[str, Any], events: LoadEvents, ready: Callable[[], None]) -> dict[str, Any]:
    """`rate` events a second for `seconds`, in batches of what is due every `tick_s`; without a tick one by one."""
    connections = [_dial(asked) for _ in range(asked["connections"])]
    rate, seconds, tick_s = asked["rate"], asked["seconds"], asked["tick_s"]
    largest = _MAX_BATCH if tick_s else 1
    ready()
    sent, turn, started = 0, cycle(connections), time.perf_counter()
    while (elapsed := time.perf_counter() - started) < seconds:
        due = int(elapsed * rate) - sent
        if due <= 0:
            time.sleep(max(0.0, (sent + 1) / rate - elapsed))
            continue
        connection = next(turn)
        connection.finish()
        count = min(due, largest)
        connection.send(events.body(count))
        sent += count
        if tick_s:
            time.sleep(max(0.0, started + elapsed + tick_s - time.perf_counter()))
    for connection in connections:
        connection.finish()
    return {"published": sent, "published_per_s": round(sent / (time.perf_counter() - started), 1)}


def batches(asked: dict[str, Any], events: LoadEvents, ready: Callable[[], None]) -> dict[str, Any]:
    """Batch after batch on every connection, for `seconds` or until `events` are published."""
    connections = [_dial(asked) for _ in range(asked["connections"])]
    batch, limit = asked["batch"], asked.get("events")
    latencies: list[int] = []
    sent_at: dict[HttpConnection, int] = {}
    sent = done = 0
    with selectors.DefaultSelector() as waiting:
        for connection in connections:
            waiting.register(connection.socket, selectors.EVENT_READ, connection)
        ready()
        started = time.perf_counter()
        end = started + asked["seconds"]
        idle = list(connections)
        while True:
            while idle and time.perf_counter() < end and (limit is None or sent < limit):
                connection = idle.pop()
                count = batch if limit is None else min(batch, limit - sent)
                sent_at[connection] = time.perf_counter_ns()
                connection.send(events.body(count))
                sent += count
            if len(idle) == len(connections):
                break
            for key, _ in waiting.select():
                connection = key.data
                connection.receive()
                if not connection.waiting:
                    latencies.append(time.perf_counter_ns() - sent_at[connection])
                    idle.append(connection)
        done = sent
        elapsed = time.perf_counter() - started
    return {"published": done, "published_per_s": round(done / elapsed, 1), "batch": batch} | percentiles(latencies)


def over_socket(asked: dict[str, Any], events: LoadEvents, ready: Callable[[], None]) -> dict[str, Any]:
    """Pipelined `publish` frames on every connection for `seconds`; latencies of whole bursts."""
    opened = [open_websocket(asked["host"], asked["port"], asked["token"]) for _ in range(asked["connections"])]
    burst = b"".join(text_frame(frame) for frame in events.frames(0, _BURST))
    latencies: list[int] = []
    sent_at: list[deque[int]] = [deque() for _ in opened]
    """When the bursts were sent that are not all answered."""
    answered = [0] * len(opened)
    tails = [b""] * len(opened)
    ready()
    started = time.perf_counter()
    end = started + asked["seconds"]

    def fill(number: int) -> None:
        while len(sent_at[number]) < _BURSTS_OPEN and time.perf_counter() < end:
            sent_at[number].append(time.perf_counter_ns())
            opened[number].sendall(burst)

    with selectors.DefaultSelector() as waiting:
        for number, connection in enumerate(opened):
            waiting.register(connection, selectors.EVENT_READ, number)
            fill(number)
        while any(sent_at):
            for key, _ in waiting.select():
                number = key.data
                piece = opened[number].recv(1 << 18)
                if not piece or _ERROR in piece:
                    raise LoadError(f"publishing failed: {piece[:300]!r}")
                heard = tails[number] + piece
                before = answered[number]
                answered[number] += heard.count(_PUBLISHED)
                tails[number] = heard[-(len(_PUBLISHED) - 1) :]
                whole = answered[number] // _BURST - before // _BURST
                latencies.extend(time.perf_counter_ns() - sent_at[number].popleft() for _ in range(whole))
                fill(number)
    done = sum(answered)
    elapsed = time.perf_counter() - started
    return {"published": done, "published_per_s": round(done / elapsed, 1), "burst": _BURST} | percentiles(latencies)


def lone(asked: dict[str, Any], events: LoadEvents, ready: Callable[[], None]) -> dict[str, Any]:
    """One event at a time on one connection, for `seconds`."""
    connection = _dial(asked)

    def publish() -> None:
        connection.send(events.body(1))
        connection.finish()

    return _one_by_one(publish, asked["seconds"], ready)


def lone_over_socket(asked: dict[str, Any], events: LoadEvents, ready: Callable[[], None]) -> dict[str, Any]:
    """The same over a WebSocket."""
    opened = open_websocket(asked["host"], asked["port"], asked["token"])

    def publish() -> None:
        opened.sendall(text_frame(events.frames(0, 1)[0]))
        heard = b""
        while _PUBLISHED not in heard:
            piece = opened.recv(65536)
            heard += piece
            if not piece or _ERROR in heard:
                raise LoadError(f"publishing failed: {heard[:300]!r}")

    return _one_by_one(publish, asked["seconds"], ready)


def _one_by_one(publish: Callable[[], None], seconds: float, ready: Callable[[], None]) -> dict[str, Any]:
    publish()
    ready()
    latencies: list[int] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter_ns()
        publish()
        latencies.append(time.perf_counter_ns() - begun)
    return {"published": len(latencies)} | percentiles(latencies)


if __name__ == "__main__":
    serve_load(run)
