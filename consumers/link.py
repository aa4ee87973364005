"""Keeping in touch with the hub: connect, follow, reconnect, poll where no WebSocket is to be had, climb back."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final, Literal

import structlog

from consumers import http_snapshot
from consumers.backoff import CAP_S, Random, full_jitter
from consumers.clock import Clock
from consumers.connection import Connection
from consumers.credential import Credential
from consumers.errors import AccessRefused, ConsumerError, Disconnected, HubRefused, SubscriptionRefused
from consumers.http_api import HubHttp
from consumers.intake import SUBSCRIPTION, Intake
from schemas.frames import MAX_PAGE, MAX_WAIT_S, Close, Error, EventFrame, Gap, Notice, Snapshot, Subscribe, Subscribed

log = structlog.get_logger(__name__)

Mode = Literal["websocket", "polling", "offline"]

_POLL_GRACE_S: Final = 10.0
"""How much longer than asked the hub may take over a long poll."""
_POLL_PAUSE_S: Final = 1.0
"""The least time between two empty pages: not every proxy lets a long poll wait."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to subscribe to, as the owner of the client put it."""

    patterns: Sequence[str]
    name: str | None
    tenants: Sequence[str] | None
    entities: Sequence[str] | None
    after: str | Mapping[str, str] | None
    batch_ms: int | None
    replay: str | None = None
    changes_only: bool = False
    snapshot: bool = False

    def frame(self, after: str | Mapping[str, str] | None, *, snapshot: bool = False) -> dict[str, Any]:
        """The `subscribe` frame.

        Raises:
            ValueError: the hub would not understand it.
        """
        asked = {
            "op": "subscribe",
            "id": SUBSCRIPTION,
            "patterns": list(self.patterns),
            "name": self.name,
            "tenants": list(self.tenants) if self.tenants is not None else None,
            "entities": list(self.entities) if self.entities is not None else None,
            "after": dict(after) if isinstance(after, Mapping) else after,
            "batch_ms": self.batch_ms,
            "replay": self.replay,
            "changes_only": self.changes_only or None,
            "snapshot": snapshot or None,
        }
        given = {key: value for key, value in asked.items() if value is not None}
        return Subscribe.model_validate(given).model_dump(exclude_unset=True)


class Link:
    """One client's touch with the hub. `run` is called once at a time."""

    def __init__(
        self,
        url: str,
        wanted: Wanted,
        intake: Intake,
        credential: Credential,
        http: HubHttp,
        *,
        fallback_after: int,
        websocket_retry_s: float,
        clock: Clock,
        random: Random,
    ) -> None:
        self._url = url
        self._wanted = wanted
        self._intake = intake
        self._credential = credential
        self._http = http
        self._fallback_after = fallback_after
        self._websocket_retry_s = websocket_retry_s
        self._clock = clock
        self._random = random
        self._return_after: float | None = None
        self._second_chance = credential.renewable
        self.mode: Mode = "offline"
        self.connection: Connection | None = None
        """The open WebSocket. After `run` was cancelled it is still there, for the owner to close (`drop`)."""

    async def run(self) -> None:
        """Follow the hub until cancelled.

        Raises:
            AccessRefused: the hub does not let the token in.
            SubscriptionRefused: the hub does not accept the subscription.
        """
        failures, attempt = 0, 0
        while True:
            began = self._clock.monotonic()
            try:
                try:
                    self.connection = await self._open()
                    failures = 0
                except Disconnected as error:
                    failures += 1
                    log.info("hub_unreachable", reason=str(error), failures=failures)
                    if failures >= self._fallback_after:
                        self.connection = await self._poll()
                if self.connection is not None:
                    await self._follow(self.connection)
            except Disconnected as error:
                log.info("hub_connection_ended", reason=error.reason, code=error.code)
            except AccessRefused as error:
                if not (self._second_chance and error.code in (401, Close.BAD_TOKEN)):
                    raise
                # The token may have been withdrawn since it was fetched: one fresh one, at once.
                self._second_chance = False
                await self.drop()
                continue
            await self.drop()
            if self._clock.monotonic() - began > CAP_S:
                attempt = 0
            delay, self._return_after = self._return_after, None
            await self._clock.sleep(full_jitter(attempt, self._random) if delay is None else delay)
            attempt += 1

    async def drop(self) -> None:
        """Close the connection, if there is one."""
        self.mode = "offline"
        self._intake.unsubscribed()
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.close()

    async def _open(self) -> Connection:
        return await Connection.open(self._url, await self._credential.renew(), self._clock)

    async def _follow(self, connection: Connection) -> None:
        tenants = connection.welcome.tenants
        known = [one for one in tenants if one != "*"]
        if self._begins_with_snapshot(known):
            await connection.send(self._wanted.frame(None, snapshot=True))
        else:
            await connection.send(self._wanted.frame(self._resume_from(known)))
        renewal: asyncio.Task[None] | None = None
        try:
            async with aclosing(connection.frames()) as frames:
                async for frame in frames:
                    match frame:
                        case EventFrame():
                            await self._intake.event(frame, connection)
                        case Snapshot():
                            await self._intake.snapshot(frame, connection)
                        case Subscribed():
                            self._subscribed(frame, connection)
                        case Gap():
                            await self._intake.gap(frame, connection)
                        case Error():
                            self._error(frame)
                        case Notice(code="token_expiring") if renewal is None or renewal.done():
                            renewal = asyncio.create_task(self._refresh(connection), name="hub-refresh")
                        case Notice():
                            self._notice(frame)
        finally:
            if renewal is not None:
                renewal.cancel()
                await asyncio.gather(renewal, return_exceptions=True)

    def _begins_with_snapshot(self, tenants: list[str]) -> bool:
        """Whether a snapshot comes first: it was asked for, and no position is known to go on from."""
        return self._wanted.snapshot and not self._intake.progress.after(self._wanted.tenants or tenants, named=False)

    def _resume_from(self, tenants: list[str]) -> str | Mapping[str, str] | None:
        reached = self._intake.progress.after(self._wanted.tenants or tenants, named=self._wanted.name is not None)
        begin = self._wanted.after
        if isinstance(reached, dict) and isinstance(begin, Mapping):
            return {**begin, **reached}
        return begin if reached is None else reached

    def _subscribed(self, frame: Subscribed, connection: Connection) -> None:
        self._intake.subscribed(frame, connection)
        self._second_chance = self._credential.renewable
        self.mode = "websocket"
        log.info("subscribed", patterns=frame.patterns, tenants=len(frame.tenants), recovered=frame.recovered)

    def _error(self, frame: Error) -> None:
        if frame.id != SUBSCRIPTION:
            log.warning("hub_error", code=frame.code, message=frame.message)
        elif frame.retryable:
            raise Disconnected(f"no subscription now: {frame.code}")
        else:
            raise SubscriptionRefused(frame.code, frame.message)

    def _notice(self, frame: Notice) -> None:
        if frame.code == "draining" and frame.reconnect_after_ms is not None:
            self._return_after = frame.reconnect_after_ms / 1000
        level = log.warning if frame.code == "lagging" else log.info
        level("hub_notice", code=frame.code)

    async def _refresh(self, connection: Connection) -> None:
        if not self._credential.renewable:
            log.warning("token_expires_soon", remedy="give HubClient a function that fetches a token")
            return
        try:
            await connection.send({"op": "refresh", "token": await self._credential.renew()})
        except ConsumerError as error:
            log.warning("token_not_refreshed", reason=str(error))

    async def _poll(self) -> Connection | None:
        """Poll until a WebSocket can be had, which is returned, or HTTP fails too."""
        wanted = self._wanted
        if self._begins_with_snapshot([]):
            await http_snapshot.take(
                self._http,
                self._clock,
                self._intake,
                patterns=wanted.patterns,
                tenants=wanted.tenants,
                entities=wanted.entities,
            )
        lanes = [asyncio.create_task(self._lane(tenant)) for tenant in wanted.tenants or (None,)]
        climb = asyncio.create_task(self._climb())
        tasks = (climb, *lanes)
        ended: list[Any] = []
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            self.mode = "offline"
            if isinstance(ended[0], Connection):
                # Kept where a cancelled run leaves it, so that somebody closes it.
                self.connection = ended[0]
        for failure in ended:
            if isinstance(failure, Exception) and not isinstance(failure, Disconnected):
                raise failure
            if isinstance(failure, Disconnected):
                log.info("hub_polling_ended", reason=failure.reason)
        return self.connection

    async def _climb(self) -> Connection:
        while True:
            await self._clock.sleep(self._websocket_retry_s)
            try:
                return await self._open()
            except Disconnected as error:
                log.debug("websocket_still_unreachable", reason=str(error))

    async def _lane(self, tenant: str | None) -> None:
        """Read one tenant's events, or (None) those of all tenants of the token, page by page."""
        query = {"patterns": ",".join(self._wanted.patterns), "limit": str(MAX_PAGE)}
        if tenant is not None:
            query["tenant"] = tenant
        if self._wanted.entities is not None and len(self._wanted.entities) == 1:
            query["entity"] = self._wanted.entities[0]
        progress = self._intake.progress
        after = progress.joined() if tenant is None else progress.position(tenant)
        guessed = after is None and self._beginning(tenant) == "latest"
        after = after or self._beginning(tenant)
        wait = 0  # The first answer shows that HTTP works, and where "latest" is: it must not wait for an event.
        while True:
            asked = self._clock.monotonic()
            try:
                async with self._clock.timeout(wait + _POLL_GRACE_S):
                    page = await self._http.events({**query, "after": after, "wait": str(wait)})
            except TimeoutError as error:
                raise Disconnected("no page in time") from error
            except HubRefused as problem:
                if problem.retryable:
                    raise Disconnected(f"no page now: {problem.code}") from problem
                raise SubscriptionRefused(problem.code, problem.message) from problem
            self.mode = "polling"
            if self._wanted.entities is not None:
                wanted = frozenset(self._wanted.entities)
                page.events = [item for item in page.events if item.event.get("entity") in wanted]
            await self._intake.page(page, tenant=tenant, guessed=guessed)
            after, guessed = page.next, False
            if wait and not page.events and self._clock.monotonic() - asked < _POLL_PAUSE_S:
                await self._clock.sleep(_POLL_PAUSE_S)
            wait = MAX_WAIT_S

    def _beginning(self, tenant: str | None) -> str:
        after = self._wanted.after
        if after is None:
            return "latest"
        if isinstance(after, str):
            return after
        return ".".join(after.values()) if tenant is None else after.get(tenant, "latest")
