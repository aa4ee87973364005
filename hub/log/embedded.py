"""The embedded log server: a Valkey (or Redis) under the data directory that lives and dies with its hub.

What holds at every moment: one hub on a data directory (`hub.lock`), one server on its append-only file
(`log/server.lock`, see `hub.log.locks`), and no server without its hub (`hub.log.launch`). With `fsync="always"` the
server answers a write after it is on disk, and exits when it cannot put it there: it is started again and goes on from
what it had answered.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

import structlog

from hub.errors import StartError
from hub.log.binary import ServerProgram, find_server
from hub.log.locks import HubLock, take_server_lock
from hub.log.probe import ask
from hub.log.server_process import ServerProcess

_SOCKET_PATH_BYTES: Final = 103  # sun_path less its NUL: 107 on Linux, 103 on macOS
_LOADING_S: Final = 600.0
_POLL_S: Final = 0.02
_GRACE_S: Final = 10.0
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
_STEADY_S: Final = 10.0  # a server that ran this long has earned a quick restart

log = structlog.get_logger("hub.log")


class EmbeddedServer:
    """A log server of the hub's own; `start()` it, use its URL, and `stop()` it.

    `fsync`: `always` loses nothing that was answered, `everysec` up to about a second of it on a crash of the server.
    `maxmemory_mb` bounds its memory in MiB (writes are refused beyond; nothing is evicted); none by default.
    `on_restart` is called in the event loop each time a server that died is ready again, data and all: connections to
    it broke meanwhile, and a write that was not answered may or may not be there.
    `program` is found by `find_server` when not given. `ready_timeout`, in seconds, bounds the wait for the first
    answer; a server that says it is loading its data has ten minutes.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        fsync: Literal["always", "everysec"] = "always",
        maxmemory_mb: int | None = None,
        on_restart: Callable[[], None] | None = None,
        program: ServerProgram | None = None,
        ready_timeout: float = 30.0,
    ) -> None:
        self._data_dir = data_dir.resolve()
        self._log_dir = self._data_dir / "log"
        self._fsync = fsync
        self._maxmemory_mb = maxmemory_mb
        self._on_restart = on_restart
        self._program = program
        self._ready_timeout = ready_timeout
        self._socket = _socket_path(self._log_dir)
        self._hub_lock: HubLock | None = None
        self._process: ServerProcess | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._restarts = 0

    @property
    def url(self) -> str:
        """Where the server answers, for `redis.asyncio.from_url`; the same over restarts."""
        return f"unix://{quote(str(self._socket))}"

    @property
    def program(self) -> ServerProgram | None:
        """The program that runs, once `start()` has found it."""
        return self._program

    @property
    def pid(self) -> int | None:
        """The running server's process id; None while there is none."""
        return self._process.pid if self._process is not None and not self._process.exited.is_set() else None

    @property
    def restarts(self) -> int:
        """How often a server that died was brought back since `start()`."""
        return self._restarts

    async def start(self) -> str:
        """Take the data directory, start the server, wait until it answers, and return its URL.

        Raises `StartError`, naming the fix, when the directory has another hub, no program is found, or the server does
        not get ready (with its last lines). When it fails or is cancelled, nothing is left behind. The event loop must
        run in a thread that lives as long as the server is wanted.
        """
        if self._hub_lock is not None:
            raise RuntimeError("the embedded server is started already")
        try:
            self._prepare_directories()
            self._hub_lock = HubLock(self._data_dir)
            program = self._program if self._program is not None else await asyncio.to_thread(find_server)
            self._program = program
            process = await self._run(program)
        except OSError as error:
            await self._end()
            raise StartError(
                f"The embedded log cannot be set up under {self._data_dir} ({error})",
                "Make that directory writable for this user, or set HUB_DATA_DIR to another",
            ) from error
        except BaseException:
            await self._end()
            raise
        self._restarts = 0
        self._supervisor = asyncio.create_task(self._supervise(program, process), name="embedded-log-server")
        log.info("log_server_ready", pid=process.pid, program=str(program), directory=str(self._log_dir))
        return self.url

    async def stop(self) -> None:
        """End the server and let go of the data directory. Does nothing when that has been done.

        The server flushes its data first; when this call is cancelled, the supervisor still sees to the end of it.
        """
        if self._supervisor is not None:
            if not self._supervisor.cancelling():  # a second cancellation would cut the server's shutdown short
                self._supervisor.cancel()
            await asyncio.wait({self._supervisor})
            self._supervisor = None
        await self._end()

    async def _supervise(self, program: ServerProgram, process: ServerProcess) -> None:
        """Bring the server back whenever it dies, until cancelled; then end it."""
        pause = _FIRST_PAUSE_S
        clock = asyncio.get_running_loop().time
        try:
            while True:
                ready_at = clock()
                await process.exited.wait()
                uptime = clock() - ready_at
                if uptime >= _STEADY_S:
                    pause = _FIRST_PAUSE_S
                log.error(
                    "log_server_died",
                    pid=process.pid,
                    ending=process.ending,
                    uptime_s=round(uptime, 3),
                    disk_free_bytes=_free_bytes(self._log_dir),
                    last_lines=process.last_lines(),
                    restart_in_s=pause,
                )
                process, pause = await self._restart(program, pause)
                self._restarts += 1
                log.warning("log_server_restarted", pid=process.pid, restarts=self._restarts)
                self._tell_restarted()
        finally:
            await self._end()

    async def _restart(self, program: ServerProgram, pause: float) -> tuple[ServerProcess, float]:
        """A server that answers again, and how long to wait before the next attempt should it die soon."""
        while True:
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)
            try:
                return await self._run(program), pause
            except Exception as error:
                # Whatever it is (disk, memory, descriptors), without a server there is no hub: keep trying, and say so.
                log.error(
                    "log_server_restart_failed",
                    reason=str(error),
                    disk_free_bytes=_free_bytes(self._log_dir),
                    retry_in_s=pause,
                    exc_info=not isinstance(error, StartError),
                )

    def _tell_restarted(self) -> None:
        if self._on_restart is None:
            return
        try:
            self._on_restart()
        except Exception:
            log.exception("log_server_on_restart_failed")

    async def _run(self, program: ServerProgram) -> ServerProcess:
        """Start a server and wait until it answers."""
        if self._socket.parent != self._log_dir:
            _make_private(self._socket.parent)
        lock = await take_server_lock(self._log_dir / "server.lock", self._socket)
        try:
            self._process = process = ServerProcess(
                program.path, self._arguments(), lock=lock, log_file=self._log_dir / "server.log"
            )
        finally:
            os.close(lock)
        try:
            await self._until_ready(process)
        except StartError:
            await process.stop(_GRACE_S)
            raise
        return process

    def _arguments(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "protected-mode": "yes",
            "daemonize": "no",
            "dir": str(self._log_dir),
            "save": "",
            "appendonly": "yes",
            "appendfsync": self._fsync,
            "no-appendfsync-on-rewrite": "no",
            "aof-load-truncated": "yes",  # a write cut short by a crash was not answered
            "maxmemory-policy": "noeviction",
            "lazyfree-lazy-expire": "yes",
            "lazyfree-lazy-server-del": "yes",
            "lazyfree-lazy-user-del": "yes",
        }
        if self._maxmemory_mb is not None:
            options["maxmemory"] = f"{self._maxmemory_mb}mb"
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    async def _until_ready(self, process: ServerProcess) -> None:
        clock = asyncio.get_running_loop().time
        begun, allowed = clock(), self._ready_timeout
        while (answer := await ask(self._socket, b"PING")) != b"+PONG" or process.exited.is_set():
            if answer is not None and answer.startswith(b"-LOADING") and allowed != _LOADING_S:
                allowed = _LOADING_S
                log.info("log_server_loading", pid=process.pid)
            if process.exited.is_set() or clock() - begun > allowed:
                what = process.ending if process.exited.is_set() else f"no answer in {allowed:g} s"
                last = "\n  ".join(process.last_lines()[-10:]) or "nothing"
                raise StartError(
                    f"The log server {self._program} did not get ready: {what}; free on its disk: "
                    f"{_free_bytes(self._log_dir)} bytes; it said last:\n  {last}\n",
                    f"Mend what it names and start again; its log is {self._log_dir / 'server.log'}",
                )
            with suppress(TimeoutError):
                await asyncio.wait_for(process.exited.wait(), _POLL_S)

    async def _end(self) -> None:
        """End the server, remove its socket, let go of the directory; cancelled, at once. Repeated, it does nothing."""
        try:
            if self._process is not None:
                await self._process.stop(_GRACE_S)
        finally:
            self._process = None
            if self._hub_lock is not None:
                self._remove_socket()
                self._hub_lock.release()
                self._hub_lock = None

    def _prepare_directories(self) -> None:
        self._data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._log_dir.mkdir(mode=0o700, exist_ok=True)
        self._log_dir.chmod(0o700)  # events are personal data, whatever the directory around it allows

    def _remove_socket(self) -> None:
        with suppress(OSError):
            self._socket.unlink(missing_ok=True)
            if self._socket.parent != self._log_dir:
                self._socket.parent.rmdir()


def _socket_path(log_dir: Path) -> Path:
    """In the log directory or, when that makes too long a path for a socket, in one of ours in the temporary one."""
    path = log_dir / "server.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
        return path
    name = hashlib.sha256(os.fsencode(log_dir)).hexdigest()[:16]
    return Path(tempfile.gettempdir(), f"hub-{os.geteuid()}-{name}", "server.sock")


def _make_private(directory: Path) -> None:
    """Make the directory, or accept it when it is ours alone: others can put things into the temporary directory."""
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise StartError(
            f"{directory} does not belong to this user alone", "Remove it, or set TMPDIR to another directory"
        )


def _free_bytes(directory: Path) -> int | None:
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
