"""One attempt at a webhook, against endpoints that answer well, badly, slowly, without end or not at all."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import httpcore
import pytest
from h11._util import validate
from hostile_endpoints import (
    Behaviour,
    Caller,
    answering,
    certificate,
    dripping,
    ending,
    listening,
    repeating,
    resetting,
    response,
    stopping,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from hub.services import webhook_sender
from hub.services.guarded_dialling import LookUps
from hub.services.webhook_sender import EXCERPT_BYTES, MAX_BODY_PARTS, USER_AGENT, Answer, WebhookSender

NOW = 1_784_077_441.0
BODY = b'{"event_id":"1"}'
NAME = "hooks.test"
OK = response("200 OK", b"fine")


@asynccontextmanager
async def sending(
    timeout_s: float = 10.0,
    allow: tuple[str, ...] = ("127.0.0.1", NAME),
    resolve: Callable[[str, int], Awaitable[list[str]]] | None = None,
) -> AsyncIterator[WebhookSender]:
    """A sender that may reach this machine."""
    sender = WebhookSender(allow, timeout_s=timeout_s, resolve=resolve, wall=lambda: NOW)
    try:
        yield sender
    finally:
        await sender.aclose()


async def post(behave: Behaviour, timeout_s: float = 10.0, headers: Mapping[str, str] | None = None) -> Answer:
    """What comes of one webhook to an endpoint."""
    async with listening(behave) as endpoint, sending(timeout_s) as sender:
        return await sender.send(endpoint.url, headers or {}, BODY)


def always(*addresses: str) -> Callable[[str, int], Awaitable[list[str]]]:
    """A resolver with one answer."""

    async def resolve(host: str, port: int) -> list[str]:
        return list(addresses)

    return resolve


async def test_a_webhook_arrives_as_it_was_given() -> None:
    """Path, headers and body arrive, with what HTTP needs and the hub's name; the answer says how it went."""
    async with listening(answering(OK)) as endpoint, sending() as sender:
        answer = await sender.send(f"{endpoint.url}/a?b=c%20d", {"webhook-id": "msg_1"}, BODY)
        given = await sender.send(endpoint.url, {"User-Agent": "mine", "content-type": "text/plain"}, b"")
    assert (answer.kind, answer.status, answer.error, answer.body) == ("delivered", 200, None, b"fine")
    assert 0 < answer.seconds < 10
    assert given.kind == "delivered"
    first, second = endpoint.received
    assert (first.method, first.path, first.body) == ("POST", "/hook/a?b=c%20d", BODY)
    assert first.headers == {
        "host": f"127.0.0.1:{endpoint.port}",
        "content-length": str(len(BODY)),
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        "webhook-id": "msg_1",
    }
    assert (second.headers["user-agent"], second.headers["content-type"]) == ("mine", "text/plain")
    assert second.headers["content-length"] == "0"


@pytest.mark.parametrize("status", ["200 OK", "201 Created", "202", "299 Fine"])
async def test_every_2xx_is_delivered(status: str) -> None:
    """Any 2xx is a success, with or without a body."""
    assert (await post(answering(response(status)))).kind == "delivered"


async def test_204_is_delivered() -> None:
    """An answer that has no body by its status is read to its end, and the connection is used again."""
    async with listening(answering(b"HTTP/1.1 204 No Content\r\n\r\n")) as endpoint, sending() as sender:
        kinds = [(await sender.send(endpoint.url, {}, BODY)).kind for _ in range(2)]
    assert kinds == ["delivered", "delivered"]
    assert endpoint.connections == 1


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "HTTP 500"),
        (b"it broke\nat line 3", "HTTP 500: it broke"),
        (b"\r\n  \r\n\tno\x1b[31m  room\x00 \r\n", "HTTP 500: no [31m room"),
        ("kaputt\u202e äö\u2028x".encode(), "HTTP 500: kaputt äö"),
        (b"\xff\xfe", "HTTP 500: \ufffd\ufffd"),
        (b"x" * 5000, "HTTP 500: " + "x" * 200),
    ],
)
async def test_a_failure_says_the_first_line_of_the_body(body: bytes, error: str) -> None:
    """A status that is no success comes with one short, printable line of what the endpoint said."""
    answer = await post(answering(response("500 Internal Server Error", body)))
    assert (answer.kind, answer.status, answer.error) == ("refused", 500, error)
    assert answer.body == body[:EXCERPT_BYTES]


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    """A redirect is an answer of its own; where it leads is neither called nor repeated."""
    async with listening(answering(OK)) as elsewhere:
        for place in ("http://169.254.169.254/latest", elsewhere.url):
            answer = await post(answering(response(f"{status} Moved", b"", f"Location: {place}")))
            assert (answer.kind, answer.status) == ("redirect", status)
            assert "redirects are not followed" in str(answer.error)
            assert place not in str(answer.error)
    assert elsewhere.connections == 0


async def test_410_is_gone() -> None:
    """An endpoint that says it is gone is told apart from one that fails."""
    answer = await post(answering(response("410 Gone", b"moved out")))
    assert (answer.kind, answer.error) == ("gone", "HTTP 410: moved out")


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("86401", 86_400),
        ("9" * 6000, 86_400),
        (formatdate(NOW + 90, usegmt=True), 90),
        (formatdate(NOW - 90, usegmt=True), 0),
        (formatdate(NOW + 1e6, usegmt=True), 86_400),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 -2359", 86_400),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
        ("", None),
    ],
)
async def test_retry_after_is_read_in_both_forms(value: str, seconds: float | None) -> None:
    """Seconds and dates are read and kept within a day; anything else is as if it were not there."""
    raw = response("429 Too Many", b"", "Retry-After: VALUE").replace(b"VALUE", value.encode())
    answer = await post(answering(raw))
    assert (answer.kind, answer.retry_after_s) == ("refused", seconds)


async def test_a_silent_endpoint_is_left() -> None:
    """An endpoint that does not answer in time is a timeout, and its connection is closed."""
    async with listening(stopping(b"")) as endpoint, sending(0.3) as sender:
        answer = await sender.send(endpoint.url, {}, BODY)
        await endpoint.all_closed.wait()
    assert (answer.kind, answer.status, answer.error) == ("timeout", None, "the answer took longer than 0.3 s")
    assert 0.25 < answer.seconds < 2


@pytest.mark.parametrize(
    "behave",
    [
        stopping(b"HTTP/1.1 200 OK\r\nContent-Le"),
        dripping(b"", b"H"),
        dripping(b"HTTP/1.1 200 OK\r\n", b"x: y\r\n"),
        dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    ],
)
async def test_a_head_that_does_not_end_is_left(behave: Behaviour) -> None:
    """However slowly the head of an answer goes on, the attempt ends in its time."""
    answer = await post(behave, 0.3)
    assert answer.kind in ("timeout", "unreachable")
    assert answer.seconds < 2


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 8192),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n", b"x" * 8192),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"trailer: x\r\n"),
    ],
)
async def test_an_endless_body_is_left(head: bytes, piece: bytes) -> None:
    """A body without end is read a little, then the connection is closed; the status counts."""
    async with listening(repeating(head, piece)) as endpoint, sending() as sender:
        answer = await sender.send(endpoint.url, {}, BODY)
        await endpoint.all_closed.wait()
    assert (answer.kind, answer.status) == ("delivered", 200)
    assert len(answer.body) <= (MAX_BODY_PARTS if piece.startswith(b"1\r\n") else EXCERPT_BYTES)
    assert answer.seconds < 5


@pytest.mark.parametrize("status", ["200 OK", "503 Later"])
async def test_a_body_that_drips_is_left(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status of an answer counts although its body does not come to an end within the attempt's time."""
    monkeypatch.setattr(webhook_sender, "BODY_S", 600)
    head = f"HTTP/1.1 {status}\r\nContent-Length: 9999\r\n\r\nno".encode()
    for behave in (dripping(head, b" "), stopping(head)):
        answer = await post(behave, 0.3)
        assert answer.kind == ("delivered" if status == "200 OK" else "refused")
        assert answer.body[:2] == b"no"
        assert answer.seconds < 2


async def test_a_body_is_waited_for_no_longer_than_it_is_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """With much time left the attempt still ends soon after the status is known."""
    monkeypatch.setattr(webhook_sender, "BODY_S", 0.05)
    answer = await post(stopping(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), 600)
    assert answer.kind == "delivered"
    assert answer.seconds < 10


async def test_a_body_that_breaks_off_does_not_change_the_status() -> None:
    """An answer cut short in its body is still an answer; the connection is not used again."""
    cut = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nno"
    async with listening(ending(cut)) as endpoint, sending() as sender:
        answers = [await sender.send(endpoint.url, {}, BODY) for _ in range(2)]
    assert [(answer.kind, answer.body) for answer in answers] == [("delivered", b"no")] * 2
    assert endpoint.connections == 2


@pytest.mark.parametrize(
    "garbage",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"\x16\x03\x01\x00\x00\x00\xff" * 10 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 6000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"HTTP/1.1 099 Odd\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        b"HTTP/1.1 20 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"",
    ],
)
async def test_what_is_not_http_is_named(garbage: bytes) -> None:
    """An answer that is not HTTP is no answer, and the reason is one printable line."""
    answer = await post(ending(garbage))
    assert (answer.kind, answer.status) == ("unreachable", None)
    assert answer.error
    assert answer.error.isprintable()
    assert len(answer.error) <= 200


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        (b"HTTP/1.1 200 OK\r\n", b"x-long: " + b"y" * 8000 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\nx-long: ", b"y" * 8000),
        (b"", b"y" * 8000),
        (b"", b"\r\n" * 4000),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100),
    ],
)
async def test_a_head_without_end_is_left(head: bytes, piece: bytes) -> None:
    """A head larger than any answer needs is not read on."""
    async with listening(repeating(head, piece)) as endpoint, sending() as sender:
        answer = await sender.send(endpoint.url, {}, BODY)
        await endpoint.all_closed.wait()
    assert answer.kind == "unreachable"
    assert answer.seconds < 5


FLOOD = b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * 15_500 + b"\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "error", "lines"),
    [
        (b"HTTP/1.1 100 \r\n\r\n" * 3600 + OK, "the answer begins with more than 8 informational ones (1xx)", 9),
        (FLOOD, "the answer's head has too many lines: more than 256", 0),
        (
            (b"HTTP/1.1 100 \n" + b"a:\n" * 50 + b"\n") * 8 + OK,
            "the answer's head has too many lines: more than 256",
            256,
        ),
        (
            b"HTTP/1.1 200 OK\r\na: " + b"a" * 20_000 + b"\r\n\r\n",
            "the answer's head is larger than 16 KiB",
            0,
        ),
        (CHUNKED + b"0\r\n" + b"a:\r\n" * 15_500 + b"\r\n", None, 3),
        (CHUNKED + b"1\r\nA\r\n" * 10 + b"0000;a=b\r\n" + b"a:\n" * 15_500 + b"\n", None, 13),
        (CHUNKED + b"1\r\nA\r\n" * 9000 + b"0\r\n\r\n", None, 2 + MAX_BODY_PARTS),
    ],
    ids=["1xx", "headers", "1xx headers", "large head", "trailers", "trailers after chunks", "chunks"],
)
async def test_a_flood_of_lines_is_not_parsed(
    answer: bytes, error: str | None, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer made to be dear is left before its lines are taken apart, and its connection is closed."""
    parsed = parsed_lines(monkeypatch)
    async with listening(answering(answer)) as endpoint, sending() as sender:
        got = await sender.send(endpoint.url, {}, BODY)
        await endpoint.all_closed.wait()
    assert (got.kind, got.status) == (("unreachable", None) if error else ("delivered", 200))
    assert got.error == error
    assert len(parsed) <= lines


async def test_a_flood_on_a_kept_connection_is_not_asked_for_again() -> None:
    """An answer that is left at its first bytes is one: the endpoint has had the webhook."""
    async with listening(answering(OK, FLOOD)) as endpoint, sending() as sender:
        answers = [await sender.send(endpoint.url, {}, BODY) for _ in range(2)]
    assert [answer.kind for answer in answers] == ["delivered", "unreachable"]
    assert answers[1].error == "the answer's head has too many lines: more than 256"
    assert (endpoint.connections, len(endpoint.received)) == (1, 2)


def parsed_lines(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The lines of answers that the parser of HTTP takes apart from now on."""
    parsed: list[bytes] = []

    def counted(pattern: Any, line: bytes, *rest: Any) -> Any:
        parsed.append(bytes(line))
        return validate(pattern, line, *rest)

    monkeypatch.setattr("h11._readers.validate", counted)
    return parsed


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 100 Continue\r\n\r\n" * 8 + response("200 OK", b"x\n" * 25_000),
        response("200 OK", b"x\n" * 25_000, *(f"x-{number}: y" for number in range(200))),
        CHUNKED + b"7530\r\n" + b"0,1" * 10_000 + b"\r\n0\r\n\r\n",
        CHUNKED[:-2]
        + b"a: b\r\n" * 200
        + b"\r\n7530\r\n"
        + b"x\r\n" * 10_000
        + b"\r\n0\r\n"
        + b"a: b\r\n" * 200
        + b"\r\n",
    ],
)
async def test_an_odd_answer_within_bounds_is_read_to_its_end(answer: bytes) -> None:
    """Informational answers, many headers, a body of many lines and trailers are HTTP: the connection is kept."""
    async with listening(answering(answer)) as endpoint, sending() as sender:
        answers = [await sender.send(endpoint.url, {}, BODY) for _ in range(2)]
    assert [one.kind for one in answers] == ["delivered"] * 2
    assert endpoint.connections == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(
            b"HTTP/1.1 200 OK|HTTP/1.0 404 No|HTTP/1.1 101 Up|HTTP/1.1 100 Go||Content-Length: 3|Connection: close"
            b"|Transfer-Encoding: chunked|3\r\nabc|Retry-After: 9|Upgrade: x|0\r\n|ffffffffffffffff".split(b"|")
        ).map(lambda line: line + b"\r\n")
        | st.binary(max_size=20),
        max_size=8,
    )
)
def test_whatever_an_endpoint_says_is_an_answer(pieces: list[bytes]) -> None:
    """No bytes of an endpoint bring about an error of the hub, nor hold it up."""

    async def twice() -> None:
        async with listening(ending(b"".join(pieces))) as endpoint, sending() as sender:
            for _ in range(2):
                answer = await sender.send(endpoint.url, {}, BODY)
                assert (answer.status is None) == (answer.kind in ("unreachable", "timeout"))
                assert answer.seconds < 5

    asyncio.run(twice())


async def test_a_reset_is_unreachable() -> None:
    """A connection broken off before the answer is no answer, and is not tried again at once."""
    async with listening(resetting) as endpoint, sending() as sender:
        answer = await sender.send(endpoint.url, {}, BODY)
    assert answer.kind == "unreachable"
    assert "connection" in str(answer.error)
    assert endpoint.connections == 1


async def test_a_closed_port_is_unreachable() -> None:
    """Where nobody listens the reason says so, without the path."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        async with sending() as sender:
            answer = await sender.send(f"http://127.0.0.1:{port}/secret", {}, BODY)
    assert (answer.kind, answer.status) == ("unreachable", None)
    assert answer.error == f"no connection to 127.0.0.1, port {port}: Connection refused"


# Names and addresses.


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://hooks.example/", "https"),
        ("https://10.0.0.1/", "private"),
        ("https://user:geheim@hooks.example/", "user name"),
        ("https://169.254.169.254/", "link-local"),
    ],
)
async def test_a_url_that_may_not_be_called_is_forbidden(url: str, why: str) -> None:
    """A URL that became bad after it was stored is not called, and no name is looked up."""

    async def resolve(host: str, port: int) -> list[str]:
        raise AssertionError

    async with sending(resolve=resolve) as sender:
        answer = await sender.send(url, {}, BODY)
    assert (answer.kind, answer.status) == ("forbidden", None)
    assert why in str(answer.error)
    assert "geheim" not in str(answer.error)


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        ("93.184.216.34", "10.0.0.1"),
        ("10.0.0.1", "93.184.216.34"),
        ("2606:4700::1", "::1"),
        ("::ffff:127.0.0.1",),
        ("64:ff9b::7f00:1",),
        ("fe80::1%lo",),
        ("not an address",),
    ],
)
async def test_a_name_that_leads_inside_is_forbidden(
    addresses: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One inner address among those of a name is enough: none is dialled, and the answer does not tell it."""
    dialled = dialled_addresses(monkeypatch)
    async with sending(resolve=always(*addresses)) as sender:
        answer = await sender.send("https://hooks.example/", {}, BODY)
    assert answer.kind == "forbidden"
    assert not any(address in str(answer.error) for address in addresses)
    assert dialled == []


def dialled_addresses(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The list of what is dialled from now on; nobody answers."""
    dialled: list[tuple[str, int]] = []

    async def refused(protocol: Any, host: str, port: int, **options: Any) -> None:
        dialled.append((host, port))
        raise ConnectionRefusedError(111, "refused")

    monkeypatch.setattr(asyncio.get_running_loop(), "create_connection", refused)
    return dialled


async def test_a_name_that_turns_inside_is_never_dialled_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A resolver that says one thing and then another gains nothing: the judged address itself is dialled."""
    dialled = dialled_addresses(monkeypatch)
    turns = [["93.184.216.34"], ["127.0.0.1"], ["93.184.216.34"], ["169.254.169.254"]]
    asked: list[tuple[str, int]] = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return turns[len(asked) - 1]

    async with sending(resolve=resolve) as sender:
        answers = [await sender.send("https://hooks.example:8443/", {}, BODY) for _ in turns]
    assert [answer.kind for answer in answers] == ["unreachable", "forbidden", "unreachable", "forbidden"]
    assert dialled == [("93.184.216.34", 8443)] * 2
    assert asked == [("hooks.example", 8443)] * 4


async def test_an_address_in_the_url_is_not_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL with an address is dialled there, whatever a resolver would say."""
    dialled = dialled_addresses(monkeypatch)
    async with sending(resolve=always("127.0.0.1")) as sender:
        answer = await sender.send("https://93.184.216.34/", {}, BODY)
    assert answer.kind == "unreachable"
    assert dialled == [("93.184.216.34", 443)]


async def test_the_next_address_of_a_name_is_tried() -> None:
    """Where one address of a name does not take a connection, another does."""
    async with listening(answering(OK)) as endpoint, sending(resolve=always("127.0.0.2", "127.0.0.1")) as sender:
        answer = await sender.send(f"http://{NAME}:{endpoint.port}/", {}, BODY)
    assert answer.kind == "delivered"
    assert endpoint.received[0].headers["host"] == f"{NAME}:{endpoint.port}"


async def test_a_name_without_an_address_is_unreachable() -> None:
    """A name that is not found, or has no address, is named as the reason."""

    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    for resolve in (unknown, always()):
        async with sending(resolve=resolve) as sender:
            answer = await sender.send("https://hooks.example/", {}, BODY)
        assert answer.kind == "unreachable"
        assert "hooks.example" in str(answer.error)


async def test_a_slow_look_up_is_within_the_time() -> None:
    """A name server that does not answer takes no longer than the attempt may."""

    async def never(host: str, port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    async with sending(0.1, resolve=never) as sender:
        answer = await sender.send("https://hooks.example/", {}, BODY)
    assert (answer.kind, answer.error) == ("timeout", "the look-up of the host's name took longer than 0.1 s")


async def test_the_systems_resolver_finds_this_machine() -> None:
    """Without a resolver of the test names are looked up as the system does it."""
    async with listening(answering(OK)) as endpoint, sending(allow=("localhost",)) as sender:
        answer = await sender.send(f"http://localhost:{endpoint.port}/", {}, BODY)
        refused = await sender.send(f"https://localhost.localdomain:{endpoint.port}/", {}, BODY)
    assert answer.kind == "delivered"
    assert refused.kind in ("forbidden", "unreachable")


async def test_one_name_has_one_look_up_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who ask for a name that is being looked up share its answer; one who leaves does not end it."""
    asked, answer = [], threading.Event()

    def slow(host: str, port: int, **options: Any) -> list[Any]:
        asked.append(host)
        answer.wait(10)
        return [(2, 1, 6, "", ("192.0.2.1", port)), (2, 1, 6, "", ("192.0.2.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    look_up = LookUps()
    waiting = [asyncio.create_task(look_up("a.example", 443)) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    await asyncio.sleep(0)
    answer.set()
    assert await asyncio.gather(*waiting[1:]) == [["192.0.2.1"]] * 2
    assert asked == ["a.example"]
    assert await look_up("a.example", 443) == ["192.0.2.1"]
    assert len(asked) == 2


async def test_look_ups_are_bounded_and_failures_reach_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more threads look up than may; those who wait get their turn, and every one its own failure."""
    monkeypatch.setattr("hub.services.guarded_dialling.MAX_LOOK_UPS", 2)
    answer = threading.Event()

    def failing(host: str, port: int, **options: Any) -> list[Any]:
        answer.wait(10)
        if host == "a0.example":
            raise UnicodeError("label too long")
        raise socket.gaierror(-3, f"no {host}")

    monkeypatch.setattr(socket, "getaddrinfo", failing)
    look_up = LookUps()
    waiting = [asyncio.create_task(look_up(f"a{n}.example", 1)) for n in range(6)]
    await asyncio.sleep(0)
    at_work = [thread for thread in threading.enumerate() if thread.name == "look-up"]
    answer.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert len(at_work) == 2
    assert all(isinstance(outcome, OSError) for outcome in outcomes)
    assert "a5.example" in str(outcomes[5])


# TLS.


async def test_an_unknown_certificate_is_named(tmp_path: Path) -> None:
    """A certificate of nobody known ends the attempt before the request goes out."""
    context, _ = certificate(tmp_path, "127.0.0.1")
    async with listening(answering(OK), context) as endpoint, sending() as sender:
        answer = await sender.send(endpoint.url, {}, BODY)
    assert (answer.kind, answer.status) == ("unreachable", None)
    assert answer.error == "the certificate of 127.0.0.1 is not accepted: self-signed certificate"
    assert endpoint.received == []


async def test_the_certificate_is_one_for_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name of the URL, and not the address dialled, must be in a certificate that is trusted."""
    context, file = certificate(tmp_path, NAME)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    async with (
        listening(answering(OK), context) as endpoint,
        sending(allow=(NAME, "other.test"), resolve=always("127.0.0.1")) as sender,
    ):
        good = [await sender.send(f"https://{NAME}:{endpoint.port}/", {}, BODY) for _ in range(2)]
        other = await sender.send(f"https://other.test:{endpoint.port}/", {}, BODY)
        connections = endpoint.connections
        await sender.aclose()
        await endpoint.all_closed.wait()
    assert [answer.kind for answer in good] == ["delivered", "delivered"]
    assert connections == 1
    assert other.kind == "unreachable"
    assert "certificate of other.test is not accepted" in str(other.error)


async def test_an_endpoint_without_tls_is_named() -> None:
    """An endpoint that speaks no TLS, or breaks off or is silent within it, is told apart from one that is away."""

    async def no_tls(caller: Caller) -> None:
        await caller.reader.read(100)
        await caller.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def breaking_off(caller: Caller) -> None:
        await caller.reader.read(100)
        caller.reset()

    for behave, kind in ((no_tls, "unreachable"), (breaking_off, "unreachable"), (Caller.gone, "timeout")):
        async with listening(behave) as endpoint, sending(0.3 if kind == "timeout" else 10) as sender:
            answer = await sender.send(f"https://127.0.0.1:{endpoint.port}/", {}, BODY)
            await endpoint.all_closed.wait()
        assert answer.kind == kind
        assert "TLS" in str(answer.error)


# Connections.


async def test_a_connection_is_used_again() -> None:
    """One after another, webhooks to an endpoint share a connection; at the same time, each has its own."""
    async with listening(answering(OK)) as endpoint, sending() as sender:
        for _ in range(3):
            await sender.send(endpoint.url, {}, BODY)
        assert endpoint.connections == 1
        await asyncio.gather(*(sender.send(endpoint.url, {}, BODY) for _ in range(3)))
        assert endpoint.connections == 3
        await sender.aclose()
        await endpoint.all_closed.wait()


async def test_connection_close_is_kept_to() -> None:
    """An endpoint that wants its connections closed gets a new one each time."""
    closing = response("200 OK", b"", "Connection: close")
    async with listening(answering(closing)) as endpoint, sending() as sender:
        for _ in range(2):
            assert (await sender.send(endpoint.url, {}, BODY)).kind == "delivered"
    assert endpoint.connections == 2


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_a_kept_connection_that_ends_is_not_the_endpoints_failure(end: str) -> None:
    """When a kept connection ends under the request, it goes out once more on a new one."""

    async def behave(caller: Caller) -> None:
        await caller.request()
        await caller.write(OK)
        await caller.request()
        if caller.number > 1:
            await caller.write(OK)
        elif end == "reset":
            caller.reset()

    async with listening(behave) as endpoint, sending() as sender:
        answers = [await sender.send(endpoint.url, {}, BODY) for _ in range(3)]
    assert [answer.kind for answer in answers] == ["delivered"] * 3
    assert endpoint.connections == 2
    assert len(endpoint.received) == 4


async def test_a_request_goes_out_twice_at_most() -> None:
    """If the new connection ends as well, that is the answer."""

    async def behave(caller: Caller) -> None:
        await caller.request()
        if caller.number == 1:
            await caller.write(OK)
            await caller.request()

    async with listening(behave) as endpoint, sending() as sender:
        answers = [await sender.send(endpoint.url, {}, BODY) for _ in range(2)]
    assert [answer.kind for answer in answers] == ["delivered", "unreachable"]
    assert answers[1].error == "the endpoint closed the connection without an answer"
    assert (endpoint.connections, len(endpoint.received)) == (2, 3)


async def test_an_answer_begun_is_not_asked_for_again() -> None:
    """Where a kept connection ends within an answer, the endpoint has had the webhook."""

    async def behave(caller: Caller) -> None:
        await caller.request()
        await caller.write(OK)
        await caller.request()
        await caller.write(b"HTTP/1.1 200 OK\r\n")

    async with listening(behave) as endpoint, sending() as sender:
        answers = [await sender.send(endpoint.url, {}, BODY) for _ in range(2)]
    assert [answer.kind for answer in answers] == ["delivered", "unreachable"]
    assert endpoint.connections == 1


async def test_an_answer_nobody_asked_for_is_not_taken() -> None:
    """Bytes after the end of an answer, at once or later, are not the answer to the next webhook."""
    more = response("500 No", b"not asked for")
    for late, first in ((False, OK), (False, response("200 OK")), (True, OK)):
        read, closed = asyncio.Event(), asyncio.Event()

        async def behave(
            caller: Caller,
            late: bool = late,
            first: bytes = first,
            read: asyncio.Event = read,
            closed: asyncio.Event = closed,
        ) -> None:
            await caller.request()
            await caller.write(first if late else first + more)
            if late and caller.number == 1:
                await read.wait()
                await caller.write(more)
                await caller.gone()
                closed.set()
            await caller.gone()

        async with listening(behave) as endpoint, sending() as sender:
            assert (await sender.send(endpoint.url, {}, BODY)).kind == "delivered"
            if late:
                read.set()
                await closed.wait()
            assert (await sender.send(endpoint.url, {}, BODY)).kind == "delivered"
        assert endpoint.connections == 2


async def test_a_closed_connection_costs_nothing() -> None:
    """Where the endpoint closed a kept connection, the webhook goes out on a new one, and once."""

    async def behave(caller: Caller) -> None:
        await caller.request()
        await caller.write(OK)

    async with listening(behave) as endpoint, sending() as sender:
        for _ in range(3):
            assert (await sender.send(endpoint.url, {}, BODY)).kind == "delivered"
            await endpoint.all_closed.wait()
    assert (endpoint.connections, len(endpoint.received)) == (3, 3)


async def test_idle_connections_are_closed_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is not used for a while is closed, without another webhook that would notice."""
    monkeypatch.setattr(webhook_sender, "KEEP_IDLE_S", 0.05)
    async with listening(answering(OK)) as endpoint, sending() as sender:
        await asyncio.gather(*(sender.send(endpoint.url, {}, BODY) for _ in range(3)))
        assert endpoint.connections == 3
        await endpoint.all_closed.wait()
        assert (await sender.send(endpoint.url, {}, BODY)).kind == "delivered"
    assert endpoint.connections == 4


async def test_only_so_many_connections_are_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all endpoints no more connections are kept than may be; the one unused for longest is closed."""
    monkeypatch.setattr(webhook_sender, "MAX_IDLE", 2)
    async with (
        listening(answering(OK)) as first,
        listening(answering(OK)) as second,
        listening(answering(OK)) as third,
        sending() as sender,
    ):
        for endpoint in (first, second, third):
            await sender.send(endpoint.url, {}, BODY)
        await first.all_closed.wait()
        assert (second.open, third.open) == (1, 1)


async def test_a_cancelled_attempt_leaves_nothing_behind() -> None:
    """Cancellation passes through, and the connection is closed."""
    for beginning in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"):
        asked = asyncio.Event()

        async def behave(caller: Caller, beginning: bytes = beginning, asked: asyncio.Event = asked) -> None:
            await caller.request()
            await caller.write(beginning)
            asked.set()
            await caller.gone()

        async with listening(behave) as endpoint, sending() as sender:
            attempt = asyncio.create_task(sender.send(endpoint.url, {}, BODY))
            await asked.wait()
            attempt.cancel()
            with pytest.raises(asyncio.CancelledError):
                await attempt
            await endpoint.all_closed.wait()


@pytest.mark.parametrize("turns", range(16))
async def test_cancelled_at_any_moment_nothing_is_left(turns: int) -> None:
    """Wherever an attempt is when it is cancelled, no connection stays open but a kept one."""
    async with listening(answering(OK)) as endpoint, sending() as sender:
        for first in (True, False):  # on a new connection, and on a kept one
            if not first:
                await sender.send(endpoint.url, {}, BODY)
            attempt = asyncio.create_task(sender.send(endpoint.url, {}, BODY))
            for _ in range(turns):
                await asyncio.sleep(0)
            attempt.cancel()
            await asyncio.gather(attempt, return_exceptions=True)
        assert (await sender.send(endpoint.url, {}, BODY)).kind == "delivered"
        await sender.aclose()
        await endpoint.all_closed.wait()


async def test_an_attempt_outlives_the_closing_of_the_sender() -> None:
    """An attempt under way when the sender is closed comes to its end, and its connection is not kept."""
    asked, answer = asyncio.Event(), asyncio.Event()

    async def behave(caller: Caller) -> None:
        await caller.request()
        asked.set()
        await answer.wait()
        await caller.write(OK)
        await caller.gone()

    async with listening(behave) as endpoint, sending() as sender:
        attempt = asyncio.create_task(sender.send(endpoint.url, {}, BODY))
        await asked.wait()
        await sender.aclose()
        answer.set()
        assert (await attempt).kind == "delivered"
        await endpoint.all_closed.wait()


async def test_an_endpoint_that_does_not_read_is_left() -> None:
    """An endpoint that never takes the request does not hold the attempt beyond its time."""

    async def behave(caller: Caller) -> None:
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await caller.endpoint.all_closed.wait()

    async with listening(behave) as endpoint, sending(0.3) as sender:
        answer = await sender.send(endpoint.url, {}, b"x" * 20_000_000)
    assert answer.kind == "timeout"


async def test_an_early_answer_counts() -> None:
    """An endpoint that refuses before it has read all is heard."""

    async def behave(caller: Caller) -> None:
        await caller.reader.readuntil(b"\r\n\r\n")
        await caller.write(response("413 Too Large", b"too large", "Connection: close"))
        await caller.gone()

    answer = await post_large(behave)
    assert (answer.status, answer.error) == (413, "HTTP 413: too large")


async def post_large(behave: Behaviour) -> Answer:
    """What comes of a large webhook."""
    async with listening(behave) as endpoint, sending() as sender:
        return await sender.send(endpoint.url, {}, b"x" * 5_000_000)


async def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy would dial what nobody judged."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert (await post(answering(OK))).kind == "delivered"


@pytest.mark.parametrize("headers", [{"webhook-id": "a\r\nb: c"}, {"a b": "c"}, {"Host": "other"}])
async def test_a_wrong_header_of_the_caller_is_the_callers(headers: dict[str, str]) -> None:
    """What cannot be sent as a header is not blamed on the endpoint, which never sees it."""
    async with listening(answering(OK)) as endpoint, sending() as sender:
        with pytest.raises(httpcore.LocalProtocolError):
            await sender.send(endpoint.url, headers, BODY)
    assert endpoint.received == []
