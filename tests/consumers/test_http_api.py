"""The HTTP side's connections: none outlives its pool."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from hand_clock import BOUND_S

from consumers.credential import Credential
from consumers.http_api import HubHttp, Page

ANSWER = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 27\r\n\r\n{"events": [], "next": "c"}'


class AnsweringHub:
    """A server that answers every request, and knows which of its connections were closed."""

    def __init__(self) -> None:
        self.connections: list[asyncio.Task[None]] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until the other end closes it."""
        task = asyncio.current_task()
        assert task is not None
        self.connections.append(task)
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            writer.write(ANSWER)
        writer.close()


@pytest.fixture
async def hub() -> AsyncIterator[AnsweringHub]:
    """On a port of its own."""
    hub = AnsweringHub()
    server = await asyncio.start_server(hub.serve, "127.0.0.1", 0)
    hub.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
    yield hub
    server.close()


@pytest.mark.parametrize("turns", range(12))
async def test_a_connection_being_made_while_its_pool_is_closed_is_closed_too(hub: AnsweringHub, turns: int) -> None:
    """Wherever the request is by then: it is answered, and leaves nothing open."""
    http = HubHttp(hub.url, Credential("good"))
    request = asyncio.create_task(http.events({}))
    for _ in range(turns):
        await asyncio.sleep(0)
    await http.close()
    assert await request == Page(events=[], next="c")
    # Also where it began with a pool of its own, behind the close.
    await http.close()
    async with asyncio.timeout(BOUND_S):
        await asyncio.gather(*hub.connections)
