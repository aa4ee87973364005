"""`hub bench`: measure a hub on this machine; figures as one JSON line."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hub.cli.failure import CommandError

# The load's modules are imported where they are used: other commands do without the time that takes.
if TYPE_CHECKING:
    from hub.bench.target import Target

app = typer.Typer()
group = typer.Typer(
    no_args_is_help=True,
    help="Measure a hub: one of its own on a temporary directory, or the one at --url. Prints one JSON line.",
)
app.add_typer(group, name="bench")

Url = Annotated[str | None, typer.Option(help="A running hub, like http://127.0.0.1:3400")]
Token = Annotated[str | None, typer.Option(help="Its token, with publish:* and subscribe:*")]
Workers = Annotated[int, typer.Option(help="HUB_WORKERS of the hub of its own", min=1)]
Seconds = Annotated[float, typer.Option(help="How long is counted", min=0.1)]
Warm = Annotated[float, typer.Option("--warm", help="Seconds before counting begins", min=0)]
EventBytes = Annotated[
    int, typer.Option(help="Size of the event as stored; the envelope sets a least", min=0, max=50_000)
]

_UNLIMITED = {"HUB_PUBLISH_PER_S": "10000000"}


@group.command("fanout")
def fanout(
    subscribers: Annotated[int, typer.Option(help="WebSocket connections", min=1)] = 500,
    rate: Annotated[float, typer.Option(help="Events a second", min=0.1)] = 2000,
    seconds: Seconds = 8,
    warm: Warm = 3,
    sets: Annotated[int, typer.Option(help="Different subscriptions among them, beside one for all", min=1)] = 1,
    event_bytes: EventBytes = 600,
    workers: Workers = 1,
    url: Url = None,
    token: Token = None,
) -> None:
    """Events to many subscribers: deliveries a second, latency from sending to delivered."""
    from hub.bench import runs

    _measure(
        "fanout",
        lambda hub: runs.fanout_of_sets(
            hub,
            sets,
            subscribers=subscribers,
            rate=rate,
            seconds=seconds,
            warm_s=warm,
            event_bytes=event_bytes,
        ),
        url,
        token,
        workers,
    )


@group.command("latency")
def latency(
    rate: Annotated[float, typer.Option(help="Events a second, each sent alone", min=0.1)] = 100,
    subscribers: Annotated[int, typer.Option(help="WebSocket connections", min=1)] = 50,
    seconds: Seconds = 8,
    warm: Warm = 2,
    event_bytes: EventBytes = 600,
    workers: Workers = 1,
    url: Url = None,
    token: Token = None,
) -> None:
    """Publish to delivered at a modest rate; the latency of every delivery is taken."""
    from hub.bench import runs

    _measure(
        "latency",
        lambda hub: runs.fanout(
            hub,
            subscribers=subscribers,
            rate=rate,
            seconds=seconds,
            warm_s=warm,
            event_bytes=event_bytes,
            one_by_one=True,
        ),
        url,
        token,
        workers,
    )


@group.command("connections")
def connections(
    count: Annotated[int, typer.Option(help="Idle WebSocket connections", min=1)] = 5000,
    workers: Workers = 1,
) -> None:
    """Memory a connection takes, of a hub of its own."""
    from hub.bench import runs

    _measure("connections", lambda hub: runs.connections(hub, count=count), None, None, workers)


@group.command("publish")
def publish(
    lone: Annotated[bool, typer.Option("--lone", help="One event at a time: how long it takes")] = False,
    batch: Annotated[int, typer.Option(help="Events in a request", min=1, max=500)] = 200,
    connections: Annotated[int, typer.Option(help="Connections that publish", min=1)] = 4,
    seconds: Seconds = 8,
    event_bytes: EventBytes = 600,
    workers: Workers = 1,
    url: Url = None,
    token: Token = None,
) -> None:
    """Events taken a second, over HTTP and WebSocket; with --lone the time of a single one."""
    from hub.bench import runs

    def run(hub: Target) -> dict[str, Any]:
        if lone:
            return runs.publish_alone(hub, seconds=seconds, event_bytes=event_bytes)
        return runs.publish(hub, batch=batch, connections=connections, seconds=seconds, event_bytes=event_bytes)

    _measure("publish", run, url, token, workers)


@group.command("consume")
def consume(
    events: Annotated[int, typer.Option(help="Events that wait to be consumed", min=2)] = 60_000,
    event_bytes: EventBytes = 600,
    beside: Annotated[
        list[Path] | None,
        typer.Option(help="A Python program that does the same in its own way, to compare", exists=True),
    ] = None,
) -> None:
    """Events a second that a StreamConsumer works off with a typed handler that does nothing."""
    from hub.bench import runs

    _measure(
        "consume",
        lambda hub: runs.consume(hub, events=events, event_bytes=event_bytes, beside=beside or []),
        None,
        None,
        1,
    )


@group.command("sync")
def sync(
    items: Annotated[list[int] | None, typer.Option(help="Items that wait at a desk; may be repeated", min=2)] = None,
    records: Annotated[int, typer.Option(help="States that an empty desk begins with", min=0)] = 50_000,
    url: Url = None,
    token: Token = None,
) -> None:
    """A front desk: the time of a local operation, of coming back with items waiting, and of beginning empty."""
    from hub.bench import runs

    _measure("sync", lambda hub: runs.sync(hub, items=items or [1000, 10_000], records=records), url, token, 1)


Store = Annotated[str | None, typer.Option(help="HUB_STORE_URL of the hub; a SQLite file of its own if left out")]


@group.command("archive")
def archive(
    events: Annotated[int, typer.Option(help="Events that wait to be archived", min=2)] = 200_000,
    bookings: Annotated[Path | None, typer.Option(help="Real bookings instead (CSV or zip)", exists=True)] = None,
    beside: Annotated[float, typer.Option(help="Publish at this rate, with the archiver and without", min=0)] = 0,
    seconds: Seconds = 6,
    event_bytes: EventBytes = 600,
    store: Store = None,
) -> None:
    """Events archived a second; with --beside what the archiver does to a publisher's latency."""
    from hub.bench import memory

    settings = _stored(store)
    if beside:
        several = {"rate": beside, "seconds": seconds, "event_bytes": event_bytes}
        _remember("archive_beside", lambda directory: memory.publish_beside(directory, settings, **several))  # type: ignore[arg-type]
        return
    _remember(
        "archive",
        lambda directory: memory.archive(
            directory, settings, events=events, event_bytes=event_bytes, bookings=bookings and bookings.absolute()
        ),
    )


@group.command("catch-up")
def catch_up(
    events: Annotated[int, typer.Option(help="Events, half of them in the archive alone", min=2)] = 400_000,
    subscribers: Annotated[int, typer.Option(help="Live subscribers beside", min=1)] = 500,
    rate: Annotated[float, typer.Option(help="Live events a second", min=0.1)] = 100,
    seconds: Seconds = 8,
    event_bytes: EventBytes = 600,
    store: Store = None,
) -> None:
    """Events a second that one subscriber is given from the earliest on, over archive and stream."""
    from hub.bench import memory

    _remember(
        "catch-up",
        lambda directory: memory.catch_up(
            directory,
            _stored(store),
            events=events,
            subscribers=subscribers,
            rate=rate,
            seconds=seconds,
            event_bytes=event_bytes,
        ),
    )


@group.command("replay")
def replay(
    events: Annotated[int, typer.Option(help="Events of the history", min=2)] = 300_000,
    paced: Annotated[float, typer.Option(help="Seconds of it that are sent again ten times as fast", min=1)] = 20,
    event_bytes: EventBytes = 600,
    store: Store = None,
) -> None:
    """The history into a file, events a second from the command's start to its end; and the pace of ten times."""
    from hub.bench import memory

    _remember(
        "replay",
        lambda directory: memory.replay(
            directory, _stored(store), events=events, paced_s=paced, event_bytes=event_bytes
        ),
    )


@group.command("lookups")
def lookups(
    events: Annotated[int, typer.Option(help="Events of all hotels", min=10_000)] = 2_000_000,
    times: Annotated[int, typer.Option(help="Questions of each kind", min=10)] = 300,
    event_bytes: EventBytes = 600,
    store: Store = None,
) -> None:
    """Trace, entity history and snapshot of a small hotel among the events of many: how long an answer takes."""
    from hub.bench import lookups as measured

    _remember(
        "lookups",
        lambda directory: measured.lookups(
            directory, _stored(store), events=events, times=times, event_bytes=event_bytes
        ),
    )


@group.command("webhooks")
def webhooks(
    tenants: Annotated[int, typer.Option(help="Tenants whose events are published in turn", min=1)] = 20,
    endpoints: Annotated[int, typer.Option(help="Endpoints of each", min=1, max=100)] = 10,
    hanging: Annotated[int, typer.Option(help="Of all endpoints so many never answer", min=0)] = 20,
    failing: Annotated[int, typer.Option(help="So many answer 500", min=0)] = 20,
    flapping: Annotated[int, typer.Option(help="So many fail for two seconds and work for two", min=0)] = 10,
    rate: Annotated[float, typer.Option(help="Events a second", min=0.1)] = 50,
    seconds: Seconds = 30,
    warm: Warm = 3,
    events: Annotated[
        int, typer.Option(help="Events published at once afterwards, to endpoints that work", min=1)
    ] = 2000,
    event_bytes: EventBytes = 600,
    store: Store = None,
) -> None:
    """Publish to received at webhook endpoints beside others that hang, fail and flap; then as many as it sends."""
    from hub.bench import webhooks as measured

    fleet = measured.Fleet(tenants, endpoints, hanging, failing, flapping)
    _remember(
        "webhooks",
        lambda directory: measured.webhooks(
            directory,
            _stored(store),
            fleet,
            rate=rate,
            seconds=seconds,
            warm_s=warm,
            events=events,
            event_bytes=event_bytes,
        ),
    )


@group.command("reports")
def reports(
    events: Annotated[
        int, typer.Option(help="Events of the hotel, in little more than a month", min=10_000)
    ] = 2_000_000,
    times: Annotated[int, typer.Option(help="Reports of each kind", min=1)] = 5,
    subscribers: Annotated[int, typer.Option(help="Live subscribers beside; 0: none", min=0)] = 500,
    rate: Annotated[float, typer.Option(help="Live events a second", min=1)] = 100,
    seconds: Annotated[float, typer.Option(min=1)] = 20,
    store: Annotated[str | None, typer.Option("--store-url", help="An empty database; SQLite if left out")] = None,
) -> None:
    """A large hotel's facts, events a second, and its reports: how long each takes, and what live subscribers notice of
    monthly ones."""
    from hub.bench import reports as measured

    several = {"events": events, "times": times, "subscribers": subscribers, "rate": rate, "seconds": seconds}
    _remember("reports", lambda directory: measured.reports(directory, _stored(store), **several))  # type: ignore[arg-type]


def _stored(store: str | None) -> dict[str, str]:
    return {} if store is None else {"HUB_STORE_URL": store}


def _remember(name: str, run: Callable[[Path], dict[str, Any]]) -> None:
    """Measure with hubs one after another on one data directory."""
    from hub.bench.raw import LoadError
    from hub.bench.target import raise_file_limit
    from hub.telemetry import configure_logging

    raise_file_limit()
    configure_logging("warning", "auto")
    try:
        with tempfile.TemporaryDirectory(prefix="hub-bench-") as directory:
            found = run(Path(directory))
    except LoadError as error:
        raise CommandError(str(error)) from error
    sys.stdout.write(json.dumps({"bench": name} | found) + "\n")


def _measure(
    name: str, run: Callable[[Target], dict[str, Any]], url: str | None, token: str | None, workers: int
) -> None:
    from hub.bench.raw import LoadError
    from hub.bench.target import target

    try:
        with target(url, token, workers=workers, settings=_UNLIMITED) as hub:
            found = run(hub)
    except LoadError as error:
        raise CommandError(str(error)) from error
    sys.stdout.write(json.dumps({"bench": name, "workers": workers} | found) + "\n")
