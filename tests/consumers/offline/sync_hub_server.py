"""The hub in memory behind a port: HTTP and WebSocket, and a line that can be cut or fall silent."""

from __future__ import annotations

import asyncio
import gzip
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import orjson
import zstandard
from fake_hub import TENANT, FakeHub, Session, _problem, _respond
from fake_sync_hub import FakeSyncHub

from consumers.errors import HubRefused
from schemas.errors import FieldError, Problem


@dataclass
class SyncHubServer(FakeHub):
    """`sync` holds what the hub holds; `told` sends what has happened there to who listens."""

    sync: FakeSyncHub = field(default_factory=FakeSyncHub)
    raw: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    """Path, headers and body of every request."""
    encodings: frozenset[str] = frozenset({"", "gzip", "zstd"})
    sick: bool = False
    """`GET /healthz` says so, as a proxy does whose hub is gone."""
    devices: list[str | None] = field(default_factory=list)
    """The devices of the `auth` frames."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._sounds = asyncio.Event()
        self._sounds.set()

    def fall_silent(self) -> None:
        """Nothing comes over the line any more, and nobody is told."""
        self._sounds.clear()

    def sound_again(self) -> None:
        """It does again; what was held up is lost."""
        self._sounds.set()
        self.cut()

    async def told(self) -> None:
        """Send what has happened since to who listens."""
        for change in self.sync.changes[len(self.history[TENANT]) :]:
            event = {"event_id": change.uuid, "tenant_id": TENANT, "type": change.type, "action": change.action}
            await self.append(event | {"entity": change.entity, "revision": change.revision, "data": change.data})

    async def notice(self, code: str, **detail: Any) -> None:
        for session in self.sessions:
            await session.send(op="notice", code=code, detail=detail)

    async def __aenter__(self) -> Self:
        await super().__aenter__()
        return self

    async def _on_auth(self, session: Session, frame: dict[str, Any]) -> None:
        session.token = frame["token"]
        self.devices.append(frame.get("device_id"))
        if frame["token"] in self.bad_tokens:
            await session.socket.close(4501, "bad token")

    async def _upgrade(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._sounds.wait()
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._inner_port)
        inner_writer.write(head)
        self._requests.add(inner_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._carry(reader, inner_writer))
                group.create_task(self._carry(inner_reader, writer))
        except* OSError:
            pass
        finally:
            self._requests.discard(inner_writer)
            inner_writer.transport.abort()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await self._sounds.wait()
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def _http(
        self, method: str, target: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        await self._sounds.wait()
        path = urlsplit(target).path
        query = {key: values[0] for key, values in parse_qs(urlsplit(target).query).items()}
        self.raw.append((path, headers, body))
        if path == "/healthz":
            await _respond(writer, 503 if self.sick else 200, b"{}")
        elif path == "/schemas":
            names = ["/schemas/reservation.v1.json", "/schemas/room.v1.json", "/schemas/room.v2.json"]
            await _respond(writer, 200, orjson.dumps({"schemas": names}))
        elif headers["authorization"].removeprefix("Bearer ") in self.bad_tokens:
            await _problem(writer, Problem("token_expired").body())
        else:
            try:
                answer = await self._sync(path.removeprefix("/api/v1/sync/"), query, headers, body)
            except HubRefused as refusal:
                problem = Problem(refusal.code, refusal.message, refusal.errors)
                await _problem(writer, problem.body())
            else:
                await _respond(writer, 200, orjson.dumps(answer))
                await self.told()

    async def _sync(self, path: str, query: dict[str, str], headers: dict[str, str], body: bytes) -> Any:
        if path == "pull":
            page = await self.sync.pull(query.get("after"), int(query["limit"]))
            return page.model_dump()
        if path == "snapshot":
            return (await self.sync.snapshot(query.get("after"), int(query.get("limit", 100)))).model_dump()
        assert path == "push"
        await self.sync.hear()
        encoding = headers.get("content-encoding", "")
        if encoding not in self.encodings:
            raise _unread(encoding)
        if encoding == "gzip":
            body = gzip.decompress(body)
        elif encoding == "zstd":
            body = zstandard.ZstdDecompressor().decompress(body)
        said = orjson.loads(body)
        self.sync.pushes.append([item["uuid"] for item in said["items"]])
        return self.sync.receive(said["items"], said["batch_crc32"]).model_dump()


def _unread(encoding: str) -> HubRefused:
    said = [FieldError("Content-Encoding", f"{encoding} is not read here")]
    return HubRefused("invalid_request", "not read", retryable=False, errors=said)
