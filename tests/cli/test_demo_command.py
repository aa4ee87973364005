"""`hub demo`: what it shows, and that nothing of it is left."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import pytest
from hub_process import (
    PATIENCE_S,
    HubProcess,
    alive,
    clean_environment,
    ended,
    eventually,
    free_port,
    interrupted,
    line_with,
    processes_about,
    started,
)

from hub.cli.demo_systems import System
from hub.cli.failure import CommandError
from hub.cli.showcase import Showcase, mark_of

SYSTEMS = ("hotel-pms", "hotel-saas", "hotel-member")


@pytest.fixture
def temporary() -> Iterator[Path]:
    """Where the demonstrations of a test put their temporary directories; the name tells their processes."""
    directory = Path(tempfile.mkdtemp(prefix="demo-test-"))
    yield directory
    shutil.rmtree(directory)


def demo(temporary: Path, *options: str) -> AbstractAsyncContextManager[Process]:
    """A demonstration of a made-up day, at a pace at which something happens."""
    environment = clean_environment(port=0) | {"TMPDIR": str(temporary)}
    return started("demo", "--no-bookings", "--speed", "3600", *options, environment=environment, directory=temporary)


def gone(temporary: Path) -> bool:
    """Whether nothing is left: no process and no file."""
    return processes_about(str(temporary)) == [] and list(temporary.iterdir()) == []


async def test_every_system_receives_and_nothing_is_left(temporary: Path) -> None:
    """It ends by itself after --duration with code 0, its processes and its directory gone."""
    async with demo(temporary, "--duration", "6") as shown:
        assert shown.stdout is not None
        lines = (await shown.stdout.read()).decode().splitlines()
        assert await ended(shown) == 0

    address = lines[0].split()[1]
    assert address.startswith("http://127.0.0.1:")
    assert f"{address}/docs" in lines[0]
    assert f"{address}/metrics" in lines[0]
    text = "\n".join(lines)
    assert f"hub tail --url {address} --data-dir {temporary}" in text
    assert "curl -H 'Authorization: Bearer ey" in text
    for system in SYSTEMS:
        assert [line for line in lines if line.startswith(system) and line.endswith(" ms)")]
        [summary] = [line for line in lines if line.startswith(system) and " received, p50 " in line]
        assert int(summary.split()[1]) > 0
    assert gone(temporary)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it_cleanly(number: signal.Signals, temporary: Path) -> None:
    """Ctrl-C and SIGTERM are how a demonstration ends: code 0, nothing on stderr, nothing left."""
    async with demo(temporary) as shown:
        await line_with(shown, "hotel-member  ")
        assert len(processes_about(str(temporary))) >= 5  # itself, the log server, three systems

        shown.send_signal(number)
        _, said = await shown.communicate()

        assert (shown.returncode, said) == (0, b"")
    assert gone(temporary)


async def test_a_signal_while_it_starts_ends_it_too(temporary: Path) -> None:
    """Before anything is shown."""
    async with demo(temporary) as shown:
        await line_with(shown, "playing")

        assert await interrupted(shown) == 0
    assert gone(temporary)


async def test_its_processes_end_with_it_when_it_is_killed(temporary: Path) -> None:
    """SIGKILL leaves no time to clean up; the kernel ends the systems and the log server."""
    async with demo(temporary) as shown:
        await line_with(shown, "hotel-pms  ")
        shown.kill()
        await shown.wait()

        eventually(lambda: processes_about(str(temporary)) == [])


async def test_it_takes_a_free_port_where_its_own_is_busy(temporary: Path) -> None:
    """And says so."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with demo(temporary, "--port", str(port)) as shown:
            assert f"port {port} is busy: taking " in await line_with(shown, "busy", "stderr")
            assert f":{port}" not in await line_with(shown, "hub ")
            assert await interrupted(shown) == 0


async def test_a_directory_that_is_kept_is_gone_on_with(temporary: Path) -> None:
    """`--once` plays one day to its end; the next run over the same directory plays the day after."""
    kept = temporary / "kept"
    days = []
    for _ in range(2):
        async with demo(temporary, "--once", "--speed", "1e6", "--data-dir", str(kept)) as shown:
            assert shown.stdout is not None
            lines = (await shown.stdout.read()).decode().splitlines()
            assert await ended(shown) == 0
        days.append((kept / "demo-day").read_text())
        published = int(lines[-1].split()[1])
        received = {line.split()[0]: int(line.split()[1]) for line in lines if " received, p50 " in line}
        assert published > 50
        assert received["hotel-pms"] > received["hotel-member"] > 0
    assert days[0] < days[1]
    assert {path.name for path in kept.iterdir()} >= {"keys", "log", *(f"{system}.db" for system in SYSTEMS)}


async def test_real_bookings_are_played_where_they_are_named(temporary: Path) -> None:
    """A file that cannot be read ends it with the reason; a good one is what the systems get."""
    (temporary / "bad.csv").write_text("hotel,adr\n")
    environment = clean_environment(port=free_port()) | {"HOTEL_BOOKINGS": "bad.csv", "TMPDIR": str(temporary)}
    async with started("demo", environment=environment, directory=temporary) as shown:
        _, said = await shown.communicate()

    assert shown.returncode == 1
    assert b"bad.csv, line 1, column is_canceled: the header lacks" in said
    assert b"Traceback" not in said
    (temporary / "bad.csv").unlink()
    assert gone(temporary)


async def test_a_system_that_ends_by_itself_is_told_with_its_last_words(tmp_path: Path) -> None:
    """Its exit code and what it said on stderr, instead of a column that stands still."""
    (tmp_path / "hotel-pms.db").mkdir()  # a database it cannot open
    system = System("hotel-pms", lambda *_: None)
    try:
        await system.start("ws://127.0.0.1:1/ws", "token", tmp_path)

        with pytest.raises(CommandError, match=r"hotel-pms ended by itself \(exit code 1\): .*unable to open"):
            await system.ended()
    finally:
        await system.stop()


async def test_a_system_is_ended_kindly(hub: HubProcess, tmp_path: Path) -> None:
    """It hears SIGTERM, finishes and leaves with code 0."""
    hub.publish(range(1), "kindly")
    told = asyncio.Event()
    system = System("hotel-pms", lambda *_: told.set())
    await system.start(f"{hub.url.replace('http', 'ws')}/ws", hub.token("hotel-pms"), tmp_path)
    async with asyncio.timeout(PATIENCE_S):
        await told.wait()

    await system.stop()

    assert system._process is not None
    assert system._process.returncode == 0


def test_a_bound_program_ends_with_its_parent(tmp_path: Path) -> None:
    """Even one that would go on without it."""
    parent = (
        "import os, subprocess, sys\n"
        "bound = [sys.executable, '-m', 'hub.cli.bound', str(os.getpid()), 'http.server', '0', '--bind', '127.0.0.1']\n"
        "child = subprocess.Popen(bound, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    environment = clean_environment() | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, "-c", parent], stdout=subprocess.PIPE, env=environment, cwd=tmp_path)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    process.kill()
    process.communicate()
    try:
        eventually(lambda: not alive(child))
    finally:
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


class TestShowcase:
    """What is counted."""

    def test_a_line_is_matched_with_the_event_it_tells_of(self) -> None:
        """The latency is from the publication; a line about something unknown counts without one."""
        show = Showcase(("hotel-pms",))
        draft = {
            "type": "room",
            "action": "status_changed",
            "tenant_id": "default",
            "occurred_at": "2026-07-15T10:00:00Z",
            "data": {"room_id": "r1"},
        }
        line = "2026-07-15T10:00:00+00:00  default  room.status_changed  room:r1  room 101: occupied  twice"
        assert line.startswith(mark_of(draft))
        show.sending(mark_of(draft), 10.0)

        assert show.arrived("hotel-pms", line, 10.25) == pytest.approx(250)
        assert show.arrived("hotel-pms", line.replace("r1", "r2"), 11.0) is None
        assert show.arrived("hotel-pms", "a word", 11.0) is None
        column = show.columns["hotel-pms"]
        assert list(column.recent) == [*["10:00 status_changed room 101: occupied  twice"] * 2, "a word"]
        assert (show.all_received, column.summary()) == (3, "3 received, p50 250.0 ms, p99 250.0 ms")

    def test_memory_is_bounded(self) -> None:
        """However long it runs, what is remembered of events that nobody receives has an end."""
        show = Showcase(("hotel-pms",))
        for number in range(25_000):
            show.sending(str(number), float(number))

        assert show.arrived("hotel-pms", "0", 25_000.0) is None
        assert show.arrived("hotel-pms", "24999", 25_000.0) == pytest.approx(1000)

    def test_quantiles_are_of_what_was_seen(self) -> None:
        """None before the first, the last value at the end."""
        show = Showcase(("hotel-pms",))
        assert show.columns["hotel-pms"].summary() == "0 received"
        for number in range(1, 101):
            show.sending(str(number), 0.0)
            show.arrived("hotel-pms", str(number), number / 1000)

        column = show.columns["hotel-pms"]
        assert column.quantile(0.5) == pytest.approx(51)
        assert column.quantile(0.99) == pytest.approx(100)
