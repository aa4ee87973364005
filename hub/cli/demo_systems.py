"""The systems of the demonstration: programs of their own, started and ended with it."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from hub.cli.failure import CommandError
from schemas.types import HOTEL_MEMBER, HOTEL_PMS, HOTEL_SAAS

PROGRAMS: Final = {
    HOTEL_PMS: "consumers.systems.hotel_pms",
    HOTEL_SAAS: "consumers.systems.hotel_saas",
    HOTEL_MEMBER: "consumers.systems.hotel_member",
}
"""Module by system. They are programs to this package, and nothing it imports."""

_GRACE_S: Final = 8.0
_LAST_LINES: Final = 5

Told = Callable[[str, str], None]
"""Hears each line of a system: its name and the line."""


class System:
    """One child process; `start`, `ended`, `stop`."""

    def __init__(self, name: str, told: Told) -> None:
        self.name = name
        self._told = told
        self._process: Process | None = None
        self._readers: list[asyncio.Task[None]] = []
        self._last: deque[str] = deque(maxlen=_LAST_LINES)

    async def start(self, url: str, token: str, directory: Path) -> None:
        """Start the program against a hub's WebSocket; its database lies in `directory`."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HUB_")}
        # In the environment, not among the arguments, where every user of the machine could read it.
        environment |= {"HUB_TOKEN": token, "PYTHONUNBUFFERED": "1"}
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hub.cli.bound", str(os.getpid()), PROGRAMS[self.name]),
            *("--url", url, "--db", str(directory / f"{self.name}.db")),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
            env=environment,
            start_new_session=True,  # a Ctrl-C is for the demonstration, which ends its systems itself
        )
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._readers = [
            asyncio.create_task(self._read(self._process.stdout), name=f"{self.name}-lines"),
            asyncio.create_task(self._remember(self._process.stderr), name=f"{self.name}-log"),
        ]

    async def _read(self, stream: asyncio.StreamReader) -> None:
        async for raw in stream:
            self._told(self.name, raw.decode(errors="replace").rstrip("\n"))

    async def _remember(self, stream: asyncio.StreamReader) -> None:
        async for raw in stream:
            self._last.append(raw.decode(errors="replace").strip())

    async def ended(self) -> None:
        """Return never, unless the program ends of itself.

        Raises:
            CommandError: it did.
        """
        assert self._process is not None
        code, *_ = await asyncio.gather(self._process.wait(), *self._readers)
        last = "; ".join(self._last) or "it said nothing"
        raise CommandError(f"{self.name} ended by itself (exit code {code}): {last}", "Mend what it names")

    async def stop(self) -> None:
        """End the program, kindly first."""
        if self._process is None:
            return
        try:
            if self._process.returncode is None:
                self._process.terminate()
                try:
                    await asyncio.wait_for(self._process.wait(), _GRACE_S)
                except TimeoutError:
                    self._process.kill()
                    await self._process.wait()
            await asyncio.gather(*self._readers, return_exceptions=True)
        finally:
            if self._process.returncode is None:
                self._process.kill()
