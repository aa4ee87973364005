"""What of an answer is given to the parser of HTTP, beside the parser itself."""

from __future__ import annotations

import h11
import httpcore
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hub.services.answer_bounds import (
    MAX_ANSWER_BYTES,
    MAX_HEAD_BYTES,
    MAX_HEAD_LINES,
    MAX_INFORMATIONAL,
    MAX_PIECES,
    MAX_TRAILER_LINES,
    READ_BYTES,
    AnswerBounds,
)

HEAD = b"HTTP/1.1 200 OK\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def taken(answer: bytes, bounds: AnswerBounds, size: int = READ_BYTES) -> list[bytes]:
    """All pieces of what came at once."""
    came, pieces = bytearray(answer), []
    while came:
        pieces.append(bounds.take(came, size))
    return pieces


def in_body(chunked: bool) -> AnswerBounds:
    """Bounds after a head."""
    bounds = AnswerBounds()
    taken(HEAD + b"\r\n", bounds)
    bounds.head_read(chunked)
    return bounds


def test_each_head_is_a_piece_of_its_own() -> None:
    """A piece ends where a head does, so that lines after it can be told apart from headers."""
    came = bytearray(CONTINUE + HEAD + b"\r\n" + b"x\n" * 9000)
    bounds = AnswerBounds()
    assert bounds.take(came, 65536) == CONTINUE
    assert bounds.take(came, 65536) == HEAD + b"\r\n"
    bounds.head_read(chunked=False)
    assert len(bounds.take(came, 65536)) == READ_BYTES
    assert len(bounds.take(came, 100)) == 100
    assert bounds.received == len(CONTINUE + HEAD) + 2 + READ_BYTES + 100


@pytest.mark.parametrize("size", [300, READ_BYTES])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_head_may_have_so_many_lines(end: bytes, size: int) -> None:
    """The last line a head may have is given on, one more is not; they count over all heads of an answer."""
    first = b"HTTP/1.1 100 Continue" + end + end
    fitting = first + b"HTTP/1.1 200 OK" + end + (b"a:" + end) * (MAX_HEAD_LINES - 4) + end
    assert b"".join(taken(fitting, AnswerBounds(), size)) == fitting
    with pytest.raises(httpcore.ReadError, match="head has too many lines: more than 256"):
        taken(fitting.removesuffix(end) + b"a:" + end + end, AnswerBounds(), size)


def test_a_head_may_be_so_large() -> None:
    """The bytes of a head are counted, and not those of the body after it."""
    start = HEAD + b"a: "
    fitting = start + b"x" * (MAX_HEAD_BYTES - len(start) - 4) + b"\r\n\r\n"
    bounds = AnswerBounds()
    assert b"".join(taken(fitting, bounds)) == fitting
    bounds.head_read(chunked=False)
    taken(b"x" * (MAX_ANSWER_BYTES - MAX_HEAD_BYTES), bounds)
    with pytest.raises(httpcore.ReadError, match="answer is larger than 64 KiB"):
        taken(b"x", bounds)
    with pytest.raises(httpcore.ReadError, match="head is larger than 16 KiB"):
        taken(fitting[:-4] + b"x\r\n\r\n", AnswerBounds())


def test_so_many_informational_answers_may_come() -> None:
    """After the last that may come, only the answer itself is given on."""
    bounds = AnswerBounds()
    taken(CONTINUE * MAX_INFORMATIONAL + HEAD + b"\r\n", bounds)
    bounds.head_read(chunked=False)
    taken(b"body", bounds)
    bounds = AnswerBounds()
    taken(CONTINUE * (MAX_INFORMATIONAL + 1), bounds)
    with pytest.raises(httpcore.ReadError, match="more than 8 informational"):
        taken(HEAD, bounds)


def test_an_answer_may_come_in_so_many_pieces() -> None:
    """An answer in crumbs is left: each takes a turn of the loop."""
    bounds = AnswerBounds()
    taken(b"x" * MAX_PIECES, bounds, 1)
    with pytest.raises(httpcore.ReadError, match="too many pieces"):
        taken(b"x", bounds, 1)


@pytest.mark.parametrize("size", [20, 23, 100, READ_BYTES])
@pytest.mark.parametrize("before", [b"", b"5\r\n0\r\n0;\r\n", b"3;x=y\r\nabc\r\n"])
@pytest.mark.parametrize("last", [b"0\r\n", b"0" * 20 + b"\r\n", b"0;a=b\r\n", b"0 \r\n", b"0\t\r\n"])
def test_a_body_may_have_so_many_trailers(last: bytes, before: bytes, size: int) -> None:
    """However the last chunk is written and comes, the lines after it are counted."""
    for lines in (MAX_TRAILER_LINES - 10, MAX_TRAILER_LINES + 1):
        answer = before + last + b"a:\n" * lines + b"\n"
        if lines < MAX_TRAILER_LINES:
            taken(answer, in_body(chunked=True), size)
        else:
            with pytest.raises(httpcore.ReadError, match="too many trailers"):
                taken(answer, in_body(chunked=True), size)


def test_lines_of_a_body_are_not_counted() -> None:
    """A body of many lines is one like others, even with some that begin with nought."""
    text = b"a\r\n\r\n007\r\n0,1\r\n0x\r\n" * 2000
    assert b"".join(taken(text, in_body(chunked=False))) == text
    assert b"".join(taken(text, in_body(chunked=True))) == text
    text = b"\r\n0\r\n" * 5000
    assert b"".join(taken(text, in_body(chunked=False))) == text


@given(
    st.lists(
        st.sampled_from(
            [b"HTTP/1.1 100 Go\r\n", b"HTTP/1.1 200 OK\n", b"a: b\r\n", b" c\n", b"\r\n", b"\n", b"\r", b"x\r", b"\n\r"]
        ),
        max_size=12,
    ),
    st.integers(1, 30),
)
def test_a_head_ends_where_the_parser_finds_its_end(parts: list[bytes], size: int) -> None:
    """Nothing is lost, and the parser is never given bytes beyond the head it reads."""
    answer = b"".join(parts)
    came, bounds, parser = bytearray(answer), AnswerBounds(), h11.Connection(h11.CLIENT)
    parser.send(h11.Request(method="POST", target="/", headers=[("Host", "x"), ("Content-Length", "0")]))
    parser.send(h11.EndOfMessage())
    given = b""
    while came:
        piece = bounds.take(came, size)
        given += piece
        parser.receive_data(piece)
        try:
            event = parser.next_event()
        except h11.RemoteProtocolError:
            return
        if event is not h11.NEED_DATA:
            assert parser.trailing_data[0] == b""
        if isinstance(event, h11.Response):
            break
    assert given + bytes(came) == answer
