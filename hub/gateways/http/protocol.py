"""uvicorn's HTTP protocol with limits on what a peer may make the hub hold or wait for.

uvicorn bounds neither the size of a header block nor the time a peer takes over it or over reading its answer.
"""

from __future__ import annotations

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEADER_BYTES: Final = 32 * 1024
HEADER_TIMEOUT_S: Final = 10.0
UNREAD_TIMEOUT_S: Final = 30.0
_TOO_LARGE: Final = b"HTTP/1.1 431 Request Header Fields Too Large\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class BoundedHttpProtocol(HttpToolsProtocol):
    """Ends a connection whose headers are too large or too slow, or that does not read its answers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._headers_by: asyncio.TimerHandle | None = None
        self._read_by: asyncio.TimerHandle | None = None
        self._header_bytes = 0
        super().connection_made(transport)
        self._await_headers()

    def _await_headers(self) -> None:
        self._header_bytes = 0
        if self._headers_by is None:
            self._headers_by = self.loop.call_later(HEADER_TIMEOUT_S, self.transport.abort)

    def _stop_timers(self) -> None:
        for timer in (self._headers_by, self._read_by):
            if timer is not None:
                timer.cancel()
        self._headers_by = self._read_by = None

    def data_received(self, data: bytes) -> None:
        transport = self.transport
        super().data_received(data)
        if self._headers_by is not None and not transport.is_closing():
            self._header_bytes += len(data)
            if self._header_bytes > MAX_HEADER_BYTES:
                transport.write(_TOO_LARGE)
                transport.close()

    def on_message_begin(self) -> None:
        self._await_headers()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._headers_by is not None:
            self._headers_by.cancel()
            self._headers_by = None
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._read_by is None:
            self._read_by = self.loop.call_later(UNREAD_TIMEOUT_S, self.transport.abort)

    def resume_writing(self) -> None:
        if self._read_by is not None:
            self._read_by.cancel()
            self._read_by = None
        super().resume_writing()

    def handle_websocket_upgrade(self) -> None:
        self._stop_timers()
        super().handle_websocket_upgrade()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timers()
        super().connection_lost(exc)
