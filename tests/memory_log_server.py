"""A log server for tests that durability is nothing to."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import redis

from hub.log.binary import find_server

PATIENCE_S = 20.0


class MemoryLogServer:
    """The packaged server on a socket, keeping everything in memory."""

    def __init__(self) -> None:
        # A socket's path is short: it may not lie in a test's own directory.
        self.directory = Path(tempfile.mkdtemp(prefix="hub"))
        socket = self.directory / "s"
        self.url = f"unix://{socket}"
        command = [str(find_server().path), "--port", "0", "--unixsocket", str(socket), "--dir", str(self.directory)]
        command += ["--appendonly", "no", "--save", ""]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE_S
        with redis.Redis(unix_socket_path=str(socket)) as client:
            while time.monotonic() < deadline:
                with suppress(redis.RedisError, OSError):
                    if client.ping():
                        return
                time.sleep(0.01)
        raise AssertionError("the server does not answer")

    def close(self) -> None:
        """End it and remove its data."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.directory)
