"""A whole hub in this process, on a free port, over its embedded server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
from websockets.asyncio.client import ClientConnection, connect

from hub.app import Hub

WAIT_S = 10.0


class House:
    """A running hub and short words for using it."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{hub.port}/api/v1", timeout=40)
        self._numbers = itertools.count(1)

    def token(
        self,
        system: str = "hotel-pms",
        tenants: Iterable[str] = ("default",),
        scopes: Iterable[str] = ("publish:*", "subscribe:*"),
        **more: Any,
    ) -> str:
        """A token of the hub's own."""
        return self.hub.tokens.issue(system, tenants, scopes, **more)

    def headers(self, *args: Any, **kwargs: Any) -> dict[str, str]:
        """The header that carries such a token."""
        return {"Authorization": f"Bearer {self.token(*args, **kwargs)}"}

    def reservation(self, id: str = "", **more: Any) -> dict[str, Any]:
        """A valid event; `data` members by keyword after `data_`."""
        data = {
            "reservation_id": id or f"R{next(self._numbers)}",
            "room_type": "twin",
            "checkin_date": "2026-07-01",
            "checkout_date": "2026-07-03",
            "total_amount": 24000,
            "status": "confirmed",
            "origin": "phone",
        }
        data |= {key.removeprefix("data_"): value for key, value in more.items() if key.startswith("data_")}
        rest = {key: value for key, value in more.items() if not key.startswith("data_")}
        return {"type": "reservation", "action": "created", "data": data} | rest

    async def post(self, event: Any, **token: Any) -> httpx.Response:
        """POST /events."""
        content = event if isinstance(event, bytes) else orjson.dumps(event)
        return await self.http.post("/events", content=content, headers=self.headers(**token))

    async def publish(self, *events: Any, **token: Any) -> list[dict[str, Any]]:
        """Publish, and be sure of it."""
        response = await self.post({"events": list(events)}, **token)
        assert response.status_code == 201, response.text
        receipts: list[dict[str, Any]] = response.json()["receipts"]
        return receipts

    @asynccontextmanager
    async def socket(self, *, token: str | None = None, raw: bool = False, **more: Any) -> AsyncIterator[Socket]:
        """An open WebSocket; past its welcome unless `raw`."""
        headers = {} if raw and token is None else {"Authorization": f"Bearer {token or self.token()}"}
        more.setdefault("subprotocols", ["hub.v1"])
        more.setdefault("max_queue", None)
        url = f"ws://127.0.0.1:{self.hub.port}/ws"
        async with connect(url, additional_headers=headers, max_size=None, ping_interval=None, **more) as connection:
            socket = Socket(connection)
            if not raw:
                assert (await socket.next())["op"] == "welcome"
            yield socket

    async def archived(self, *receipts: dict[str, Any], tenant: str = "default") -> None:
        """Until the store has these events, and has acknowledged them."""
        last = max(receipt["sequence"] for receipt in receipts)
        heads = self.hub.store.archive.heads
        await self.until(lambda: tenant in heads() and heads()[tenant].sequence >= last)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that is about to be true, by turns of the loop."""
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.005)


class Socket:
    """A plain client: JSON out, JSON in."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def send(self, op: str, **fields: Any) -> None:
        """Send one frame."""
        await self.connection.send(orjson.dumps({"op": op, **fields}).decode())

    async def next(self) -> dict[str, Any]:
        """The next frame."""
        async with asyncio.timeout(WAIT_S):
            frame: dict[str, Any] = orjson.loads(await self.connection.recv())
            return frame

    async def ask(self, op: str, **fields: Any) -> dict[str, Any]:
        """Send a frame and take the next one as its answer."""
        await self.send(op, **fields)
        return await self.next()

    async def take(self, count: int) -> list[dict[str, Any]]:
        """The next `count` frames."""
        return [await self.next() for _ in range(count)]

    async def quiet(self) -> None:
        """Nothing is on its way: the next frame is the answer to a ping sent now."""
        assert await self.ask("ping") == {"op": "pong"}

    async def closed(self) -> int:
        """The close code, once it comes."""
        async with asyncio.timeout(WAIT_S):
            await self.connection.wait_closed()
        assert self.connection.close_code is not None
        return self.connection.close_code
