"""Who owns a data directory: one hub (`hub.lock`), and the server processes on its log (`log/server.lock`).

Both are flocks, so the kernel releases them with their last holder, however it ends. The hub holds the first itself,
close-on-exec. The second belongs to the server: its descriptor is inherited by the server and by whatever that forks,
and the hub closes its own copy, so who gets the lock knows that nothing is left that could write to the append-only
file.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from hub.errors import StartError
from hub.log.probe import ask

_BRIEF_S: Final = 2.0  # what a server killed with its hub may take to be gone
_SHUTDOWN_S: Final = 10.0  # what a server told to stop may take to flush and be gone
_POLL_S: Final = 0.02
_SERVER_NAMES: Final = frozenset({"valkey-server", "redis-server"})

log = structlog.get_logger("hub.log")


class HubLock:
    """The right to be the one hub on a data directory, from `HubLock(directory)` to `release()`.

    Raises `StartError` at once, naming the directory and the holder's pid, when another hub has it.
    """

    def __init__(self, directory: Path) -> None:
        path = directory / "hub.lock"
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if not _try_lock(self._fd):
                holder = _pid_in(self._fd)
                raise StartError(
                    f"The data directory {directory} is in use by another hub ({holder})",
                    "Stop that hub, or give this one a directory of its own with HUB_DATA_DIR",
                )
            with suppress(OSError):  # the pid is for people to read; a full disk must not keep the hub down
                os.ftruncate(self._fd, os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0))
        except BaseException:
            os.close(self._fd)
            raise

    def release(self) -> None:
        """Let another hub have the directory. The file stays: removing it would race with the next owner."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


async def take_server_lock(path: Path, socket: Path) -> int:
    """The descriptor of a server lock now held, for a server to inherit; the caller closes its own copy.

    Waits for a server that is just ending. One that lives on without a hub is shut down, first through its `socket`,
    then by its pid: it flushes what it has before it goes. Raises `StartError` when it will not go.
    """
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if await _lock_within(lock, _BRIEF_S):
            return lock
        log.warning("log_server_orphaned", pid=_pid_in(lock), directory=str(path.parent))
        # Only this user can enter the socket's directory, so it is that server; SHUTDOWN syncs the append-only file.
        if await ask(socket, b"SHUTDOWN NOSAVE") is not None and await _lock_within(lock, _SHUTDOWN_S):
            return lock
        for how, patience in ((signal.SIGTERM, _BRIEF_S), (signal.SIGKILL, _SHUTDOWN_S)):
            for pid in server_pids(path):
                log.warning("log_server_orphan_signalled", pid=pid, signal=how.name)
                with suppress(ProcessLookupError):
                    os.kill(pid, how)
            if await _lock_within(lock, patience):
                return lock
        raise StartError(
            f"A server that no hub owns still works on {path.parent} and cannot be stopped ({_pid_in(lock)})",
            "Stop it by hand, then start the hub again",
        )
    except BaseException:
        os.close(lock)
        raise


def server_pids(path: Path) -> list[int]:
    """The server processes that have the lock file at `path` open. Empty where the kernel does not tell (no /proc)."""
    return list(_servers_with(path.stat())) if sys.platform == "linux" else []


def _servers_with(wanted: os.stat_result) -> Iterator[int]:
    for process in Path("/proc").iterdir():
        # Other users' processes, and those that end meanwhile, are not ours to judge.
        with suppress(OSError):
            # A backup or a pager may have the file open too: only a server is one.
            if not process.name.isdigit() or (process / "comm").read_text().strip() not in _SERVER_NAMES:
                continue
            if any(os.path.samestat(wanted, opened) for opened in _open_files(process / "fd")):
                yield int(process.name)


def _open_files(descriptors: Path) -> Iterator[os.stat_result]:
    for descriptor in descriptors.iterdir():
        with suppress(OSError):
            yield descriptor.stat()


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _lock_within(fd: int, seconds: float) -> bool:
    deadline = asyncio.get_running_loop().time() + seconds
    while not _try_lock(fd):
        if asyncio.get_running_loop().time() >= deadline:
            return False
        await asyncio.sleep(_POLL_S)
    return True


def _pid_in(fd: int) -> str:
    told = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
    return f"pid {told}" if told.isdigit() else "pid unknown"
