"""What the tests of `HubClient` share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fake_hub import FakeHub
from hand_clock import BOUND_S, HandClock, until

from consumers import (
    HubClient,
    MemoryCursors,
)
from consumers.connection import Connection
from schemas.reservation import ReservationEvent


class Seen(list[str]):
    """A handler that writes down the reservations it is given."""

    async def __call__(self, event: ReservationEvent) -> None:
        self.append(event.data.reservation_id)


def client_of(hub: FakeHub, clock: HandClock, **options: Any) -> HubClient:
    """A client whose every backoff is at its ceiling."""
    options = {"token": "good", "random": lambda: 1.0} | options
    return HubClient(hub.url, clock=clock, **options)


def connection_of(client: HubClient) -> Connection:
    """The client's open WebSocket."""
    assert client._link is not None
    assert client._link.connection is not None
    return client._link.connection


def queue_of(client: HubClient) -> asyncio.Queue[Any]:
    """What waits for the client's one worker."""
    assert client._link is not None
    return client._link._intake._workers._queues[0]


@asynccontextmanager
async def running(client: HubClient, mode: str = "websocket") -> AsyncIterator[asyncio.Task[None]]:
    """Run the client inside the block; leaving it closes the client as its owner would."""
    async with client:
        task = asyncio.create_task(client.run())
        try:
            await until(lambda: client.mode == mode or task.done())
            yield task
        except BaseException:
            # A failed test does not wait for its handlers.
            task.cancel()
            raise
    async with asyncio.timeout(BOUND_S):
        await asyncio.wait({task})


@asynccontextmanager
async def running_anyhow(client: HubClient) -> AsyncIterator[asyncio.Task[None]]:
    """Like `running`, for a client that does not get through at first."""
    async with running(client, mode="offline") as task:
        yield task


async def failure_of(client: HubClient) -> BaseException:
    """What `run` ends with."""
    with pytest.raises(Exception) as caught:
        async with asyncio.timeout(BOUND_S):
            await client.run()
    assert not isinstance(caught.value, TimeoutError)
    return caught.value


class Gated(MemoryCursors):
    """A store whose first write waits."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = asyncio.Event()
        self.writes = 0

    async def save(self, cursors: Any) -> None:
        self.writes += 1
        if self.writes == 1:
            await self.gate.wait()
        await super().save(cursors)
