"""One WebSocket connection to the hub: handshake, frames, publish replies, heartbeat."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Final, NoReturn

import orjson
from pydantic import BaseModel, ValidationError
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from consumers.clock import Clock
from consumers.errors import AccessRefused, Disconnected, HubRefused
from schemas.errors import FieldError
from schemas.frames import (
    PONG_TIMEOUT_S,
    SUBPROTOCOL,
    Close,
    Error,
    EventFrame,
    Gap,
    Notice,
    Published,
    Receipt,
    Snapshot,
    Subscribed,
    Welcome,
    may_reconnect,
)

OPEN_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0

Frame = Snapshot | Subscribed | EventFrame | Gap | Error | Notice

_FRAMES: Final[Mapping[str, type[BaseModel]]] = MappingProxyType(
    {
        "welcome": Welcome,
        "snapshot": Snapshot,
        "subscribed": Subscribed,
        "event": EventFrame,
        "published": Published,
        "gap": Gap,
        "error": Error,
        "notice": Notice,
    }
)


class UpgradeRefused(Disconnected):
    """Something answered, but not with a WebSocket: a proxy in between, or a hub that is not ready."""


class _Heard(ClientConnection):
    """A connection that remembers when the last byte came, frame or ping."""

    clock: Clock
    heard = 0.0

    def data_received(self, data: bytes) -> None:
        self.heard = self.clock.monotonic()
        super().data_received(data)


class Connection:
    """An open, welcomed connection. Whoever opened it closes it. One task at a time may iterate `frames`."""

    def __init__(self, socket: _Heard, welcome: Welcome, clock: Clock) -> None:
        self._socket = socket
        self._clock = clock
        self._refs = itertools.count(1)
        self._replies: dict[int, asyncio.Future[Published | Error | None]] = {}
        self._silent = False
        self.welcome = welcome
        self.reading = True
        """False while the reader waits for room and answers cannot be seen."""
        self._watch = asyncio.create_task(self._watch_silence(), name="hub-heartbeat")

    @classmethod
    async def open(cls, url: str, token: str, clock: Clock, *, device_id: str | None = None) -> Connection:
        """Connect, present the token, await `welcome`. Cancellation-safe.

        `device_id` is the device to speak for, where the token names none: the notices for it come here.

        Raises:
            AccessRefused: the hub does not let the token in.
            UpgradeRefused: what answered speaks no WebSocket here.
            Disconnected: any other failure; a later attempt may succeed.
        """

        def create(*args: Any, **kwargs: Any) -> _Heard:
            socket = _Heard(*args, **kwargs)
            socket.clock = clock
            socket.heard = clock.monotonic()
            return socket

        opening = connect(
            url,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            additional_headers=None if device_id is not None else {"Authorization": f"Bearer {token}"},
            open_timeout=None,
            ping_interval=None,
            close_timeout=CLOSE_TIMEOUT_S,
            # A factory does all that a class does here: it makes the connection.
            create_connection=create,  # type: ignore[arg-type]
        )
        try:
            async with clock.timeout(OPEN_TIMEOUT_S):
                socket = await opening
                try:
                    if device_id is not None:
                        auth = {"op": "auth", "token": token, "device_id": device_id}
                        await socket.send(orjson.dumps(auth), text=True)
                    first = _parse(await socket.recv(decode=False))
                except BaseException:
                    socket.transport.abort()
                    raise
        except InvalidStatus as error:
            _refused_upgrade(error)
        except InvalidHandshake as error:
            raise UpgradeRefused(f"no WebSocket: {type(error).__name__}") from error
        except ConnectionClosed as error:
            raise _ended(error) from error
        except TimeoutError as error:
            raise Disconnected("the hub did not answer in time") from error
        except OSError as error:
            raise Disconnected(f"cannot connect: {error.strerror or type(error).__name__}") from error
        if not isinstance(first, Welcome):
            socket.transport.abort()
            raise Disconnected("the hub's first frame is not a welcome")
        assert isinstance(socket, _Heard)
        return cls(socket, first, clock)

    async def frames(self) -> AsyncGenerator[Frame, None]:
        """The frames that are not answers to `publish`, until the connection ends. Unknown ones are passed over.

        Raises:
            AccessRefused: the hub closed with a code at which the token must not come back.
            Disconnected: the connection ended in any other way.
        """
        try:
            while True:
                frame = _parse(await self._socket.recv(decode=False))
                if isinstance(frame, Published | Error) and self._settle(frame):
                    continue
                if isinstance(frame, Snapshot | Subscribed | EventFrame | Gap | Error | Notice):
                    yield frame
        except ConnectionClosed as error:
            if self._silent:
                raise Disconnected("nothing was heard for longer than a heartbeat") from error
            raise _ended(error) from error
        finally:
            self.stall()

    async def send(self, frame: Mapping[str, Any]) -> None:
        """Write one frame.

        Raises:
            Disconnected: it may or may not have left.
        """
        try:
            await self._socket.send(orjson.dumps(frame), text=True)
        except ConnectionClosed as error:
            raise Disconnected("the connection ended while sending", sent=True) from error

    async def ping(self) -> None:
        """Ask the hub for a sign of life, and await it; `frames` must be iterated meanwhile.

        Raises:
            Disconnected: the connection ended.
        """
        try:
            await (await self._socket.ping())
        except ConnectionClosed as error:
            raise Disconnected("the connection ended while waiting for a sign of life") from error

    def fits(self, event: bytes) -> bool:
        """Whether a publish of this event stays within the hub's message limit."""
        return len(event) + 64 <= self.welcome.limits.message_bytes

    async def publish(self, event: bytes) -> Receipt:
        """Publish one event, as JSON, and await the answer. When cancelled, the outcome is unknown.

        Raises:
            HubRefused: the hub said no.
            Disconnected: the answer was not seen; `sent` tells whether the event may have arrived.
        """
        if not self.reading:
            raise Disconnected("answers cannot be read now")
        ref = next(self._refs)
        reply = self._replies[ref] = asyncio.get_running_loop().create_future()
        try:
            frame = b'{"op":"publish","ref":%d,"event":%b}' % (ref, event)
            try:
                await self._socket.send(frame, text=True)
            except ConnectionClosed as error:
                raise Disconnected("the connection ended while publishing", sent=True) from error
            answer = await reply
        finally:
            self._replies.pop(ref, None)
            reply.cancel()
        if answer is None:
            raise Disconnected("the answer was not seen", sent=True)
        if isinstance(answer, Published):
            return Receipt.model_validate(answer.model_dump(exclude={"op", "ref"}))
        errors = [FieldError(one.get("path", ""), one.get("message", "")) for one in answer.errors or ()]
        raise HubRefused(answer.code, answer.message, retryable=answer.retryable, errors=errors, latest=answer.latest)

    def stall(self) -> None:
        """Reading stops: whoever awaits an answer must not wait for it here."""
        self.reading = False
        for reply in self._replies.values():
            if not reply.done():
                reply.set_result(None)

    def resume(self) -> None:
        """Reading goes on. The silence in between was our own."""
        self.reading = True
        self._socket.heard = self._clock.monotonic()

    async def close(self) -> None:
        """Say goodbye, for at most `CLOSE_TIMEOUT_S`. Idempotent."""
        self.stall()
        self._watch.cancel()
        # The hub's own goodbye may stand behind frames nobody wants any more.
        discard = asyncio.create_task(self._discard())
        try:
            await self._socket.close()
        except BaseException:
            self._socket.transport.abort()
            raise
        finally:
            discard.cancel()
            await asyncio.gather(discard, self._watch, return_exceptions=True)

    def _settle(self, frame: Published | Error) -> bool:
        reply = self._replies.get(frame.ref) if isinstance(frame.ref, int) else None
        if reply is not None and not reply.done():
            reply.set_result(frame)
        return frame.ref is not None

    async def _discard(self) -> None:
        with suppress(ConnectionClosed):
            while True:
                await self._socket.recv(decode=False)

    async def _watch_silence(self) -> None:
        limit = self.welcome.heartbeat_s + PONG_TIMEOUT_S
        while True:
            left = self._socket.heard + limit - self._clock.monotonic() if self.reading else limit
            if left <= 0:
                self._silent = True
                self._socket.transport.abort()
                return
            await self._clock.sleep(left)


def _parse(message: bytes) -> BaseModel | None:
    try:
        tree = orjson.loads(message)
        model = _FRAMES.get(tree["op"])
        return None if model is None else model.model_validate(tree)
    except (ValidationError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise Disconnected("the hub sent a frame that cannot be read") from error


def _ended(error: ConnectionClosed) -> AccessRefused | Disconnected:
    code = error.rcvd.code if error.rcvd is not None else None
    reason = error.rcvd.reason if error.rcvd is not None else ""
    if code is not None and not may_reconnect(code):
        return AccessRefused(code, reason)
    return Disconnected(reason or "the connection ended", code=code)


def _refused_upgrade(error: InvalidStatus) -> NoReturn:
    status = error.response.status_code
    if status in (401, 403):
        # The hub says so in a problem document; a 403 without one is a proxy's.
        with suppress(orjson.JSONDecodeError, KeyError, TypeError):
            problem = orjson.loads(error.response.body or b"")
            raise AccessRefused(
                Close.BAD_TOKEN if status == 401 else Close.FORBIDDEN, f"{problem['code']}: {problem.get('detail', '')}"
            ) from error
    raise UpgradeRefused("the upgrade to WebSocket was refused", code=None) from error
