"""A real log with a dispatcher on it, connections without sockets, and a model that judges what they are sent."""

from __future__ import annotations

import asyncio
import shutil
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
from prometheus_client import CollectorRegistry

from hub.core.routing import Interest
from hub.log import groups
from hub.log.keys import Keys
from hub.log.positions import Positions
from hub.log.setup import load_epochs, make_groups, open_log
from hub.log.stream_log import Append, Appended, Head, StreamLog
from hub.log.topology import connect
from hub.security.tokens import Claims
from hub.services.archiver import Archiver
from hub.services.dispatcher import Dispatcher
from hub.services.feed import Feed
from hub.services.history import History
from hub.services.projector import Projector
from hub.store.database import Database, store_url
from hub.store.store import Store
from hub.telemetry import Metrics
from schemas.cursor import Cursor
from schemas.frames import Subscribe
from schemas.registry import EVENT_TYPES
from schemas.types import HUB
from tests.memory_log_server import PATIENCE_S, MemoryLogServer

GROUPS = ("archiver", "webhooks")
PARTITIONS = 2
TENANTS = ("t-1", "t-2", "t-4", "t-5")
"""Two a partition."""
KINDS = (("room", "status_changed"), ("room", "price_updated"), ("order", "placed"))
ENTITIES = ("room:1", "room:2", "order:1")
SYSTEM = "hotel-pms"

_prefixes = count()


async def until(condition: Callable[[], Any], what: str = "") -> None:
    """Return when the condition is true; fails after `PATIENCE_S`."""
    try:
        async with asyncio.timeout(PATIENCE_S):
            # The log's events come from another process, which sends no signal.
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"waited in vain for {what or condition}") from None


async def turns(number: int) -> None:
    """Give the other tasks some turns of the loop."""
    for _ in range(number):
        await asyncio.sleep(0)


class LogServer(MemoryLogServer):
    """A log server with a store beside it for every hub."""

    def __init__(self, empty_store: Path) -> None:
        self._empty_store = empty_store
        super().__init__()

    def store(self, name: str) -> Store:
        """A store of its own for every name; the same for the same name."""
        path = self.directory / f"{name}.db"
        if not path.exists():
            shutil.copyfile(self._empty_store, path)
        return Store(Database(store_url(f"sqlite:///{path}", self.directory)))


def claims(
    tenants: Iterable[str] = ("*",), system: str = HUB, scopes: Iterable[str] = ("subscribe:*",), **more: Any
) -> Claims:
    """What a token says."""
    return Claims("tests", "id", system, frozenset(tenants), frozenset(scopes), time.time() + 3600, **more)


def append(
    tenant: str = TENANTS[0],
    kind: tuple[str, str] = KINDS[0],
    entity: str = ENTITIES[0],
    targets: Sequence[str] = (SYSTEM,),
    *,
    at_ms: int = 1_784_077_441_000,
    **data: Any,
) -> Append:
    """An event, ready to be stored."""
    event_id = str(uuid4())
    event = {"event_id": event_id, "schema_version": EVENT_TYPES[kind[0]].newest, "tenant_id": tenant}
    event |= {"type": kind[0], "action": kind[1]}
    event |= {"targets": list(targets), "entity": entity, "data": data}
    head = orjson.dumps(event)[:-1] + b',"revision":'
    return Append(tenant, event_id, entity, kind[0], kind[1], at_ms, head)


@dataclass
class Published:
    """One event that was stored."""

    tenant: str
    kind: tuple[str, str]
    entity: str
    targets: tuple[str, ...]
    sequence: int
    cursor: str


class Rig:
    """One hub process as far as delivery is concerned."""

    def __init__(self, server: LogServer, prefix: str | None = None) -> None:
        self.prefix = prefix or f"f{next(_prefixes)}"
        self.store = server.store(self.prefix)
        self.metrics = Metrics(CollectorRegistry())
        self.log = StreamLog(connect(server.url), Keys(self.prefix), PARTITIONS, idempotency_s=600)
        self.published: dict[tuple[str, int], Published] = {}
        self.feeds: list[Feed] = []

    async def start(self) -> Rig:
        """Open the log and begin to dispatch."""
        await self.store.open()
        await open_log(self.log.source, self.log, GROUPS)
        self.log.on_lost = self.reopen
        self.positions = Positions(self.log)
        self.dispatcher = Dispatcher(self.log, self.metrics, reopen=self.reopen)
        self.dispatcher.on_gap = self._gap
        self.history = History(self.log, self.store)
        self.projector = Projector(self.store)
        self.archiver = Archiver(self.log, self.store, self.dispatcher, self.metrics, archive_days=400)
        await self.dispatcher.start()
        return self

    async def archive(self) -> None:
        """Archive all that was published, and acknowledge it."""
        await self.routed()
        while await self.archiver.round():
            pass

    async def project(self) -> None:
        """Archive everything, and bring the entities' states up with it."""
        await self.archive()
        while await self.projector.round():
            pass

    async def trim(self) -> None:
        """Take what the archiver has finished out of the streams."""
        for partition in range(PARTITIONS):
            await self.log.source.client.xgroup_destroy(self.log.keys.events(partition), "webhooks")
        assert await groups.trim(self.log, 1 << 60, 1 << 60, ("archiver",))

    def _gap(self, tenant_id: str, reason: str, head: Head, cursor: str) -> None:
        for feed in self.feeds:
            feed.gap(tenant_id, reason, head, cursor)

    async def reopen(self) -> None:
        """As the hub does when the server was away."""
        await load_epochs(self.log.source, self.log)
        await make_groups(self.log.source, self.log, GROUPS)

    async def stop(self) -> None:
        """Stop everything."""
        for feed in self.feeds:
            await feed.close()
        await self.dispatcher.stop()
        await self.positions.aclose()
        await self.log.aclose()
        await self.store.aclose()

    async def publish(self, *appends: Append) -> list[Published]:
        """Store events in order."""
        made = []
        for one, outcome in zip(appends, await asyncio.gather(*[self.log.submit(one) for one in appends]), strict=True):
            assert isinstance(outcome, Appended)
            targets = tuple(orjson.loads(one.head + b"0}")["targets"])
            kind = (one.type, one.action)
            event = Published(one.tenant_id, kind, one.entity, targets, outcome.sequence, outcome.cursor)
            self.published[(event.tenant, event.sequence)] = event
            made.append(event)
        return made

    async def routed(self) -> None:
        """Until the dispatcher has routed all that was published."""
        last: dict[str, int] = {}
        for tenant, sequence in self.published:
            last[tenant] = max(last.get(tenant, 0), sequence)
        head = self.dispatcher.head
        await until(lambda: all(head(tenant).sequence >= number for tenant, number in last.items()), "routing")

    async def end(self, partition: int) -> Any:
        """The id of a partition's last entry."""
        return await self.dispatcher._last_id(partition)

    def connection(self, claims: Claims, *, window: int = 1000) -> Connection:
        """A connection of a token."""
        return Connection(self, claims, window)


def texts(buffer: bytes) -> list[Any]:
    """The JSON of plain text frames."""
    found, at = [], 0
    while at < len(buffer):
        first, size = buffer[at], buffer[at + 1]
        assert first == 0x81
        at += 2
        if size == 126:
            (size,) = struct.unpack_from("!H", buffer, at)
            at += 2
        elif size == 127:
            (size,) = struct.unpack_from("!Q", buffer, at)
            at += 8
        found.append(orjson.loads(buffer[at : at + size]))
        at += size
    return found


@dataclass
class Held:
    """A subscription, as the model sees it."""

    id: Any
    interest: Interest
    begin: dict[str, int] = field(default_factory=dict)
    got: set[tuple[str, int]] = field(default_factory=set)
    last: dict[str, int] = field(default_factory=dict)
    through_others: set[tuple[str, int]] = field(default_factory=set)
    """What subscriptions that were closed since had got."""
    name: str | None = None


class Connection:
    """A sink that judges every frame when it comes."""

    def __init__(self, rig: Rig, claims: Claims, window: int) -> None:
        self.rig = rig
        self.claims = claims
        self.writable = True
        self.frames: list[Any] = []
        self.events: list[Any] = []
        self.gaps: list[Any] = []
        self.notices: list[Any] = []
        self.snapshots: list[Any] = []
        self.subscribed: dict[Any, Any] = {}
        self.window = window
        self.open: dict[Any, Held] = {}
        self.unacked: dict[str, list[int]] = {}
        """What waits for its acknowledgement, as often as it was sent."""
        self.acked: set[tuple[str, int]] = set()
        self.faults: list[AssertionError] = []
        self._asked: dict[Any, Subscribe] = {}
        self._turn = asyncio.Lock()
        self.feed = Feed(self, claims, rig.dispatcher, rig.history, rig.positions, rig.metrics, window=window)
        rig.feeds.append(self.feed)

    # the sink

    def fail(self) -> None:
        """The feed gave up: never in these tests."""
        raise AssertionError("the feed failed")

    def write(self, frames: bytes) -> None:
        """Events, ready-made."""
        for message in texts(frames):
            assert message["op"] == "event"
            self.frames.append(message)
            self.events.append(message)
            try:
                self._judge(message)
            except AssertionError as fault:  # not into the hub's arms
                self.faults.append(fault)

    def send(self, op: str, **fields: Any) -> None:
        """One other frame."""
        message = {"op": op, **fields}
        self.frames.append(message)
        if op == "subscribed":
            self.subscribed[fields["id"]] = message
            frame = self._asked[fields["id"]]
            tenants = None if fields["tenants"] == ["*"] else frozenset(fields["tenants"])
            entities = None if frame.entities is None else frozenset(frame.entities)
            held = Held(frame.id, Interest(tenants, frozenset(frame.patterns), entities), name=frame.name)
            held.begin = {tenant: Cursor.decode(text).sequence for tenant, text in fields["position"].items()}
            self.open[frame.id] = held
        elif op == "gap":
            self.gaps.append(message)
        elif op == "notice":
            self.notices.append(message)
        elif op == "snapshot":
            self.snapshots.append(orjson.loads(orjson.dumps(message)))
        else:
            self.faults.append(AssertionError(message))

    # the client

    async def subscribe(self, id: Any = 1, patterns: Sequence[str] = ("*",), **fields: Any) -> Any:
        """Subscribe, in turn; the `subscribed` frame."""
        frame = Subscribe.model_validate({"op": "subscribe", "id": id, "patterns": list(patterns)} | fields)
        async with self._turn:
            self._asked[id] = frame
            await self.feed.subscribe(frame)
        return self.subscribed[id]

    async def unsubscribe(self, id: Any) -> None:
        """Unsubscribe, in turn."""
        async with self._turn:
            if id in self.open:
                self.feed.unsubscribe(id)
                gone = self.open.pop(id)
                for other in self.open.values():
                    had = gone.got | gone.through_others
                    other.through_others |= {one for one in had if self.wants(other, self.rig.published[one])}
                named = [held.interest for held in self.open.values() if held.name is not None]
                for tenant in list(self.unacked):
                    if not any(one.tenants is None or tenant in one.tenants for one in named):
                        del self.unacked[tenant]  # nobody is left who would acknowledge them

    def block(self, blocked: bool) -> None:
        """Fill the socket's buffer, or empty it."""
        if self.writable == blocked:
            self.writable = not blocked
            if not blocked:
                self.feed.resume()

    @property
    def durable(self) -> bool:
        """Whether some subscription has a name."""
        return any(held.name is not None for held in self.open.values())

    def ack(self, tenant: str, sequence: int) -> None:
        """Acknowledge a tenant's events up to one of them."""
        if self.durable:
            self.feed.ack({tenant: self.rig.published[(tenant, sequence)].cursor})
            waiting = self.unacked.get(tenant, [])
            self.unacked[tenant] = [number for number in waiting if number > sequence]
            self.acked |= {(tenant, number) for number in waiting if number <= sequence}

    def ack_all(self) -> None:
        """Acknowledge all that was sent."""
        for tenant, waiting in list(self.unacked.items()):
            if waiting:
                self.ack(tenant, max(waiting))

    async def quiet(self) -> None:
        """Until everything that is to come has come; acknowledges on the way."""
        await self.rig.routed()
        self.block(False)

        def idle() -> bool:
            self.check()
            self.ack_all()
            return self.feed._task is None

        await until(idle, "the feed to catch up")
        self.rig.dispatcher.flush_all()
        await until(idle, "the feed to catch up again")
        self.rig.dispatcher.flush_all()

    # the model

    def wants(self, held: Held, event: Published) -> bool:
        """Whether a subscription is to get an event, spelled out."""
        if event.sequence <= held.begin.get(event.tenant, 0):
            return False
        if self.claims.system != HUB and self.claims.system not in event.targets:
            return False
        return held.interest.wants(event.tenant, *event.kind, event.entity)

    def _judge(self, message: Any) -> None:
        place = (message["event"]["tenant_id"], message["sequence"])
        event = self.rig.published.get(place)
        if event is None:  # its receipt is under way
            raw = message["event"]
            event = Published(
                place[0],
                (raw["type"], raw["action"]),
                raw["entity"],
                tuple(raw["targets"]),
                place[1],
                message["cursor"],
            )
            self.rig.published[place] = event
        assert event.cursor == message["cursor"]
        asking = [held for held in self.open.values() if self.wants(held, event)]
        assert asking, f"{place} was not asked for"
        assert not any(place in held.got for held in asking), f"{place} came twice"
        for held in asking:
            last = held.last.get(event.tenant, held.begin.get(event.tenant, 0))
            assert event.sequence > last, f"{held.id}: {place} came after {last}"
            held.got.add(place)
            held.last[event.tenant] = event.sequence
        if self.durable:
            self.unacked.setdefault(event.tenant, []).append(event.sequence)
            assert sum(map(len, self.unacked.values())) <= self.window, "more than the window is unacknowledged"

    def check(self) -> None:
        """Fail if some frame was wrong."""
        if self.faults:
            raise self.faults[0]
        waiting = sum(map(len, self.unacked.values()))
        assert self.feed.outstanding == waiting, "the window counts otherwise"

    def complete(self) -> None:
        """At the end: nothing is missing that did not come through another subscription before."""
        self.check()
        came = {place for held in self.open.values() for place in held.got | held.through_others}
        for held in self.open.values():
            due = {place for place, event in self.rig.published.items() if self.wants(held, event)}
            missing = due - came
            assert not missing, f"subscription {held.id} missed {sorted(missing)[:10]}"

    def sequences(self, tenant: str | None = None) -> list[int]:
        """The sequences that came, of a tenant."""
        return [one["sequence"] for one in self.events if tenant in (None, one["event"]["tenant_id"])]
