"""Small HTTP endpoints on raw sockets, for tests: they answer well, badly, slowly, without end or not at all."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Received:
    """A request as it came: names of headers in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Endpoint:
    """Where an endpoint listens and what it was sent."""

    port: int = 0
    scheme: str = "http"
    received: list[Received] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    """Connections that are open now."""
    all_closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while none is open, once there was one."""

    @property
    def url(self) -> str:
        """An URL of it."""
        return f"{self.scheme}://127.0.0.1:{self.port}/hook"


class Caller:
    """One connection to an endpoint."""

    def __init__(self, endpoint: Endpoint, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.endpoint = endpoint
        self.reader = reader
        self.writer = writer
        self.number = endpoint.connections
        """Of all connections, from 1."""

    async def request(self) -> Received:
        """The next request, noted down; IncompleteReadError at the end of the connection."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines if line)}
        body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        received = Received(method, path, headers, body)
        self.endpoint.received.append(received)
        return received

    async def write(self, data: bytes) -> None:
        """Write, and wait while it is not taken."""
        self.writer.write(data)
        await self.writer.drain()

    async def gone(self) -> None:
        """Wait until the other side closes."""
        while await self.reader.read(65536):
            pass

    def reset(self) -> None:
        """Break the connection off."""
        self.writer.transport.abort()


Behaviour = Callable[[Caller], Awaitable[None]]


def answering(*answers: bytes) -> Behaviour:
    """Answers each request of a connection with the next of these, the last again and again."""

    async def behave(caller: Caller) -> None:
        for number in range(1_000_000):
            await caller.request()
            await caller.write(answers[min(number, len(answers) - 1)])

    return behave


def ending(answer: bytes) -> Behaviour:
    """Answers one request and closes."""

    async def behave(caller: Caller) -> None:
        await caller.request()
        await caller.write(answer)

    return behave


def repeating(head: bytes, piece: bytes) -> Behaviour:
    """Answers with a head, and with pieces without end."""

    async def behave(caller: Caller) -> None:
        await caller.request()
        await caller.write(head)
        while True:
            await caller.write(piece)

    return behave


def stopping(beginning: bytes) -> Behaviour:
    """Answers with a beginning, and then no more, while the connection stays open."""

    async def behave(caller: Caller) -> None:
        await caller.request()
        await caller.write(beginning)
        await caller.gone()

    return behave


def dripping(beginning: bytes, piece: bytes) -> Behaviour:
    """Answers with a beginning, and then a piece every hundredth of a second."""

    async def behave(caller: Caller) -> None:
        await caller.request()
        await caller.write(beginning)
        while True:
            await asyncio.sleep(0.01)
            await caller.write(piece)

    return behave


async def resetting(caller: Caller) -> None:
    """Breaks off when it has the request."""
    await caller.request()
    caller.reset()


def response(status: str, body: bytes = b"", *headers: str) -> bytes:
    """An answer in one piece: `response("200 OK", b"fine", "Retry-After: 3")`."""
    lines = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers))
    return lines.encode("latin-1") + b"\r\n" + body


@asynccontextmanager
async def listening(behave: Behaviour, tls: ssl.SSLContext | None = None) -> AsyncIterator[Endpoint]:
    """An endpoint on a free port of 127.0.0.1."""
    endpoint = Endpoint(scheme="http" if tls is None else "https")
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        endpoint.connections += 1
        endpoint.open += 1
        endpoint.all_closed.clear()
        try:
            with suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
                await behave(Caller(endpoint, reader, writer))
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        finally:
            writer.transport.abort()
            tasks.discard(task)
            endpoint.open -= 1
            if not endpoint.open:
                endpoint.all_closed.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    endpoint.port = server.sockets[0].getsockname()[1]
    try:
        yield endpoint
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


def certificate(folder: Path, *names: str) -> tuple[ssl.SSLContext, Path]:
    """TLS for an endpoint with a certificate of its own for names or addresses, and the file of that certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "endpoint")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([_general(one) for one in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    file.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    key_file = folder / "key.pem"
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key_file)
    return context, file


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
