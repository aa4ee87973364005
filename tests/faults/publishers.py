"""Publishers that retry with the same event_id until they have a receipt, or give an event up for good."""

from __future__ import annotations

import asyncio
import json
import random
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from .ledger import Ledger

_RETRY_S: Final = 0.05
_ANSWER_S: Final = 15.0
_GIVE_UP: Final = 0.1
"""The share of open outcomes that is left open, so that those count too."""


class Reservations:
    """The reservations of one publisher, each with at most one event on its way.

    A reservation with an event that was given up gets no further one, and another takes its place.
    """

    def __init__(self, publisher: str, tenants: Sequence[str], count: int, seed: str) -> None:
        self._publisher = publisher
        self._tenants = tenants
        self._made = 0
        self._random = random.Random(seed)
        self._free: deque[tuple[str, str, int]] = deque()
        for _ in range(count):
            self._new()

    def _new(self) -> None:
        self._made += 1
        self._free.append((self._tenants[self._made % len(self._tenants)], f"{self._publisher}-{self._made}", 0))

    def take(self, count: int) -> list[dict[str, Any]]:
        """The next events of up to `count` reservations."""
        taken: list[dict[str, Any]] = []
        while self._free and len(taken) < count:
            tenant, reservation, number = self._free.popleft()
            taken.append(self._event(tenant, reservation, number + 1))
        return taken

    def _event(self, tenant: str, reservation: str, number: int) -> dict[str, Any]:
        return {
            "event_id": str(uuid.UUID(int=self._random.getrandbits(128), version=4)),
            "tenant_id": tenant,
            "type": "reservation",
            "action": "created" if number == 1 else "updated",
            "data": {
                "reservation_id": reservation,
                "room_type": "double",
                "checkin_date": "2026-07-15",
                "checkout_date": "2026-07-17",
                "total_amount": number,
                "status": "confirmed",
                "origin": "direct_web",
            },
        }

    def done(self, event: dict[str, Any]) -> None:
        """The event has its receipt."""
        data = event["data"]
        self._free.append((event["tenant_id"], data["reservation_id"], data["total_amount"]))

    def give_up(self, event: dict[str, Any]) -> None:
        """The event will not be sent again."""
        self._new()


class Publisher(ABC):
    """What both ways of publishing share: the ledger, the pace, the giving up."""

    def __init__(
        self, name: str, tenants: Sequence[str], ledger: Ledger, *, seed: int, reservations: int, rate: float | None
    ) -> None:
        self._ledger = ledger
        self._reservations = Reservations(name, tenants, reservations, f"{seed}/{name}")
        self._random = random.Random(f"{seed}/{name}/choices")
        self._rate = rate
        self._due = 0.0
        self._stop = asyncio.Event()

    @abstractmethod
    async def run(self) -> None:
        """Publish until `stop`."""

    def stop(self) -> None:
        """Send nothing new; `run` returns when every event is settled."""
        self._stop.set()

    def _take(self, count: int) -> list[dict[str, Any]]:
        events = self._reservations.take(count)
        for event in events:
            data = event["data"]
            self._ledger.attempt(event["event_id"], event["tenant_id"], data["reservation_id"], data["total_amount"])
        return events

    def _done(self, event: dict[str, Any], receipt: dict[str, Any]) -> None:
        self._ledger.acknowledge(event["event_id"], receipt["sequence"], receipt["revision"])
        self._reservations.done(event)

    def _retried(self, events: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The events with an open outcome that are sent again; the others are given up."""
        again = []
        for event in events:
            self._ledger.open_answers += 1
            if self._random.random() < _GIVE_UP:
                self._reservations.give_up(event)
            else:
                again.append(event)
        return again

    async def _pace(self, events: int) -> None:
        if self._rate is None:
            return
        now = asyncio.get_running_loop().time()
        self._due = max(self._due, now - 1.0) + events / self._rate
        if self._due > now:
            await self._pause(self._due - now)

    async def _pause(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stop.wait(), seconds)
        except TimeoutError:
            return


class HttpPublisher(Publisher):
    """Publishes batches (of one: single events) over HTTP."""

    def __init__(self, url: str, token: str, batch: int, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._url = f"{url}/api/v1/events"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._batch = batch

    async def run(self) -> None:
        """Publish until `stop`."""
        async with httpx.AsyncClient(headers=self._headers, timeout=_ANSWER_S) as client:
            while not self._stop.is_set():
                waiting = self._take(self._batch)
                await self._pace(len(waiting))
                while waiting:
                    waiting = await self._send(client, waiting)
                    if waiting:
                        await asyncio.sleep(_RETRY_S)

    async def _send(self, client: httpx.AsyncClient, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Send; the events to send again."""
        body: Any = events[0] if self._batch == 1 else {"events": events}
        try:
            answer = await client.post(self._url, json=body)
        except httpx.ConnectError:
            return events
        except httpx.TimeoutException:
            # The request may still be on its way: giving up now and numbering on elsewhere would prove nothing.
            self._ledger.open_answers += len(events)
            return events
        except httpx.TransportError:
            return self._retried(events)
        if answer.status_code in (500, 503):
            unknown = answer.json()["code"] == "outcome_unknown"
            return self._retried(events) if unknown else events
        if answer.status_code not in (201, 207):
            raise AssertionError(f"refused: {answer.status_code} {answer.text[:500]}")
        receipts = [answer.json()] if self._batch == 1 else answer.json()["receipts"]
        again: list[dict[str, Any]] = []
        for event, receipt in zip(events, receipts, strict=True):
            problem = receipt.get("problem")
            if problem is None:
                self._done(event, receipt)
            elif not problem["retryable"]:
                raise AssertionError(f"refused: {problem}")
            else:
                again += self._retried([event]) if problem["code"] == "outcome_unknown" else [event]
        return again


class SocketPublisher(Publisher):
    """Publishes over a WebSocket, several events on their way at once; unanswered ones go again on the next one."""

    def __init__(self, url: str, token: str, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._url = url
        self._headers = {"Authorization": f"Bearer {token}"}
        self._waiting: dict[str, dict[str, Any]] = {}

    async def run(self) -> None:
        """Publish until `stop`."""
        while not self._stop.is_set() or self._waiting:
            try:
                async with connect(
                    self._url, additional_headers=self._headers, open_timeout=_ANSWER_S, ping_interval=None
                ) as socket:
                    try:
                        await self._serve(socket)
                    finally:
                        kept = self._retried(list(self._waiting.values()))
                        self._waiting = {event["event_id"]: event for event in kept}
            except (OSError, WebSocketException, TimeoutError):
                await asyncio.sleep(_RETRY_S)

    async def _serve(self, socket: ClientConnection) -> None:
        for event in self._waiting.values():
            await self._send(socket, event)
        sending = asyncio.create_task(self._feed(socket))
        try:
            while not (self._stop.is_set() and not self._waiting):
                try:
                    text = await asyncio.wait_for(socket.recv(), 0.5 if self._stop.is_set() else 5)
                except TimeoutError:
                    if not self._waiting:
                        continue
                    raise
                await self._answer(socket, json.loads(text))
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _feed(self, socket: ClientConnection) -> None:
        while not self._stop.is_set():
            for event in self._take(1):
                self._waiting[event["event_id"]] = event
                await self._send(socket, event)
            await self._pace(1)
            if self._rate is None:
                await asyncio.sleep(0.001)

    async def _send(self, socket: ClientConnection, event: dict[str, Any]) -> None:
        await socket.send(json.dumps({"op": "publish", "ref": event["event_id"], "event": event}))

    async def _answer(self, socket: ClientConnection, frame: dict[str, Any]) -> None:
        if frame["op"] not in ("published", "error"):
            return
        event = self._waiting.get(frame["ref"])
        if event is None:
            return
        if frame["op"] == "published":
            del self._waiting[frame["ref"]]
            self._done(event, frame)
        elif not frame["retryable"]:
            raise AssertionError(f"refused: {frame}")
        else:
            if frame["code"] == "outcome_unknown":
                self._ledger.open_answers += 1
            await asyncio.sleep(_RETRY_S)
            await self._send(socket, event)
