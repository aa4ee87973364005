"""Webhooks under load: many endpoints, some of which hang, fail or flap; what the healthy ones notice of those."""

from __future__ import annotations

import socket
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from hub.bench.figures import percentiles
from hub.bench.load_event import MARKER, STAMP_BYTES
from hub.bench.load_process import LoadProcess
from hub.bench.raw import HttpConnection, LoadError
from hub.bench.target import Target, own_hub
from hub.bench.webhook_receivers import Kept
from hub.security.tokens import Tokens, own_key

_RECEIVERS: Final = "hub.bench.webhook_receivers"
_SUBSCRIBERS: Final = "hub.bench.subscribers"
SYSTEM: Final = "hotel-member"
TURN_S: Final = 2.0
"""Endpoints that flap fail for so long and then work for so long."""
ENTITIES: Final = 10
"""Of each tenant: each has an event again and again."""
_BATCH: Final = 200
_SETTLE_S: Final = 60.0
_LIVE: Final = 10
"""WebSocket subscribers beside."""
_STAMP: Final = MARKER + b"0" * (STAMP_BYTES - len(MARKER))
_ID: Final = "00000000-0000-4000-8000-000000000000"
_OPEN: Final = {"HUB_WEBHOOK_ALLOW_HOSTS": "127.0.0.1", "HUB_PUBLISH_PER_S": "10000000"}


@dataclass(frozen=True, slots=True)
class Fleet:
    """Which endpoints there are: so many a tenant, and among all of them so many that do not do as they should."""

    tenants: int = 20
    endpoints: int = 10
    hanging: int = 20
    failing: int = 20
    flapping: int = 10
    prefix: str = "webhooks"

    @property
    def names(self) -> list[str]:
        """The tenants. Fleets of different prefixes have nothing in common."""
        return [f"{self.prefix}-{number}" for number in range(self.tenants)]

    def places(self) -> list[tuple[str, str]]:
        """Tenant and path of each endpoint; what is wrong is spread over the tenants.

        Raises:
            LoadError: there are more that do not work than endpoints.
        """
        total = self.tenants * self.endpoints
        kinds = ["hang"] * self.hanging + ["fail"] * self.failing + ["flap"] * self.flapping
        if len(kinds) > total:
            raise LoadError(f"{len(kinds)} endpoints cannot be broken: there are {total}")
        kinds += ["ok"] * (total - len(kinds))
        return [(self.names[number % self.tenants], f"/{kind}/{number}") for number, kind in enumerate(kinds)]


class Events:
    """Events of the tenants in turn, each of one of a few reservations, so that every one of those has many."""

    def __init__(self, tenants: Sequence[str], pad: int) -> None:
        self._events = [_event(tenant, f"W{number}", pad) for number in range(ENTITIES) for tenant in tenants]
        self._tenants = tenants
        self._made = 0
        self.sent: dict[str, tuple[str, int]] = {}
        """Of each event, by its id: the tenant, and when it was sent, Unix time in ns."""

    def next(self) -> bytes:
        """The next one, sent now."""
        number, self._made = self._made, self._made + 1
        event_id, now = str(uuid.uuid4()), time.time_ns()
        self.sent[event_id] = (self._tenants[number % len(self._tenants)], now)
        raw = self._events[number % len(self._events)]
        return raw.replace(_ID.encode(), event_id.encode()).replace(_STAMP, MARKER + b"%d" % now)


def _event(tenant: str, reservation: str, pad: int) -> bytes:
    return orjson.dumps(
        {
            "event_id": _ID,
            "tenant_id": tenant,
            "type": "reservation",
            "action": "created",
            "data": {
                "reservation_id": reservation,
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


class _Endpoints:
    """The endpoints' process as this one sees it."""

    def __init__(self, directory: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._file = directory / "received.ndjson"
        self.load = LoadProcess(_RECEIVERS, {"port": self.port, "turn_s": TURN_S, "file": str(self._file)})

    def begin(self) -> None:
        """Listen."""
        self.load.until_ready()
        self.load.go()

    def await_taken(self, wanted: int) -> int:
        """Wait until the healthy ones have so many, or for a minute without a further one; how many they have."""
        taken, deadline = -1, time.monotonic() + _SETTLE_S
        while taken < wanted and time.monotonic() < deadline:
            now = int(httpx.get(f"http://127.0.0.1:{self.port}/taken").text)
            if now != taken:
                taken, deadline = now, time.monotonic() + _SETTLE_S
            time.sleep(0.05)
        return taken

    def end(self) -> list[Kept]:
        """Stop listening; everything that came, in its order."""
        httpx.post(f"http://127.0.0.1:{self.port}/end")
        self.load.result()
        with self._file.open("rb") as lines:
            return [Kept(*orjson.loads(line)) for line in lines]


class _Run:
    """One measurement: the endpoints of a fleet, as they were made on a hub, and what they get."""

    def __init__(self, hub: Target, directory: Path, fleet: Fleet, pad: int, stack: ExitStack) -> None:
        self.hub = hub
        self.fleet = fleet
        tokens = Tokens([own_key(directory / "data")])
        self.publishing = tokens.issue("hotel-pms", fleet.names, ["publish:*", "subscribe:*"])
        self._managing = {"Authorization": f"Bearer {tokens.issue(SYSTEM, fleet.names, ['subscribe:*'])}"}
        self._api = stack.enter_context(httpx.Client(base_url=f"http://{hub.host}:{hub.port}/api/v1", timeout=30))
        self.endpoints = _Endpoints(directory)
        stack.enter_context(self.endpoints.load)
        self.endpoints.begin()
        self.events = Events(fleet.names, pad)
        self._ids: list[str] = []
        for tenant, path in fleet.places():
            url = f"http://127.0.0.1:{self.endpoints.port}{path}"
            self._ids.append(self._make({"url": url, "tenant_id": tenant, "patterns": ["reservation.*"]}))

    def _make(self, asked: dict[str, Any]) -> str:
        answer = self._api.post("/webhooks", json=asked, headers=self._managing)
        if answer.status_code != 201:
            raise LoadError(f"no endpoint: {answer.text[:500]}")
        return str(answer.json()["id"])

    def waiting(self) -> Counter[str]:
        """How many events endpoints of each kind are owed."""
        answer = self._api.get("/webhooks", headers=self._managing).raise_for_status()
        found: Counter[str] = Counter()
        for one in answer.json()["webhooks"]:
            found[_kind(httpx.URL(one["url"]).path)] += one["waiting"]
        return found

    def await_healthy(self) -> None:
        """Wait until the endpoints that work have what they are owed."""
        healthy = Counter(tenant for tenant, path in self.fleet.places() if _kind(path) == "ok")
        self.endpoints.await_taken(sum(healthy[tenant] for tenant, _ in self.events.sent.values()))

    def end(self) -> list[Kept]:
        """Remove the endpoints again; everything that came."""
        for id in self._ids:
            self._api.delete(f"/webhooks/{id}", headers=self._managing).raise_for_status()
        return self.endpoints.end()

    def healthy(self, kept: Iterable[Kept], timed: Mapping[str, tuple[str, int]]) -> dict[str, Any]:
        """What the endpoints that work were sent, against what they are owed: each event of their tenant once."""
        got: defaultdict[str, Counter[str]] = defaultdict(Counter)
        latencies = []
        for one in kept:
            if _kind(one.path) == "ok":
                got[one.path][one.webhook_id] += 1
                if one.webhook_id in timed and got[one.path][one.webhook_id] == 1:
                    latencies.append(one.at_ns - timed[one.webhook_id][1])
        owed: defaultdict[str, set[str]] = defaultdict(set)
        for event_id, (tenant, _) in self.events.sent.items():
            owed[tenant].add(event_id)
        places = [(tenant, path) for tenant, path in self.fleet.places() if _kind(path) == "ok"]
        return {
            "endpoints": len(places),
            "received": sum(found.total() for found in got.values()),
            "missing": sum(len(owed[tenant] - got[path].keys()) for tenant, path in places),
            "doubled": sum(found.total() - len(found) for found in got.values()),
            "foreign": sum(len(got[path].keys() - owed[tenant]) for tenant, path in places),
            **percentiles(latencies),
            "samples": len(latencies),
        }


def _kind(path: str) -> str:
    return path.split("/")[1]


def paced(
    hub: Target, directory: Path, fleet: Fleet, *, rate: float, seconds: float, warm_s: float, pad: int
) -> dict[str, Any]:
    """`rate` events a second, one by one, for `seconds`: how soon the healthy endpoints have them, and what the others
    cost. What is sent in the first `warm_s` is not timed."""
    with ExitStack() as stack:
        run = _Run(hub, directory, fleet, pad, stack)
        watching = {"token": run.publishing, "count": _LIVE, "sets": [["reservation.*"]], "sample": 1}
        live = LoadProcess(_SUBSCRIBERS, hub.address | watching | {"warm_s": warm_s, "seconds": seconds})
        stack.enter_context(live)
        live.until_ready()
        connection = HttpConnection(hub.host, hub.port, run.publishing)
        live.go()
        _publish(connection, run.events, rate, warm_s)
        begun, used, warm = time.monotonic(), hub.processor_s() or 0.0, len(run.events.sent)
        answered = _publish(connection, run.events, rate, seconds)
        elapsed = time.monotonic() - begun
        busy = ((hub.processor_s() or 0.0) - used) / elapsed
        waiting, resident = run.waiting(), hub.resident_bytes() or 0
        run.await_healthy()
        watched = live.result()
        kept = run.end()
    timed = dict(list(run.events.sent.items())[warm:])
    return {
        **{name: value for name, value in asdict(fleet).items() if name != "prefix"},
        "rate": rate,
        "published": len(run.events.sent),
        "published_per_s": round(len(timed) / elapsed, 1),
        "offered_webhooks_per_s": round(len(timed) * fleet.endpoints / elapsed, 1),
        "publish": percentiles(answered),
        "live": {name: watched[name] for name in ("connections", "delivered", "p50_ms", "p99_ms")},
        "healthy": run.healthy(kept, timed),
        "out_of_order": out_of_order(kept),
        "others": {kind: _other(kind, kept) | {"waiting": waiting[kind]} for kind in ("flap", "fail", "hang")},
        "hub_processors": round(busy, 3),
        "hub_mib": round(resident / 2**20, 1),
    }


def _publish(connection: HttpConnection, events: Events, rate: float, seconds: float) -> list[int]:
    """One event at a time; from sending to the receipt, in ns."""
    answered = []
    started = time.perf_counter()
    for number in range(int(rate * seconds)):
        time.sleep(max(0.0, started + number / rate - time.perf_counter()))
        begun = time.perf_counter_ns()
        connection.send(events.next())
        connection.finish()
        answered.append(time.perf_counter_ns() - begun)
    return answered


def saturated(hub: Target, directory: Path, fleet: Fleet, *, events: int, pad: int) -> dict[str, Any]:
    """As many webhooks as the hub sends: `events` are published at once, and all endpoints work."""
    with ExitStack() as stack:
        run = _Run(hub, directory, fleet, pad, stack)
        connection = HttpConnection(hub.host, hub.port, run.publishing)
        begun, used = time.monotonic(), hub.processor_s() or 0.0
        for first in range(0, events, _BATCH):
            batch = [run.events.next() for _ in range(min(_BATCH, events - first))]
            connection.send(b'{"events":[%b]}' % b",".join(batch))
            connection.finish()
        run.await_healthy()
        busy = ((hub.processor_s() or 0.0) - used) / (time.monotonic() - begun)
        resident = hub.resident_bytes() or 0
        kept = run.end()
    span = (kept[-1].at_ns - kept[0].at_ns) / 1e9 if kept else 0.0
    return {
        "tenants": fleet.tenants,
        "endpoints": fleet.endpoints,
        "published": events,
        "webhooks_per_s": round(len(kept) / span) if span else 0,
        "healthy": run.healthy(kept, run.events.sent),
        "out_of_order": out_of_order(kept),
        "hub_processors": round(busy, 3),
        "hub_mib": round(resident / 2**20, 1),
    }


def _other(kind: str, kept: Iterable[Kept]) -> dict[str, Any]:
    mine = [one for one in kept if _kind(one.path) == kind]
    return {"attempts": len(mine), "taken": sum(one.status == 200 for one in mine)}


def out_of_order(kept: Iterable[Kept]) -> int:
    """Requests out of turn: of each entity an endpoint must get the first revision, again and again until it takes it,
    then the second, and so on."""
    last: dict[tuple[str, str], Kept] = {}
    found = 0
    for one in kept:
        place = (one.path, one.entity)
        before = last.get(place)
        if before is None:
            found += one.revision != 1
        elif one.revision == before.revision:
            found += one.webhook_id != before.webhook_id
        else:
            found += one.revision != before.revision + 1 or before.status != 200
        last[place] = one
    return found


def webhooks(
    directory: Path,
    settings: Mapping[str, str],
    fleet: Fleet,
    *,
    rate: float,
    seconds: float,
    warm_s: float,
    events: int,
    event_bytes: int,
) -> dict[str, Any]:
    """Both measurements, on one hub. `events` are published for the second."""
    working = Fleet(fleet.tenants, fleet.endpoints, 0, 0, 0, "working")
    with own_hub(directory, {**_OPEN, **settings}) as hub:
        pad, stored_bytes = hub.fit(event_bytes)
        return {
            "event_bytes": stored_bytes,
            "paced": paced(hub, directory, fleet, rate=rate, seconds=seconds, warm_s=warm_s, pad=pad),
            "saturated": saturated(hub, directory, working, events=events, pad=pad),
        }
