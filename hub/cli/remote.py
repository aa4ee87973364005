"""A running hub as the commands reach it: HTTP for requests, WebSocket for following events."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, NoReturn, Self
from urllib.parse import quote

import httpx
import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from hub.cli.access import Access
from hub.cli.failure import CommandError
from schemas.cursor import Cursor
from schemas.errors import CODES, Problem
from schemas.frames import SUBPROTOCOL, Close, may_reconnect
from schemas.types import HUB

_MAX_MESSAGE: Final = 1024 * 1024
_ANSWER_S: Final = 60.0
_STREAM_S: Final = 86_400.0
_CLOSE_S: Final = 1.0
"""A hub whose answers nobody reads any more, since `head` has enough, does not get to say goodbye."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_MAIN, _NEWCOMERS = 1, 2

_FIXES: Final[Mapping[str, str]] = {
    "unauthorized": "Give a token of this hub (`hub token`), or set HUB_DATA_DIR to this hub's data",
    "token_expired": "Make a new one with `hub token`",
    "forbidden": "Use a token with that scope, tenant and system",
    "invalid_cursor": "Use a cursor exactly as this hub gave it, or earliest",
    "not_authority": "Publish as the system of authority, with its token",
    "conflict": "Read the entity again, then publish with its revision",
}


def segment(text: str) -> str:
    """A text as one segment of a path, whatever it is; `..` would be taken for a way up."""
    return quote(text, safe="").replace(".", "%2E")


class Unreachable(CommandError):
    """No hub answers there. `sent`: it may have heard all the same."""

    def __init__(self, url: str, reason: str, *, sent: bool = False) -> None:
        self.sent = sent
        super().__init__(f"no hub answers at {url}: {reason}", "Start it with `hub serve`, or give --url")


class Refused(CommandError):
    """The hub said no. `problem` is its answer."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        self.problem = problem
        self.code = str(problem.get("code", ""))
        detail = str(problem.get("detail") or problem.get("title") or self.code)
        fix = _FIXES.get(self.code, "Try again" if problem.get("retryable") else "")
        super().__init__(detail, fix)


class Remote:
    """One hub. `async with` it."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._client = httpx.AsyncClient(
            base_url=access.url,
            timeout=httpx.Timeout(_ANSWER_S, connect=10.0),
            trust_env=not access.on_this_machine,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def get(self, path: str, token: str | None = None, **params: Any) -> Any:
        """The JSON at a path. Parameters that are None or empty are left out.

        Raises:
            Unreachable, Refused: see there.
        """
        given = {name: value for name, value in params.items() if value not in (None, [], ())}
        return await self.request("GET", path, token or self.access.token(), params=given)

    async def listed(
        self, path: str, name: str, limit: int, page: int, query: Mapping[str, Any]
    ) -> tuple[list[dict[str, Any]], bool]:
        """Up to `limit` entries of a listing, `page` at a time: those under `name`, and whether there are more.

        Raises:
            Unreachable, Refused: see there.
        """
        found: list[dict[str, Any]] = []
        after: str | None = None
        while len(found) < limit:
            answer = await self.get(path, **query, limit=min(page, limit - len(found)), after=after)
            found += answer[name]
            after = answer["next"]
            if after is None:
                break
        return found, after is not None

    async def post(self, path: str, body: Any, token: str | None = None) -> Any:
        """Post JSON, or bytes that are JSON, and give back the JSON of the answer.

        Raises:
            Unreachable, Refused: see there.
        """
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        return await self.request("POST", path, token or self.access.token(), content=content)

    async def patch(self, path: str, body: Any) -> Any:
        """Change what is at a path by JSON, and give back the JSON of the answer.

        Raises:
            Unreachable, Refused: see there.
        """
        return await self.request("PATCH", path, self.access.token(), content=orjson.dumps(body))

    async def delete(self, path: str) -> None:
        """Remove what is at a path.

        Raises:
            Unreachable, Refused: see there.
        """
        await self.request("DELETE", path, self.access.token())

    async def request(self, method: str, path: str, token: str, **kwargs: Any) -> Any:
        """One request to the API; `path` is below `/api/v1`. None where the answer has nothing in it."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            response = await self._client.request(method, f"/api/v1/{path}", headers=headers, **kwargs)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.InvalidURL)
            raise Unreachable(self.access.url, _said(error), sent=sent) from error
        if response.status_code == httpx.codes.NO_CONTENT:
            return None
        try:
            answer = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            answer = None
        if response.is_success and answer is not None:
            return answer
        return self._refuse(response, response.content)

    def _refuse(self, response: httpx.Response, content: bytes) -> NoReturn:
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            answer = None
        if isinstance(answer, dict) and "code" in answer:
            raise Refused(answer)
        raise CommandError(
            f"what answers at {self.access.url} is no hub (HTTP status {response.status_code})",
            "Give the hub's address with --url",
        )

    async def stream(self, path: str, **params: Any) -> AsyncGenerator[bytes]:
        """The body at a path as it comes, however long that takes. Parameters that are None or empty are left out.

        Close it with `aclosing`.

        Raises:
            Unreachable, Refused: see there; before the first byte.
            httpx.RequestError: it broke off.
        """
        given = {name: value for name, value in params.items() if value not in (None, [], ())}
        headers = {"Authorization": f"Bearer {self.access.token(life_s=_STREAM_S)}", "Accept-Encoding": "identity"}
        request = self._client.build_request("GET", f"/api/v1/{path}", headers=headers, params=given)
        # An event may be due in hours.
        request.extensions["timeout"] = httpx.Timeout(None, connect=10.0).as_dict()
        try:
            response = await self._client.send(request, stream=True)
        except (httpx.RequestError, httpx.InvalidURL) as error:
            raise Unreachable(self.access.url, _said(error)) from error
        try:
            if not response.is_success:
                self._refuse(response, await response.aread())
            async for chunk in response.aiter_raw():
                yield chunk
        finally:
            await response.aclose()

    async def follow(
        self,
        patterns: Sequence[str],
        *,
        tenants: Sequence[str] = (),
        entities: Sequence[str] = (),
        after: str = "latest",
        system: str = HUB,
        told: Callable[[str], None] = lambda _: None,
    ) -> AsyncGenerator[dict[str, Any]]:
        """The `event` and `gap` frames after a place, without end: over every loss of the connection it resumes where
        it was, so that no event is missed and none comes twice. `told` hears of losses and returns.

        Close it with `aclosing`.

        Raises:
            Unreachable: there was no hub to begin with.
            CommandError: the hub does not let the subscription stand.
        """
        feed = _Feed(self.access, patterns, tenants, entities, after, system)
        pause, begun, lost = _FIRST_PAUSE_S, False, False
        while True:
            try:
                async with feed.connected() as connection, aclosing(feed.frames(connection)) as frames:
                    async for frame in frames:
                        if frame["op"] == "subscribed":
                            if lost:
                                told("connected again")
                            begun, lost, pause = True, False, _FIRST_PAUSE_S
                        else:
                            yield frame
                reason = "the hub closed the connection"
            except _Again as error:
                reason = str(error)
                if reason == "":
                    continue
            except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as error:
                if isinstance(error, InvalidStatus) and error.response.status_code not in (502, 503, 504):
                    raise CommandError(
                        f"{self.access.url} takes no WebSocket (HTTP status {error.response.status_code})",
                        "Give the hub's address with --url",
                    ) from error
                if isinstance(error, ConnectionClosed):
                    feed.judge(error)
                if not begun:
                    raise Unreachable(self.access.url, _said(error)) from error
                reason = _said(error)
            if not lost:
                told(f"connection lost ({reason}); resuming as soon as the hub is back")
                lost = True
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _LONGEST_PAUSE_S)


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__


class _Again(Exception):
    """Connect again: at once when there is nothing to say, else after a pause."""


class _Feed:
    """What a subscription has seen, over the connections it lives through."""

    def __init__(
        self,
        access: Access,
        patterns: Sequence[str],
        tenants: Sequence[str],
        entities: Sequence[str],
        after: str,
        system: str,
    ) -> None:
        self._access = access
        self._asked: dict[str, Any] = {"patterns": list(patterns) or ["*"]}
        if tenants:
            self._asked["tenants"] = list(tenants)
        if entities:
            self._asked["entities"] = list(entities)
        self._after = after
        self._system = system
        self._position: dict[str, str] | None = None
        """By tenant, the cursor of the last event that was handed on; None before the first `subscribed`."""
        self._newcomers: list[str] = []
        """Tenants whose first events came while there was no connection: they are read from their beginning."""

    def connected(self) -> connect:
        """A connection, for `async with`."""
        root = self._access.url.replace("http", "ws", 1)
        return connect(
            f"{root}/ws",
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers={"Authorization": f"Bearer {self._access.token(self._system)}"},
            max_size=_MAX_MESSAGE,
            close_timeout=_CLOSE_S,
            compression=None,
            proxy=None if self._access.on_this_machine else True,
        )

    async def frames(self, connection: ClientConnection) -> AsyncGenerator[dict[str, Any]]:
        """The frames of one connection that matter to the caller."""
        if self._newcomers:
            beginning = self._asked | {"tenants": self._newcomers, "after": "earliest"}
            await self._subscribe(connection, _NEWCOMERS, beginning)
        await self._subscribe(connection, _MAIN, self._asked | {"after": self._position or self._after})
        async for message in connection:
            frame = orjson.loads(message)
            match frame["op"]:
                case "event":
                    self._hold(frame["event"]["tenant_id"], frame["cursor"])
                    yield frame
                case "gap":
                    self._hold(frame["tenant_id"], frame["resume_from"])
                    yield frame
                case "subscribed":
                    self._subscribed(frame)
                    if frame["id"] == _MAIN:
                        yield frame
                case "notice" if frame["code"] == "token_expiring" and self._access.signs:
                    await self._send(connection, op="refresh", token=self._access.token(self._system))
                case "error":
                    _refuse(frame)

    async def _subscribe(self, connection: ClientConnection, id: int, fields: Mapping[str, Any]) -> None:
        await self._send(connection, op="subscribe", id=id, **fields)

    @staticmethod
    async def _send(connection: ClientConnection, **frame: Any) -> None:
        await connection.send(orjson.dumps(frame).decode())

    def _subscribed(self, frame: Mapping[str, Any]) -> None:
        position: dict[str, str] = frame["position"]
        if self._position is None:
            self._position = dict(position)
            return
        if frame["id"] == _NEWCOMERS:
            for tenant in self._newcomers:
                self._position.setdefault(tenant, position[tenant])
            self._newcomers = []
            return
        missed = [
            tenant
            for tenant, cursor in position.items()
            if tenant not in self._position and Cursor.decode(cursor).sequence > 0
        ]
        if missed:
            self._newcomers = missed
            raise _Again

    def _hold(self, tenant: str, cursor: str) -> None:
        if self._position is not None:
            self._position[tenant] = cursor

    def judge(self, closed: ConnectionClosed) -> None:
        """Give up when the hub said that coming back is of no use.

        Raises:
            Refused: it did.
        """
        received = closed.rcvd
        if received is None:
            return
        if received.code == Close.TOKEN_EXPIRED and not self._access.signs:
            raise Refused(Problem("token_expired").body()) from closed
        if not may_reconnect(received.code):
            code = "forbidden" if received.code == Close.FORBIDDEN else "unauthorized"
            raise Refused({"code": code, "detail": received.reason}) from closed


def _refuse(frame: Mapping[str, Any]) -> None:
    known = CODES.get(frame["code"])
    if frame.get("retryable", known is not None and known.retryable):
        raise _Again(frame["message"])
    raise Refused({"code": frame["code"], "detail": frame["message"]})
