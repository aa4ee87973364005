"""An endpoint as a hotel's system has one: checks every signature with the public library, and answers as told."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
from standardwebhooks import Webhook, WebhookVerificationError

WAIT_S = 10.0


def fresh_secret(size: int = 32) -> str:
    """A secret of an endpoint's own."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(size)).decode()}"


@dataclass(frozen=True, slots=True)
class Answer:
    """What the endpoint says. `status` None: it takes the request and then is silent."""

    status: int | None = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


OK = Answer()
SILENCE = Answer(None)


def busy(seconds: float | str, status: int = 503) -> Answer:
    """Comes with a Retry-After."""
    return Answer(status, {"Retry-After": str(seconds)})


def moved(url: str, status: int = 302) -> Answer:
    """Sends the caller elsewhere."""
    return Answer(status, {"Location": url})


@dataclass(frozen=True, slots=True)
class Call:
    """One request whose signature was good. `at` is the loop's time at its arrival; names of headers in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes
    at: float
    number: int
    """Of all calls, from 1."""

    @property
    def json(self) -> Any:
        """The body."""
        return orjson.loads(self.body)

    @property
    def id(self) -> str:
        """Of the event."""
        return self.headers["webhook-id"]

    @property
    def attempt(self) -> int:
        """Which attempt the hub says it is."""
        return int(self.headers["hub-attempt"])

    @property
    def entity(self) -> str:
        """What the event is about."""
        found: str = self.json["entity"]
        return found


class Receiver:
    """What was called, and what is answered.

    Answers: `script` gives them in turn; when it is empty, `decide` says. `secrets` are those that a signature is good
    by, one of them; what has none is answered with 401 and stands in `refused`.
    """

    def __init__(self) -> None:
        self.port = 0
        self.secrets = [fresh_secret()]
        self.script: deque[Answer] = deque()
        self.decide: Callable[[Call], Answer] = lambda _: OK
        self.calls: list[Call] = []
        self.refused: list[str] = []
        self._taken = 0
        self._news = asyncio.Condition()

    @property
    def secret(self) -> str:
        """The first of its secrets, for the hub to sign with."""
        return self.secrets[0]

    @property
    def url(self) -> str:
        """Where it is."""
        return self.at("/hook")

    def at(self, path: str) -> str:
        """Another path of it."""
        return f"http://127.0.0.1:{self.port}{path}"

    async def next(self) -> Call:
        """The next call that was not taken yet."""
        self._taken += 1
        await self.until(lambda: len(self.calls) >= self._taken)
        return self.calls[self._taken - 1]

    async def take(self, count: int) -> list[Call]:
        """The next `count` calls."""
        return [await self.next() for _ in range(count)]

    @property
    def untaken(self) -> list[Call]:
        """Calls that nobody waited for."""
        return self.calls[self._taken :]

    @property
    def untouched(self) -> bool:
        """Whether nothing came at all."""
        return not self.calls and not self.refused

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait, call by call, until something is so."""
        async with self._news:
            try:
                async with asyncio.timeout(WAIT_S):
                    await self._news.wait_for(lambda: bool(self.refused) or condition())
            except TimeoutError:
                raise AssertionError(f"{len(self.calls)} calls, {self._taken} wanted") from None
        assert not self.refused

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request by request."""
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.split("\r\n")
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            answer = await self._answer(first.split(" ")[1], headers, body)
            if answer.status is None:
                await reader.read()
                return
            writer.write(_bytes(answer))
            await writer.drain()

    async def _answer(self, path: str, headers: dict[str, str], body: bytes) -> Answer:
        at = asyncio.get_running_loop().time()
        async with self._news:
            self._news.notify_all()
            if not any(self._is_good(secret, headers, body) for secret in self.secrets):
                self.refused.append(f"{path}: {headers}")
                return Answer(401)
            call = Call(path, headers, body, at, len(self.calls) + 1)
            self.calls.append(call)
            return self.script.popleft() if self.script else self.decide(call)

    @staticmethod
    def _is_good(secret: str, headers: dict[str, str], body: bytes) -> bool:
        try:
            Webhook(secret).verify(body, headers)
        except WebhookVerificationError:
            return False
        return True


def _bytes(answer: Answer) -> bytes:
    assert answer.status is not None
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}", f"Content-Length: {len(answer.body)}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """A receiver on a free port of 127.0.0.1."""
    receiver = Receiver()
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            with suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
                await receiver.serve(reader, writer)
        finally:
            tasks.discard(task)
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    try:
        yield receiver
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


__all__ = ["OK", "SILENCE", "Answer", "Call", "Receiver", "busy", "fresh_secret", "moved", "receiving"]
