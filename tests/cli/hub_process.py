"""What the tests of the command line share: hubs and commands as processes, and bounded waits for them."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, chdir, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from hub.cli.main import main
from hub.security.tokens import Tokens, own_key

PATIENCE_S = 45.0
HUB = (sys.executable, "-m", "hub.cli.main")
ROOM = {
    "room_id": "r1",
    "room_number": "101",
    "room_type": "single",
    "status": "occupied",
    "availability_date": "2026-01-01",
}


def free_port() -> int:
    """A port that is free at this moment."""
    with socket.create_server(("127.0.0.1", 0)) as held:
        port: int = held.getsockname()[1]
        return port


def clean_environment(**settings: Any) -> dict[str, str]:
    """This process's environment without settings of a hub, and with these."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HUB_", "HOTEL_BOOKINGS"))}
    return kept | {f"HUB_{name.upper()}": str(value) for name, value in settings.items()}


def room_event(number: int, tenant: str = "default") -> dict[str, Any]:
    """An event as a publisher hands it in."""
    data = ROOM | {"room_id": f"r{number}", "room_number": str(number)}
    return {"type": "room", "action": "status_changed", "tenant_id": tenant, "data": data}


class HubProcess:
    """`hub serve` on a fixed port and directory, that can be killed and started again."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = clean_environment(data_dir=directory / "data", port=self.port, **settings)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        with (self.directory / "hub.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*HUB, "serve"], env=self.environment, cwd=self.directory, stdout=log, stderr=log
            )
        eventually(self._is_ready)

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.directory / "hub.log").read_text()
        with suppress(httpx.RequestError):
            return httpx.get(f"{self.url}/readyz", timeout=5, trust_env=False).status_code == 200
        return False

    def kill(self) -> None:
        """End it with SIGKILL."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(PATIENCE_S)

    def stop(self) -> int:
        """End it with SIGTERM; its exit code."""
        assert self._process is not None
        self._process.terminate()
        return self._process.wait(PATIENCE_S)

    def run(self, *arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command against it to its end."""
        return run(*arguments, environment=self.environment, directory=self.directory, input=input)

    def call(self, *arguments: str, input: str = "") -> subprocess.CompletedProcess[str]:
        """The same without a process of its own; not from within an event loop."""
        out, err = io.StringIO(), io.StringIO()
        stdin = io.TextIOWrapper(io.BytesIO(input.encode()), encoding="utf-8")
        with (
            patch.dict(os.environ, self.environment, clear=True),
            patch.object(sys, "stdin", stdin),
            chdir(self.directory),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            code = main(arguments)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())

    def json(self, *arguments: str) -> Any:
        """What a command prints with --json; not from within an event loop."""
        done = self.call(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def token(self, system: str = "hub") -> str:
        """A token signed with this hub's key."""
        scopes = ["publish:*", "subscribe:*", "ops", "admin"]
        return Tokens([own_key(self.directory / "data")]).issue(system, ["*"], scopes)

    def publish(self, numbers: range, tenant: str = "default") -> None:
        """Publish one event for each number, at most 500."""
        answer = httpx.post(
            f"{self.url}/api/v1/events",
            headers={"Authorization": f"Bearer {self.token()}"},
            json={"events": [room_event(number, tenant) for number in numbers]},
            timeout=PATIENCE_S,
            trust_env=False,
        )
        assert answer.status_code == 201, answer.text

    @asynccontextmanager
    async def command(self, *arguments: str) -> AsyncIterator[Process]:
        """A command that runs on; it is killed at the end if it still does."""
        async with started(*arguments, environment=self.environment, directory=self.directory) as process:
            yield process


@contextmanager
def running_hub(directory: Path, **settings: Any) -> Iterator[HubProcess]:
    """A hub that is stopped at the end."""
    hub = HubProcess(directory, **settings)
    hub.start()
    try:
        yield hub
    finally:
        hub.stop()


def run(
    *arguments: str, environment: dict[str, str], directory: Path, input: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*HUB, *arguments],
        env=environment,
        cwd=directory,
        input=input,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S * 2,
        check=False,
    )


@asynccontextmanager
async def started(*arguments: str, environment: dict[str, str], directory: Path) -> AsyncIterator[Process]:
    """A command that runs on; it is killed at the end if it still does."""
    process = await asyncio.create_subprocess_exec(
        *HUB, *arguments, env=environment, cwd=directory, stdin=asyncio.subprocess.DEVNULL, stdout=PIPE, stderr=PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def next_line(process: Process, stream: str = "stdout") -> str:
    """The next line a command prints; fails when none comes."""
    source = process.stdout if stream == "stdout" else process.stderr
    assert source is not None
    raw = await asyncio.wait_for(source.readline(), PATIENCE_S)
    assert raw, f"{stream} ended"
    return raw.decode().rstrip("\n")


async def line_with(process: Process, text: str, stream: str = "stdout") -> str:
    """The next line that contains this text."""
    while text not in (line := await next_line(process, stream)):
        pass
    return line


async def ended(process: Process) -> int:
    """The exit code of a command that ends by itself."""
    await asyncio.wait_for(process.communicate(), PATIENCE_S)
    assert process.returncode is not None
    return process.returncode


async def interrupted(process: Process, number: signal.Signals = signal.SIGINT) -> int:
    """The exit code after a signal."""
    process.send_signal(number)
    return await ended(process)


def eventually(condition: Callable[[], Any]) -> None:
    """Return when the condition is true; fail when it is not within `PATIENCE_S`."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)  # what is awaited happens in other processes, which send no signal


def alive(pid: int) -> bool:
    """Whether a process with this pid exists and is not merely waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def processes_about(text: str) -> list[int]:
    """The processes with this text in their command line or environment, but for this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with suppress(OSError):
            told = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            if text.encode() in told:
                found.append(int(entry.name))
    return found
