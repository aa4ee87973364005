"""The embedded server when something is killed or the disk is full: what comes back, what goes, what survives."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from redis.exceptions import RedisError
from server_runs import (
    BUNDLED,
    PATIENCE_S,
    alive,
    client,
    each_program,
    events_named,
    eventually,
    running,
    script,
)
from structlog.testing import capture_logs

from hub.errors import StartError
from hub.log import embedded, launch, locks
from hub.log.binary import ServerProgram
from hub.log.embedded import EmbeddedServer
from hub.log.probe import ask

pytestmark = pytest.mark.server


# Death of the server


@each_program
async def test_a_killed_server_comes_back_with_its_data(tmp_path: Path, program: ServerProgram) -> None:
    """After kill -9 the server is started again, says so, and has every acknowledged entry."""
    back = asyncio.Event()
    server = EmbeddedServer(tmp_path, program=program, on_restart=back.set)
    with capture_logs() as logs:
        async with running(server) as redis:
            acknowledged = [await redis.xadd("events", {"n": str(n)}) for n in range(100)]
            killed = server.pid
            assert killed is not None
            os.kill(killed, signal.SIGKILL)
            async with asyncio.timeout(PATIENCE_S):
                await back.wait()
            assert server.pid not in (None, killed)
            assert server.restarts == 1
            assert [entry for entry, _ in await redis.xrange("events")] == acknowledged
    (death,) = events_named(logs, "log_server_died")
    assert (death["pid"], death["ending"]) == (killed, "killed by SIGKILL")
    assert any("ready to accept connections" in line.lower() for line in death["last_lines"])


async def test_restarts_go_on_until_one_succeeds(tmp_path: Path) -> None:
    """Attempts that fail are logged with the reason, come ever slower, and end when the cause is gone."""
    broken = tmp_path / "broken"
    program = script(
        tmp_path / "server", f'[ -e {broken} ] && echo the flux is out && exit 3; exec {BUNDLED.path} "$@"'
    )
    back = asyncio.Event()
    server = EmbeddedServer(tmp_path, program=program, on_restart=back.set)
    with capture_logs() as logs:
        async with running(server) as redis:
            await redis.set("key", "value")
            broken.touch()
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)
            await eventually(lambda: len(events_named(logs, "log_server_restart_failed")) >= 3)
            broken.unlink()
            async with asyncio.timeout(PATIENCE_S):
                await back.wait()
            assert await redis.get("key") == "value"
    failures = events_named(logs, "log_server_restart_failed")
    assert all("the flux is out" in entry["reason"] for entry in failures)
    assert [entry["retry_in_s"] for entry in failures[:3]] == [0.2, 0.4, 0.8]


@pytest.mark.parametrize(("steady_s", "pauses"), [(60.0, [0.1, 0.2]), (0.0, [0.1, 0.1])])
async def test_a_server_that_dies_again_soon_waits_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steady_s: float, pauses: list[float]
) -> None:
    """The pause before a restart grows unless the server ran steadily; an `on_restart` that raises changes nothing."""
    monkeypatch.setattr(embedded, "_STEADY_S", steady_s)

    def fail() -> None:
        raise LookupError("not my day")

    server = EmbeddedServer(tmp_path, on_restart=fail)
    with capture_logs() as logs:
        async with running(server):
            for times in (1, 2):
                assert server.pid is not None
                os.kill(server.pid, signal.SIGKILL)
                await eventually(lambda: len(events_named(logs, "log_server_on_restart_failed")) == times)  # noqa: B023
    assert [death["restart_in_s"] for death in events_named(logs, "log_server_died")] == pauses


async def test_stop_between_death_and_restart_leaves_nothing(tmp_path: Path) -> None:
    """A stop while the server is down ends the supervision and frees the directory."""
    server = EmbeddedServer(tmp_path)
    with capture_logs() as logs:
        await server.start()
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        await eventually(lambda: events_named(logs, "log_server_died"))
        await server.stop()
    assert server.restarts == 0
    assert locks.server_pids(tmp_path / "log" / "server.lock") == []
    locks.HubLock(tmp_path).release()


async def test_no_restart_beside_a_child_of_the_dead_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rewrite that outlives its killed server is ended before the next server touches the files."""
    monkeypatch.setattr(locks, "_BRIEF_S", 0.3)
    back = asyncio.Event()
    server = EmbeddedServer(tmp_path, on_restart=back.set)
    lock = tmp_path / "log" / "server.lock"
    async with running(server) as redis:
        for n in range(10):
            await redis.set(f"key{n}", "value")
        await redis.config_set("rdb-key-save-delay", 60_000_000)  # microseconds a key: the rewrite takes forever
        await redis.bgrewriteaof()
        await eventually(lambda: len(locks.server_pids(lock)) == 2)
        killed = server.pid
        assert killed is not None
        (child,) = set(locks.server_pids(lock)) - {killed}
        os.kill(killed, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_S):
            await back.wait()
        assert not alive(child)
        assert locks.server_pids(lock) == [server.pid]
        assert await redis.get("key9") == "value"


@pytest.fixture(params=["full disk", "file size limit"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, Path, ServerProgram]]:
    """A directory to write to, the file that makes writing there fail while it exists, and the program to run."""
    if request.param == "full disk":
        small = tmp_path / "small"
        small.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", small], capture_output=True)
        if mounted.returncode != 0:
            pytest.skip("mounting a small file system needs root")
        try:
            yield small, small / "filler", BUNDLED
        finally:
            subprocess.run(["umount", "--lazy", small], check=True)
    else:
        limit = tmp_path / "limit"
        # An ignored signal stays ignored over exec: without it, a write past the limit kills instead of failing.
        body = f"""trap '' XFSZ; [ -e {limit} ] && ulimit -f 1; exec {BUNDLED.path} "$@" """
        yield tmp_path, limit, script(tmp_path / "server", body)


async def test_a_full_disk_loses_nothing_acknowledged(disk: tuple[Path, Path, ServerProgram]) -> None:
    """When writes fail the server exits and says why, and with space again everything acknowledged is there."""
    directory, obstacle, program = disk
    acknowledged: list[str] = []
    server = EmbeddedServer(directory / "data", program=program)
    with capture_logs() as logs:
        async with running(server) as redis:

            async def write() -> bool:
                with suppress(RedisError):
                    acknowledged.append(await redis.xadd("events", {"data": "x" * 8000}))
                    return True
                return False

            def failures() -> list[str]:
                """What was logged of servers that a failed write ended, once ready or before."""
                told = [
                    *(" ".join(death["last_lines"]) for death in events_named(logs, "log_server_died")),
                    *(failure["reason"] for failure in events_named(logs, "log_server_restart_failed")),
                ]
                return [words for words in told if "AOF write error" in words]

            async def write_until_failure(number: int) -> bool:
                await write()
                return len(failures()) >= number

            assert await write()
            with obstacle.open("wb") as filler:
                if obstacle.name == "filler":
                    filler.write(bytes(os.statvfs(directory).f_bavail * 4096 - 200_000))
            assert server.pid is not None
            os.kill(server.pid, signal.SIGKILL)  # a limit holds from the next start
            for number in (1, 2):  # it comes back, and fails again while there is no room
                await eventually(partial(write_until_failure, number))
            obstacle.unlink()
            await eventually(write)
            kept = {entry for entry, _ in await redis.xrange("events")}
    assert set(acknowledged) <= kept


# Death of the hub

HUB = """
import asyncio, sys
from pathlib import Path
from redis.asyncio import Redis
from hub.log.embedded import EmbeddedServer

async def main():
    server = EmbeddedServer(Path(sys.argv[1]))
    async with Redis.from_url(await server.start(), decode_responses=True) as redis:
        print(server.pid, flush=True)
        while True:
            print(await redis.xadd("events", {"data": "x" * 600}), flush=True)

if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main())
else:
    asyncio.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_killed_hub_takes_its_server_along(tmp_path: Path, loop: str) -> None:
    """After kill -9 of the hub its server goes too, and the next start at once has every acknowledged entry."""
    data = tmp_path / "data"
    hub = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HUB, data, loop, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert hub.stdout is not None
    async with asyncio.timeout(PATIENCE_S):
        lines = [line.decode().strip() async for line in read_lines(hub.stdout, 200)]
        hub.kill()
        lines += (await hub.stdout.read()).decode().split("\n")[:-1]
        await hub.wait()
    server_lines = [line for line in lines if line.isdigit()]
    acknowledged = [line for line in lines if "-" in line and line.replace("-", "").isdigit()]
    with capture_logs() as logs:
        async with running(EmbeddedServer(data)) as redis:
            assert not alive(int(server_lines[0]))
            kept = {entry for entry, _ in await redis.xrange("events")}
            assert len(acknowledged) > 100
            assert set(acknowledged) <= kept
    assert events_named(logs, "log_server_orphaned") == [], "it was to go with its hub, not to be shut down later"


async def read_lines(stream: asyncio.StreamReader, count: int) -> AsyncIterator[bytes]:
    """So many lines of a stream."""
    for _ in range(count):
        yield await stream.readline()


def test_a_hub_that_died_before_the_launch_starts_nothing() -> None:
    """The launcher ends when its parent is not the hub that started it."""
    code = f"import runpy; m = runpy.run_path({launch.__file__!r}); m['die_with_parent'](1); print('lives')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    assert "the hub is gone" in ended.stderr
    assert "lives" not in ended.stdout


def children(pid: int) -> list[int]:
    """The child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_the_watchdog_kills_the_server_when_the_pipe_ends(tmp_path: Path) -> None:
    """Where the kernel does not bind lives, the end of the hub's pipe ends the server, and the watchdog with it."""
    process, socket = by_hand(tmp_path, BUNDLED, launcher="pipe")
    try:
        await eventually(lambda: answers(socket))
        (watchdog,) = children(process.pid)
        assert process.stdin is not None
        process.stdin.close()
        await eventually(lambda: process.poll() is not None)
        assert process.returncode == -signal.SIGKILL
        await eventually(lambda: not alive(watchdog))
    finally:
        process.kill()
        process.wait()


# Orphans


def by_hand(
    directory: Path, program: ServerProgram, launcher: str | None = None
) -> tuple[subprocess.Popen[bytes], Path]:
    """A server on the log under `directory` that holds its lock but has no hub."""
    (directory / "log").mkdir()
    socket = directory / "log" / "server.sock"
    lock = os.open(directory / "log" / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = [] if launcher is None else [sys.executable, launch.__file__, str(os.getpid()), str(lock), launcher]
        options = {
            "port": "0",
            "unixsocket": str(socket),
            "dir": str(socket.parent),
            "appendonly": "yes",
            "appendfsync": "everysec",
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        process = subprocess.Popen(
            [*before, program.path, *words], pass_fds=(lock,), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
    finally:
        os.close(lock)
    return process, socket


async def answers(socket: Path) -> bool:
    """Whether the server on the socket is ready."""
    return await ask(socket, b"PING") == b"+PONG"


@each_program
@pytest.mark.parametrize("state", ["answering", "without its socket", "hung and without its socket"])
async def test_an_orphan_is_shut_down_and_its_data_taken_over(
    tmp_path: Path, program: ServerProgram, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """A server that no hub owns is ended, by its socket, its pid or by force, before another starts on its data."""
    monkeypatch.setattr(locks, "_BRIEF_S", 0.3)
    orphan, socket = by_hand(tmp_path, program)
    try:
        await eventually(lambda: answers(socket))
        async with client(f"unix://{socket}") as redis:
            written = [await redis.xadd("events", {"n": str(n)}) for n in range(100)]
        if state != "answering":
            socket.unlink()
        if state.startswith("hung"):
            orphan.send_signal(signal.SIGSTOP)
        with capture_logs() as logs:
            async with running(EmbeddedServer(tmp_path, program=program)) as redis:
                assert orphan.poll() == (-signal.SIGKILL if state.startswith("hung") else 0)
                assert [entry for entry, _ in await redis.xrange("events")] == written
        assert events_named(logs, "log_server_orphaned")
        assert bool(events_named(logs, "log_server_orphan_signalled")) == (state != "answering")
    finally:
        assert orphan.stdin is not None
        orphan.stdin.close()
        orphan.kill()
        orphan.wait()


async def test_only_servers_count_as_holders(tmp_path: Path) -> None:
    """Another process that has the lock file open, as a backup may, is not taken for a server and not signalled."""
    server = EmbeddedServer(tmp_path)
    async with running(server):
        with (tmp_path / "log" / "server.lock").open() as lock:
            assert locks.server_pids(Path(lock.name)) == [server.pid]


async def test_a_lock_that_cannot_be_had_fails_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When whoever holds the server's lock is no server and stays, no server is started."""
    monkeypatch.setattr(locks, "_BRIEF_S", 0.1)
    monkeypatch.setattr(locks, "_SHUTDOWN_S", 0.1)
    (tmp_path / "log").mkdir()
    with (tmp_path / "log" / "server.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StartError, match="cannot be stopped"):
            await EmbeddedServer(tmp_path).start()
    async with running(EmbeddedServer(tmp_path)) as redis:
        assert await redis.ping()
