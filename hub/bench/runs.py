"""The measurements: each takes a hub and returns its figures."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from hub.bench.figures import ratio
from hub.bench.load_process import LoadProcess
from hub.bench.raw import LoadError
from hub.bench.target import Target
from schemas.registry import EVENT_TYPES

_SUBSCRIBERS: Final = "hub.bench.subscribers"
_PUBLISHERS: Final = "hub.bench.publishers"
_CONSUMER: Final = "consumers.bench"
_DESK: Final = "consumers.offline.bench"
_BATCH: Final = 200
_TICK_S: Final = 0.005
_SAMPLED: Final = 32
"""Connections whose every latency is taken; the others are counted."""
ONE_SET: Final = (("reservation.*",),)


def pattern_sets(count: int) -> list[list[str]]:
    """`count` different subscriptions that all get every event of the load."""
    others = [f"{name}.*" for name in EVENT_TYPES if name != "reservation"]
    others += [f"{name}.{action}" for name, kind in EVENT_TYPES.items() for action in kind.actions]
    sets = []
    for number in range(count):
        chosen = [pattern for bit, pattern in enumerate(others) if number >> bit & 1]
        sets.append(["reservation.*", *chosen])
    return sets


def fanout(
    hub: Target,
    *,
    subscribers: int,
    rate: float,
    seconds: float,
    warm_s: float,
    event_bytes: int,
    sets: Sequence[Sequence[str]] = ONE_SET,
    one_by_one: bool = False,
) -> dict[str, Any]:
    """`rate` events a second to every one of `subscribers`; with `one_by_one` each in a request of its own."""
    pad, stored_bytes = hub.fit(event_bytes)
    sample = 1 if one_by_one else max(1, subscribers // _SAMPLED)
    reading = {"count": subscribers, "sets": sets, "sample": sample, "warm_s": warm_s, "seconds": seconds}
    writing = {
        "way": "paced",
        "connections": 4,
        "rate": rate,
        "seconds": warm_s + seconds + 0.2,
        "tick_s": 0.0 if one_by_one else _TICK_S,
        "pad": pad,
    }
    with (
        LoadProcess(_SUBSCRIBERS, hub.address | reading) as readers,
        LoadProcess(_PUBLISHERS, hub.address | writing) as writers,
    ):
        readers.until_ready()
        writers.until_ready()
        used, begun = hub.processor_s(), time.monotonic()
        readers.go()
        writers.go()
        found = readers.result()
        busy = None if used is None else ((hub.processor_s() or 0.0) - used) / (time.monotonic() - begun)
        published = writers.result()
    expected = rate * subscribers
    return {
        "subscribers": subscribers,
        "sets": min(len(sets), subscribers),
        "rate": rate,
        "event_bytes": stored_bytes,
        "published_per_s": published["published_per_s"],
        **found,
        "of_what_was_asked": ratio(found["deliveries_per_s"], expected),
        "hub_processors": None if busy is None else round(busy, 3),
        "processor_us_per_1000_deliveries": (
            None if busy is None or not found["deliveries_per_s"] else round(busy / found["deliveries_per_s"] * 1e9, 1)
        ),
    }


def fanout_of_sets(hub: Target, sets: int, **settings: Any) -> dict[str, Any]:
    """One subscription for all, then `sets` different ones, on the same hub; the second as ratios of the first."""
    one = fanout(hub, **settings)
    if sets <= 1:
        return one
    many = fanout(hub, sets=pattern_sets(sets), **settings)
    names = ("deliveries_per_s", "p50_ms", "p99_ms", "p999_ms", "processor_us_per_1000_deliveries")
    return {"one_set": one, "many_sets": many, "many_to_one": {name: ratio(many[name], one[name]) for name in names}}


def connections(hub: Target, *, count: int) -> dict[str, Any]:
    """Memory of `count` connections that subscribe and get nothing."""
    hub.fit(0)
    before = hub.resident_bytes()
    reading = {"count": count, "sets": [["alert.*"]], "sample": 1, "warm_s": 0.0, "seconds": 1.0}
    begun = time.monotonic()
    with LoadProcess(_SUBSCRIBERS, hub.address | reading) as readers:
        readers.until_ready()
        took = time.monotonic() - begun
        readers.go()
        found = readers.result()
        after = hub.resident_bytes()
    grown = None if before is None or after is None else after - before
    return {
        "connections": found["connections"],
        "closed": found["closed"],
        "connected_per_s": round(count / took),
        "resident_mib_before": None if before is None else round(before / 2**20, 1),
        "resident_mib": None if after is None else round(after / 2**20, 1),
        "bytes_a_connection": None if grown is None else round(grown / count),
    }


def publish(hub: Target, *, batch: int, connections: int, seconds: float, event_bytes: int) -> dict[str, Any]:
    """As many events as the hub takes: in batches over HTTP, then over WebSockets."""
    pad, stored_bytes = hub.fit(event_bytes)
    several = {"connections": connections, "seconds": seconds, "pad": pad}
    http = _published(hub, several | {"way": "batches", "batch": batch})
    socket = _published(hub, several | {"way": "socket"})
    return {
        "event_bytes": stored_bytes,
        "connections": connections,
        "http": http,
        "websocket": socket,
        "websocket_to_http": ratio(socket["published_per_s"], http["published_per_s"]),
    }


def publish_alone(hub: Target, *, seconds: float, event_bytes: int) -> dict[str, Any]:
    """How long one event takes when nobody else publishes, over HTTP and over a WebSocket."""
    pad, stored_bytes = hub.fit(event_bytes)
    several = {"seconds": seconds, "pad": pad}
    http = _published(hub, several | {"way": "lone"})
    socket = _published(hub, several | {"way": "lone socket"})
    return {
        "event_bytes": stored_bytes,
        "http": http,
        "websocket": socket,
        "websocket_to_http_p50": ratio(socket["p50_ms"], http["p50_ms"]),
    }


def _published(hub: Target, asked: dict[str, Any]) -> dict[str, Any]:
    with LoadProcess(_PUBLISHERS, hub.address | asked) as writers:
        writers.until_ready()
        writers.go()
        return writers.result()


def consume(hub: Target, *, events: int, event_bytes: int, beside: Sequence[Path]) -> dict[str, Any]:
    """How fast a `StreamConsumer` with a typed handler that does nothing works off `events` that wait for it.

    `beside`: programs that do the same work in their own way on the same server, called with `--url` and `--events`,
    that print their figures as a JSON line with `consumed_per_s`.

    Raises:
        LoadError: the log server is not known, or a program failed.
    """
    if hub.redis_url is None:
        raise LoadError("a consumer reads from Redis: this measures a hub of its own alone")
    pad, stored_bytes = hub.fit(event_bytes)
    # `fit` has published one already.
    filled = _published(
        hub,
        {"way": "batches", "batch": _BATCH, "connections": 2, "seconds": 3600.0, "pad": pad, "events": events - 1},
    )
    found = {"events": events, "event_bytes": stored_bytes, "published_per_s": filled["published_per_s"]}
    ours = _figures_of([sys.executable, "-m", _CONSUMER], hub.redis_url, events)
    found["stream_consumer"] = ours
    for program in beside:
        theirs = _figures_of([sys.executable, str(program)], hub.redis_url, events)
        found[program.stem] = theirs
        found[f"to_{program.stem}"] = ratio(ours["consumed_per_s"], theirs["consumed_per_s"])
    return found


def sync(hub: Target, *, items: Sequence[int], records: int) -> dict[str, Any]:
    """How fast a desk works without the hub, comes back with so many items waiting, and begins empty.

    Raises:
        LoadError: the desk's program failed, or there are more sizes than the hub has tenants for.
    """
    if len(items) >= len(hub.tenants):
        raise LoadError(f"at most {len(hub.tenants) - 1} sizes: each is a tenant's, and the snapshot is another's")
    command = [sys.executable, "-m", _DESK, "--token", hub.token, "--tenants", ",".join(hub.tenants)]
    command += ["--items", ",".join(map(str, items)), "--records", str(records)]
    return _output_of([*command, "--url", f"ws://{hub.host}:{hub.port}/ws"])


def _figures_of(command: Sequence[str], redis_url: str, events: int) -> dict[str, Any]:
    return _output_of([*command, "--url", redis_url, "--events", str(events)])


def _output_of(command: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0 or not done.stdout.strip():
        raise LoadError(f"{' '.join(command[:3])} ended with {done.returncode}")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures
