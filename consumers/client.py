"""`HubClient`: subscribe with handlers, publish safely, over whatever road leads to the hub."""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import structlog

from consumers.backoff import Random
from consumers.clock import Clock, SystemClock
from consumers.connection import CLOSE_TIMEOUT_S
from consumers.credential import Credential, TokenSource
from consumers.cursors import CursorStore, MemoryCursors
from consumers.delivery import OnFailure, Workers
from consumers.errors import ClientClosed, CursorsUnreadable, Disconnected, SubscriptionRefused
from consumers.handlers import Handlers, HandlerT, check_pattern
from consumers.http_api import HubHttp
from consumers.intake import Intake, OnGap, OnSnapshot
from consumers.link import Link, Mode, Wanted
from consumers.progress import Progress
from consumers.publishing import Publishable, Publisher
from consumers.replay_run import ReplayResult, ReplayRun
from consumers.states import States
from schemas.errors import Problem
from schemas.frames import WINDOW, Receipt, Snapshot

log = structlog.get_logger(__name__)

SnapshotHandlerT = TypeVar("SnapshotHandlerT", bound=Callable[[Snapshot], Awaitable[Any]])

_ATTEMPT_S: Final = 10.0
"""How long one attempt to publish waits for its answer."""


class HubClient:
    """A client of the hub: handles events in order, at least once, and publishes.

    Delivery: an event is acknowledged after its handlers returned; what was not acknowledged comes again, also to
    the next process. Events of one entity are handled in order. Within the life of a client no event is handled twice
    because of a reconnect.

    Args:
        url: the hub's WebSocket, like `ws://localhost:3400/ws`; the HTTP API is looked for beside it.
        token: a token, or a coroutine function that fetches a fresh one. With a fixed one the client ends when it
            expires.
        name: makes the subscription durable: the hub keeps its position. One running client a name.
        patterns: `type.action`, `type.*` or `*`; those of the handlers when absent.
        tenants: default: all of the token's.
        entities: only these, as `type:id`.
        after: where a subscription without a position begins: `latest` (default), `earliest`, a cursor, or a map of
            tenants to cursors. Cursors, unlike words, also go before the position of a durable `name`.
        changes_only: let the hub send only what differs (R40). Handlers get each event with its entity's whole state
            after it; what is missing for that is asked of the hub, once for each entity that is not known yet.
        snapshot: begin with the present state of everything the patterns ask for: pages of it go to `on_snapshot`,
            events follow. Only where no position is known, and not with `after`.
        batch_ms: let the hub gather events this long (0-1000).
        cursors: where the client keeps its own position; `FileCursors` survives the process. Needed for a position
            that survives without a `name`, and by a named client that may have to poll.
        concurrency: how many entities' events are handled at once.
        queue_size: events that may wait for handlers; beyond it the socket is not read. The default holds all that
            the hub sends a named client unacknowledged.
        attempts: calls of a handler for one event before it counts as failed.
        handler_timeout: seconds one call may take.
        on_failure: takes over an event whose handler failed; when it returns, the event is acknowledged. Without it
            `run` ends with the error.
        on_gap: told that events of a tenant cannot be had (`schemas.frames.Gap`); the client goes on after them.
        fallback_after: failures in a row to open a WebSocket, after which the client tries polling.
        websocket_retry_s: seconds between attempts to leave polling.
        publish_in_flight: publishes at once; more callers wait.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | TokenSource,
        name: str | None = None,
        patterns: Sequence[str] | None = None,
        tenants: Sequence[str] | None = None,
        entities: Sequence[str] | None = None,
        after: str | Mapping[str, str] | None = None,
        changes_only: bool = False,
        snapshot: bool = False,
        batch_ms: int | None = None,
        cursors: CursorStore | None = None,
        concurrency: int = 1,
        queue_size: int = WINDOW,
        attempts: int = 3,
        handler_timeout: float | None = None,
        on_failure: OnFailure | None = None,
        on_gap: OnGap | None = None,
        fallback_after: int = 3,
        websocket_retry_s: float = 60.0,
        publish_in_flight: int = 256,
        clock: Clock | None = None,
        random: Random = random_module.random,
    ) -> None:
        for number in (concurrency, queue_size, attempts, fallback_after, publish_in_flight):
            if number < 1:
                raise ValueError("concurrency, queue_size, attempts, fallback_after, publish_in_flight: at least 1")
        if snapshot and after is not None:
            raise ValueError("a snapshot has its own beginning: `snapshot` and `after` exclude each other")
        self.handlers = Handlers()
        self._url = url
        self._patterns = None if patterns is None else [check_pattern(pattern) for pattern in patterns]
        self._name = name
        self._tenants = tenants
        self._entities = entities
        self._after = after
        self._changes_only = changes_only
        self._snapshot = snapshot
        self._on_snapshot: OnSnapshot | None = None
        self._batch_ms = batch_ms
        self._store = MemoryCursors() if cursors is None else cursors
        self._concurrency = concurrency
        self._queue_size = queue_size
        self._attempts = attempts
        self._handler_timeout = handler_timeout
        self._on_failure = on_failure
        self._on_gap = on_gap
        self._fallback_after = fallback_after
        self._websocket_retry_s = websocket_retry_s
        self._clock = SystemClock() if clock is None else clock
        self._random = random
        self._credential = Credential(token)
        self._http = HubHttp(url, self._credential)
        self._publisher = Publisher(self._send, in_flight=publish_in_flight, clock=self._clock, random=random)
        self._link: Link | None = None
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()
        self._closed = False

    @property
    def mode(self) -> Mode:
        """How events come in now."""
        return "offline" if self._link is None else self._link.mode

    def on(self, pattern: str) -> Callable[[HandlerT], HandlerT]:
        """Register a handler; see `Handlers.on`."""
        return self.handlers.on(pattern)

    def on_snapshot(self, handler: SnapshotHandlerT) -> SnapshotHandlerT:
        """Register the decorated coroutine function for the pages of a snapshot (`schemas.frames.Snapshot`).

        After a broken connection they come again from the first: a page replaces what it names. When the handler
        raises, so does `run`.
        """
        self._on_snapshot = handler
        return handler

    async def run(self) -> None:
        """Receive and handle events until `stop`; reconnects by itself. When cancelled, handlers are cancelled too.

        Raises:
            AccessRefused: the hub does not let the token in, and there is no other.
            SubscriptionRefused: the hub does not accept the subscription.
            HandlerFailed: a handler failed for good and there is no `on_failure`.
            UnreadableEvent: an event cannot be read.
            CursorsUnreadable: the kept cursors are damaged.
            ClientClosed: it is running already, or was closed.
            ValueError: there is neither a handler nor a pattern, or an option is malformed.
        """
        if self._closed or not self._ended.is_set():
            raise ClientClosed("the client was closed" if self._closed else "the client is running already")
        wanted = Wanted(
            self.handlers.patterns if self._patterns is None else self._patterns,
            self._name,
            self._tenants,
            self._entities,
            self._after,
            self._batch_ms,
            changes_only=self._changes_only,
            snapshot=self._snapshot,
        )
        wanted.frame(self._after)
        self._ended.clear()
        try:
            await self._run(wanted)
        except Problem as problem:
            raise SubscriptionRefused(problem.code, str(problem)) from problem
        finally:
            self._ended.set()

    async def replay(
        self,
        channel: str,
        *,
        patterns: Sequence[str] | None = None,
        tenants: Sequence[str] | None = None,
        entities: Sequence[str] | None = None,
    ) -> ReplayResult:
        """Handle the replay to a channel of the client's system: the one that runs, or the next; how it ended.

        Its events go to the client's handlers, which can tell them by `replay_id()`, and to nothing else: the position
        of `run`, which may run beside it, does not move. After a lost connection it goes on where it was. What is not
        given is as for the client itself.

        Raises:
            AccessRefused, SubscriptionRefused, HandlerFailed, UnreadableEvent: as `run`.
            ClientClosed: the client was closed.
            ValueError: there is neither a handler nor a pattern, or an option is malformed.
        """
        if self._closed:
            raise ClientClosed("the client was closed")
        wanted = Wanted(
            [check_pattern(one) for one in patterns] if patterns else self._patterns or self.handlers.patterns,
            None,
            self._tenants if tenants is None else tenants,
            self._entities if entities is None else entities,
            None,
            None,
            channel,
        )
        run = ReplayRun(
            self._url,
            wanted.frame(None),
            self._workers(),
            self._credential,
            on_gap=self._on_gap,
            clock=self._clock,
            random=self._random,
        )
        try:
            return await run.run(self._stopping)
        except BaseExceptionGroup as failures:
            failure = _first(failures)
            raise failure from failure.__cause__

    def stop(self) -> None:
        """Let `run` return: handlers under way finish, what they finished is acknowledged, the rest comes again.

        For good: a stopped client only publishes.
        """
        self._stopping.set()

    async def publish(self, event: Publishable, *, timeout: float = 30.0) -> Receipt:
        """Publish an event and return the receipt of its durable append. Safe to retry with the same `event_id`.

        `event` is a `Draft`, an event received before, or a mapping with `type`, `action` and `data`, which may be a
        model of `schemas`. An `event_id` is made if there is none; every attempt carries it, and the hub takes it
        once. When cancelled, the outcome is unknown.

        Raises:
            PublishRefused: the hub will not take the event as it stands (`code`, `errors`, `latest`).
            PublishFailed: not within `timeout` seconds, and the hub has not taken it.
            OutcomeUnknown: not within `timeout` seconds, and the hub may have taken it.
            ClientClosed: the client was closed.
            TypeError: the data holds something that is not JSON.
        """
        if self._closed:
            raise ClientClosed("the client was closed")
        return await self._publisher.publish(event, timeout)

    async def aclose(self) -> None:
        """Stop `run` and wait for it, wait for publishes under way, close. Not to be called from a handler."""
        self.stop()
        await self._ended.wait()
        self._closed = True
        await self._publisher.drain()
        await self._http.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _run(self, wanted: Wanted) -> None:
        try:
            progress = Progress(await self._store.load())
        except Problem as problem:
            raise CursorsUnreadable("the cursor store", str(problem)) from problem
        workers = self._workers()
        intake = Intake(
            progress,
            workers,
            self._store,
            named=self._name is not None,
            on_gap=self._on_gap,
            on_snapshot=self._on_snapshot,
            states=States(self._http, self._clock, wanted.patterns) if self._changes_only else None,
        )
        self._link = link = Link(
            self._url,
            wanted,
            intake,
            self._credential,
            self._http,
            fallback_after=self._fallback_after,
            websocket_retry_s=self._websocket_retry_s,
            clock=self._clock,
            random=self._random,
        )
        try:
            await self._supervise(link, workers, intake)
        except BaseExceptionGroup as failures:
            failure = _first(failures)
            if isinstance(failure, Exception):
                log.warning("client_stopped", error=type(failure).__name__)
                await self._last_words(intake)
            raise failure from failure.__cause__
        finally:
            self._link = None
            await link.drop()

    def _workers(self) -> Workers:
        return Workers(
            self.handlers,
            concurrency=self._concurrency,
            queue_size=self._queue_size,
            attempts=self._attempts,
            handler_timeout=self._handler_timeout,
            on_failure=self._on_failure,
            clock=self._clock,
            random=self._random,
        )

    async def _supervise(self, link: Link, workers: Workers, intake: Intake) -> None:
        async with asyncio.TaskGroup() as group:
            handling = group.create_task(workers.run(intake.finished), name="hub-workers")
            group.create_task(intake.acknowledge(), name="hub-acknowledgements")
            following = group.create_task(link.run(), name="hub-link")
            await self._stopping.wait()
            following.cancel()
            await asyncio.wait({following})
            workers.stop()
            await asyncio.wait({handling})
            intake.end()

    async def _last_words(self, intake: Intake) -> None:
        """What was finished before the failure need not come again; but it may."""
        try:
            async with self._clock.timeout(CLOSE_TIMEOUT_S):
                await intake.flush()
        except Exception as error:
            log.warning("cursors_not_kept", error=type(error).__name__)

    async def _send(self, event: bytes) -> Receipt:
        connection = None if self._link is None else self._link.connection
        try:
            async with self._clock.timeout(_ATTEMPT_S):
                if connection is not None and connection.reading and connection.fits(event):
                    return await connection.publish(event)
                return await self._http.publish(event)
        except TimeoutError as error:
            raise Disconnected("no answer in time", sent=True) from error


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    first = failures.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
