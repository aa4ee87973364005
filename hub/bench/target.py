"""The hub under load: one of our own on a temporary data directory, or one that is given."""

from __future__ import annotations

import base64
import json
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx

from hub.bench.figures import family, is_log_server, processor_s, resident_bytes
from hub.bench.load_event import LoadEvents
from hub.errors import StartError
from hub.security.tokens import Tokens, own_key

TENANTS: Final = ("bench-1", "bench-2", "bench-3", "bench-4")
_SCOPES: Final = ("publish:*", "subscribe:*", "sync")
_START_S: Final = 30.0
_STOP_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Target:
    """A hub that answers. `pid` and `redis_url` are known of our own alone."""

    host: str
    port: int
    token: str
    tenants: tuple[str, ...]
    pid: int | None = None
    redis_url: str | None = None
    all_tenants: str | None = None
    """A token of the hub's own tools, for every tenant."""

    @property
    def address(self) -> dict[str, object]:
        """What the load's processes are told."""
        return {"host": self.host, "port": self.port, "token": self.token, "tenants": self.tenants}

    def resident_bytes(self) -> int | None:
        """Memory of the hub's processes, without its log server."""
        return None if self.pid is None else sum(resident_bytes(pid) for pid in self._own())

    def processor_s(self) -> float | None:
        """Processor time of the hub's processes so far, without its log server."""
        return None if self.pid is None else sum(processor_s(pid) for pid in self._own())

    def _own(self) -> list[int]:
        assert self.pid is not None
        return [pid for pid in family(self.pid) if not is_log_server(pid)]

    def fit(self, event_bytes: int) -> tuple[int, int]:
        """How much to pad the load's event so that it is stored with `event_bytes`, and the bytes it then has.

        Found out by publishing one. The envelope alone may need more than `event_bytes`; then nothing is padded.
        """
        headers = {"Authorization": f"Bearer {self.token}"}
        base = f"http://{self.host}:{self.port}/api/v1/events"
        receipt = httpx.post(base, content=LoadEvents(self.tenants, 0).body(1), headers=headers).raise_for_status()
        params = {"tenant": self.tenants[0]}
        stored = httpx.get(f"{base}/{receipt.json()['event_id']}", headers=headers, params=params).raise_for_status()
        size = len(stored.content.partition(b'"event":')[2]) - 1
        return max(0, event_bytes - size), max(size, event_bytes)


def raise_file_limit() -> None:
    """Let this process and its children hold as many sockets as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@contextmanager
def target(
    url: str | None, token: str | None, *, workers: int = 1, settings: Mapping[str, str] | None = None
) -> Iterator[Target]:
    """The hub at `url`, or one of our own with `settings` (HUB_ variables) for as long as the block runs.

    Raises:
        StartError: our own does not start, or there is no token for the one that is given.
    """
    raise_file_limit()
    if url is not None:
        if not token:
            raise StartError("a hub at an address needs a token", "Give --token as well")
        parts = urlsplit(url)
        if parts.scheme != "http":
            raise StartError(f"{url} is not an http:// address", "The load speaks plain HTTP and WebSocket alone")
        yield Target(parts.hostname or "127.0.0.1", parts.port or 3400, token, _tenants(token))
        return
    with (
        tempfile.TemporaryDirectory(prefix="hub-bench-") as directory,
        own_hub(Path(directory), settings or {}, workers) as hub,
    ):
        yield hub


def _tenants(token: str) -> tuple[str, ...]:
    body = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return tuple(tenant for tenant in claims["tenants"] if tenant != "*") or ("default",)


@contextmanager
def own_hub(directory: Path, settings: Mapping[str, str], workers: int = 1) -> Iterator[Target]:
    """A hub whose data lie under `directory`, for as long as the block runs; the next one there goes on with them."""
    directory.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    data_dir = directory / "data"
    tokens = Tokens([own_key(data_dir)])
    token = tokens.issue("hotel-pms", TENANTS, _SCOPES)
    all_tenants = tokens.issue("hub", ["*"], [*_SCOPES, "ops"])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
    environment |= {"HUB_DATA_DIR": str(data_dir), "HUB_PORT": str(port), "HUB_WORKERS": str(workers)}
    environment |= {"HUB_LOG_LEVEL": "warning", "HUB_LOG_FORMAT": "json", **settings}
    log = directory / "hub.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "hub.cli.main", "serve"],
            env=environment,
            stdout=output,
            stderr=output,
            cwd=directory,
        )
        try:
            _until_ready(process, port, log)
            redis_url = f"unix://{data_dir / 'log' / 'server.sock'}"
            yield Target("127.0.0.1", port, token, TENANTS, process.pid, redis_url, all_tenants)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    last = log.read_text(errors="replace")[-2000:]
    raise StartError(f"the hub to measure did not start; it said last:\n{last}\n", "Mend what it names")
