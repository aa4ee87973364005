"""A line that breaks: between desks and hub, cut in the middle of pushes, of their answers, and of anything else."""

from __future__ import annotations

import asyncio
import math
import random
import re
from contextlib import suppress
from typing import Final

_CHUNK: Final = 65536
_CUTS: Final = 0.5
"""The share of pushes that do not get through; of some the request is cut, of the others the answer."""
_ANSWER_BYTES: Final = 600
_FEWEST, _MOST = 3.0, 6.0
"""The powers of ten between which the bytes lie that a connection carries at most, whatever they are."""
_PUSH: Final = b"POST /api/v1/sync/push"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


class CuttingProxy:
    """Carries bytes to a port of this machine. `whole`: from now on no connection is cut.

    `cut_pushing` and `cut_answering` count the pushes that were cut on their way, and their answers.
    """

    def __init__(self, port: int, seed: str) -> None:
        self.whole = False
        self.cut_pushing = 0
        self.cut_answering = 0
        self.cut_otherwise = 0
        self._to = port
        self._chance = random.Random(f"{seed} cuts")
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def __str__(self) -> str:
        return f"cut: {self.cut_pushing} pushes, {self.cut_answering} answers, {self.cut_otherwise} others"

    async def start(self) -> int:
        """Listen; the port."""
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Cut everything."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            onward, away = await asyncio.open_connection("127.0.0.1", self._to)
        except OSError:
            writer.transport.abort()
            return
        line = _Line(self, self._chance)
        ways = (
            asyncio.create_task(line.upwards(reader, away)),
            asyncio.create_task(line.downwards(onward, writer)),
        )
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            for one in (writer, away):
                # Some end in order, as where a proxy is stopped; of the others the peer gets a reset.
                if line.abrupt:
                    one.transport.abort()
                else:
                    one.close()
                with suppress(OSError):
                    await one.wait_closed()


class _Line:
    """One connection, and where it is cut."""

    def __init__(self, proxy: CuttingProxy, chance: random.Random) -> None:
        self._proxy = proxy
        self._chance = chance
        self.abrupt = chance.random() < 0.5
        self._left = 10 ** chance.uniform(_FEWEST, _MOST)
        """Bytes until it is cut whatever they are."""
        self._left_up = self._left_down = math.inf
        """Bytes until a push, or its answer, is cut."""

    async def upwards(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry requests until they end or are cut."""
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                if chunk.startswith(_PUSH):
                    self._draw(chunk)
                elif chunk.startswith(b"GET /"):
                    self._left_down = math.inf
                cut = await self._forward(chunk, writer, self._left_up)
                self._left_up -= len(chunk)
                if cut:
                    self._proxy.cut_pushing += self._left_up <= 0
                    return

    async def downwards(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry answers until they end or are cut."""
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK):
                cut = await self._forward(chunk, writer, self._left_down)
                self._left_down -= len(chunk)
                if cut:
                    self._proxy.cut_answering += self._left_down <= 0
                    return

    def _draw(self, head: bytes) -> None:
        """A push begins: whether and where it is cut."""
        self._left_up = self._left_down = math.inf
        if self._chance.random() >= _CUTS:
            return
        if self._chance.random() < 0.5:
            length = _LENGTH.search(head)
            whole = head.find(b"\r\n\r\n") + 4 + (0 if length is None else int(length[1]))
            self._left_up = self._chance.randrange(1, whole)
        else:
            self._left_down = self._chance.randrange(_ANSWER_BYTES)

    async def _forward(self, chunk: bytes, writer: asyncio.StreamWriter, left: float) -> bool:
        """Carry what may be carried; whether the connection is to be cut now."""
        left = math.inf if self._proxy.whole else min(left, self._left)
        self._left -= len(chunk)
        cut = len(chunk) > left
        writer.write(chunk[: int(left)] if cut else chunk)
        await writer.drain()
        self._proxy.cut_otherwise += cut and self._left <= 0
        return cut
