"""Dials where others say, and never where they must not reach: every address is judged, and the judged one is dialled.

The name is looked up at each new connection, so a name that leads elsewhere the next time gains nothing by it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Any, Final

import httpcore
import httpx

from hub.security.addresses import Target, refusal
from hub.services.answer_bounds import MAX_ANSWER_BYTES, AnswerBounds

MAX_LOOK_UPS: Final = 32
"""Names looked up at the same time; each holds a thread as long as the resolver takes."""
MAX_DIALLED: Final = 8
"""Of a name's addresses so many are tried."""
NEXT_ADDRESS_S: Final = 2.0
"""An address that does not answer for so long is left for the name's next one."""

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""The IP addresses of a host at a port, best first. Raises OSError when there are none or they cannot be found."""


class Forbidden(Exception):
    """The host leads to an address that may not be dialled; the text says which kind, and not the address."""


class Unreachable(Exception):
    """There is no connection, or no answer in HTTP; the text says why."""


class LookUps:
    """The resolver of the system, in threads of its own.

    The loop's own threads would be used up by names that take long to fail, and hold up the end of the process. One
    name has one look-up at a time, whoever waits for it; it goes on when they no longer do.
    """

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, int], asyncio.Future[list[str]]] = {}
        self._room = asyncio.Semaphore(MAX_LOOK_UPS)

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of a host.

        Raises:
            OSError: they cannot be found.
        """
        found = self._under_way.get((host, port))
        if found is None:
            await self._room.acquire()
            found = self._under_way.get((host, port))
            if found is None:
                found = self._begin(host, port)
            else:  # begun by another while this one waited
                self._room.release()
        return await asyncio.shield(found)

    def _begin(self, host: str, port: int) -> asyncio.Future[list[str]]:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()

        def settle(outcome: list[str] | OSError) -> None:
            self._room.release()
            self._under_way.pop((host, port), None)
            if isinstance(outcome, OSError):
                found.set_exception(outcome)
                found.exception()  # seen, if nobody waits any longer
            else:
                found.set_result(outcome)

        def look_up() -> None:
            outcome: list[str] | OSError
            try:
                entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
                outcome = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
            except OSError as error:
                outcome = error
            except Exception as error:  # whatever a name brings about, those who wait must hear of it
                outcome = OSError(str(error))
            with suppress(RuntimeError):  # the loop may be closed by now
                loop.call_soon_threadsafe(settle, outcome)

        thread = threading.Thread(target=look_up, name="look-up", daemon=True)
        self._under_way[host, port] = found
        try:
            thread.start()
        except RuntimeError as error:
            settle(OSError(str(error)))
        return found


class Line(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection, as httpcore reads and writes it.

    Closing does not wait, so that a cancelled request leaves nothing behind. Timeouts are the caller's.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self._buffer = bytearray()
        self._ended = False
        self._error: Exception | None = None
        self._readable: asyncio.Future[None] | None = None
        self._paused_reading = False
        self._asked = True
        self.bounds = AnswerBounds()
        """Of the answer that is read; a new one for each `ask`."""
        self.lost: asyncio.Future[None] = self._loop.create_future()
        """Done when the connection is over."""

    # What httpcore calls.

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Some bytes, or none when the peer has ended.

        Raises:
            httpcore.ReadError: the connection broke, or the answer is out of bounds.
        """
        while not self._buffer and not self._ended:
            self._readable = self._loop.create_future()
            await self._readable
        if not self._buffer:
            if self._error is not None:
                raise httpcore.ReadError(f"the connection broke: {reason_of(self._error)}")
            return b""
        taken = self.bounds.take(self._buffer, max_bytes)
        if self._paused_reading and not self._ended:
            self._paused_reading = False
            self._transport.resume_reading()
        if self._buffer:
            await asyncio.sleep(0)
        return taken

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write, without waiting until it is taken: a request is all there is, and its answer may come before that."""
        if not self._ended:
            self._transport.write(buffer)

    async def aclose(self) -> None:
        """Close at once."""
        self.abort()

    # What the dialler and the sender call.

    @property
    def unread(self) -> bool:
        """Whether bytes came that were not read."""
        return bool(self._buffer)

    def ask(self) -> None:
        """A request begins on it: its answer is counted from here."""
        self._asked = True
        self.bounds = AnswerBounds()

    def rest(self) -> None:
        """The answer was read to its end: until `ask`, bytes that come are an offence and end it."""
        self._asked = False

    def abort(self) -> None:
        """Close at once."""
        self._ended = True
        self._transport.abort()

    async def secure(self, context: ssl.SSLContext, host: str) -> None:
        """Go over to TLS; the certificate must be one for `host`.

        Raises:
            OSError: it did not come about; `ssl.SSLCertVerificationError` over the certificate.
        """
        secured = await self._loop.start_tls(self._transport, self, context, server_hostname=host)
        if secured is None:
            raise ConnectionResetError("the connection was closed")
        self._transport = secured

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is up."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Keep what came until it is read; hold the peer back when it is much."""
        if not self._asked:
            self.abort()
            return
        self._buffer += data
        if len(self._buffer) > MAX_ANSWER_BYTES and not self._paused_reading:
            self._paused_reading = True
            self._transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        self._ended, self._error = True, self._error or exc
        if not self.lost.done():
            self.lost.set_result(None)
        self._wake()

    def _wake(self) -> None:
        waiting, self._readable = self._readable, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


class Dialler:
    """Makes connections to judged addresses. A host in `allow_hosts` is not judged."""

    def __init__(self, allow_hosts: Collection[str], resolve: Resolve | None) -> None:
        self._allow_hosts = frozenset(allow_hosts)
        self._resolve: Resolve = resolve or LookUps()
        self._tls = httpx.create_ssl_context()
        self._tls.set_alpn_protocols(["http/1.1"])

    async def addresses(self, target: Target) -> list[str]:
        """The addresses of a host, all of them good.

        Raises:
            Forbidden: one of them may not be dialled.
            Unreachable: there are none.
        """
        if target.is_address:
            found = [target.host]
        else:
            try:
                found = await self._resolve(target.host, target.port)
            except (OSError, UnicodeError) as error:
                raise Unreachable(f"the name {target.host} cannot be looked up: {reason_of(error)}") from error
        if not found:
            raise Unreachable(f"the name {target.host} has no address")
        if target.host not in self._allow_hosts:
            for address in found:
                if (why := refusal(address)) is not None:
                    raise Forbidden(f"the host {target.host} leads to {why}")
        return found

    async def connect(self, target: Target, addresses: list[str]) -> Line:
        """A connection to the first of the addresses that takes it, without TLS yet.

        Raises:
            Unreachable: none does.
        """
        tried = addresses[:MAX_DIALLED]
        loop = asyncio.get_running_loop()
        reason = ""
        for number, address in enumerate(tried, 1):
            try:
                async with asyncio.timeout(NEXT_ADDRESS_S if number < len(tried) else None):
                    _, line = await loop.create_connection(Line, address, target.port)
            except OSError as error:  # a timeout is one
                reason = reason_of(error)
            else:
                return line
        raise Unreachable(f"no connection to {target.host}, port {target.port}: {reason}")

    async def secure(self, target: Target, line: Line) -> None:
        """Take a connection over to TLS, where the URL says so.

        Raises:
            Unreachable: it did not come about, or the certificate is not good for the host.
        """
        if target.scheme != "https":
            return
        try:
            await line.secure(self._tls, target.host)
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(f"the certificate of {target.host} is not accepted: {error.verify_message}") from error
        except OSError as error:
            raise Unreachable(f"no TLS with {target.host}: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    """What went wrong with a connection, in a few words."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or str(error)).replace("_", " ").lower()
    if isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__
