"""Real servers for the log's contract, and logs on them."""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import fakeredis
import orjson
import pytest
import redis as plain_redis

from hub.errors import StartError
from hub.log import topology
from hub.log.binary import find_server
from hub.log.keys import Keys
from hub.log.setup import fix_layout, load_epochs, make_groups, open_log
from hub.log.stream_log import Append, Appended, StreamLog
from hub.log.topology import Source, connect
from schemas.cursor import ZERO

PATIENCE_S = 20.0
PARTITIONS = 2
GROUPS = ("archiver", "hotel-pms")
WEEK_S = 7 * 24 * 3600
T0, T1 = "naha", "default"
"""One tenant a partition."""
NEIGHBOUR = "t-4"
"""On the partition of T0."""


def program(product: str) -> Path:
    """The server program of `Valkey` (packaged) or `Redis` (on PATH); skips without it, fails in CI."""
    try:
        found = find_server() if product == "Valkey" else find_server(package="no_such_package")
    except StartError:
        found = None
    if found is None or found.product != product:
        if "CI" in os.environ:
            pytest.fail(f"CI has no {product} server")
        pytest.skip(f"no {product} server here")
    return found.path


def free_port() -> int:
    """A port that was free a moment ago, and 10000 above it too (a cluster's bus)."""
    while True:
        with socket.socket() as one, socket.socket() as bus:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            if port > 50_000:
                continue
            try:
                bus.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            return port


class Server:
    """One server process on a loopback port, in a directory of its own."""

    def __init__(self, binary: Path, *args: str, durable: bool = True) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = Path(tempfile.mkdtemp(prefix="hub"))
        command = [str(binary), *args, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)]
        if durable:
            command += ["--appendonly", "yes", "--appendfsync", "always", "--save", ""]
            command += ["--maxmemory-policy", "noeviction"]
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def directory(self) -> Path:
        """Where it keeps its data."""
        return self._directory

    def run_as(self, command: list[str]) -> None:
        """Run this command in place of a plain server."""
        self._command = [*command, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._directory)]

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with self.client() as client:
            patiently(lambda: bool(client.ping()))

    def client(self) -> Any:
        """A blocking client for set-up."""
        return plain_redis.Redis(port=self.port, protocol=2, socket_timeout=5)

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        """End it and remove its data."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


def patiently(condition: Callable[[], Any]) -> None:
    """Return when the condition is true, taking a refused connection for false; fail after `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if condition():
                return
        except (plain_redis.RedisError, OSError):
            pass
        if time.monotonic() > deadline:
            pytest.fail("a server did not do what was waited for")
        time.sleep(0.01)


async def until(condition: Callable[[], Any]) -> Any:
    """The condition's value (awaited, if need be) once it is true; fails after `PATIENCE_S`."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            value = condition()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.01)


def fake_source(server: fakeredis.FakeServer) -> Source:
    """A source over the in-memory fake."""
    client: Any = fakeredis.FakeAsyncRedis(server=server, protocol=2)
    return Source(topology._raw_streams(client), False, "fake")


class Bench:
    """One server and one key prefix; logs over it, as several hub processes have them."""

    def __init__(self, source: Callable[[], Source], prefix: str, *, fake: bool = False) -> None:
        self._source = source
        self.keys = Keys(prefix)
        self.fake = fake
        self._open: list[StreamLog] = []

    async def _prepare(self, log: StreamLog) -> None:
        if self.fake:  # it has no INFO and no CONFIG; the rest of opening is the same
            await fix_layout(log.source, log)
            await self.reopen(log)
        else:
            await open_log(log.source, log, GROUPS)

    async def reopen(self, log: StreamLog) -> None:
        """What the hub does when the server had been away or was emptied."""
        await load_epochs(log.source, log)
        await make_groups(log.source, log, GROUPS)

    async def open(self, partitions: int = PARTITIONS, **options: Any) -> StreamLog:
        """Another hub's log: opened, and reopened when it hears that the history was replaced."""
        log = StreamLog(self._source(), self.keys, partitions, **({"idempotency_s": WEEK_S} | options))
        self._open.append(log)
        await self._prepare(log)
        log.on_lost = lambda: self.reopen(log)
        return log

    async def close(self) -> None:
        """Close every log."""
        for log in self._open:
            await log.aclose()


def remote(url: str) -> Callable[[], Source]:
    """Sources over a server."""
    return lambda: connect(url)


def event(
    tenant: str = T0, entity: str = "room:1", *, id: str = "", expected: int | None = None, pad: int = 0, n: int = 0
) -> Append:
    """An event to append; `n` is its payload."""
    event_id = id or str(uuid4())
    envelope = {"event_id": event_id, "schema_version": 1, "tenant_id": tenant, "type": "room"}
    envelope |= {"action": "status_changed", "targets": ["hotel-pms"], "entity": entity, "data": {"n": n}}
    if pad:
        envelope["data"] = {"n": n, "pad": "x" * pad}
    head = orjson.dumps(envelope)[:-1] + b',"revision":'
    return Append(tenant, event_id, entity, "room", "status_changed", 1_784_077_441_000 + n, head, expected)


async def append_all(log: StreamLog, appends: Sequence[Append]) -> list[Appended]:
    """Append events in order; all must be stored."""
    found = []
    for outcome in await asyncio.gather(*[log.submit(one) for one in appends]):
        assert isinstance(outcome, Appended)
        found.append(outcome)
    return found


async def stored(log: StreamLog, tenant: str) -> list[tuple[int, str]]:
    """What lies in the stream of a tenant: sequence and event id, in order."""
    entries = await log.read(log.partition(tenant), ZERO, 100_000)
    return [(entry.sequence, entry.event_id) for entry in entries if entry.tenant_id == tenant]
