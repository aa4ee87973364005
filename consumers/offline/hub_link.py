"""The hub's `/sync` routes, as a desk uses them: bounded in time, compressed, and cut short when the line breaks."""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, NamedTuple, Protocol, TypeVar

import orjson

from consumers.clock import Clock
from consumers.credential import Credential
from consumers.errors import AccessRefused, Disconnected, HubRefused
from consumers.http_api import HubHttp, read_answer
from schemas.sync import (
    ComparisonReport,
    DigestResponse,
    PullResponse,
    PushResponse,
    SnapshotResponse,
    batch_crc32,
)

_ZSTANDARD: Final[Any] = import_module("zstandard") if find_spec("zstandard") else None
"""The extra `offline` has it; without, gzip does."""

SLOW_S: Final = 1.0
"""A request without an answer for so long is a reason to look at the line."""
ANSWER_S: Final = 30.0
"""How long a request may take while the line holds; a push of 500 items is the longest."""
COMPRESSED_FROM: Final = 1024
"""Bytes from which on a body is compressed."""

_EXPIRED: Final = frozenset({"unauthorized", "token_expired"})
_SCHEMA: Final = re.compile(r"/([a-z_]+)\.v(\d+)\.json$")

T = TypeVar("T")


class Batch(NamedTuple):
    """What one push says. `items` are JSON objects, in order; `sums` are their checksums.

    `plain`: not to be compressed, as when what came before did not arrive whole.
    """

    items: Sequence[bytes]
    sums: Sequence[str]
    sent_at: str
    backlog: int
    cursor: str | None
    plain: bool = False


class SyncHub(Protocol):
    """What a sync asks of the hub.

    Each raises `Disconnected` (no answer: what was sent may have arrived), `AccessRefused` (the token; 401 expired, 403
    not enough) and `HubRefused` (the hub said no).
    """

    async def push(self, batch: Batch) -> PushResponse:
        """`POST /sync/push`."""
        ...

    async def pull(self, after: str | None, limit: int) -> PullResponse:
        """`GET /sync/pull`."""
        ...

    async def snapshot(self, after: str | None, limit: int) -> SnapshotResponse:
        """`GET /sync/snapshot`."""
        ...


class _Http(HubHttp):
    """The routes, as bytes. A 401 gets one fresh token, when there is a source."""

    async def alive(self) -> None:
        response = await self._exchange("GET", self._base.removesuffix("api/v1/") + "healthz")
        if not response.is_success:
            raise Disconnected(f"the hub is not well: HTTP status {response.status_code}")

    async def schemas(self) -> bytes:
        response = await self._exchange("GET", self._base.removesuffix("api/v1/") + "schemas")
        if not response.is_success:
            raise Disconnected(f"no schemas: HTTP status {response.status_code}")
        return response.content

    async def ask(self, path: str, query: Mapping[str, str]) -> bytes:
        return await self._request("GET", path, params=query)

    async def tell(self, path: str, content: bytes, encoding: str | None) -> bytes:
        headers = {} if encoding is None else {"Content-Encoding": encoding}
        return await self._request("POST", path, content=content, headers=headers)


class HubLink:
    """One desk's requests to its hub.

    A request that is slow, or gets no answer, is told to `on_trouble` at once. All raise as `SyncHub` says.
    """

    def __init__(
        self,
        url: str,
        credential: Credential,
        *,
        tenant_id: str,
        device_id: str,
        clock: Clock,
        on_trouble: Callable[[], None] = lambda: None,
    ) -> None:
        """`url` is the hub's WebSocket, as for `HubClient`. Raises `ValueError` when it is none."""
        self._http = _Http(url, credential)
        self._tenant_id = tenant_id
        self._device_id = device_id
        self._clock = clock
        self._on_trouble = on_trouble
        self._asking: set[asyncio.Task[Any]] = set()
        self._plain = False
        self.bytes_sent = 0
        """Bodies pushed, as they left: compressed."""

    # -- a sync --------------------------------------------------------------------------------------------------------

    async def push(self, batch: Batch) -> PushResponse:
        """Send operations. Each is taken once, however often it is sent."""
        plain = batch.plain or self._plain
        content, encoding = await asyncio.to_thread(self._packed, batch, plain)
        self.bytes_sent += len(content)
        try:
            return read_answer(PushResponse, await self._asked(self._http.tell("sync/push", content, encoding)))
        except HubRefused as refusal:
            if plain or not any(error.path == "Content-Encoding" for error in refusal.errors):
                raise
            # A hub that does not read this encoding will not do so next time.
            self._plain = True
            return await self.push(batch)

    async def pull(self, after: str | None, limit: int) -> PullResponse:
        """The changes after a cursor; None from the first."""
        query = self._query(limit=limit) | ({} if after is None else {"after": after})
        return read_answer(PullResponse, await self._asked(self._http.ask("sync/pull", query)))

    async def snapshot(self, after: str | None, limit: int) -> SnapshotResponse:
        """A page of states; `after` is the last page's `next`."""
        query = self._query(limit=limit) | ({} if after is None else {"after": after})
        return read_answer(SnapshotResponse, await self._asked(self._http.ask("sync/snapshot", query)))

    # -- a comparison --------------------------------------------------------------------------------------------------

    async def digest(self, buckets: Sequence[int] = ()) -> DigestResponse:
        """The digest tree; with `buckets` also the states in those."""
        query = self._query() | ({"bucket": ",".join(f"{number:02x}" for number in buckets)} if buckets else {})
        return read_answer(DigestResponse, await self._asked(self._http.ask("sync/digest", query)))

    async def entity(self, entity: str) -> SnapshotResponse:
        """The states of one entity, by all types of its events."""
        query = self._query() | {"entity": entity}
        return read_answer(SnapshotResponse, await self._asked(self._http.ask("sync/snapshot", query)))

    async def report_digest(self, report: ComparisonReport) -> None:
        """Tell how a comparison ended."""
        await self._asked(self._http.tell("sync/digest", report.model_dump_json().encode(), None))

    # -- the line ------------------------------------------------------------------------------------------------------

    async def alive(self) -> None:
        """Whether the hub is there at all (`GET /healthz`). The caller bounds it in time."""
        await self._http.alive()

    async def authenticated(self, after: str | None = None) -> bool:
        """Whether the hub takes the token, by a pull of one change; True when there is one after the cursor.

        The caller bounds it in time.
        """
        query = {"tenant": self._tenant_id, "limit": "1"} | ({} if after is None else {"after": after})
        try:
            page = read_answer(PullResponse, await self._http.ask("sync/pull", query))
        except HubRefused as refusal:
            raise _told_apart(refusal) from refusal
        return bool(page.changes) or page.gap is not None

    async def schemas(self) -> dict[str, int]:
        """The newest version of each type of event that the hub knows."""
        newest: dict[str, int] = {}
        body = await self._asked(self._http.schemas())
        try:
            names = [str(name) for name in orjson.loads(body)["schemas"]]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise Disconnected("the answer cannot be read", sent=True) from error
        for found in filter(None, map(_SCHEMA.search, names)):
            newest[found[1]] = max(newest.get(found[1], 0), int(found[2]))
        return newest

    def cut(self) -> None:
        """The line is known to be down: what waits for an answer ends now, as `Disconnected`."""
        for task in self._asking:
            task.cancel()

    async def close(self) -> None:
        """Close idle connections. A later request opens new ones: after a break the old ones may be dead."""
        await self._http.close()

    def _query(self, limit: int | None = None) -> dict[str, str]:
        query = {"tenant": self._tenant_id, "device_id": self._device_id}
        return query if limit is None else query | {"limit": str(limit)}

    def _packed(self, batch: Batch, plain: bool) -> tuple[bytes, str | None]:
        head = {
            "device_id": self._device_id,
            "tenant_id": self._tenant_id,
            "batch_crc32": batch_crc32(batch.sums),
            "sent_at": batch.sent_at,
            "backlog": batch.backlog,
            "cursor": batch.cursor,
        }
        given = orjson.dumps({name: value for name, value in head.items() if value is not None})
        body = given[:-1] + b',"items":[' + b",".join(batch.items) + b"]}"
        return (body, None) if plain or len(body) < COMPRESSED_FROM else compressed(body)

    async def _asked(self, request: Coroutine[Any, Any, T]) -> T:
        task = asyncio.create_task(request, name="desk-request")
        self._asking.add(task)
        try:
            with suppress(TimeoutError):
                async with self._clock.timeout(SLOW_S):
                    await asyncio.wait({task})
            if not task.done():
                self._on_trouble()
                async with self._clock.timeout(ANSWER_S - SLOW_S):
                    await asyncio.wait({task})
            if task.cancelled():
                raise Disconnected("the line is down", sent=True)
            return task.result()
        except TimeoutError as error:
            raise Disconnected("no answer in time", sent=True) from error
        except HubRefused as refusal:
            raise _told_apart(refusal) from refusal
        except Disconnected:
            self._on_trouble()
            raise
        finally:
            self._asking.discard(task)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def compressed(body: bytes) -> tuple[bytes, str]:
    """A body, and its `Content-Encoding`."""
    if _ZSTANDARD is not None:
        return _ZSTANDARD.ZstdCompressor(level=3).compress(body), "zstd"
    return gzip.compress(body, 6, mtime=0), "gzip"


def _told_apart(refusal: HubRefused) -> AccessRefused | HubRefused:
    """What the hub says of the token is another matter than what it says of the request."""
    if refusal.code in _EXPIRED:
        return AccessRefused(401, str(refusal))
    return AccessRefused(403, str(refusal)) if refusal.code == "forbidden" else refusal
