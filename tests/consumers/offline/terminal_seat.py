"""Somebody at the desk's terminal program, which runs in this process: lines in, lines out."""

from __future__ import annotations

import asyncio
import io
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from desk_rig import DeskClock
from pin_desk import BOSS, BOSS_PIN, CHEAP, Machine, jwt

from consumers.clock import SystemClock
from consumers.offline.sessions import IDLE_S
from consumers.offline.terminal import Program, program_parser
from consumers.offline.terminal_console import Console
from consumers.offline.terminal_desk import Surroundings

DEAD_URL = "ws://127.0.0.1:1/ws"
"""Nobody listens there."""
TOKEN = jwt(datetime(2026, 7, 15, 1, 0, tzinfo=UTC) + timedelta(hours=8), system="hotel-pms", tenants=["default"])
BOOK = ("book", "--id", "R1", "--in", "2026-07-15", "--out", "2026-07-16", "--type", "twin", "--amount", "16800")


class Done(NamedTuple):
    """What a run of the program came to."""

    code: int
    out: str
    err: str

    def rows(self) -> list[list[str]]:
        """A list's lines, without its titles."""
        return [line.split("\t") for line in self.out.splitlines()[1:] if "\t" in line]


@dataclass
class Running:
    """The program at its prompt; what it reads is written by `type`."""

    program: Program
    out: io.StringIO
    err: io.StringIO
    descriptor: int

    def type(self, *lines: str) -> None:
        os.write(self.descriptor, "".join(f"{line}\n" for line in lines).encode())

    async def shows(self, text: str) -> None:
        """Wait until it has printed this, on either stream."""
        async with asyncio.timeout(10):
            while text not in self.out.getvalue() + self.err.getvalue():  # noqa: ASYNC110 - printing signals nothing
                await asyncio.sleep(0.001)


@dataclass
class Seat:
    """One desk's files, and who sits there. English, so that assertions can be read."""

    directory: Path
    url: str = DEAD_URL
    device: str | None = "desk-1"
    environment: dict[str, str] = field(default_factory=dict)
    day: DeskClock = field(default_factory=DeskClock)
    machine: Machine = field(default_factory=Machine)
    idle_s: float = IDLE_S

    def __post_init__(self) -> None:
        self.environment = {
            "HUB_TOKEN": TOKEN,
            "HOTEL_DESK_PIN": BOSS_PIN,
            "HOTEL_DESK_OPERATOR": BOSS,
            "HOTEL_DESK_DIR": str(self.directory),
            **self.environment,
        }

    @asynccontextmanager
    async def at_prompt(self, *arguments: str, descriptors: tuple[int, int] | None = None) -> AsyncIterator[Running]:
        """The program, which runs beside; it has ended at the end."""
        read, write = os.pipe() if descriptors is None else descriptors
        out, err = io.StringIO(), io.StringIO()
        running = Running(self._program(arguments, read, out, err), out, err, write)
        task = asyncio.create_task(running.program.run())
        try:
            yield running
            async with asyncio.timeout(20):
                await task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            os.close(write)
            os.close(read)

    async def run(self, *arguments: str, lines: Iterable[str] = ()) -> Done:
        """One run to its end."""
        read, write = os.pipe()
        os.write(write, "".join(f"{line}\n" for line in lines).encode())
        os.close(write)
        out, err = io.StringIO(), io.StringIO()
        try:
            async with asyncio.timeout(20):
                code = await self._program(arguments, read, out, err).run()
        finally:
            os.close(read)
        return Done(code, out.getvalue(), err.getvalue())

    async def ready(self) -> Seat:
        """Set up, with two rooms and one reservation."""
        done = await self.run(lines=["room 301 --type twin", "room 302 --type twin", " ".join(BOOK), "quit"])
        assert done.code == 0, done
        return self

    def _program(self, arguments: Iterable[str], descriptor: int, out: io.StringIO, err: io.StringIO) -> Program:
        options = ["--url", self.url, "--language", "en"]
        if self.device is not None:
            options += ["--device", self.device]
        around = Surroundings(
            environment=self.environment,
            clock=SystemClock(),
            now=self.day.now,
            cost=CHEAP,
            uptime=self.machine,
            idle_s=self.idle_s,
        )
        return Program(Console(descriptor, out, err), program_parser().parse_args([*options, *arguments]), around)
