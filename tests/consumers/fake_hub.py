"""A hub in miniature: one history a tenant, WebSocket and HTTP on one port, and faults on demand.

In front stands a plain TCP server, which answers HTTP itself and passes WebSocket traffic on to `websockets`; there a
test can refuse upgrades, cut connections, or let nothing through.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from schemas.cursor import Cursor, StreamId, join, split
from schemas.errors import Problem
from schemas.merge_patch import change
from schemas.patterns import matches
from schemas.registry import EVENT_TYPES
from schemas.state import merged

TENANT = "default"


def cursor(sequence: int, tenant: str = TENANT, epoch: int = 7) -> str:
    """The cursor of a tenant's event of this number."""
    return Cursor.of(epoch, tenant, sequence, StreamId(1_000_000 + sequence, 0)).encode()


def reservation(number: int, tenant: str = TENANT, action: str = "created", **data: Any) -> dict[str, Any]:
    """A stored event of a reservation."""
    return {
        "event_id": f"00000000-0000-7000-8000-{number:012d}",
        "schema_version": 1,
        "tenant_id": tenant,
        "type": "reservation",
        "action": action,
        "priority": "HIGH",
        "sync_mode": "realtime",
        "targets": ["hotel-member", "hotel-pms", "hotel-saas"],
        "delivery_guarantee": "at_least_once",
        "occurred_at": "2026-07-15T10:04:00+09:00",
        "recorded_at": "2026-07-15T01:04:00Z",
        "entity": f"reservation:R{number}",
        "data": {
            "reservation_id": f"R{number}",
            "room_type": "twin",
            "checkin_date": "2026-07-20",
            "checkout_date": "2026-07-22",
            "total_amount": 16800,
            "status": "confirmed",
            "origin": "phone",
            **data,
        },
        "revision": 1,
    }


@dataclass
class Session:
    """One WebSocket connection as the hub sees it."""

    socket: ServerConnection
    token: str
    subscribe: dict[str, Any] | None = None
    sent: dict[str, int] = field(default_factory=dict)
    acked: dict[str, int] = field(default_factory=dict)
    outstanding: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))

    async def send(self, **frame: Any) -> None:
        with suppress(ConnectionClosed):
            await self.socket.send(json.dumps(frame))


@dataclass
class FakeHub:
    """Faults and facts are plain attributes."""

    tenants: list[str] = field(default_factory=lambda: [TENANT])
    epoch: int = 7
    heartbeat_s: int = 25
    window: int = 1000
    refuse_upgrade: int | None = None
    """Answer upgrades with this HTTP status."""
    refusal: bytes = b"<html>no</html>"
    bad_tokens: set[str] = field(default_factory=set)
    deaf: bool = False
    """Take no connection's answer any further: accepts, then silence."""
    http_down: bool = False
    swallow_publishes: int = 0
    """Store so many publishes without an answer, and cut the connection."""
    publish_problems: list[dict[str, Any]] = field(default_factory=list)
    """Answers to give to the next publishes instead of taking them."""
    patches: bool = True
    """Send changes as patches to who asked for that."""
    page_entities: int = 2
    """Entities on a page of a snapshot."""
    cut_in_snapshot: int = 0
    """Break so many connections after a snapshot's first page."""
    read_problem: dict[str, Any] | None = None
    """The answer to questions about states."""
    hide_events: bool = False
    """Know no event by its id."""
    gap: dict[str, Any] | None = None
    """A gap frame to send after the next `subscribed`."""

    def __post_init__(self) -> None:
        self.history: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.receipts: dict[str, dict[str, Any]] = {}
        self.positions: dict[str, int] = {}
        self.sessions: list[Session] = []
        self.subscribes: list[dict[str, Any]] = []
        self.acks: list[dict[str, str]] = []
        self.tokens: list[str] = []
        self.polls: list[dict[str, str]] = []
        self.questions: list[dict[str, str]] = []
        """What was asked of `GET /snapshot`."""
        self.fetched: list[str] = []
        self.sent_bases: list[int | None] = []
        self.upgrades = 0
        self.publishes: list[tuple[str, str]] = []
        """(road, event_id) of every attempt."""
        self._arrived = asyncio.Condition()
        self._pipes: set[asyncio.Task[None]] = set()
        self._requests: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> FakeHub:
        self._inner = await serve(self._session, "127.0.0.1", 0, ping_interval=None, subprotocols=["hub.v1"])  # type: ignore[list-item]
        self._inner_port = next(iter(self._inner.sockets)).getsockname()[1]
        self._front = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"ws://127.0.0.1:{self._front.sockets[0].getsockname()[1]}/ws"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._front.close()
        self.cut()
        self._inner.close(close_connections=True)
        await self._inner.wait_closed()
        for pipe in self._pipes:
            pipe.cancel()
        await asyncio.gather(*self._pipes, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection without a word."""
        for writer in list(self._requests):
            writer.transport.abort()
        for session in self.sessions:
            session.socket.transport.abort()

    @property
    def session(self) -> Session:
        """The newest connection."""
        return self.sessions[-1]

    async def append(self, *events: dict[str, Any]) -> None:
        """Store events and send them to who listens."""
        for event in events:
            self.history[event["tenant_id"]].append(event)
        async with self._arrived:
            self._arrived.notify_all()
        for session in self.sessions:
            await self._feed(session)

    # WebSocket

    async def _session(self, socket: ServerConnection) -> None:
        assert socket.request is not None
        session = Session(socket, socket.request.headers.get("Authorization", "").removeprefix("Bearer "))
        self.tokens.append(session.token)
        if session.token in self.bad_tokens:
            await socket.close(4501, "bad token")
            return
        limits = {"window": self.window, "message_bytes": 65536, "subscriptions": 8, "publish_per_s": 100}
        await session.send(
            op="welcome",
            session="s1",
            system="hotel-member",
            tenants=self.tenants,
            server_time="2026-07-15T01:04:00Z",
            heartbeat_s=self.heartbeat_s,
            limits=limits,
            news_of_a_later_release=True,
        )
        self.sessions.append(session)
        with suppress(ConnectionClosed):
            async for message in socket:
                frame = json.loads(message)
                await getattr(self, f"_on_{frame['op']}")(session, frame)

    async def _on_subscribe(self, session: Session, frame: dict[str, Any]) -> None:
        self.subscribes.append(frame)
        names = frame.get("tenants") or (list(self.history) if self.tenants == ["*"] else self.tenants)
        after = frame.get("after") or "latest"
        try:
            known = split(after, names) if isinstance(after, str) and after not in ("latest", "earliest") else {}
            if isinstance(after, dict):
                known = {tenant: Cursor.decode(text, tenant) for tenant, text in after.items()}
        except Problem as problem:
            await session.send(op="error", id=frame["id"], code=problem.code, message=str(problem), retryable=False)
            return
        for tenant in names:
            start = 0 if after == "earliest" else len(self.history[tenant])
            if tenant in known:
                start = known[tenant].sequence
                if known[tenant].epoch != self.epoch:
                    start = 0
                    self.gap = {"tenant_id": tenant, "reason": "epoch", "resume_from": cursor(0, tenant, self.epoch)}
                if frame.get("name"):
                    self.positions[tenant] = start
            elif frame.get("name"):
                start = self.positions.setdefault(tenant, start)
            session.acked[tenant] = start
            session.sent[tenant] = start
        if frame.get("snapshot"):
            for tenant in names:
                session.acked[tenant] = session.sent[tenant] = len(self.history[tenant])
                if not await self._send_snapshot(session, frame, tenant):
                    return
        session.subscribe = frame
        gap, self.gap = self.gap, None
        if gap is not None:
            session.sent[gap["tenant_id"]] = Cursor.decode(gap["resume_from"]).sequence
        await session.send(
            op="subscribed",
            id=frame["id"],
            patterns=frame["patterns"],
            tenants=names,
            recovered=gap is None,
            position={tenant: cursor(number, tenant, self.epoch) for tenant, number in session.sent.items()},
        )
        if gap is not None:
            await session.send(op="gap", id=frame["id"], **gap)
        await self._feed(session)

    async def _send_snapshot(self, session: Session, frame: dict[str, Any], tenant: str) -> bool:
        at = len(self.history[tenant])
        types = {pattern.partition(".")[0] for pattern in frame["patterns"]}
        found = [
            {key: value for key, value in one.items() if key != "tenant_id"}
            for one in self.states(tenant)
            if "*" in types or one["type"] in types
        ]
        for start in range(0, max(1, len(found)), self.page_entities):
            more = start + self.page_entities < len(found)
            await session.send(
                op="snapshot",
                id=frame["id"],
                tenant_id=tenant,
                entities=found[start : start + self.page_entities],
                more=more,
                cursor=None if more else cursor(at, tenant, self.epoch),
            )
            if self.cut_in_snapshot:
                self.cut_in_snapshot -= 1
                session.socket.transport.abort()
                return False
        return True

    def states(self, tenant: str, upto: int | None = None) -> list[dict[str, Any]]:
        """The states of a tenant's entities, after its events up to a revision."""
        held: dict[tuple[str, str], dict[str, Any]] = {}
        for sequence, event in enumerate(self.history[tenant], 1):
            key = (event["type"], event["entity"])
            if upto is not None and event["revision"] > upto:
                continue
            data = merged(held.get(key, {}).get("data", {}), event["data"], EVENT_TYPES[event["type"]].transient)
            held[key] = {
                "tenant_id": tenant,
                "type": event["type"],
                "entity": event["entity"],
                "revision": event["revision"],
                "sequence": sequence,
                "data": data,
            }
        return list(held.values())

    def _changed(self, sequence: int, tenant: str) -> tuple[int | None, dict[str, Any]]:
        """An event as a patch of the one before it, if that is of the same type."""
        event = self.history[tenant][sequence - 1]
        for earlier in self.history[tenant][: sequence - 1]:
            same = all(earlier[name] == event[name] for name in ("type", "entity"))
            if same and earlier["revision"] == event["revision"] - 1:
                kind = EVENT_TYPES[event["type"]]
                patch = change(earlier["data"], event["data"], kind.transient | set(kind.entity_fields))
                if patch is not None:
                    return earlier["revision"], event | {"data": patch}
        return None, event

    async def _feed(self, session: Session) -> None:
        if session.subscribe is None:
            return
        for tenant in session.sent:
            waiting = session.outstanding[tenant]
            while session.sent[tenant] < len(self.history[tenant]) and len(waiting) < self.window:
                session.sent[tenant] += 1
                if session.subscribe.get("name"):
                    waiting.append(session.sent[tenant])
                await self.send_event(session, session.sent[tenant], tenant)

    async def send_event(self, session: Session, sequence: int, tenant: str = TENANT, **more: Any) -> None:
        """Send one stored event, if it is asked for."""
        event = self.history[tenant][sequence - 1]
        assert session.subscribe is not None
        if any(matches(pattern, event["type"], event["action"]) for pattern in session.subscribe["patterns"]):
            place = cursor(sequence, tenant, self.epoch)
            if session.subscribe.get("changes_only") and self.patches:
                base, event = self._changed(sequence, tenant)
                self.sent_bases.append(base)
                more |= {} if base is None else {"base_revision": base}
            await session.send(op="event", cursor=place, sequence=sequence, event=event, **more)

    async def _on_ack(self, session: Session, frame: dict[str, Any]) -> None:
        self.acks.append(frame["cursors"])
        for tenant, text in frame["cursors"].items():
            sequence = Cursor.decode(text, tenant).sequence
            session.outstanding[tenant] = [one for one in session.outstanding[tenant] if one > sequence]
            if sequence > session.acked[tenant]:
                self.positions[tenant] = session.acked[tenant] = sequence
        await self._feed(session)

    async def _on_refresh(self, session: Session, frame: dict[str, Any]) -> None:
        session.token = frame["token"]

    async def _on_publish(self, session: Session, frame: dict[str, Any]) -> None:
        answer = await self._publish("websocket", frame["event"])
        if answer is None:
            session.socket.transport.abort()
        elif "code" in answer:
            problem = {key: answer[key] for key in ("code", "errors", "latest") if key in answer}
            await session.send(
                op="error", ref=frame["ref"], message=answer["detail"], retryable=answer["retryable"], **problem
            )
        else:
            await session.send(op="published", ref=frame["ref"], **answer)

    async def _publish(self, road: str, event: dict[str, Any]) -> dict[str, Any] | None:
        self.publishes.append((road, event["event_id"]))
        if self.publish_problems:
            return self.publish_problems.pop(0)
        if (first := self.receipts.get(event["event_id"])) is not None:
            return first | {"duplicate": True}
        stored = reservation(len(self.history[TENANT]) + 1) | event
        place = len(self.history[TENANT]) + 1
        receipt = {
            "event_id": event["event_id"],
            "cursor": cursor(place),
            "sequence": place,
            "revision": 1,
            "duplicate": False,
        }
        self.receipts[event["event_id"]] = receipt
        await self.append(stored)
        if self.swallow_publishes:
            self.swallow_publishes -= 1
            return None
        return receipt

    # HTTP

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pipes.add(task)
        task.add_done_callback(self._pipes.discard)
        self._requests.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            headers = {
                name.strip().lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head.decode().split("\r\n")[1:])
            }
            method, target, _ = head.decode().split(" ", 2)
            if headers.get("upgrade") == "websocket":
                await self._upgrade(head, reader, writer)
            elif not self.http_down:
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                await self._http(method, target, headers, body, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # Cancelled at the end of the test; asyncio.streams would log it as an error.
            pass
        finally:
            self._requests.discard(writer)
            writer.close()

    async def _upgrade(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.upgrades += 1
        if self.refuse_upgrade is not None:
            await _respond(writer, self.refuse_upgrade, self.refusal)
            return
        if self.deaf:
            await reader.read()
            return
        inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", self._inner_port)
        inner_writer.write(head)
        self._requests.add(inner_writer)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_pump(reader, inner_writer))
                group.create_task(_pump(inner_reader, writer))
        except* OSError:
            pass
        finally:
            self._requests.discard(inner_writer)
            inner_writer.transport.abort()

    async def _http(
        self, method: str, target: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        token = headers["authorization"].removeprefix("Bearer ")
        if token in self.bad_tokens:
            await _problem(writer, Problem("token_expired").body())
        elif method == "POST":
            answer = await self._publish("http", json.loads(body))
            if answer is None:
                writer.transport.abort()
            elif "code" in answer:
                await _problem(writer, answer)
            else:
                await _respond(writer, 201, json.dumps(answer).encode())
        else:
            query = {key: values[0] for key, values in parse_qs(urlsplit(target).query).items()}
            path = urlsplit(target).path.removeprefix("/api/v1/")
            if path.startswith("events/"):
                await self._answer_event(path.removeprefix("events/"), query["tenant"], writer)
                return
            if path == "snapshot":
                await self._answer_states(query, writer)
                return
            self.polls.append(query)
            await _respond(writer, 200, json.dumps(await self._page(query)).encode())

    async def _answer_event(self, event_id: str, tenant: str, writer: asyncio.StreamWriter) -> None:
        self.fetched.append(event_id)
        for sequence, event in enumerate(self.history[tenant], 1):
            if event["event_id"] == event_id and not self.hide_events:
                found = {"cursor": cursor(sequence, tenant), "sequence": sequence, "event": event}
                await _respond(writer, 200, json.dumps(found).encode())
                return
        await _problem(writer, Problem("not_found").body())

    async def _answer_states(self, query: dict[str, str], writer: asyncio.StreamWriter) -> None:
        self.questions.append(query)
        if self.read_problem is not None:
            await _problem(writer, self.read_problem)
            return
        if "revision" not in query:
            tenants = [query["tenant"]] if "tenant" in query else self.tenants
            found = [
                one
                for tenant in tenants
                for one in self.states(tenant)
                if "type" not in query or one["type"] in query["type"].split(",")
            ]
            start = int(query.get("after", 0))
            end = start + self.page_entities
            page = {
                "entities": found[start:end],
                "next": str(end) if end < len(found) else None,
                "more": end < len(found),
                "cursor": join([cursor(len(self.history[tenant]), tenant) for tenant in tenants]),
            }
            await _respond(writer, 200, json.dumps(page).encode())
            return
        found = [
            one
            for one in self.states(query["tenant"], int(query["revision"]))
            if (one["type"], one["entity"]) == (query["type"], query["entity"])
        ]
        if found:
            await _respond(writer, 200, json.dumps({"entities": found}).encode())
        else:
            await _problem(writer, Problem("not_found").body())

    async def _page(self, query: dict[str, str]) -> dict[str, Any]:
        names = [query["tenant"]] if "tenant" in query else self.tenants
        after = query["after"]
        if after in ("latest", "earliest"):
            start = {tenant: 0 if after == "earliest" else len(self.history[tenant]) for tenant in names}
        else:
            start = {tenant: place.sequence for tenant, place in split(after, names).items()}
        async with self._arrived:
            while query["wait"] != "0" and all(len(self.history[tenant]) <= start[tenant] for tenant in names):
                await self._arrived.wait()
        items = [
            {"cursor": cursor(number, tenant), "sequence": number, "event": event}
            for tenant in names
            for number, event in enumerate(self.history[tenant], 1)
            if number > start[tenant]
            and any(matches(pattern, event["type"], event["action"]) for pattern in query["patterns"].split(","))
        ]
        gap, self.gap = self.gap, None
        page = {"events": items, "next": join([cursor(len(self.history[tenant]), tenant) for tenant in names])}
        return page if gap is None else page | {"gap": gap}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _problem(writer: asyncio.StreamWriter, body: dict[str, Any]) -> None:
    await _respond(writer, body["status"], json.dumps(body).encode())


async def _respond(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
    writer.write(b"HTTP/1.1 %d Status\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, len(body), body))
    await writer.drain()
