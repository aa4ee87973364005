"""The load's own instruments: what arrives in any pieces is counted once, percentiles are percentiles."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import orjson
import pytest

from hub.bench.figures import percentiles, ratio
from hub.bench.load_event import MARKER, LoadEvents
from hub.bench.raw import HttpConnection, LoadError, text_frame
from hub.bench.runs import pattern_sets
from hub.bench.subscribers import Readers
from schemas.envelope import Draft


@contextmanager
def server(stream: bytes, piece: int) -> Iterator[tuple[int, threading.Event]]:
    """A WebSocket server for two clients that writes `stream` in pieces of so many bytes once it may; its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    hold = threading.Event()

    def serve() -> None:
        clients = []
        for _ in range(2):
            client, _ = listener.accept()
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            heard = b""
            while not heard.endswith(b"\r\n\r\n"):
                heard += client.recv(1)
            client.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")
            clients.append(client)
        for client in clients:
            client.sendall(b'{"op":"subscribed"}')
        hold.wait()
        for start in range(0, len(stream), piece):
            for client in clients:
                client.sendall(stream[start : start + piece])
        for client in clients:
            client.recv(65536)
            client.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], hold
    finally:
        hold.set()
        thread.join(10)
        listener.close()


@pytest.mark.parametrize("piece", [1, 7, 20, 21, 22, 100_000])
def test_an_event_is_counted_once_however_it_arrives(piece: int) -> None:
    """Also when the marker is cut anywhere; on sampled and on counted connections alike."""
    stream = b"".join(b'{"n":"@T%d","rest":"@Tx @"}' % time.time_ns() for _ in range(40))
    with server(stream, piece) as (port, may_write):
        readers = Readers("127.0.0.1", port, "token", 2, [["*"]], 2)
        may_write.set()
        total = 0
        while readers.closed != 2:
            total += readers.read_for(0.05, counting=True)[0]
    figures = readers.figures(total, 1, 1)
    assert total == 80
    assert figures["samples"] == 40
    assert figures["p50_ms"] > 0


def test_percentiles_are_taken_from_the_samples() -> None:
    """In milliseconds; none without samples."""
    assert percentiles([n * 1_000_000 for n in range(1000)]) == {"p50_ms": 500, "p99_ms": 990, "p999_ms": 999}
    assert percentiles([2_500_000]) == {"p50_ms": 2.5, "p99_ms": 2.5, "p999_ms": 2.5}
    assert percentiles([]) == {"p50_ms": None, "p99_ms": None, "p999_ms": None}
    assert (ratio(3, 2), ratio(1, 0), ratio(None, 1)) == (1.5, None, None)


def test_pattern_sets_differ_and_all_get_the_load() -> None:
    """Two hundred different subscriptions to reservations and something more."""
    sets = pattern_sets(200)
    assert len({frozenset(patterns) for patterns in sets}) == 200
    assert all("reservation.*" in patterns for patterns in sets)


def test_the_loads_events_are_events() -> None:
    """They fit the envelope, spread over the tenants, and carry the time of sending."""
    events = LoadEvents(["a", "b"], 10)
    before = time.time_ns()
    batch = orjson.loads(events.body(3))["events"]
    after = time.time_ns()
    assert [Draft.model_validate(event).tenant_id for event in batch] == ["a", "b", "a"]
    for event in batch:
        note = event["data"]["special_requests"]
        assert before <= int(note.removeprefix(MARKER.decode()).rstrip("x")) <= after
        assert note.endswith("x" * 10)
    assert [orjson.loads(frame)["ref"] for frame in events.frames(5, 2)] == [5, 6]


def test_an_answer_is_read_whole_and_a_refusal_is_an_error() -> None:
    """However it is cut; anything but 201 stops the load."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        connection = HttpConnection("127.0.0.1", listener.getsockname()[1], "token")
        peer, _ = listener.accept()
        with peer, connection.socket:
            connection.send(b"{}")
            assert peer.recv(65536).endswith(b"Content-Length: 2\r\n\r\n{}")
            for part in (b"HTTP/1.1 201 Created\r\nContent-", b"Length: 4\r\n\r\n12", b"34"):
                assert connection.waiting
                peer.sendall(part)
                connection.receive()
            assert not connection.waiting
            connection.send(b"{}")
            peer.sendall(b"HTTP/1.1 503 Unavailable\r\nContent-Length: 4\r\n\r\ngone")
            with pytest.raises(LoadError, match="gone"):
                connection.finish()


@pytest.mark.parametrize("size", [5, 126, 65_536])
def test_frames_are_masked_as_clients_must(size: int) -> None:
    """In each of the three lengths of a frame's head."""
    frame = text_frame(b"a" * size)
    assert frame[0] == 0x81
    assert frame[1] & 0x80
    assert frame.endswith(b"\0\0\0\0" + b"a" * size)
