"""The log's contract is held against every server it runs on."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from itertools import count

import fakeredis
import pytest
from log_servers import Bench, Server, fake_source, program, remote

_prefixes = count()


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """The packaged server, shared by all tests that leave it as it was but for its data."""
    server = Server(program("Valkey"))
    try:
        server.start()
        yield server
    finally:
        server.close()


@pytest.fixture(scope="session")
def debian_redis() -> Iterator[Server]:
    """The system's Redis 7.0, likewise."""
    server = Server(program("Redis"))
    try:
        server.start()
        yield server
    finally:
        server.close()


def _bench(server: Server) -> Bench:
    return Bench(remote(server.url), f"t{next(_prefixes)}")


@pytest.fixture(params=["fakeredis", "valkey", "redis"])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A place for logs, on each server."""
    if request.param == "fakeredis":
        fake = fakeredis.FakeServer()
        made = Bench(lambda: fake_source(fake), "t", fake=True)
    else:
        made = _bench(request.getfixturevalue("valkey" if request.param == "valkey" else "debian_redis"))
    yield made
    await made.close()


@pytest.fixture(params=["valkey", "redis"])
async def served(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Bench, Server]]:
    """A place for logs on a server of the test's own, to be maltreated."""
    server = Server(program("Valkey" if request.param == "valkey" else "Redis"))
    try:
        server.start()
        made = _bench(server)
        yield made, server
        server.signal(signal.SIGCONT)
        await made.close()
    finally:
        server.close()
