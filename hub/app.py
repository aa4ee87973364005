"""The composition root: the one place where the hub's objects are put together, started and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import AsyncExitStack
from importlib.metadata import version as installed_version
from typing import Any, Final

import structlog
import uvicorn
from prometheus_client import CollectorRegistry, generate_latest, multiprocess

from hub.assembly import Assembly
from hub.errors import StartError
from hub.gateways.http.app import create_app
from hub.gateways.http.context import Services
from hub.gateways.http.protocol import BoundedHttpProtocol
from hub.gateways.sockets import SocketGateway
from hub.log.dead_letters import DeadLetters
from hub.log.embedded import EmbeddedServer
from hub.log.keys import Keys
from hub.log.positions import Positions
from hub.log.redrive import Redrive
from hub.log.setup import Durability, durability, open_log, prepare
from hub.log.stream_log import StreamLog
from hub.log.tenants import Tenants
from hub.log.topology import Source, connect
from hub.security.tokens import Tokens, keys_from_file, own_key
from hub.services.archiver import GROUP as ARCHIVER
from hub.services.archiver import Archiver
from hub.services.deliveries import Deliveries
from hub.services.dispatcher import Dispatcher
from hub.services.group_watch import GroupWatch
from hub.services.history import History
from hub.services.janitor import Janitor
from hub.services.ledger import Recorder
from hub.services.projector import Projector
from hub.services.publisher import Publisher, Systems
from hub.services.reader import Reader
from hub.services.replay_jobs import OWN_GROUPS, ReplayJobs
from hub.services.replay_reading import Reading
from hub.services.replay_watch import ReplayWatch
from hub.services.replay_webhooks import WebhookSink
from hub.services.replayer import Replayer
from hub.services.restoration import Restoration
from hub.services.snapshots import Snapshots
from hub.services.store_watch import StoreWatch
from hub.settings import Settings
from hub.store.database import Database, StoreUnavailable, StoreVersionError, store_url
from hub.store.store import Store
from hub.telemetry import Metrics
from schemas.cursor import StreamId

VERSION: Final = installed_version("hotel-event-hub")

log = structlog.get_logger("hub")


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the hub has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(settings: Settings) -> socket.socket:
    """The listening socket.

    Raises:
        StartError: the port is taken or not allowed.
    """
    try:
        return socket.create_server((settings.host, settings.port), backlog=4096, reuse_port=False)
    except OSError as error:
        raise StartError(
            f"cannot listen on {settings.host}:{settings.port}: {error.strerror}", "Set HUB_PORT to a free port, or 0"
        ) from error


def verifier(settings: Settings) -> Tokens:
    """The hub's own key and those of other issuers."""
    keys = [own_key(settings.data_dir)]
    if settings.jwt_keys is not None:
        keys += keys_from_file(settings.jwt_keys)
    return Tokens(keys)


def stream_log(settings: Settings, source: Source) -> StreamLog:
    """The log over a Redis."""
    return StreamLog(
        source,
        Keys(settings.key_prefix),
        settings.partitions,
        idempotency_s=settings.idempotency_hours * 3600,
        max_waiting=settings.max_waiting,
        timeout_s=settings.publish_timeout_s,
    )


class Hub:
    """One hub process. `async with` starts it; leaving drains and stops it.

    `primary` is the process that also looks after the log; with several workers it is one of them. `redis_url` is set
    where another process of this hub owns the embedded server.
    """

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket | None = None,
        *,
        redis_url: str | None = None,
        primary: bool = True,
    ) -> None:
        self.settings = settings
        self._listener = listener
        self._redis_url = redis_url
        self._primary = primary
        self._stack = AsyncExitStack()
        self._durability = Durability(None, "not asked yet")
        self._reopening = asyncio.Lock()
        self.port = 0

    async def __aenter__(self) -> Hub:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def _start(self) -> None:
        settings = self.settings
        if not set(settings.roles) & set(_BUILT):
            raise StartError(
                f"HUB_ROLES {','.join(settings.roles)} holds no role that this release performs",
                f"Name at least one of: {', '.join(_BUILT)}",
            )
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        registry = CollectorRegistry()
        self.metrics = Metrics(registry)
        self.tokens = verifier(settings)
        self.listener = self._listener or bind(settings)
        self._stack.callback(self.listener.close)
        self.port = self.listener.getsockname()[1]

        self.url = await self._redis()
        self.log = stream_log(settings, connect(self.url))
        self._stack.push_async_callback(self.log.aclose)
        self.store = Store(Database(store_url(settings.store_url, settings.data_dir)))
        self._stack.push_async_callback(self.store.aclose)
        await self._open_store()
        store_watch = StoreWatch(self.store)
        store_watch.start()
        self._stack.push_async_callback(store_watch.stop)
        restoration = Restoration(self.log, self.store, idempotency_s=settings.idempotency_hours * 3600)
        self.log.on_empty = restoration.partition
        await open_log(self.log.source, self.log, settings.groups)
        await self._ask_durability()
        self.log.on_lost = self._reopen

        self.tenants = Tenants(self.log)
        await self.tenants.load()
        self.positions = Positions(self.log)
        self._stack.push_async_callback(self.positions.aclose)
        recorder = Recorder(self.metrics, self.log.partition)
        recorder.start(self.store.ledger)
        self._stack.push_async_callback(recorder.stop)
        self.dispatcher = Dispatcher(self.log, self.metrics, reopen=self._reopen, recorder=recorder)
        await self.dispatcher.start()
        self._stack.push_async_callback(self.dispatcher.stop)
        self.history = History(self.log, self.store)
        self.projector = Projector(self.store)
        self.archiver = Archiver(
            self.log,
            self.store,
            self.dispatcher,
            self.metrics,
            archive_days=settings.archive_days,
            on_written=self.projector.wake,
        )
        if self._primary and "archiver" in settings.roles:
            self.projector.start()
            self._stack.push_async_callback(self.projector.stop)
            self.archiver.start()
            self._stack.push_async_callback(self.archiver.stop)
        systems = Systems({name: tuple(patterns) for name, patterns in settings.systems.items()})
        self.publisher = Publisher(
            self.history,
            systems,
            self.metrics,
            currency=self.tenants.currency,
        )
        self._stack.push_async_callback(self.publisher.aclose)
        assembly = Assembly(
            settings,
            self._stack,
            self._primary,
            self.history,
            self.tenants,
            self.dispatcher,
            self.publisher,
            recorder,
            self.metrics,
        )
        desk, webhooks = assembly.webhooks()
        dead_letters = DeadLetters(self.log, settings.groups)
        self.janitor = Janitor(
            self.log,
            dead_letters,
            self.tenants,
            self.metrics,
            settings.groups,
            retention_hours=settings.retention_hours,
            refresh=self._ask_durability,
            places=self._archived_places,
        )
        group_watch = GroupWatch(
            self.log,
            dead_letters,
            self.store.ledger,
            [group for group in settings.groups if group not in OWN_GROUPS],
            recorder.hub,
            ledger_days=settings.ledger_days,
        )
        self._reading = Reading(self.history)
        self._replay_watch = ReplayWatch(self.store.replays, lambda: self.store.opened)
        self._replay_watch.start()
        self._stack.push_async_callback(self._replay_watch.stop)
        if self._primary:
            replayer = Replayer(
                self._reading,
                self._replay_watch,
                Redrive(self.log),
                recorder,
                WebhookSink(self.store, webhooks.changed),
            )
            replayer.start()
            self._stack.push_async_callback(replayer.stop)
            self.janitor.start()
            self._stack.push_async_callback(self.janitor.stop)
            group_watch.start()
            self._stack.push_async_callback(group_watch.stop)
        reports, integrity = assembly.reports(systems)
        sync = await assembly.sync(systems)
        self._services = Services(
            self.log,
            self.tokens,
            self.publisher,
            Reader(self.history, self.dispatcher, self.metrics),
            dead_letters,
            self.tenants,
            self.metrics,
            self.readiness,
            lambda: _metrics_page(registry),
            recorder,
            Deliveries(self.history, self.store.ledger, outstanding_s=settings.outstanding_s),
            ReplayJobs(self._reading, self._replay_watch, self.tenants, dead_letters.groups, settings.systems),
            Snapshots(self.history),
            desk,
            reports,
            sync.syncer,
            sync.reading,
            sync.devices,
            sync.conflicts,
            integrity,
        )
        await self._serve()

    async def _open_store(self) -> None:
        """A store that is away is opened when it comes: the stream keeps the events till then."""
        try:
            await self.store.open()
        except StoreUnavailable:
            if self.store.database.sqlite:
                raise StartError(
                    f"the store at {self.store.database.shown} cannot be opened: {self.store.detail}",
                    "See that the directory is writable and not full; `hub store status` looks at it",
                ) from None
        except StoreVersionError as error:
            raise StartError(str(error), "Use the release that wrote it, or another HUB_STORE_URL") from error

    async def _redis(self) -> str:
        settings = self.settings
        given = self._redis_url or settings.redis_url
        if given is not None:
            return given
        server = EmbeddedServer(
            settings.data_dir,
            fsync=settings.embedded_fsync,
            maxmemory_mb=settings.embedded_maxmemory_mb or None,
            on_restart=self.metrics.log_restarts.inc,
        )
        url = await server.start()
        self._stack.push_async_callback(server.stop)
        return url

    async def _ask_durability(self) -> None:
        """What an acknowledgement is worth may change under the hub: another server after a failover, a CONFIG SET."""
        found = await durability(self.log.source)
        if found.durable is False and found != self._durability:
            log.warning("log_not_durable", detail=found.detail)
        self._durability = found
        # The server answers: what it refused before is over, or is about to be said again.
        self.log.last_error = None
        self.metrics.durable.set(1 if found.durable else 0)

    async def _archived_places(self) -> dict[str, dict[int, StreamId]]:
        """How far the store is, which may be less than its group says: it may have been restored from an older copy."""
        places = await self.store.archive.places()
        return {ARCHIVER: {partition: place.id for partition, place in places.items()}}

    async def _reopen(self) -> None:
        """Prepare the server again after it was away or emptied; concurrent callers share one attempt."""
        async with self._reopening:
            await prepare(self.log.source, self.log, self.settings.groups)
            await self._ask_durability()

    async def _serve(self) -> None:
        settings = self.settings
        self.sockets = SocketGateway(
            self.tokens,
            self.publisher,
            self.dispatcher,
            self.history,
            self.positions,
            self.metrics,
            deflate=settings.deflate,
            publish_per_s=settings.publish_per_s,
            high_water=settings.high_water_kib * 1024,
            slow_timeout_s=settings.slow_timeout_s,
            max_connections=settings.max_connections,
            allowed_origins=settings.allowed_origins,
            replays=(self._reading, self._replay_watch),
        )
        self.sockets.start()
        config = uvicorn.Config(
            create_app(self._services, VERSION),
            http=BoundedHttpProtocol,
            ws=self.sockets.protocol,  # type: ignore[arg-type]
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=max(1, int(settings.drain_s)),
            timeout_keep_alive=30,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[self.listener]), name="http")

        async def stop_serving() -> None:
            self._services.stopping.set()
            log.info("draining", connections=len(self.sockets.connections))
            await self.sockets.drain(settings.drain_s)
            server.should_exit = True
            await serving
            await self.sockets.stop()

        self._stack.push_async_callback(stop_serving)
        while not server.started:
            if serving.done():
                await serving
                raise StartError("the HTTP server did not start", "See the log above")
            await asyncio.sleep(0.005)
        log.info(
            "hub_started",
            version=VERSION,
            address=f"{settings.host}:{self.port}",
            embedded=settings.redis_url is None,
            durable=self._durability.durable,
        )

    def readiness(self) -> dict[str, Any]:
        """What `/readyz` answers."""
        connected = self.dispatcher.connected
        failing = self.log.last_error
        draining = self._services.stopping.is_set()
        ready = connected and failing is None and not draining
        return {
            "ready": ready,
            "version": VERSION,
            "roles": [role for role in self.settings.roles if role in _BUILT],
            "checks": {
                "log": {"ok": connected and failing is None, "detail": "connected" if connected else "not connected"},
                "durability": {"durable": self._durability.durable, "detail": self._durability.detail},
                "store": {"ok": self.store.ok, "detail": self.store.detail},
                "groups": {"ok": not self.janitor.missing, "missing": self.janitor.missing},
                "draining": draining,
            },
        }


_BUILT: Final = ("gateway", "archiver", "webhooks", "scheduler")
"""Roles this release performs."""


def _metrics_page(registry: CollectorRegistry) -> bytes:
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)
