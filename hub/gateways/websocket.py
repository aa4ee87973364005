"""WebSocket `/ws`: one protocol object a connection, taken over from uvicorn after the upgrade.

The handshake and incoming frames go through websockets' sans-I/O `ServerProtocol`; what is fanned out is written as
ready-made frames, the same bytes to many sockets. The feed serves subscriptions, the session decides on frames and
time; this module moves bytes between them and the transport.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import structlog
from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State as WireState
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from hub.core import wire
from hub.core.session import Command, Expiring, Hangup, Ping, Refuse, Session, State
from hub.log.stream_log import Head
from hub.services.feed import MAX_SUBSCRIPTIONS, Feed
from schemas import frames
from schemas.errors import Problem
from schemas.frames import MAX_MESSAGE_BYTES, SUBPROTOCOL, WINDOW, Close

if TYPE_CHECKING:
    from hub.gateways.sockets import SocketGateway

MAX_IN_FLIGHT: Final = 256
"""Publishes, and commands waiting for a subscription, before the socket is no longer read."""
CLOSE_TIMEOUT_S: Final = 5.0
_PING: Final = b"\x89\x00"

log = structlog.get_logger("hub.websocket")
_quiet = logging.getLogger("hub.websocket.wire")
_quiet.setLevel(logging.CRITICAL)


def _choose(_: ServerProtocol, offered: Any) -> Subprotocol | None:
    return Subprotocol(SUBPROTOCOL) if SUBPROTOCOL in offered else None


def _goes_ahead(frame: frames.ClientFrame) -> bool:
    """Whether publishes behind a frame wait for it, itself one that waits or a subscription to what comes after it."""
    if isinstance(frame, frames.Subscribe):
        return not frame.snapshot and frame.replay is None and frame.after != "earliest"
    return isinstance(frame, frames.Publish)


class WebSocketConnection(asyncio.Protocol):
    """One connection, from the upgrade request to its end."""

    __slots__ = (
        "_ahead",
        "_close_timer",
        "_code",
        "_commands",
        "_device_id",
        "_feed",
        "_gateway",
        "_in_flight",
        "_opened",
        "_paused_at",
        "_peer",
        "_reading",
        "_received",
        "_session",
        "_text",
        "_transport",
        "_unsent",
        "_wire",
        "_worker",
        "id",
    )

    def __init__(self, gateway: SocketGateway) -> None:
        self._gateway = gateway
        self.id = secrets.token_hex(8)
        extensions = []
        if gateway.deflate:
            extensions.append(
                ServerPerMessageDeflateFactory(
                    server_no_context_takeover=True, client_no_context_takeover=True, compress_settings={"memLevel": 4}
                )
            )
        self._wire: ServerProtocol = ServerProtocol(
            extensions=extensions,
            select_subprotocol=_choose,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            max_size=MAX_MESSAGE_BYTES,
            logger=_quiet,
        )
        self._session = Session(gateway.now(), publish_per_s=gateway.publish_per_s)
        self._transport: Any = None
        self._feed: Feed | None = None
        self._device_id: str | None = None
        self._text: list[bytes] = []
        self._commands: deque[Command] | None = None
        self._worker: asyncio.Task[None] | None = None
        self._in_flight = 0
        """Publishes that are not answered yet."""
        self._ahead = 0
        """Commands under way or in line that publishes wait for."""
        self._received = 0
        self._reading = True
        self._paused_at: float | None = None
        self._unsent = 0
        self._opened = gateway.now()
        self._close_timer: asyncio.TimerHandle | None = None
        self._code: int | None = None
        self._peer = ""

    # -- transport ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=self._gateway.high_water, low=self._gateway.high_water // 4)
        peer = transport.get_extra_info("peername")
        self._peer = f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else ""
        self._gateway.connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._session.heard()
            self._wire.receive_data(data)
            for event in self._wire.events_received():
                if isinstance(event, Request):
                    self._handshake(event)
                elif isinstance(event, Frame):
                    self._frame(event)
            self._pump()
        except Exception:
            # Within the upgrade nobody else would end the connection: the transport is not this protocol's yet.
            log.exception("connection_failed", session=self.id)
            self._gateway.connections.discard(self)
            self._speak_for(None)
            self.abort()

    def eof_received(self) -> bool:
        self._wire.receive_eof()
        self._pump()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._gateway.connections.discard(self)
        device_id = self._device_id
        self._speak_for(None)
        if self._close_timer is not None:
            self._close_timer.cancel()
        self._session.closed()
        if self._code is None:
            received = self._wire.close_rcvd
            self._code = 1006 if received is None else received.code
        feed = self._feed
        seconds = self._gateway.now() - self._opened
        metrics = self._gateway.metrics
        metrics.closes.labels(str(self._code)).inc()
        if feed is not None:
            metrics.connections.labels(feed.claims.system).dec()
            metrics.connection_seconds.observe(seconds)
            self._gateway.own(self._end())
        log.info(
            "connection",
            session=self.id,
            system=feed.claims.system if feed else None,
            subject=feed.claims.subject if feed else None,
            device_id=device_id,
            peer=self._peer,
            seconds=round(seconds, 3),
            code=self._code,
            frames_in=self._received,
        )

    async def _end(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        for command in self._commands or ():
            # It came while the connection was open; whoever sent it may not wait for the receipt.
            if isinstance(command.frame, frames.Publish):
                self._publish(command, command.frame)
        if self._feed is not None:
            await self._feed.close()

    def pause_writing(self) -> None:
        self._paused_at = self._gateway.now()
        self._unsent = self._transport.get_write_buffer_size()
        self._read_or_pause()

    def resume_writing(self) -> None:
        self._paused_at = None
        self._read_or_pause()
        if self._feed is not None:
            self._feed.resume()

    # -- the feed's sink ------------------------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """False while the socket's buffer is over its high-water mark, and once the connection is closing."""
        return self._paused_at is None and self._code is None and not self._transport.is_closing()

    def write(self, frames: bytes) -> None:
        """Write ready-made frames; dropped once the connection is closing."""
        if self._code is None:
            self._transport.write(frames)

    def send(self, op: str, **fields: Any) -> None:
        """Write one frame."""
        self._gateway.metrics.frames.labels("out").inc()
        self.write(wire.message(op=op, **fields))

    def fail(self) -> None:
        """The feed cannot go on: the client is to connect again."""
        self.hang_up(Close.INTERNAL, "the hub failed")

    def _pump(self) -> None:
        for data in self._wire.data_to_send():
            if data:
                self._transport.write(data)
            else:
                # The sans-I/O layer says when to end: an empty string is EOF.
                self._transport.close()
        failed = self._wire.parser_exc
        if failed is not None and self._code is None:
            sent = self._wire.close_sent
            self._code = sent.code if sent is not None else 1006
            self._session.closed()
            self._end_soon()

    # -- handshake ------------------------------------------------------------------------------------------------

    def _handshake(self, request: Request) -> None:
        gateway = self._gateway
        path = request.path.partition("?")[0]
        once = {name: request.headers.get_all(name) for name in ("Host", "Origin", "Authorization")}
        host, origin, header = (values[0] if values else None for values in once.values())
        if any(len(values) > 1 for values in once.values()):
            response = self._wire.reject(400, "Host, Origin and Authorization stand once\n")
        elif path != "/ws":
            response = self._wire.reject(404, "WebSocket is at /ws\n")
        elif not gateway.origin_allowed(origin, host):
            response = self._wire.reject(403, "This origin is not allowed; see HUB_ALLOWED_ORIGINS\n")
        else:
            response = self._wire.accept(request)
        self._wire.send_response(response)
        self._pump()
        if response.status_code != 101:
            self._code = response.status_code
            self._session.closed()
            self._transport.close()
            return
        if gateway.draining or len(gateway.connections) > gateway.max_connections:
            # After the upgrade and not by HTTP 503, because a browser's page is told only of a close code.
            reason = "the hub is shutting down" if gateway.draining else "the hub has all the connections it will hold"
            self.hang_up(Close.TRY_LATER, reason)
            return
        if header is not None:
            scheme, _, token = header.partition(" ")
            if scheme.lower() == "bearer":
                self._authenticate(token.strip(), None)
            else:
                self.hang_up(Close.BAD_TOKEN, "Authorization must be Bearer")

    def _authenticate(self, token: str, device_id: str | None) -> None:
        gateway = self._gateway
        try:
            claims = gateway.tokens.verify(token)
        except Problem as problem:
            log.warning(
                "authentication_failed", session=self.id, peer=self._peer, reason=problem.detail or problem.code
            )
            expired = problem.code == "token_expired"
            self.hang_up(Close.TOKEN_EXPIRED if expired else Close.BAD_TOKEN, problem.detail or "the token has expired")
            return
        if device_id is not None and claims.device_id not in (None, device_id):
            self.hang_up(Close.FORBIDDEN, "the token is another device's")
            return
        if not claims.tenants:
            self.hang_up(Close.FORBIDDEN, "the token holds no tenant")
            return
        # Shared frames are packed with the largest window; a client that asked for a smaller one gets plain frames.
        deflate = any(getattr(extension, "local_max_window_bits", 0) == 15 for extension in self._wire.extensions)
        self._feed = Feed(
            self,
            claims,
            gateway.dispatcher,
            gateway.history,
            gateway.positions,
            gateway.metrics,
            codec="deflate" if deflate else "plain",
            session=self.id,
            replays=gateway.replays,
        )
        self._session.authenticated(claims.expires_at)
        self._speak_for(claims.device_id or device_id)
        gateway.metrics.connections.labels(claims.system).inc()
        self.send(
            "welcome",
            session=self.id,
            system=claims.system,
            tenants=sorted(claims.tenants),
            server_time=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            heartbeat_s=frames.HEARTBEAT_S,
            limits={
                "window": WINDOW,
                "message_bytes": MAX_MESSAGE_BYTES,
                "subscriptions": MAX_SUBSCRIPTIONS,
                "publish_per_s": gateway.publish_per_s,
            },
        )

    def _speak_for(self, device_id: str | None) -> None:
        if self._device_id is not None:
            self._gateway.device_went(self._device_id, self)
        self._device_id = device_id
        if device_id is not None:
            self._gateway.device_came(device_id, self)

    # -- frames ---------------------------------------------------------------------------------------------------

    def _frame(self, frame: Frame) -> None:
        if self._code is not None:
            return
        opcode = frame.opcode
        if opcode is Opcode.TEXT or opcode is Opcode.CONT:
            if frame.data:
                self._text.append(bytes(frame.data))
            if frame.fin:
                text = b"".join(self._text)
                self._text.clear()
                self._message(text)
        elif opcode is Opcode.BINARY:
            self.hang_up(Close.UNSUPPORTED, "frames are text")

    def _message(self, text: bytes) -> None:
        self._received += 1
        self._gateway.metrics.frames.labels("in").inc()
        decision = self._session.receive(text, self._gateway.now())
        if isinstance(decision, Hangup):
            self.hang_up(decision.code, decision.reason)
        elif isinstance(decision, Refuse):
            self._refuse(decision.problem, ref=decision.ref, id=decision.id)
        elif isinstance(decision.frame, frames.Publish):
            self._in_flight += 1
            if self._ahead:
                self._enqueue(decision)
            else:
                self._publish(decision, decision.frame)
        elif self._worker is None and not isinstance(decision.frame, frames.Subscribe):
            self._carry_out(decision.frame)
        else:
            self._enqueue(decision)

    def _refuse(self, problem: Problem, *, ref: Any = None, id: Any = None) -> None:
        fields: dict[str, Any] = {
            "code": problem.code,
            "message": problem.detail or str(problem),
            "retryable": problem.retryable,
        }
        if ref is not None:
            fields["ref"] = ref
        if id is not None:
            fields["id"] = id
        if problem.errors:
            fields["errors"] = [{"path": error.path, "message": error.message} for error in problem.errors]
        self.send("error", **fields, **problem.extra)

    def _carry_out(self, frame: frames.ClientFrame) -> None:
        try:
            if isinstance(frame, frames.Auth):
                self._authenticate(frame.token, frame.device_id)
            elif isinstance(frame, frames.Ping):
                self.send("pong")
            elif self._feed is None:
                return
            elif isinstance(frame, frames.Ack):
                self._feed.ack(frame.cursors)
            elif isinstance(frame, frames.Unsubscribe):
                self._feed.unsubscribe(frame.id)
            elif isinstance(frame, frames.Refresh):
                self._refresh(frame.token, self._feed)
        except Problem as problem:
            self._refuse(problem, id=getattr(frame, "id", None))

    def _refresh(self, token: str, feed: Feed) -> None:
        claims = self._gateway.tokens.verify(token)
        if not feed.may_continue(claims):
            raise Problem("forbidden", "the new token does not cover this connection's system, view and subscriptions")
        device_id = claims.device_id or self._device_id
        if self._device_id not in (None, device_id):
            raise Problem("forbidden", "the new token is another device's")
        feed.claims = claims
        self._session.authenticated(claims.expires_at)
        self._speak_for(device_id)

    def _enqueue(self, command: Command) -> None:
        """A subscription awaits the log; what comes after it waits its turn.

        So do publishes behind one that begins at what is latest: it is to get them. Others get them in any case, and a
        snapshot may take long.
        """
        if self._commands is None:
            self._commands = deque()
        self._commands.append(command)
        self._ahead += _goes_ahead(command.frame)
        self._read_or_pause()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work(self._commands), name="websocket-commands")

    async def _work(self, commands: deque[Command]) -> None:
        try:
            while commands and self._feed is not None:
                command = commands.popleft()
                frame = command.frame
                self._read_or_pause()
                if isinstance(frame, frames.Subscribe):
                    try:
                        await self._feed.subscribe(frame)
                    except Problem as problem:
                        self._refuse(problem, id=frame.id)
                elif isinstance(frame, frames.Publish):
                    self._publish(command, frame)
                else:
                    self._carry_out(frame)
                self._ahead -= _goes_ahead(frame)
        except Exception:
            log.exception("command_failed", session=self.id)
            self.hang_up(Close.INTERNAL, "the hub failed")
        finally:
            self._worker = None

    def _publish(self, command: Command, frame: frames.Publish) -> None:
        assert self._feed is not None
        try:
            receipt = self._gateway.publisher.submit(command.parsed, frame.event, self._feed.claims)
        except Problem as problem:
            self._in_flight -= 1
            self._refuse_publish(problem, frame)
            return
        self._read_or_pause()
        receipt.add_done_callback(lambda done: self._published(done, frame))

    def _refuse_publish(self, problem: Problem, frame: frames.Publish) -> None:
        event = frame.event if isinstance(frame.event, dict) else {}
        named = {
            name: event[name][:100]
            for name in ("event_id", "correlation_id")
            if isinstance(event.get(name), str) and event[name].isascii()
        }
        log.info("publish_refused", session=self.id, code=problem.code, **named)
        self._refuse(problem, ref=frame.ref)

    def _published(self, done: asyncio.Future[dict[str, Any]], frame: frames.Publish) -> None:
        self._in_flight -= 1
        self._read_or_pause()
        failed = done.exception()
        if failed is None:
            self.send("published", ref=frame.ref, **done.result())
        elif isinstance(failed, Problem):
            self._refuse_publish(failed, frame)
        else:
            log.error("publish_failed", session=self.id, error=repr(failed))
            self._refuse_publish(Problem("internal"), frame)

    def _read_or_pause(self) -> None:
        # A peer that does not take its answers is not asked for more.
        busy = (
            self._paused_at is not None
            or self._in_flight >= MAX_IN_FLIGHT
            or len(self._commands or ()) >= MAX_IN_FLIGHT
        )
        if busy and self._reading:
            self._reading = False
            self._transport.pause_reading()
        elif not busy and not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()

    # -- time and ending ------------------------------------------------------------------------------------------

    def tick(self, now: float, wall: float) -> None:
        """What time demands of this connection."""
        for due in self._session.poll(now, wall):
            if isinstance(due, Ping):
                self.write(_PING)
                if self._feed is not None:
                    self._feed.settle()
            elif isinstance(due, Expiring):
                self.send("notice", code="token_expiring", detail={"seconds": due.seconds})
            else:
                self.hang_up(due.code, due.reason)
        if self._paused_at is not None and (unsent := self._transport.get_write_buffer_size()) < self._unsent:
            self._paused_at, self._unsent = now, unsent
        if self._paused_at is not None and self._code is None and now - self._paused_at >= self._gateway.slow_timeout_s:
            self.hang_up(Close.TOO_SLOW, f"nothing was read for {self._gateway.slow_timeout_s:g} s")

    def gap(self, tenant_id: str, reason: str, head: Head, cursor: str) -> None:
        """A hole was found in a tenant's history."""
        if self._feed is not None:
            self._feed.gap(tenant_id, reason, head, cursor)

    def request_sync(self, tenant_id: str, system: str | None, device_id: str) -> None:
        """Ask the device to sync, where the connection is of this tenant and system (None: of any)."""
        feed = self._feed
        if feed is None or self._session.state is not State.OPEN or not feed.claims.holds(tenant_id):
            return
        if system in (None, feed.claims.system):
            self.send("notice", code="sync_requested", detail={"device_id": device_id, "tenant_id": tenant_id})

    def drain(self, reconnect_after_ms: int) -> None:
        """Tell the client to go and when to come back; acknowledgements are still taken."""
        if self._session.state is State.OPEN:
            self._session.draining()
            detail = {"reconnect_after_ms": reconnect_after_ms}
            self.send("notice", code="draining", detail=detail, reconnect_after_ms=reconnect_after_ms)
        elif self._session.state is State.WAITING:
            self.hang_up(Close.GOING_AWAY, "the hub is shutting down")

    @property
    def settled(self) -> bool:
        """Nothing is in flight: no publish, no unacknowledged event."""
        return self._in_flight == 0 and (self._feed is None or self._feed.outstanding == 0)

    def hang_up(self, code: int, reason: str) -> None:
        """Close with a code; the peer has some seconds to answer."""
        if self._code is not None:
            return
        self._code = code
        self._session.closed()
        if self._wire.state is WireState.OPEN:
            try:
                self._wire.send_close(code, reason.encode()[:120].decode(errors="ignore"))
            except ProtocolError:
                log.warning("close_refused", session=self.id, code=code)
            self._pump()
        self._end_soon()

    def _end_soon(self) -> None:
        if self._close_timer is None:
            self._close_timer = asyncio.get_running_loop().call_later(CLOSE_TIMEOUT_S, self._transport.abort)

    def abort(self) -> None:
        """Drop the connection at once."""
        if self._code is None:
            self._code = Close.GOING_AWAY
        self._transport.abort()
