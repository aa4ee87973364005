"""Bare sockets that speak just enough HTTP/1.1 and WebSocket: the load must cost less than what it loads."""

from __future__ import annotations

import socket
import struct
from typing import Final

_MASKED: Final = 0x80
_NO_MASK: Final = b"\0\0\0\0"
PONG: Final = bytes((0x8A, _MASKED)) + _NO_MASK
"""Sent unasked it shows the hub that the connection lives (RFC 6455 §5.5.3)."""


class LoadError(Exception):
    """The hub answered something that the load cannot go on from."""


def text_frame(payload: bytes) -> bytes:
    """A client's text message; masked with zeros, which leaves the bytes as they are (RFC 6455 §5.3)."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, _MASKED | size)) + _NO_MASK + payload
    if size < 65536:
        return struct.pack("!BBH", 0x81, _MASKED | 126, size) + _NO_MASK + payload
    return struct.pack("!BBQ", 0x81, _MASKED | 127, size) + _NO_MASK + payload


def dial(host: str, port: int) -> socket.socket:
    """A blocking connection."""
    connection = socket.create_connection((host, port), timeout=30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def open_websocket(host: str, port: int, token: str) -> socket.socket:
    """A connection after the handshake; what the hub says first (`welcome`) is still to be read.

    Raises:
        LoadError: the hub refused it.
    """
    connection = dial(host, port)
    connection.sendall(
        (
            f"GET /ws HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
            f"Authorization: Bearer {token}\r\n\r\n"
        ).encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        if not byte:
            break
        head += byte
    if not head.startswith(b"HTTP/1.1 101"):
        connection.close()
        raise LoadError(f"no WebSocket: {head[:200]!r}")
    return connection


class HttpConnection:
    """A kept-alive connection with at most one request on its way."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self.socket = dial(host, port)
        self.waiting = False
        self._buffer = bytearray()
        self._head = (
            f"POST /api/v1/events HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        ).encode()

    def send(self, body: bytes) -> None:
        """Post; `waiting` until the answer was read."""
        self.socket.sendall(self._head + b"%d\r\n\r\n" % len(body) + body)
        self.waiting = True

    def finish(self) -> None:
        """Read the answer to what was sent, if it was not read yet.

        Raises:
            LoadError: it was not 201.
        """
        while self.waiting:
            self.receive()

    def receive(self) -> None:
        """Read once; clears `waiting` when the answer is whole.

        Raises:
            LoadError: it was not 201.
        """
        piece = self.socket.recv(1 << 18)
        if not piece:
            raise LoadError("the hub closed the connection")
        self._buffer += piece
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        size = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(self._buffer) < end + 4 + size:
            return
        if not head.startswith(b"http/1.1 201"):
            raise LoadError(bytes(self._buffer[: end + 1000]).decode(errors="replace"))
        self._buffer.clear()
        self.waiting = False
