"""The reading side of the load: many WebSocket connections in one process, counted with as little as will do.

Every connection's events are counted; the latency of every event is taken on every `sample`-th connection. The clock
of the latencies is the publisher's time of sending, so both must run on one machine.
"""

from __future__ import annotations

import select
import socket
import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson

from hub.bench.figures import percentiles
from hub.bench.load_event import STAMP_BYTES, STAMPED, needle
from hub.bench.load_process import serve_load
from hub.bench.raw import PONG, LoadError, open_websocket, text_frame

_FRONT: Final = 64
_READ: Final = 1 << 18
_ALIVE_S: Final = 8.0


class _Connection:
    __slots__ = ("count", "sampled", "socket", "tail")

    def __init__(self, opened: socket.socket, sampled: bool) -> None:
        self.socket = opened
        self.sampled = sampled
        self.count = 0
        self.tail = b""


class Readers:
    """The connections. `sets`: pattern lists, taken in turn; an empty one subscribes to nothing."""

    def __init__(
        self, host: str, port: int, token: str, count: int, sets: Sequence[Sequence[str]], sample: int
    ) -> None:
        self._needle = needle()
        self._buffer = bytearray(_FRONT + _READ)
        self._view = memoryview(self._buffer)[_FRONT:]
        self._latencies = array("q")
        self._epoll = select.epoll()
        self._by_fd: dict[int, _Connection] = {}
        self.closed = 0
        for number in range(count):
            opened = open_websocket(host, port, token)
            patterns = sets[number % len(sets)]
            if patterns:
                subscribe = {"op": "subscribe", "id": 1, "patterns": patterns}
                opened.sendall(text_frame(orjson.dumps(subscribe)))
            self._by_fd[opened.fileno()] = _Connection(opened, number % sample == 0)
        for index, connection in enumerate(self._by_fd.values()):
            self._until_subscribed(connection, bool(sets[index % len(sets)]))
            connection.socket.setblocking(False)
            self._epoll.register(connection.socket, select.EPOLLIN)
        self._alive_at = time.monotonic() + _ALIVE_S

    @staticmethod
    def _until_subscribed(connection: _Connection, subscribed: bool) -> None:
        wanted = b'"op":"subscribed"' if subscribed else b'"op":"welcome"'
        heard = b""
        while wanted not in heard:
            piece = connection.socket.recv(65536)
            heard += piece
            if not piece or b'"op":"error"' in heard:
                raise LoadError(f"no subscription: {heard[-500:]!r}")

    def read_for(self, seconds: float, *, counting: bool) -> tuple[int, int, int]:
        """Read for so long; events and bytes counted, and the nanoseconds from the first to the last counted read."""
        buffer, view, epoll, mark = self._buffer, self._view, self._epoll, self._needle
        keep_counted, keep_sampled = len(mark) - 1, STAMP_BYTES - 1
        by_fd, latencies, now_ns = self._by_fd, self._latencies, time.time_ns
        total = size = first = last = 0
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            for fd, _ in epoll.poll(min(left, 0.05)):
                connection = by_fd[fd]
                try:
                    read = connection.socket.recv_into(view)
                except BlockingIOError:
                    continue
                except OSError:
                    read = 0
                if not read:
                    self._drop(fd)
                    continue
                tail = connection.tail
                begin, stop = _FRONT - len(tail), _FRONT + read
                buffer[begin:_FRONT] = tail
                if connection.sampled:
                    stamps = STAMPED.findall(buffer, begin, stop)
                    found = len(stamps)
                    if counting:
                        now = now_ns()
                        latencies.extend([now - int(stamp) for stamp in stamps])
                    connection.tail = bytes(buffer[max(begin, stop - keep_sampled) : stop])
                else:
                    found = buffer.count(mark, begin, stop)
                    connection.tail = bytes(buffer[max(begin, stop - keep_counted) : stop])
                if counting and found:
                    connection.count += found
                    total += found
                    size += read
                    last = now_ns()
                    first = first or last
            self._stay_alive()
        return total, size, last - first

    def _stay_alive(self) -> None:
        """The hub wants to hear something now and then; its pings are not looked at."""
        if time.monotonic() < self._alive_at:
            return
        self._alive_at = time.monotonic() + _ALIVE_S
        for fd, connection in list(self._by_fd.items()):
            try:
                connection.socket.send(PONG)
            except BlockingIOError:
                continue
            except OSError:
                self._drop(fd)

    def _drop(self, fd: int) -> None:
        connection = self._by_fd.pop(fd)
        self._epoll.unregister(fd)
        connection.socket.close()
        self.closed += 1

    def figures(self, total: int, size: int, elapsed_ns: int) -> dict[str, Any]:
        """The figures of what was counted."""
        counts = [connection.count for connection in self._by_fd.values()]
        seconds = elapsed_ns / 1e9
        return {
            "connections": len(counts) + self.closed,
            "delivered": total,
            "deliveries_per_s": round(total / seconds) if seconds else 0,
            "megabytes_per_s": round(size / seconds / 1e6, 1) if seconds else 0.0,
            **percentiles(self._latencies),
            "samples": len(self._latencies),
            "least_of_a_connection": min(counts, default=0),
            "most_of_a_connection": max(counts, default=0),
            "closed": self.closed,
        }


def run(asked: dict[str, Any], ready: Callable[[], None]) -> dict[str, Any]:
    """Open the connections, wait for the word, read `warm_s` uncounted and `seconds` counted."""
    readers = Readers(asked["host"], asked["port"], asked["token"], asked["count"], asked["sets"], asked["sample"])
    ready()
    readers.read_for(asked["warm_s"], counting=False)
    counted = readers.read_for(asked["seconds"], counting=True)
    return readers.figures(*counted)


if __name__ == "__main__":
    serve_load(run)
