"""One attempt at a webhook: a POST whose every way to end is an answer, within a time and a size.

An endpoint belongs to somebody else. It may be silent, endless, lie or lead inside; nothing of that takes more than one
attempt's time and memory.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import lru_cache
from importlib.metadata import version
from typing import Final, Literal, cast

import httpcore

from hub.security.addresses import Target, parse_url
from hub.services.guarded_dialling import Dialler, Forbidden, Line, Resolve, Unreachable

USER_AGENT: Final = f"hotel-event-hub/{version('hotel-event-hub')}"
MAX_BODY_PARTS: Final = 32
"""A body in more pieces is read no further: each costs far more than its bytes."""
BODY_S: Final = 1.0
"""The status says how the attempt ended; the body is waited for no longer, only to use the connection again."""
EXCERPT_BYTES: Final = 1024
MAX_LINE_CHARS: Final = 200
MAX_RETRY_AFTER_S: Final = 86_400.0
MAX_IDLE: Final = 500
KEEP_IDLE_S: Final = 30.0
_SECONDS: Final = re.compile(r"[0-9]+")

Kind = Literal["delivered", "refused", "gone", "redirect", "timeout", "unreachable", "forbidden"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one attempt.

    `status` is None when there was no answer in HTTP. `seconds` is how long it took. `error` is None only when it was
    delivered; it is one short line, without the URL. `body` is the beginning of what the endpoint said.

    `kind`: `delivered` for 2xx, `gone` for 410, `redirect` for 3xx, which is never followed, `refused` for any other
    status; without a status `timeout`, `unreachable`, or `forbidden` where the URL or its address may not be called.
    """

    status: int | None
    seconds: float
    error: str | None
    retry_after_s: float | None
    body: bytes
    kind: Kind


@dataclass(frozen=True, slots=True)
class _Place:
    """A URL as it is sent to."""

    target: Target
    url: httpcore.URL
    origin: httpcore.Origin
    host: bytes


@dataclass(eq=False, slots=True)
class _Held:
    """A connection that carries one request after another."""

    origin: tuple[str, str, int]
    line: Line
    connection: httpcore.AsyncHTTP11Connection
    until: float = 0.0


class WebhookSender:
    """Sends webhooks, any number at the same time. Whoever made it awaits `aclose`.

    `timeout_s` bounds a whole attempt: look-up, connection, TLS, request and answer. `wall` is the time that a date in
    `Retry-After` is measured against. How many attempts are under way is the caller's to bound.
    """

    def __init__(
        self,
        allow_hosts: Collection[str],
        *,
        timeout_s: float = 15.0,
        resolve: Resolve | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        allowed = frozenset(allow_hosts)
        self._dialler = Dialler(allowed, resolve)
        self._timeout_s = timeout_s
        self._wall = wall
        self._place = lru_cache(maxsize=4096)(lambda url: _placed(parse_url(url, allowed)))
        # The idle ones by origin, and all of them in the order they came to rest.
        self._idle: dict[tuple[str, str, int], deque[_Held]] = {}
        self._resting: dict[_Held, None] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._closed = False

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Send one webhook. Cancelled, it leaves no connection behind.

        `headers` are sent beside `Host` and `Content-Length`; `Content-Type` (JSON) and `User-Agent` may be among them.
        A kept connection may have been closed at the other end; then the request goes out once more on a new one, so
        an endpoint may get it twice.

        Raises:
            httpcore.LocalProtocolError: a header of the caller cannot be sent.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()

        def no_answer(kind: Kind, error: str) -> Answer:
            return Answer(None, loop.time() - began, _cleaned(error), None, b"", kind)

        try:
            place = self._place(url)
        except ValueError as error:
            return no_answer("forbidden", str(error))
        attempt = _Attempt()
        try:
            async with asyncio.timeout_at(began + self._timeout_s):
                held, response = await self._exchange(place, _request(place, headers, body), attempt)
        except TimeoutError:
            return no_answer("timeout", f"{attempt.doing} took longer than {self._timeout_s:g} s")
        except Forbidden as error:
            return no_answer("forbidden", str(error))
        except Unreachable as error:
            return no_answer("unreachable", str(error))
        try:
            excerpt = await _read(response, min(loop.time() + BODY_S, began + self._timeout_s))
        finally:
            self._rest(held)
        return self._answer(response, excerpt, loop.time() - began)

    async def aclose(self) -> None:
        """Close the idle connections; those in use close when their attempt is over."""
        self._closed = True
        if self._sweep is not None:
            self._sweep.cancel()
        lines = [held.line for held in self._resting]
        self._idle.clear()
        self._resting.clear()
        for line in lines:
            line.abort()
        await asyncio.gather(*(line.lost for line in lines))

    async def _exchange(
        self, place: _Place, request: httpcore.Request, attempt: _Attempt
    ) -> tuple[_Held, httpcore.Response]:
        """Send the request and read the head of the answer."""
        held = self._take(place.target)
        if held is not None:
            try:
                response = await _ask(held, request)
            except (httpcore.ReadError, httpcore.RemoteProtocolError) as error:
                if held.line.bounds.received:
                    raise Unreachable(_protocol_reason(error)) from error
            else:
                if held.line.bounds.received:
                    return held, response
                # What came after the last answer is none to this request.
                held.line.abort()
        held = await self._dial(place, attempt)
        attempt.doing = "the answer"
        try:
            return held, await _ask(held, request)
        except (httpcore.ReadError, httpcore.RemoteProtocolError) as error:
            raise Unreachable(_protocol_reason(error)) from error

    async def _dial(self, place: _Place, attempt: _Attempt) -> _Held:
        target = place.target
        attempt.doing = "the look-up of the host's name"
        addresses = await self._dialler.addresses(target)
        attempt.doing = "the connection"
        line = await self._dialler.connect(target, addresses)
        attempt.doing = "the TLS handshake"
        try:
            await self._dialler.secure(target, line)
        except BaseException:
            line.abort()
            raise
        connection = httpcore.AsyncHTTP11Connection(place.origin, line)
        return _Held((target.scheme, target.host, target.port), line, connection)

    def _take(self, target: Target) -> _Held | None:
        """The connection that came to rest last; it may have been closed since."""
        origin = (target.scheme, target.host, target.port)
        idle = self._idle.get(origin)
        if idle is None:
            return None
        held = idle.pop()
        if not idle:
            del self._idle[origin]
        del self._resting[held]
        return held

    def _rest(self, held: _Held) -> None:
        """Keep a connection for the next request, if its answer was read to the end."""
        # Bytes beyond the answer would be taken for the next one.
        if self._closed or held.line.unread or not held.connection.is_idle():
            held.line.abort()
            return
        held.line.rest()
        loop = asyncio.get_running_loop()
        held.until = loop.time() + KEEP_IDLE_S
        self._idle.setdefault(held.origin, deque()).append(held)
        self._resting[held] = None
        if len(self._resting) > MAX_IDLE:
            self._drop_oldest()
        if self._sweep is None:
            self._sweep = loop.call_later(KEEP_IDLE_S, self._drop_expired)

    def _drop_oldest(self) -> None:
        held = next(iter(self._resting))
        del self._resting[held]
        # The oldest of all is the oldest of its origin.
        idle = self._idle[held.origin]
        idle.popleft()
        if not idle:
            del self._idle[held.origin]
        held.line.abort()

    def _drop_expired(self) -> None:
        self._sweep = None
        loop = asyncio.get_running_loop()
        while self._resting:
            oldest = next(iter(self._resting))
            if oldest.until > loop.time():
                self._sweep = loop.call_at(oldest.until, self._drop_expired)
                return
            self._drop_oldest()

    def _answer(self, response: httpcore.Response, excerpt: bytes, seconds: float) -> Answer:
        status = response.status
        if 200 <= status < 300:
            return Answer(status, seconds, None, None, excerpt, "delivered")
        retry_after_s = _retry_after(response.headers, self._wall())
        if 300 <= status < 400:
            error = f"HTTP {status}: redirects are not followed; the URL must be the last one"
            return Answer(status, seconds, error, retry_after_s, excerpt, "redirect")
        line = _first_line(excerpt)
        error = f"HTTP {status}: {line}" if line else f"HTTP {status}"
        return Answer(status, seconds, error, retry_after_s, excerpt, "gone" if status == 410 else "refused")


class _Attempt:
    """How far an attempt has come."""

    __slots__ = ("doing",)

    def __init__(self) -> None:
        self.doing = "the answer"


def _placed(target: Target) -> _Place:
    shown = f"[{target.host}]" if ":" in target.host else target.host
    if target.port != (443 if target.scheme == "https" else 80):
        shown += f":{target.port}"
    url = httpcore.URL(scheme=target.scheme, host=target.host, port=target.port, target=target.path)
    return _Place(target, url, url.origin, shown.encode())


def _request(place: _Place, headers: Mapping[str, str], body: bytes) -> httpcore.Request:
    given = [(name.encode(), value.encode()) for name, value in headers.items()]
    names = {name.lower() for name, _ in given}
    fields = [(b"Host", place.host), (b"Content-Length", b"%d" % len(body))]
    if b"content-type" not in names:
        fields.append((b"Content-Type", b"application/json"))
    if b"user-agent" not in names:
        fields.append((b"User-Agent", USER_AGENT.encode()))
    return httpcore.Request(b"POST", place.url, headers=fields + given, content=body)


async def _ask(held: _Held, request: httpcore.Request) -> httpcore.Response:
    held.line.ask()
    try:
        response = await held.connection.handle_async_request(request)
    except BaseException:
        held.line.abort()
        raise
    held.line.bounds.head_read(any(name.lower() == b"transfer-encoding" for name, _ in response.headers))
    return response


async def _read(response: httpcore.Response, deadline: float) -> bytes:
    """The beginning of the body. Whatever becomes of the rest, the status stands; read to the end, it may be idle."""
    excerpt = bytearray()
    parts = 0
    # Not by `aiter_stream`, which would leave the stream below it open for the garbage collector to close.
    stream = cast("AsyncGenerator[bytes, None]", aiter(cast("AsyncIterable[bytes]", response.stream)))
    try:
        async with asyncio.timeout_at(deadline), aclosing(stream):
            async for part in stream:
                excerpt += part[: EXCERPT_BYTES - len(excerpt)]
                parts += 1
                if parts == MAX_BODY_PARTS:
                    break
        await response.aclose()
    except (TimeoutError, httpcore.ReadError, httpcore.RemoteProtocolError):
        pass
    return bytes(excerpt)


def _retry_after(headers: list[tuple[bytes, bytes]], now: float) -> float | None:
    """Seconds to wait as the endpoint asks for, at most a day; None when it does not, or not in its two forms."""
    text = next((value for name, value in headers if name.lower() == b"retry-after"), b"").decode("latin-1").strip()
    if _SECONDS.fullmatch(text):
        return min(float(text), MAX_RETRY_AFTER_S)
    try:
        date = parsedate_to_datetime(text)
        wait = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    return min(max(wait, 0.0), MAX_RETRY_AFTER_S)


def _protocol_reason(error: Exception) -> str:
    if isinstance(error, httpcore.ReadError):
        return str(error)
    if str(error).startswith("Server disconnected"):
        return "the endpoint closed the connection without an answer"
    return f"the answer is not HTTP/1.1: {error}"


def _first_line(body: bytes) -> str:
    text = body.decode("utf-8", "replace")
    return next((cleaned for line in text.splitlines() if (cleaned := _cleaned(line))), "")


def _cleaned(text: str) -> str:
    """One line of what can be shown, and not too long."""
    shown = "".join(char if char.isprintable() else " " for char in text[: 4 * MAX_LINE_CHARS])
    return " ".join(shown.split())[:MAX_LINE_CHARS]
