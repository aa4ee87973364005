"""Webhook endpoints by the hundred on one port: each does what its path says, and what comes is kept.

`/ok/N` takes everything, `/fail/N` answers 500, `/hang/N` never answers, `/flap/N` fails for some seconds and works for
some. `GET /taken` says how much the first kind has, `POST /end` ends the process.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import orjson
import uvloop

from hub.bench.load_process import serve_load

ENTITY: Final = re.compile(rb'"entity":"([^"\\]+)"')
REVISION: Final = re.compile(rb'"revision":(\d+)\}$')
_END_OF_HEAD: Final = b"\r\n\r\n"
_OK: Final = 200


class Request(NamedTuple):
    """A request as it came. Names of headers are in small letters; `at_ns` is Unix time."""

    at_ns: int
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Reply(NamedTuple):
    """What is answered, and after how long. Without a status nothing is, ever."""

    status: int | None
    after_s: float = 0.0
    body: bytes = b""


Take = Callable[[Request], Reply]


class Peer(asyncio.Protocol):
    """One connection: requests one after another, each of them whole before `take` sees it."""

    def __init__(self, take: Take) -> None:
        self._take = take
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is up."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over: a reply that is due later goes nowhere."""
        self._transport = None

    def data_received(self, data: bytes) -> None:
        """Something came."""
        self._buffer += data
        while (request := self._whole()) is not None:
            reply = self._take(request)
            if reply.status is None:
                continue
            answer = b"HTTP/1.1 %d .\r\nContent-Length: %d\r\n\r\n%b" % (reply.status, len(reply.body), reply.body)
            if reply.after_s:
                asyncio.get_running_loop().call_later(reply.after_s, self._write, answer)
            else:
                self._write(answer)

    def _whole(self) -> Request | None:
        end = self._buffer.find(_END_OF_HEAD)
        if end < 0:
            return None
        first, *lines = self._buffer[:end].decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        begin = end + len(_END_OF_HEAD)
        stop = begin + int(headers.get("content-length", 0))
        if len(self._buffer) < stop:
            return None
        method, path, _ = first.split(" ")
        request = Request(time.time_ns(), method, path, headers, bytes(self._buffer[begin:stop]))
        del self._buffer[:stop]
        return request

    def _write(self, answer: bytes) -> None:
        if self._transport is not None:
            self._transport.write(answer)


class Kept(NamedTuple):
    """One webhook as an endpoint got it."""

    path: str
    webhook_id: str
    entity: str
    revision: int
    attempt: int
    status: int
    """What was answered; 0: nothing."""
    at_ns: int


class Receivers:
    """All the endpoints of the process. `turn_s`: how long those that flap fail and work, in turns."""

    def __init__(self, turn_s: float) -> None:
        self._turn_ns = int(turn_s * 1e9)
        self.kept: list[Kept] = []
        self.taken = 0
        """By those that take everything."""
        self.ended = asyncio.Event()

    def take(self, request: Request) -> Reply:
        """Answer as the path says."""
        if request.path == "/taken":
            return Reply(_OK, body=b"%d" % self.taken)
        if request.path == "/end":
            self.ended.set()
            return Reply(_OK)
        _, kind, number = request.path.split("/")
        status = self._status(kind, int(number), request.at_ns)
        entity, revision = ENTITY.search(request.body), REVISION.search(request.body)
        assert entity is not None
        assert revision is not None
        self.taken += kind == "ok"
        self.kept.append(
            Kept(
                request.path,
                request.headers["webhook-id"],
                entity[1].decode(),
                int(revision[1]),
                int(request.headers["hub-attempt"]),
                status or 0,
                request.at_ns,
            )
        )
        return Reply(status)

    def _status(self, kind: str, number: int, now_ns: int) -> int | None:
        if kind == "hang":
            return None
        works = kind == "ok" or (kind == "flap" and (now_ns // self._turn_ns + number) % 2)
        return _OK if works else 500


def run(asked: dict[str, Any], ready: Callable[[], None]) -> dict[str, Any]:
    """Listen on `port` until told to end; what came is in `file` then, a JSON list a line (`Kept`)."""
    receivers = Receivers(asked["turn_s"])
    uvloop.run(_serve(receivers, asked["port"], ready))
    with Path(asked["file"]).open("wb") as file:
        file.writelines(orjson.dumps(list(one)) + b"\n" for one in receivers.kept)
    return {"kept": len(receivers.kept)}


async def _serve(receivers: Receivers, port: int, ready: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Peer(receivers.take), "127.0.0.1", port, backlog=1024)
    ready()
    await receivers.ended.wait()
    server.close()


if __name__ == "__main__":
    serve_load(run)
