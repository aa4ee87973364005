"""Frames written by hand, read back by a WebSocket client's parser."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from hub.core import wire


def read(data: bytes, *, deflate: bool = False, pieces: int = 0) -> list[str]:
    """The texts a client finds in `data`; fails on anything but whole text frames."""
    client = ClientProtocol(parse_uri("ws://hub/ws"), state=State.OPEN, max_size=None)
    if deflate:
        client.extensions = [PerMessageDeflate(True, True, 15, 15)]
    step = pieces or max(1, len(data))
    for start in range(0, len(data), step):
        client.receive_data(data[start : start + step])
    assert client.parser_exc is None
    found = []
    for frame in client.events_received():
        assert isinstance(frame, Frame)
        assert frame.opcode is Opcode.TEXT
        assert frame.fin
        found.append(bytes(frame.data).decode())
    return found


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70000])
def test_every_length_form_is_read(size: int) -> None:
    """Short, 16-bit and 64-bit lengths on both sides of their limits."""
    text = "x" * size
    assert read(wire.text_frame(text.encode())) == [text]
    assert read(wire.deflated_frame(text.encode()), deflate=True) == [text]


@given(st.lists(st.text(max_size=300), max_size=8), st.lists(st.booleans(), min_size=8, max_size=8), st.integers(0, 7))
def test_frames_joined_are_frames_still(texts: list[str], deflated: list[bool], pieces: int) -> None:
    """Compressed and plain frames in one buffer are read one by one, however the buffer is torn on its way."""
    buffer = b"".join(
        wire.deflated_frame(text.encode()) if packed else wire.text_frame(text.encode())
        for text, packed in zip(texts, deflated, strict=False)
    )
    assert read(buffer, deflate=True, pieces=pieces) == texts


def test_a_compressed_frame_needs_no_other() -> None:
    """Each message is compressed by itself, so any member of a group can read it first; repeats are the same bytes."""
    payload = orjson.dumps({"op": "event", "event": {"data": "abc" * 200}})
    frame = wire.deflated_frame(payload)
    assert frame == wire.deflated_frame(payload)
    assert len(frame) < len(payload) / 3
    assert read(frame + frame, deflate=True) == [payload.decode()] * 2


@given(st.integers(0, 10**15), st.dictionaries(st.text(max_size=5), st.integers(-(10**15), 10**15) | st.text()))
def test_an_event_message_is_the_frame(sequence: int, event: dict[str, object]) -> None:
    """The joined bytes are the JSON of an `event` frame, `op` first."""
    made = wire.event_message("1abc", sequence, orjson.dumps(event))
    assert orjson.loads(made) == {"op": "event", "cursor": "1abc", "sequence": sequence, "event": event}
    assert made.startswith(b'{"op":"event"')


def test_other_messages_have_their_op_first() -> None:
    """`message` frames its fields in order."""
    (text,) = read(wire.message(op="gap", id="s-1", tenant_id="naha"))
    assert text == '{"op":"gap","id":"s-1","tenant_id":"naha"}'
