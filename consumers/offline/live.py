"""The desk's WebSocket: it tells at once of news, of a wish of the hub's that the desk syncs, and of a broken line.

What an event says is not read here: changes are pulled, in order. Where no WebSocket can be had, the desk lives on
probes and intervals.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

import structlog

from consumers.backoff import CAP_S, Random, full_jitter
from consumers.clock import Clock
from consumers.connection import Connection
from consumers.credential import Credential
from consumers.errors import AccessRefused, ConsumerError, Disconnected
from consumers.offline.connectivity import Connectivity
from schemas.frames import Close, Error, EventFrame, Gap, Notice, Subscribed

log = structlog.get_logger(__name__)

PULSE_S: Final = 0.75
"""Between two signs of life that are asked for. With `PONG_S` and the probe that follows, a silent break is noticed in
less than three seconds (R101)."""
PONG_S: Final = 0.5
"""How long a sign of life may take before the line is looked at."""
REFUSED_S: Final = 60.0
"""Between two attempts with a token that the hub does not let in."""

_SUBSCRIPTION: Final = "desk"
_EXPIRED: Final = frozenset({401, Close.BAD_TOKEN, Close.NO_AUTH})


class LiveFeed:
    """Keeps one WebSocket while the line is whole. `run` is a task of its owner's."""

    def __init__(
        self,
        url: str,
        credential: Credential,
        line: Connectivity,
        *,
        tenant_id: str,
        device_id: str,
        clock: Clock,
        random: Random,
        on_news: Callable[[str | None], None],
        on_sync_requested: Callable[[], None],
        on_refused: Callable[[AccessRefused], None],
    ) -> None:
        """`on_news` gets an event's cursor, or None when something may have been missed. None of them may raise."""
        self._url = url
        self._credential = credential
        self._line = line
        self._tenant_id = tenant_id
        self._device_id = device_id
        self._clock = clock
        self._random = random
        self._on_news = on_news
        self._on_sync_requested = on_sync_requested
        self._on_refused = on_refused
        self.denied: str | None = None
        """Why the hub tells of no events here, as it last said; None: it does, as far as is known."""
        self._renewed = asyncio.Event()
        self._return_after: float | None = None

    def renewed(self) -> None:
        """There is a good token again: do not wait to try it."""
        self._renewed.set()

    async def run(self) -> None:
        """Connect, listen, come back; until cancelled."""
        attempt, fresh, second_chance = 0, False, self._credential.renewable
        while True:
            if not self._line.online:
                attempt = 0
                await self._line.until_online()
            began = self._clock.monotonic()
            try:
                token = await (self._credential.renew() if fresh else self._credential.current())
                fresh = False
                connection = await Connection.open(self._url, token, self._clock, device_id=self._device_id)
                try:
                    second_chance = self._credential.renewable
                    await self._listen(connection)
                finally:
                    self._line.heard = False
                    await connection.close()
            except Disconnected as error:
                log.info("desk_socket_ended", reason=error.reason, code=error.code)
                fresh = error.code == Close.TOKEN_EXPIRED
                if self._line.online:
                    self._line.suspect()
            except AccessRefused as error:
                fresh = True
                if error.code in _EXPIRED and second_chance:
                    # It may have been withdrawn since it was fetched: one fresh one, at once.
                    second_chance = False
                    continue
                self._on_refused(error)
                await self._wait(REFUSED_S)
                continue
            if self._clock.monotonic() - began > CAP_S:
                attempt = 0
            delay, self._return_after = self._return_after, None
            await self._wait(full_jitter(attempt, self._random) if delay is None else delay)
            attempt += 1

    async def _wait(self, seconds: float) -> None:
        self._renewed.clear()
        try:
            async with self._clock.timeout(seconds):
                await self._renewed.wait()
        except TimeoutError:
            pass

    async def _listen(self, connection: Connection) -> None:
        frame = {
            "op": "subscribe",
            "id": _SUBSCRIPTION,
            "patterns": ["*"],
            "tenants": [self._tenant_id],
            "after": "latest",
            "batch_ms": 0,
        }
        await connection.send(frame)
        self._line.heard = True
        pulse = asyncio.create_task(self._feel(connection), name="desk-pulse")
        renewal: asyncio.Task[None] | None = None
        try:
            async with aclosing(connection.frames()) as frames:
                async for one in frames:
                    match one:
                        case EventFrame():
                            self._on_news(one.cursor)
                        case Subscribed() | Gap():
                            self.denied = None
                            # What came before it is known by a pull alone.
                            self._on_news(None)
                        case Notice(code="sync_requested"):
                            self._on_sync_requested()
                        case Notice(code="token_expiring") if renewal is None or renewal.done():
                            renewal = asyncio.create_task(self._refresh(connection), name="desk-refresh")
                        case Notice(code="draining") if one.reconnect_after_ms is not None:
                            self._return_after = one.reconnect_after_ms / 1000
                        case Error(id=str()):
                            # Notices still come here; changes are found by probes.
                            log.warning("no_live_events", code=one.code, message=one.message)
                            self.denied = one.message
        finally:
            tasks = [pulse] if renewal is None else [pulse, renewal]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _feel(self, connection: Connection) -> None:
        """Ask for signs of life. A late one makes the line be looked at, and nothing else: the hub may be busy.

        Once the line counts as broken, so does the socket: it may be dead without knowing.
        """
        while True:
            await self._clock.sleep(PULSE_S)
            if not self._line.online:
                await connection.close()
                return
            try:
                async with self._clock.timeout(PONG_S):
                    await connection.ping()
            except TimeoutError:
                self._line.suspect()
            except Disconnected:
                return

    async def _refresh(self, connection: Connection) -> None:
        if not self._credential.renewable:
            log.warning("token_expires_soon", remedy="give the desk a function that fetches a token")
            return
        try:
            await connection.send({"op": "refresh", "token": await self._credential.renew()})
        except ConsumerError as error:
            log.warning("token_not_refreshed", reason=str(error))
