"""What the tests of the embedded server share: real programs, and bounded waits for real processes."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from hub.errors import StartError
from hub.log.binary import ServerProgram, find_server
from hub.log.embedded import EmbeddedServer

PATIENCE_S = 20.0


def system_program() -> ServerProgram | None:
    """The server program on PATH, if there is a fit one."""
    try:
        return find_server(package="no_such_package")
    except StartError:
        return None


BUNDLED = find_server()
SYSTEM = system_program()
each_program = pytest.mark.parametrize(
    "program",
    [
        pytest.param(BUNDLED, id="package"),
        pytest.param(SYSTEM, id="system", marks=pytest.mark.skipif(SYSTEM is None, reason="no server program on PATH")),
    ],
)


async def eventually(condition: Callable[[], Any]) -> None:
    """Return when the condition, or what it gives to await, is true; fail when it is not within `PATIENCE_S`."""
    async with asyncio.timeout(PATIENCE_S):
        # What is awaited happens in other processes, which send no signal.
        while not (await held if inspect.isawaitable(held := condition()) else held):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether a process with this pid exists and is not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@asynccontextmanager
async def client(url: str) -> AsyncIterator[Any]:
    """A client without retries, so that a test sees each failure."""
    redis: Any = Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=5, decode_responses=True)
    try:
        yield redis
    finally:
        await redis.aclose()


@asynccontextmanager
async def running(server: EmbeddedServer) -> AsyncIterator[Any]:
    """A started server's client; the server is stopped at the end."""
    url = await server.start()
    try:
        async with client(url) as redis:
            yield redis
    finally:
        await server.stop()


def script(path: Path, body: str) -> ServerProgram:
    """A shell script in place of a server program."""
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return ServerProgram(path, "Valkey", (9, 0, 0))


def events_named(logs: list[Any], name: str) -> list[Any]:
    """The log entries of one event."""
    return [entry for entry in logs if entry["event"] == name]
