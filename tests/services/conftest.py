"""A log server for the services' tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from feed_rig import LogServer, Rig


@pytest.fixture(scope="session")
def log_server(empty_store: Path) -> Iterator[LogServer]:
    """The packaged server; every rig on it has keys of its own."""
    server = LogServer(empty_store)
    yield server
    server.close()


@pytest.fixture
async def rig(log_server: LogServer) -> AsyncIterator[Rig]:
    """A hub's delivery on the server."""
    made = await Rig(log_server).start()
    yield made
    await made.stop()
