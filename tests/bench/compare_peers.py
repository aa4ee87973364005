"""The hub beside Socket.IO and NATS: the same events to the same number of WebSocket clients, one after the other.

`python tests/bench/compare_peers.py --wsload PATH [--socketio DIR] [--nats nats-server] --subscribers 500 --rate 1000`

Every peer is read by the same client, `wsload` (WSLOAD): a program that opens N WebSocket connections, counts the
marker `@T` and 19 digits of Unix time in nanoseconds, and prints `rate`, `p50_ms`, `p99_ms` as JSON. A peer that is not
there is left out: `nats-server` is looked for on the PATH; DIR (BENCH_SOCKETIO) holds `socketio_server.js PORT REDIS`,
`socketio_publish.js RATE SECONDS REDIS` and their node_modules. Figures of one run only are comparable, so the ratios
are what counts. The last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hub.bench.load_process import LoadProcess
from hub.bench.target import raise_file_limit, target
from hub.log.binary import find_server

WARM_S = 3.0
WAIT_S = 60.0


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(what)
        time.sleep(0.02)


def listens(port: int) -> bool:
    """Whether somebody accepts connections."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def running(command: Sequence[str], port: int, **options: Any) -> Iterator[None]:
    """A server process that listens on `port` while the block runs."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    try:
        until(lambda: listens(port) or process.poll() is not None, f"{command[0]} does not listen")
        if process.poll() is not None:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
        yield
    finally:
        process.terminate()
        process.wait()


class Comparison:
    """What all peers are measured with."""

    def __init__(self, asked: argparse.Namespace, directory: Path) -> None:
        self.asked = asked
        self.directory = directory
        self.seconds = WARM_S + asked.seconds + 0.5
        self.event_bytes = asked.event_bytes

    def read(self, port: int, path: str, publish: Callable[[], Any], *options: str) -> dict[str, Any]:
        """Let `wsload` count what `publish` (called once all are connected, and awaited) brings about."""
        ready = self.directory / "ready"
        ready.unlink(missing_ok=True)
        command = [self.asked.wsload, "127.0.0.1", str(port), path, str(self.asked.subscribers)]
        command += [str(self.asked.seconds), "@T", "--warm", str(WARM_S), "--readyfile", str(ready), *options]
        reading = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            until(lambda: ready.exists() or reading.poll() is not None, "the clients do not connect")
            publish()
            out, _ = reading.communicate(timeout=WAIT_S)
        finally:
            if reading.poll() is None:
                reading.kill()
                reading.wait()
        found: dict[str, Any] = json.loads(out)
        return found

    def hub(self) -> dict[str, Any]:
        """The hub, durable as it always is."""
        with target(None, None, workers=self.asked.workers) as hub:
            pad, self.event_bytes = hub.fit(self.asked.event_bytes)
            writing = {"way": "paced", "connections": 4, "rate": self.asked.rate, "seconds": self.seconds}
            with LoadProcess("hub.bench.publishers", hub.address | writing | {"tick_s": 0.005, "pad": pad}) as writers:
                writers.until_ready()

                def publish() -> None:
                    writers.go()
                    writers.result()

                subscribe = json.dumps({"op": "subscribe", "id": 1, "patterns": ["reservation.*"]})
                token = f"Authorization: Bearer {hub.token}"
                return self.read(hub.port, "/ws", publish, "--header", token, "--send", subscribe)

    def nats(self) -> dict[str, Any]:
        """NATS core over its WebSocket: nothing is stored."""
        port, websocket = free_port(), free_port()
        configuration = self.directory / "nats.conf"
        configuration.write_text(
            f'host: "127.0.0.1"\nport: {port}\nwebsocket {{ host: "127.0.0.1", port: {websocket}, no_tls: true }}\n'
        )

        def publish() -> None:
            publishing = multiprocessing.get_context("spawn").Process(
                target=publish_to_nats, args=(port, self.asked.rate, self.seconds, self.event_bytes)
            )
            publishing.start()
            publishing.join()

        with running([self.asked.nats, "-c", str(configuration)], websocket):
            sends = 'CONNECT {"verbose":false}\r\nSUB reservation.> 1\r\n'
            return self.read(websocket, "/", publish, "--bin", "--send", sends)

    def socketio(self) -> dict[str, Any]:
        """Socket.IO with the adapter of its Redis streams, on a server that keeps nothing on disk."""
        port, redis = free_port(), free_port()
        scripts = Path(self.asked.socketio)
        url = f"redis://127.0.0.1:{redis}"
        environment = os.environ | {"NODE_PATH": str(scripts / "node_modules")}
        node = [self.asked.node]
        keeps_nothing = ["--bind", "127.0.0.1", "--port", str(redis), "--save", "", "--appendonly", "no"]

        def publish() -> None:
            arguments = [str(self.asked.rate), str(self.seconds), url]
            command = [*node, str(scripts / "socketio_publish.js"), *arguments]
            subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)

        with (
            running([str(find_server().path), *keeps_nothing], redis, cwd=self.directory),
            running([*node, str(scripts / "socketio_server.js"), str(port), url], port, env=environment),
        ):
            return self.read(port, "/socket.io/?EIO=4&transport=websocket", publish, "--send", "40")


def publish_to_nats(port: int, rate: float, seconds: float, event_bytes: int) -> None:
    """`rate` messages a second over NATS's own protocol, what is due every millisecond."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.recv(65536)
        connection.sendall(b'CONNECT {"verbose":false}\r\n')
        sent, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < seconds:
            pieces = []
            while sent < int(elapsed * rate):
                event = b'{"t":"@T%d","id":%d,"note":"' % (time.time_ns(), sent)
                event += b"x" * (event_bytes - len(event) - 2) + b'"}'
                pieces.append(b"PUB reservation.created %d\r\n%b\r\n" % (len(event), event))
                sent += 1
            if pieces:
                connection.sendall(b"".join(pieces))
            time.sleep(0.001)
        connection.sendall(b"PING\r\n")
        connection.recv(65536)


def compare(asked: argparse.Namespace) -> dict[str, Any]:
    """Measure the hub and the peers that are there; ratios above 1 are the hub's advantage."""
    raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="hub-peers-") as directory:
        comparison = Comparison(asked, Path(directory))
        found: dict[str, Any] = {"hub": comparison.hub()}
        if asked.nats is not None:
            found["nats"] = comparison.nats()
        if asked.socketio is not None and asked.node is not None:
            found["socketio"] = comparison.socketio()
    ours = found["hub"]
    ratios = {
        peer: {
            "deliveries": round(ours["rate"] / theirs["rate"], 3) if theirs["rate"] else None,
            "p50": round(theirs["p50_ms"] / ours["p50_ms"], 3) if ours["p50_ms"] else None,
            "p99": round(theirs["p99_ms"] / ours["p99_ms"], 3) if ours["p99_ms"] else None,
        }
        for peer, theirs in found.items()
        if peer != "hub"
    }
    return {
        "subscribers": asked.subscribers,
        "rate": asked.rate,
        "event_bytes": comparison.event_bytes,
        "workers": asked.workers,
        "measured": found,
        "hub_to": ratios,
    }


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wsload", default=os.environ.get("WSLOAD"), help="the compiled client (WSLOAD)")
    parser.add_argument("--socketio", default=os.environ.get("BENCH_SOCKETIO"), help="directory (BENCH_SOCKETIO)")
    parser.add_argument("--node", default=shutil.which("node"))
    parser.add_argument("--nats", default=shutil.which("nats-server"))
    parser.add_argument("--subscribers", type=int, default=500)
    parser.add_argument("--rate", type=float, default=1000)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--event-bytes", type=int, default=600)
    parser.add_argument("--workers", type=int, default=1)
    asked = parser.parse_args()
    if asked.wsload is None:
        parser.error("name the client with --wsload or WSLOAD")
    found = compare(asked)
    print(f"{'':<10} {'deliveries/s':>14} {'p50 ms':>10} {'p99 ms':>10}   hub to it: deliveries, p50, p99")
    for peer, one in found["measured"].items():
        ratios = found["hub_to"].get(peer, {})
        print(
            f"{peer:<10} {one['rate']:>14,} {one['p50_ms']:>10} {one['p99_ms']:>10}   "
            + ", ".join(str(value) for value in ratios.values())
        )
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
