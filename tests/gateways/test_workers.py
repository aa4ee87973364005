"""Several gateway processes behind one port."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import orjson
from websockets.asyncio.client import connect

from hub.app import verifier
from hub.settings import load

DEADLINE_S = 30.0


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


@asynccontextmanager
async def served(directory: Path, port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    """`hub serve` with two workers, ready, and ended afterwards."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hub.cli.main", "serve", "--workers", "2"),
        env=environment | {"HUB_DATA_DIR": str(directory), "HUB_PORT": str(port), "HUB_LOG_LEVEL": "warning"},
    )
    try:
        await ready(port)
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
            await asyncio.wait_for(process.wait(), DEADLINE_S)


async def ready(port: int) -> None:
    """Until both workers answer: each connection goes to whichever takes it first."""
    async with asyncio.timeout(DEADLINE_S):
        answers = 0
        while answers < 8:
            try:
                async with httpx.AsyncClient() as client:
                    answers += (await client.get(f"http://127.0.0.1:{port}/readyz", timeout=2)).status_code == 200
            except httpx.TransportError:
                answers = 0
                await asyncio.sleep(0.05)


def children_of(pid: int) -> list[int]:
    """The direct children of a process."""
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def lives(pid: int) -> bool:
    """Whether a process is there."""
    return Path(f"/proc/{pid}").exists()


def workers_of(pid: int) -> list[int]:
    """The worker processes of a supervisor."""
    return [one for one in children_of(pid) if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]


async def until_gone(pids: list[int]) -> None:
    """Until none of these processes lives."""
    async with asyncio.timeout(DEADLINE_S):
        while any(lives(pid) for pid in pids):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def event(number: int) -> dict[str, object]:
    """A valid event."""
    data = {
        "reservation_id": f"R{number}",
        "room_type": "twin",
        "checkin_date": "2026-07-01",
        "checkout_date": "2026-07-03",
        "total_amount": 1,
        "status": "confirmed",
        "origin": "phone",
    }
    return {"type": "reservation", "action": "created", "data": data}


async def test_every_worker_delivers_everything(tmp_path: Path) -> None:
    """Subscribers spread over the workers all get all events; a killed worker is replaced; metrics are of all."""
    port = free_port()
    token = verifier(load(data_dir=tmp_path)).issue("hotel-pms", ["default"], ["publish:*", "subscribe:*"])
    headers = {"Authorization": f"Bearer {token}"}
    async with served(tmp_path, port) as process, httpx.AsyncClient(headers=headers) as http:
        base = f"http://127.0.0.1:{port}"
        sockets = [await connect(f"ws://127.0.0.1:{port}/ws", additional_headers=headers) for _ in range(12)]
        for one in sockets:
            await one.recv()
            await one.send('{"op":"subscribe","id":1,"patterns":["*"]}')
            assert orjson.loads(await one.recv())["op"] == "subscribed"
        for number in range(20):
            response = await http.post(f"{base}/api/v1/events", content=orjson.dumps(event(number)))
            assert response.status_code == 201
        for one in sockets:
            async with asyncio.timeout(DEADLINE_S):
                assert [orjson.loads(await one.recv())["sequence"] for _ in range(20)] == list(range(1, 21))
        counted = (await http.get(f"{base}/metrics")).text
        assert 'hub_events_published_total{outcome="stored",type="reservation"} 20.0' in counted
        assert 'hub_connections{system="hotel-pms"} 12.0' in counted

        assert process.pid is not None
        first = workers_of(process.pid)
        assert len(first) == 2
        os.kill(first[0], signal.SIGKILL)
        async with asyncio.timeout(DEADLINE_S):
            while len(set(workers_of(process.pid)) - {first[0]}) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        await ready(port)
        for one in sockets:
            await one.close()


async def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    """kill -9 of the supervisor takes workers and embedded server along, and the data can be taken over."""
    port = free_port()
    token = verifier(load(data_dir=tmp_path)).issue("hotel-pms", ["default"], ["publish:*", "subscribe:*"])
    headers = {"Authorization": f"Bearer {token}"}
    async with served(tmp_path, port) as process:
        assert process.pid is not None
        async with httpx.AsyncClient(headers=headers) as http:
            await http.post(f"http://127.0.0.1:{port}/api/v1/events", content=orjson.dumps(event(1)))
        family = children_of(process.pid)
        process.kill()
        await process.wait()
        await until_gone(family)
    async with served(tmp_path, port), httpx.AsyncClient(headers=headers) as http:
        page = (await http.get(f"http://127.0.0.1:{port}/api/v1/events")).json()
        assert [one["sequence"] for one in page["events"]] == [1]
