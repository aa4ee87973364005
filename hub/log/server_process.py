"""One run of the server program: its process, its output, its end."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

_LAUNCHER: Final = str(Path(__file__).with_name("launch.py"))
_BINDING: Final = "prctl" if sys.platform == "linux" else "pipe"
_KEPT_LINES: Final = 40
_LOG_BYTES: Final = 4 * 1024 * 1024
_KILLED_S: Final = 5.0

log = structlog.get_logger("hub.log")


class ServerProcess:
    """A server process that cannot outlive this one, started by the constructor in the event loop's thread.

    On Linux its life hangs on that thread: when it ends without `stop()`, so does the server. `lock` is inherited.
    `exited` is set when the process has ended and been reaped. Raises `OSError` when no process can be started.
    """

    def __init__(self, program: Path, arguments: Sequence[str], *, lock: int, log_file: Path) -> None:
        self._loop = asyncio.get_running_loop()
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.exited = asyncio.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", _LAUNCHER, str(os.getpid()), str(lock), _BINDING, program, *arguments],
            stdin=subprocess.PIPE if _BINDING == "pipe" else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C is for the hub, which stops the server after itself
        )
        # Through a pipe and not into a file: the last words of a server that dies of a full disk would not fit on it.
        output = threading.Thread(target=self._follow, args=(log_file,), name="log-server-output", daemon=True)
        output.start()
        threading.Thread(target=self._wait, args=(output,), name="log-server-exit", daemon=True).start()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def ending(self) -> str:
        """How the process ended, in words."""
        code = self._process.returncode
        if code is None:
            return "still running"
        return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def last_lines(self) -> list[str]:
        """The last lines the server wrote, oldest first."""
        return list(self._lines)

    async def stop(self, grace: float) -> None:
        """End the process: asked for `grace` seconds, then killed; killed at once when this call is cancelled."""
        try:
            self._process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(grace):
                await self.exited.wait()
        except TimeoutError:
            log.warning("log_server_killed", pid=self.pid, after_s=grace)
        finally:
            if not self.exited.is_set():
                self._kill()

    def _kill(self) -> None:
        self._process.kill()
        # Blocks the loop for the moment a killed process takes to go: an await could be cancelled and leave it behind.
        try:
            self._process.wait(_KILLED_S)
        except subprocess.TimeoutExpired:
            log.error("log_server_unkillable", pid=self.pid)

    def _wait(self, output: threading.Thread) -> None:
        self._process.wait()
        output.join(1.0)  # its last words; a forked child of the server may hold the pipe open for longer
        if self._process.stdin is not None:
            self._process.stdin.close()  # lets the watchdog go
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self.exited.set)

    def _follow(self, log_file: Path) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output:
            for line in output:
                self._lines.append(line.decode("utf-8", "replace").rstrip())
                with suppress(OSError):  # the file is a convenience: the server must never wait for it
                    _append(log_file, line)


def _append(log_file: Path, line: bytes) -> None:
    """Add a line to the file, which begins anew (the old one kept as `.1`) when it is large. A server says little."""
    with suppress(FileNotFoundError):
        if log_file.stat().st_size >= _LOG_BYTES:
            log_file.replace(f"{log_file}.1")
    descriptor = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
