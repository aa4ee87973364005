"""The hub's HTTP side, as far as the client needs it: publishing, and reading pages of events."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final, Self, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx
import orjson
from pydantic import BaseModel, ValidationError, model_validator

from consumers.credential import Credential
from consumers.errors import AccessRefused, Disconnected, HubRefused
from schemas.errors import FieldError
from schemas.frames import MAX_WAIT_S, Receipt, SnapshotEntity

_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol)
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


ModelT = TypeVar("ModelT", bound=BaseModel)


class PagedEvent(BaseModel):
    """One event of a page."""

    cursor: str
    sequence: int
    event: dict[str, Any]


class Page(BaseModel):
    """An answer of `GET /events`; `next` is good even when the page is empty."""

    events: list[PagedEvent]
    next: str
    gap: dict[str, str] | None = None
    gaps: list[dict[str, str]] = []

    @model_validator(mode="after")
    def _one_of_several(self) -> Self:
        """`gap` is the first of `gaps`, where a hub tells them all."""
        if self.gap is not None and not self.gaps:
            self.gaps = [self.gap]
        return self


class StateOf(SnapshotEntity):
    """The state of one entity, and whose it is."""

    tenant_id: str


class StatePage(BaseModel):
    """An answer of `GET /snapshot`: all pages are true at the same `cursor`."""

    entities: list[StateOf]
    next: str | None = None
    more: bool = False
    cursor: str | None = None


class _Connections:
    """A pool of connections. It is closed when nothing is under way on it: what is just being connected while the pool
    is closed would stay open."""

    def __init__(self) -> None:
        # A backstop: the caller's clock bounds every request more tightly.
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(2.0 * MAX_WAIT_S, connect=10.0))
        self._under_way = 0
        self._retired = False

    async def request(self, method: str, url: str, **kwargs: Any) -> httpx.Response:
        self._under_way += 1
        try:
            return await self._client.request(method, url, **kwargs)
        finally:
            self._under_way -= 1
            if self._retired:
                await self.retire()

    async def retire(self) -> None:
        """Close, now or behind the last request."""
        self._retired = True
        if not self._under_way:
            await self._client.aclose()


class HubHttp:
    """The HTTP API of the hub whose WebSocket is at `url`. Answers "token expired" with a fresh token, once."""

    def __init__(self, url: str, credential: Credential) -> None:
        self._base = api_root(url)
        self._credential = credential
        self._connections: _Connections | None = None

    async def publish(self, event: bytes) -> Receipt:
        """Publish one event, as JSON. When cancelled, the outcome is unknown.

        Raises:
            HubRefused: the hub said no.
            Disconnected: there is no answer of the hub; `sent` tells whether the event may have arrived.
        """
        return read_answer(Receipt, await self._request("POST", "events", content=event))

    async def events(self, query: Mapping[str, str]) -> Page:
        """One page; with `wait` the hub holds the answer until there is an event.

        Raises:
            AccessRefused: the hub does not let the token in.
            HubRefused: the hub said no.
            Disconnected: there is no answer of the hub.
        """
        return read_answer(Page, await self._request("GET", "events", params=query))

    async def event(self, event_id: str, tenant: str) -> PagedEvent:
        """One event.

        Raises:
            AccessRefused: the hub does not let the token in.
            HubRefused: the hub said no.
            Disconnected: there is no answer of the hub.
        """
        return read_answer(PagedEvent, await self._request("GET", f"events/{event_id}", params={"tenant": tenant}))

    async def snapshot(self, query: Mapping[str, str]) -> StatePage:
        """One page of entities' states.

        Raises:
            AccessRefused: the hub does not let the token in.
            HubRefused: the hub said no.
            Disconnected: there is no answer of the hub.
        """
        return read_answer(StatePage, await self._request("GET", "snapshot", params=query))

    async def close(self) -> None:
        """Close the connections, those of requests under way behind them. A later request opens new ones."""
        connections, self._connections = self._connections, None
        if connections is not None:
            await connections.retire()

    async def _request(self, method: str, path: str, **kwargs: Any) -> bytes:
        response = await self._send(method, path, await self._credential.current(), **kwargs)
        if response.status_code == 401 and self._credential.renewable:
            response = await self._send(method, path, await self._credential.renew(), **kwargs)
        if response.is_success:
            return response.content
        problem = _problem(response)
        if method == "GET" and response.status_code in (401, 403) and isinstance(problem, HubRefused):
            raise AccessRefused(response.status_code, str(problem))
        raise problem

    async def _send(
        self, method: str, path: str, token: str, *, headers: Mapping[str, str] = _NO_HEADERS, **kwargs: Any
    ) -> httpx.Response:
        own = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        return await self._exchange(method, self._base + path, headers={**own, **headers}, **kwargs)

    async def _exchange(self, method: str, url: str, **kwargs: Any) -> httpx.Response:
        if self._connections is None:
            self._connections = _Connections()
        try:
            return await self._connections.request(method, url, **kwargs)
        except httpx.RequestError as error:
            raise Disconnected(f"no answer: {type(error).__name__}", sent=not isinstance(error, _NOT_SENT)) from error


def api_root(url: str) -> str:
    """The root of the HTTP API beside a WebSocket URL: `wss://host/hub/ws` has `https://host/hub/api/v1/`.

    Raises:
        ValueError: not a WebSocket URL.
    """
    parts = urlsplit(url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise ValueError("the hub's address is a WebSocket URL, like ws://localhost:3400/ws")
    return urlunsplit((scheme, parts.netloc, parts.path.rpartition("/")[0] + "/api/v1/", "", ""))


def read_answer(model: type[ModelT], body: bytes) -> ModelT:
    """The body of an answer.

    Raises:
        Disconnected: it is not what a hub answers.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise Disconnected("the answer cannot be read", sent=True) from error


def _problem(response: httpx.Response) -> HubRefused | Disconnected:
    status = response.status_code
    try:
        body = orjson.loads(response.content)
        return HubRefused(
            body["code"],
            body.get("detail", ""),
            retryable=bool(body.get("retryable", status >= 500 or status == 429)),
            errors=[FieldError(one["path"], one["message"]) for one in body.get("errors", ())],
            latest=body.get("latest"),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        # Not the hub: a proxy in between.
        if status >= 500 or status in (408, 429):
            return Disconnected(f"HTTP status {status}", sent=status != 429)
        return HubRefused(f"http_{status}", "something other than the hub answered", retryable=False)
