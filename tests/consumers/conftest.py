"""Fixtures of the SDK's tests."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from stream_server import StreamServer, redis_server, valkey_server

_BINARIES = {"valkey": valkey_server, "redis": redis_server}


@pytest.fixture(params=list(_BINARIES))
async def stream_server(request: pytest.FixtureRequest) -> AsyncIterator[StreamServer]:
    """A fresh server, laid out as a hub does. On Valkey, and on Redis where it is installed."""
    binary = _BINARIES[request.param]()
    if binary is None:
        if request.param == "valkey" and "CI" in os.environ:
            pytest.fail("CI has no Valkey server")
        pytest.skip(f"no {request.param} server here")
    # Not pytest's directory: a socket's path must be short.
    directory = Path(tempfile.mkdtemp(prefix="hub"))
    server = StreamServer(binary, directory)
    try:
        await server.start()
        await server.lay_out()
        yield server
        await server.close()
    finally:
        shutil.rmtree(directory, ignore_errors=True)
