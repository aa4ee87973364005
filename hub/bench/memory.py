"""The store's measurements: archiving, reading past the stream's beginning, looking things up among millions."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx
import orjson
from sqlalchemy import func, select

from hub.bench.figures import ratio
from hub.bench.load_process import LoadProcess
from hub.bench.raw import LoadError
from hub.bench.runs import fanout
from hub.bench.target import Target, own_hub
from hub.store.database import Database, store_url
from hub.store.tables import projections, tenants

_PUBLISHERS: Final = "hub.bench.publishers"
_FOLLOWER: Final = "hub.bench.follower"
_PATIENCE_S: Final = 600.0
_COMMON: Final = {"HUB_GROUPS": "archiver", "HUB_PUBLISH_PER_S": "10000000"}
_UNARCHIVED: Final = _COMMON | {"HUB_ROLES": "gateway"}
ARCHIVED: Final = _COMMON | {"HUB_ROLES": "gateway,archiver"}
_METRIC: Final = re.compile(r"^(\w+)(?:\{[^}]*\})? ([0-9.e+-]+)$", re.M)


def metrics(hub: Target) -> dict[str, float]:
    """The hub's metrics, summed over their labels."""
    page = httpx.get(f"http://{hub.host}:{hub.port}/metrics", timeout=30).text
    found: dict[str, float] = {}
    for name, value in _METRIC.findall(page):
        found[name] = found.get(name, 0.0) + float(value)
    return found


def until(hub: Target, condition: Callable[[dict[str, float]], bool]) -> None:
    """Wait for the metrics to say so.

    Raises:
        LoadError: they do not within ten minutes.
    """
    deadline = time.monotonic() + _PATIENCE_S
    while not condition(metrics(hub)):
        if time.monotonic() > deadline:
            raise LoadError("the hub did not finish in time")
        time.sleep(0.05)


def until_projected(settings: dict[str, str], directory: Path) -> None:
    """Wait until every archived event is in its entity's state."""
    asyncio.run(_projected(settings.get("HUB_STORE_URL"), directory / "data"))


async def _projected(url: str | None, data_dir: Path) -> None:
    """Until every archived event is in its entity's state."""
    database = Database(store_url(url, data_dir))
    archived = select(func.sum(tenants.c.position)).scalar_subquery()
    projected = select(func.coalesce(func.sum(projections.c.position), 0)).scalar_subquery()
    try:
        async with asyncio.timeout(_PATIENCE_S):
            left = 1
            while left:
                async with database.reading() as connection:
                    left = int(await connection.scalar(select(archived - projected)) or 0)
                await asyncio.sleep(0.2 if left else 0)
    finally:
        await database.aclose()


def fill(hub: Target, events: int, pad: int) -> None:
    """Publish so many events as fast as the hub takes them."""
    asked = {"way": "batches", "batch": 200, "connections": 2, "seconds": 3600.0, "pad": pad, "events": events}
    with LoadProcess(_PUBLISHERS, hub.address | asked) as writers:
        writers.until_ready()
        writers.go()
        writers.result()


def simulate(hub: Target, directory: Path, bookings: Path) -> None:
    """Publish the real bookings of a file."""
    command = [sys.executable, "-m", "hub.cli.main", "simulate", "--bookings", str(bookings), "--json"]
    place = ["--url", f"http://{hub.host}:{hub.port}", "--data-dir", str(directory / "data")]
    done = subprocess.run([*command, *place], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LoadError(f"the simulation failed: {done.stderr[-500:]}")


def archive(
    directory: Path, settings: dict[str, str], *, events: int, event_bytes: int, bookings: Path | None
) -> dict[str, Any]:
    """How fast a log full of events is archived, and what it takes."""
    with own_hub(directory, _UNARCHIVED | settings) as hub:
        if bookings is not None:
            simulate(hub, directory, bookings)
        else:
            pad, _ = hub.fit(event_bytes)
            fill(hub, events - 1, pad)
        sequences = httpx.get(
            f"http://{hub.host}:{hub.port}/api/v1/tenants", headers={"Authorization": f"Bearer {hub.all_tenants}"}
        ).json()["tenants"]
    waiting = sum(tenant["sequence"] for tenant in sequences)
    with own_hub(directory, ARCHIVED | settings) as hub:
        until(hub, lambda now: now["hub_events_archived_total"] > 0)
        first, begun, used = metrics(hub)["hub_events_archived_total"], time.perf_counter(), hub.processor_s() or 0.0
        until(hub, lambda now: now["hub_events_archived_total"] >= waiting)
        elapsed = time.perf_counter() - begun
        busy = ((hub.processor_s() or 0.0) - used) / elapsed
    database = directory / "data" / "store.db"
    size = database.stat().st_size if database.exists() else None
    return {
        "events": waiting,
        "archived_per_s": round((waiting - first) / elapsed),
        "hub_processors": round(busy, 2),
        "file_mib": None if size is None else round(size / 2**20, 1),
        "bytes_an_event": None if size is None else round(size / waiting),
    }


def publish_beside(
    directory: Path, settings: dict[str, str], *, rate: float, seconds: float, event_bytes: int
) -> dict[str, Any]:
    """How long a lone publish takes beside others at `rate`, with the archiver and without, in turns."""
    rounds: dict[str, list[dict[str, Any]]] = {"without": [], "with": []}
    warm = min(1.0, seconds)
    for number in range(3):
        for name, roles in (("without", _UNARCHIVED), ("with", ARCHIVED)):
            with own_hub(directory / f"{name}-{number}", roles | settings) as hub:
                pad, _ = hub.fit(event_bytes)
                paced = {"way": "paced", "connections": 2, "rate": rate, "seconds": seconds + 3 * warm, "tick_s": 0.005}
                with (
                    LoadProcess(_PUBLISHERS, hub.address | paced | {"pad": pad}) as others,
                    LoadProcess(_PUBLISHERS, hub.address | {"way": "lone", "seconds": seconds, "pad": pad}) as lone,
                ):
                    others.until_ready()
                    lone.until_ready()
                    others.go()
                    time.sleep(warm)
                    lone.go()
                    rounds[name].append(lone.result())
                    others.result()
    middle = {name: sorted(runs, key=lambda one: one["p99_ms"])[len(runs) // 2] for name, runs in rounds.items()}
    return {
        "rate": rate,
        **middle,
        "p50_ratio": ratio(middle["with"]["p50_ms"], middle["without"]["p50_ms"]),
        "p99_ratio": ratio(middle["with"]["p99_ms"], middle["without"]["p99_ms"]),
        "every_p99_ms": {name: [one["p99_ms"] for one in runs] for name, runs in rounds.items()},
    }


def catch_up(
    directory: Path,
    settings: dict[str, str],
    *,
    events: int,
    subscribers: int,
    rate: float,
    seconds: float,
    event_bytes: int,
) -> dict[str, Any]:
    """One subscriber from the earliest on, half of it trimmed from the stream; and what live subscribers notice."""
    half = events // 2
    with own_hub(directory, ARCHIVED | settings) as hub:
        pad, _ = hub.fit(event_bytes)
        fill(hub, half - 1, pad)
        until(hub, lambda now: now["hub_store_lag_events"] == 0 and now["hub_events_archived_total"] >= half)
    with own_hub(directory, ARCHIVED | settings | {"HUB_RETENTION_HOURS": "0.000001"}) as hub:
        # The janitor trims when it starts; its next round measures what is left.
        until(hub, lambda now: now["hub_events_trimmed_total"] >= half)
    live = {"subscribers": subscribers, "rate": rate, "seconds": seconds, "warm_s": 2.0, "event_bytes": event_bytes}
    with own_hub(directory, ARCHIVED | settings) as hub:
        fill(hub, events - half, pad)
        until(hub, lambda now: now["hub_store_lag_events"] == 0)
        until_projected(settings, directory)
        alone = _follow(hub, events)
        quiet = fanout(hub, **live)  # type: ignore[arg-type]
        with LoadProcess(_FOLLOWER, hub.address | {"events": events}) as follower:
            follower.until_ready()
            follower.go()
            beside = fanout(hub, **live)  # type: ignore[arg-type]
            shared = follower.result()
    return {
        "events": events,
        "in_archive_alone": half,
        "alone": alone,
        "beside_live_subscribers": shared,
        "live_alone": {name: quiet[name] for name in ("deliveries_per_s", "p50_ms", "p99_ms")},
        "live_beside_catch_up": {name: beside[name] for name in ("deliveries_per_s", "p50_ms", "p99_ms")},
        "live_p99_ratio": ratio(beside["p99_ms"], quiet["p99_ms"]),
    }


def _follow(hub: Target, events: int) -> dict[str, Any]:
    with LoadProcess(_FOLLOWER, hub.address | {"events": events}) as follower:
        follower.until_ready()
        follower.go()
        return follower.result()


def replay(
    directory: Path, settings: dict[str, str], *, events: int, paced_s: float, event_bytes: int
) -> dict[str, Any]:
    """The history into a file as fast as it goes, and some seconds of it at ten times their speed."""
    with own_hub(directory, ARCHIVED | settings) as hub:
        pad, _ = hub.fit(event_bytes)
        fill(hub, events - 1, pad)
        until(hub, lambda now: now["hub_store_lag_events"] == 0)
        until_projected(settings, directory)
        file = directory / "replayed.ndjson"
        command = [sys.executable, "-m", "hub.cli.main", "replay", "--to-file", str(file)]
        place = ["--url", f"http://{hub.host}:{hub.port}", "--data-dir", str(directory / "data")]
        begun = time.perf_counter()
        done = subprocess.run([*command, *place], capture_output=True, text=True, check=False)
        elapsed = time.perf_counter() - begun
        if done.returncode != 0:
            raise LoadError(f"the replay failed: {done.stderr[-500:]}")
        with file.open("rb") as lines:
            # The last line says how many there were.
            written = sum(1 for _ in lines) - 1
        size = file.stat().st_size
        cursor = httpx.get(
            f"http://{hub.host}:{hub.port}/api/v1/events",
            params={"after": "latest"},
            headers={"Authorization": f"Bearer {hub.all_tenants}"},
        ).json()["next"]
        asked = {"way": "paced", "connections": 1, "rate": 100, "seconds": paced_s, "tick_s": 0.0, "pad": pad}
        with LoadProcess(_PUBLISHERS, hub.address | asked) as writers:
            writers.until_ready()
            writers.go()
            writers.result()
        paced = _paced(hub, cursor)
    return {
        "events": written,
        "file_mib": round(size / 2**20, 1),
        "seconds": round(elapsed, 2),
        "events_per_s": round(written / elapsed),
        "at_ten_times": paced,
    }


def _paced(hub: Target, after: str) -> dict[str, Any]:
    """How long the last events take at ten times their speed, from the first of them to the last."""
    recorded: list[float] = []
    arrived: list[float] = []
    with httpx.stream(
        "GET",
        f"http://{hub.host}:{hub.port}/api/v1/replays/export",
        params={"after": after, "speed": "10"},
        headers={"Authorization": f"Bearer {hub.all_tenants}"},
        timeout=120,
    ) as lines:
        for line in lines.iter_lines():
            found = orjson.loads(line)
            if "event" in found:
                recorded.append(datetime.fromisoformat(found["event"]["recorded_at"]).timestamp())
                arrived.append(time.perf_counter())
    span, took = recorded[-1] - recorded[0], arrived[-1] - arrived[0]
    return {"events": len(recorded), "recorded_s": round(span, 3), "took_s": round(took, 3), "times": ratio(span, took)}
