"""All WebSocket connections of one process: limits, the clock's tick, draining."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import structlog

from hub.core.entry import NOT_AN_EVENT, Entry
from hub.gateways.websocket import WebSocketConnection
from hub.log.positions import Positions
from hub.log.stream_log import Head
from hub.security.tokens import Tokens
from hub.services.devices import ALL, REQUESTED
from hub.services.dispatcher import Dispatcher
from hub.services.history import History
from hub.services.publisher import Publisher
from hub.services.replay_reading import Reading
from hub.services.replay_watch import ReplayWatch
from hub.telemetry import Metrics
from schemas.frames import Close
from schemas.types import HUB

TICK_S: Final = 0.5
SPREAD_PER_CONNECTION_MS: Final = 2
MIN_SPREAD_MS: Final = 500
MAX_SPREAD_MS: Final = 30_000
STOP_S: Final = 5.0
NOTICES: Final = 100
"""Connections that are told of one request to sync before the others have their turn."""

log = structlog.get_logger("hub.websocket")


class SocketGateway:
    """What connections share, and the owner of their tasks."""

    def __init__(
        self,
        tokens: Tokens,
        publisher: Publisher,
        dispatcher: Dispatcher,
        history: History,
        positions: Positions,
        metrics: Metrics,
        *,
        deflate: bool,
        publish_per_s: int,
        high_water: int,
        slow_timeout_s: float,
        max_connections: int,
        allowed_origins: Sequence[str],
        replays: tuple[Reading, ReplayWatch] | None = None,
        now: Any = time.monotonic,
    ) -> None:
        self.tokens = tokens
        self.publisher = publisher
        self.dispatcher = dispatcher
        self.history = history
        self.positions = positions
        self.metrics = metrics
        self.deflate = deflate
        self.publish_per_s = publish_per_s
        self.high_water = high_water
        self.slow_timeout_s = slow_timeout_s
        self.max_connections = max_connections
        self.replays = replays
        self.now = now
        self.draining = False
        self.connections: set[WebSocketConnection] = set()
        self._devices: dict[str, set[WebSocketConnection]] = {}
        self._allowed_origins = frozenset(allowed_origins)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ticking: asyncio.Task[None] | None = None
        dispatcher.on_gap = self._gap
        dispatcher.on_notice = self._notice

    def protocol(self, **_: Any) -> WebSocketConnection:
        """A protocol for a connection that uvicorn hands over."""
        return WebSocketConnection(self)

    def start(self) -> None:
        """Begin ticking."""
        self._ticking = asyncio.create_task(self._tick(), name="websocket-tick")

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now, wall = self.now(), time.time()
            for connection in list(self.connections):
                try:
                    connection.tick(now, wall)
                except Exception:  # one connection must not stop the clock of the others
                    log.exception("tick_failed", session=connection.id)
                    connection.abort()

    def own(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something to its end, at the latest when the gateway stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def origin_allowed(self, origin: str | None, host: str | None) -> bool:
        """Whether a browser page of this origin may connect: the hub's own pages, and HUB_ALLOWED_ORIGINS."""
        if origin is None or origin in self._allowed_origins or "*" in self._allowed_origins:
            return True
        try:
            return host is not None and urlsplit(origin).netloc == host
        except ValueError:
            return False

    def _gap(self, tenant_id: str, reason: str, head: Head, cursor: str) -> None:
        for connection in list(self.connections):
            connection.gap(tenant_id, reason, head, cursor)

    # -- devices --------------------------------------------------------------------------------------------------

    def device_came(self, device_id: str, connection: WebSocketConnection) -> None:
        """A connection speaks for a device."""
        self._devices.setdefault(device_id, set()).add(connection)

    def device_went(self, device_id: str, connection: WebSocketConnection) -> None:
        """It does no longer."""
        connections = self._devices.get(device_id, set())
        connections.discard(connection)
        if not connections:
            self._devices.pop(device_id, None)

    def _notice(self, entry: Entry) -> None:
        """Tell the connections of a device that it is asked to sync: each process does so for its own."""
        try:
            detail = entry.event["data"]["detail"]
            if entry.source != HUB or detail["code"] != REQUESTED:
                return
            device_id, system = str(detail["device_id"]), detail.get("system")
        except NOT_AN_EVENT:
            return
        named = self._devices if device_id == ALL else {device_id: self._devices.get(device_id, ())}
        told = [(name, connection) for name, connections in named.items() for connection in connections]
        if told:
            self.own(self._request_sync(entry.tenant_id, system, told))

    async def _request_sync(
        self, tenant_id: str, system: str | None, connections: Sequence[tuple[str, WebSocketConnection]]
    ) -> None:
        for number, (device_id, connection) in enumerate(connections, 1):
            connection.request_sync(tenant_id, system, device_id)
            if number % NOTICES == 0:
                await asyncio.sleep(0)

    async def drain(self, grace_s: float) -> None:
        """Send everybody away, spread over time, and wait for what is in flight, at most `grace_s` seconds."""
        self.draining = True
        spread = min(MAX_SPREAD_MS, max(MIN_SPREAD_MS, len(self.connections) * SPREAD_PER_CONNECTION_MS))
        for connection in list(self.connections):
            connection.drain(random.randint(0, spread))
        await self._until(lambda: all(connection.settled for connection in self.connections), grace_s)
        for connection in list(self.connections):
            connection.hang_up(Close.GOING_AWAY, "the hub is shutting down")
        await self._until(lambda: not self.connections, 1.0)

    async def _until(self, condition: Callable[[], bool], seconds: float) -> None:
        deadline = self.now() + seconds
        # Thousands of connections change what is awaited here; looking is cheaper than being told by each.
        while not condition() and self.now() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Close what is left and await everything owned."""
        if self._ticking is not None:
            self._ticking.cancel()
            await asyncio.gather(self._ticking, return_exceptions=True)
        for connection in list(self.connections):
            connection.abort()
        # Lost connections are reported in the next turns of the loop; each leaves a task that closes its feed.
        deadline = self.now() + STOP_S
        while (self.connections or self._tasks) and self.now() < deadline:
            await asyncio.sleep(0)
            if self._tasks:
                await asyncio.wait(self._tasks, timeout=STOP_S)
        if self.connections or self._tasks:
            log.error("connections_left", connections=len(self.connections), tasks=len(self._tasks))
