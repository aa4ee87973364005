"""The processes under test: kept running by a keeper, killed with SIGKILL by the harness."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import httpx

ROOT: Final = Path(__file__).resolve().parents[2]
_STOP_S: Final = 20.0


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Keeper:
    """A process that is started again whenever it ends, until `stop`."""

    def __init__(self, name: str, command: Sequence[str], output: Path, environment: dict[str, str]) -> None:
        self.name = name
        self.output = output
        self.kills = 0
        self.unexpected_exits = 0
        """Ends that were not the harness's doing."""
        self.words: list[str] = []
        """What it said last each time."""
        self._command = command
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._killed: int | None = None
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to keep it running."""
        self._task = asyncio.create_task(self._keep(), name=f"keeper-{self.name}")

    async def _keep(self) -> None:
        pause = 0.05
        while not self._stopping.is_set():
            with self.output.open("ab") as output:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command, cwd=ROOT, env=self._environment, stdout=output, stderr=output
                )
            if self._stopping.is_set():
                self._process.terminate()
            await self._process.wait()
            if self._stopping.is_set():
                return
            if self._process.pid == self._killed:
                pause = 0.05
            else:
                self.unexpected_exits += 1
                self.words.append(self.last_words())
                pause = min(2.0, pause * 2)
            await asyncio.sleep(pause)

    def kill(self) -> bool:
        """SIGKILL it; False when it does not run now."""
        process = self._process
        if process is None or process.returncode is not None:
            return False
        self._killed = process.pid
        process.kill()
        self.kills += 1
        return True

    async def stop(self) -> None:
        """SIGTERM it and wait for its end."""
        self._stopping.set()
        process = self._process
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), _STOP_S)
            except TimeoutError:
                process.kill()
                await process.wait()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=_STOP_S)

    def last_words(self, count: int = 2000) -> str:
        """The end of its output."""
        return self.output.read_text(errors="replace")[-count:] if self.output.exists() else ""


class HubUnderTest:
    """A hub on its own data directory and port, and its embedded server. `module` is what runs it."""

    def __init__(
        self, directory: Path, fsync: str, environment: Mapping[str, str], *, module: str = "hub.cli.main"
    ) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self.port = free_port()
        self.server_kills = 0
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
        settings = {
            "HUB_DATA_DIR": str(self.data_dir),
            "HUB_PORT": str(self.port),
            "HUB_EMBEDDED_FSYNC": fsync,
            "HUB_LOG_FORMAT": "json",
            "HUB_PUBLISH_PER_S": "100000",
        }
        command = [sys.executable, "-m", module, "serve"]
        self.keeper = Keeper("hub", command, directory / "hub.log", clean | settings | dict(environment))

    @property
    def url(self) -> str:
        """Its HTTP address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        """Its WebSocket address."""
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def redis_url(self) -> str:
        """Its embedded server."""
        return f"unix://{self.data_dir / 'log' / 'server.sock'}"

    def server_pid(self) -> int | None:
        """The embedded server's process id, when it runs: a `valkey-server` on this data directory, nothing else."""
        try:
            pid = int((self.data_dir / "log" / "server.lock").read_text().split()[0])
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError, IndexError):
            return None
        ours = any(str(self.data_dir).encode() in word for word in words)
        return pid if ours and b"-server" in words[0] else None

    def kill_server(self) -> bool:
        """SIGKILL the embedded server; False when there is none now."""
        pid = self.server_pid()
        if pid is None:
            return False
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.server_kills += 1
        return True

    async def ready(self, seconds: float = 60.0) -> None:
        """Wait until `/readyz` says that it is ready."""
        async with asyncio.timeout(seconds), httpx.AsyncClient() as client:
            while True:
                try:
                    if (await client.get(f"{self.url}/readyz")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)

    def warned(self) -> bool:
        """Whether it said that its log is not durable."""
        return '"log_not_durable"' in self.keeper.output.read_text(errors="replace")
