"""The embedded server on real processes: starting, what it refuses, stopping, cancellation."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import tempfile
from pathlib import Path

import pytest
from server_runs import (
    BUNDLED,
    SYSTEM,
    alive,
    each_program,
    eventually,
    running,
    script,
)

from hub.errors import StartError
from hub.log import embedded, locks
from hub.log.binary import ServerProgram
from hub.log.embedded import EmbeddedServer

pytestmark = pytest.mark.server


# Starting and stopping


@each_program
async def test_the_server_runs_durably_and_keeps_its_data(tmp_path: Path, program: ServerProgram) -> None:
    """A start with the defaults gives a server that syncs every write, evicts nothing, and still has its data later."""
    server = EmbeddedServer(tmp_path / "data", program=program)
    async with running(server) as redis:
        config = await redis.config_get("*")
        assert config["appendonly"] == "yes"
        assert config["appendfsync"] == "always"
        assert config["save"] == ""
        assert config["maxmemory-policy"] == "noeviction"
        assert config["port"] == "0"
        await redis.xadd("events", {"n": "1"})
    async with running(EmbeddedServer(tmp_path / "data", program=program)) as redis:
        assert await redis.xlen("events") == 1


async def test_settings_reach_the_server(tmp_path: Path) -> None:
    """`fsync` and `maxmemory_mb` are what the server runs with."""
    async with running(EmbeddedServer(tmp_path, fsync="everysec", maxmemory_mb=96)) as redis:
        config = await redis.config_get("appendfsync", "maxmemory")
        assert config == {"appendfsync": "everysec", "maxmemory": str(96 * 1024 * 1024)}


async def test_data_moves_from_redis_to_valkey(tmp_path: Path) -> None:
    """What the system's Redis wrote is there when the packaged Valkey takes over the directory."""
    if SYSTEM is None or SYSTEM.product != "Redis":
        pytest.skip("no redis-server on PATH")
    async with running(EmbeddedServer(tmp_path, program=SYSTEM)) as redis:
        await redis.xadd("events", {"n": "1"})
    async with running(EmbeddedServer(tmp_path, program=BUNDLED)) as redis:
        assert await redis.xlen("events") == 1


async def test_everything_is_private(tmp_path: Path) -> None:
    """No directory, file or socket that is made lets another user in, nor does a log directory that was there."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "log").mkdir(mode=0o755)
    async with running(EmbeddedServer(data)) as redis:
        await redis.set("key", "value")
        made = [data, *data.rglob("*")]
        assert {path.name for path in made} >= {"hub.lock", "server.lock", "server.sock", "server.log", "appendonlydir"}
        assert [path for path in made if stat.S_IMODE(path.lstat().st_mode) & 0o077] == []


async def test_stop_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    """After `stop` there is no process, no socket and no lock, and a second `stop` does nothing."""
    server = EmbeddedServer(tmp_path)
    async with running(server):
        pid = server.pid
        assert pid is not None
        assert alive(pid)
        assert os.getsid(pid) != os.getsid(0), "Ctrl-C in the hub's terminal must not reach the server"
    await server.stop()
    assert not alive(pid)
    assert server.pid is None
    assert not (tmp_path / "log" / "server.sock").exists()
    async with running(server) as redis:
        assert await redis.ping()


async def test_a_path_with_odd_characters_works(tmp_path: Path) -> None:
    """Spaces, percent signs, quotes and other alphabets in the data directory survive URL and command line."""
    async with running(EmbeddedServer(tmp_path / 'hôtel "A" 100%41 #?')) as redis:
        assert await redis.ping()


async def test_a_path_too_long_for_a_socket_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a long data directory the socket goes to a private temporary directory, which `stop` removes."""
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    data = tmp_path / ("long" * 30)
    server = EmbeddedServer(data)
    async with running(server) as redis:
        assert await redis.ping()
        directory = Path(server.url.removeprefix("unix://")).parent
        assert directory.parent == Path("/tmp")
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        assert (await redis.config_get("dir"))["dir"] == str(data / "log")
    assert not directory.exists()


async def test_a_socket_directory_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A temporary directory that others may write to is not trusted with the socket."""
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        monkeypatch.setattr("tempfile.tempdir", short)
        server = EmbeddedServer(tmp_path / ("long" * 30))
        directory = Path(server.url.removeprefix("unix://")).parent
        os.mkdir(directory)
        os.chmod(directory, 0o777)
        with pytest.raises(StartError, match="does not belong to this user alone"):
            await server.start()


async def test_the_log_file_is_bounded(tmp_path: Path) -> None:
    """A large log file of earlier runs is set aside once, and a new one begun."""
    (tmp_path / "log").mkdir()
    old = tmp_path / "log" / "server.log"
    old.write_bytes(b"x" * (4 * 1024 * 1024))
    async with running(EmbeddedServer(tmp_path)):
        await eventually(lambda: old.stat().st_size < 100_000)
    assert (tmp_path / "log" / "server.log.1").stat().st_size == 4 * 1024 * 1024


# What start refuses


async def test_a_second_hub_is_refused_at_once(tmp_path: Path) -> None:
    """A second owner is told directory and pid, and the first one's server goes on undisturbed."""
    async with running(EmbeddedServer(tmp_path)) as redis:
        second = EmbeddedServer(tmp_path)
        with pytest.raises(StartError) as refused:
            await second.start()
        assert str(tmp_path) in refused.value.message
        assert f"pid {os.getpid()}" in refused.value.message
        assert "HUB_DATA_DIR" in refused.value.fix
        await second.stop()
        assert await redis.ping()


async def test_a_server_that_exits_is_told_with_its_last_words(tmp_path: Path) -> None:
    """A program that fails at once fails the start with what it said, and leaves the directory free."""
    server = EmbeddedServer(tmp_path, program=script(tmp_path / "bad", "echo the flux is out; exit 3"))
    with pytest.raises(StartError, match=r"(?s)exit code 3.*the flux is out"):
        await server.start()
    async with running(EmbeddedServer(tmp_path)) as redis:
        assert await redis.ping()


async def test_a_program_that_cannot_be_run_is_told(tmp_path: Path) -> None:
    """A program that vanished after it was found fails the start with its path."""
    gone = ServerProgram(tmp_path / "gone", "Valkey", (9, 0, 0))
    with pytest.raises(StartError, match=str(gone.path)):
        await EmbeddedServer(tmp_path, program=gone).start()


async def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    """A silent program is ended after `ready_timeout`, and the start fails."""
    mute = script(tmp_path / "mute", f"echo $$ > {tmp_path}/pid; exec sleep 600")
    with pytest.raises(StartError, match=r"no answer in 0\.5 s"):
        await EmbeddedServer(tmp_path, program=mute, ready_timeout=0.5).start()
    assert not alive(int((tmp_path / "pid").read_text()))


LOADING_SERVER = """
import socket, sys
path, answers = sys.argv[sys.argv.index("--unixsocket") + 1], ["-LOADING the dataset"] * 150 + ["+PONG"]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
while True:
    peer, _ = listener.accept()
    with peer:
        peer.recv(100)
        peer.sendall((answers.pop(0) if len(answers) > 1 else answers[0]).encode() + b"\\r\\n")
"""


async def test_a_loading_server_gets_more_time(tmp_path: Path) -> None:
    """A server that says it is loading is waited for beyond `ready_timeout`."""
    (tmp_path / "fake.py").write_text(LOADING_SERVER)
    fake = script(tmp_path / "fake", f'exec {sys.executable} -S {tmp_path}/fake.py "$@"')
    server = EmbeddedServer(tmp_path, program=fake, ready_timeout=2.0)
    begun = asyncio.get_running_loop().time()
    await server.start()
    try:
        assert asyncio.get_running_loop().time() - begun > 2.0
    finally:
        await server.stop()


async def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    """A data directory in an impossible place names itself and the setting."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError) as refused:
        await EmbeddedServer(tmp_path / "file" / "data").start()
    assert str(tmp_path / "file" / "data") in refused.value.message
    assert "HUB_DATA_DIR" in refused.value.fix


# Cancellation


async def test_a_cancelled_start_leaves_nothing(tmp_path: Path) -> None:
    """Cancelling a start ends the process it had begun and frees the directory."""
    mute = script(
        tmp_path / "mute", f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 600"
    )
    starting = asyncio.create_task(EmbeddedServer(tmp_path, program=mute).start())
    await eventually((tmp_path / "pid").exists)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not alive(int((tmp_path / "pid").read_text()))
    async with running(EmbeddedServer(tmp_path)) as redis:
        assert await redis.ping()


def test_a_loop_that_is_torn_down_ends_the_server(tmp_path: Path) -> None:
    """When the program ends without `stop`, the loop's cancellation of all tasks ends the server and frees the lock."""
    server = EmbeddedServer(tmp_path)

    async def start_only() -> int:
        await server.start()
        await asyncio.sleep(0)
        assert server.pid is not None
        return server.pid

    assert not alive(asyncio.run(start_only()))
    locks.HubLock(tmp_path).release()


async def test_a_cancelled_stop_is_seen_through(tmp_path: Path) -> None:
    """A `stop` that is cancelled still ends the server, and a later one finds it done."""
    server = EmbeddedServer(tmp_path)
    await server.start()
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)  # so that it cannot end before the cancellation
    stopping = asyncio.create_task(server.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    os.kill(pid, signal.SIGCONT)
    await server.stop()
    assert not alive(pid)
    assert "ready to exit" in (tmp_path / "log" / "server.log").read_text(), "it was to end by itself"


async def test_a_server_that_will_not_end_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that does not react to the request to end is killed after the grace, and its socket removed."""
    monkeypatch.setattr(embedded, "_GRACE_S", 0.2)
    server = EmbeddedServer(tmp_path)
    async with running(server):
        pid = server.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
    assert not alive(pid)
    assert not (tmp_path / "log" / "server.sock").exists()
