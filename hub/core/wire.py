"""Server frames as bytes (RFC 6455 §5.2): unmasked, one frame a message, to be written to any socket."""

from __future__ import annotations

import struct
import zlib
from typing import Any, Final

import orjson

_TEXT: Final = 0x81
_TEXT_DEFLATED: Final = 0xC1
_TAIL: Final = b"\x00\x00\xff\xff"
BASE_BYTES: Final = 32
"""No less than what `base_revision` adds to an event's message."""


def text_frame(payload: bytes, first: int = _TEXT) -> bytes:
    """A text message in one frame."""
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return struct.pack("!BBH", first, 126, size) + payload
    return struct.pack("!BBQ", first, 127, size) + payload


def deflated_frame(payload: bytes) -> bytes:
    """A text message compressed by itself (RFC 7692 with server_no_context_takeover), so that connections share it."""
    squeezer = zlib.compressobj(1, zlib.DEFLATED, -15)
    packed = squeezer.compress(payload) + squeezer.flush(zlib.Z_SYNC_FLUSH)
    return text_frame(packed.removesuffix(_TAIL), _TEXT_DEFLATED)


def framed(payload: bytes, codec: str) -> bytes:
    """A text message as connections of this codec read it."""
    return deflated_frame(payload) if codec == "deflate" else text_frame(payload)


def event_message(cursor: str, sequence: int, event: bytes, base_revision: int | None = None) -> bytes:
    """The `event` frame's JSON around an envelope that is JSON already."""
    if base_revision is None:
        return b'{"op":"event","cursor":"%b","sequence":%d,"event":%b}' % (cursor.encode(), sequence, event)
    return b'{"op":"event","cursor":"%b","sequence":%d,"base_revision":%d,"event":%b}' % (
        cursor.encode(),
        sequence,
        base_revision,
        event,
    )


def message(**fields: Any) -> bytes:
    """Any other server frame, framed."""
    return text_frame(orjson.dumps(fields))
