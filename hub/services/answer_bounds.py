"""How much of an endpoint's answer is given to the parser of HTTP.

The parser costs by the line and not by the byte: 64 KiB of the shortest lines take it a hundred times as long as a
plain answer. So lines are counted, which costs next to nothing, before it gets them.
"""

from __future__ import annotations

import re
from typing import Final

import httpcore

MAX_ANSWER_BYTES: Final = 64 * 1024
"""An answer, its head included, is read no further."""
MAX_HEAD_BYTES: Final = 16 * 1024
"""Of the head and the informational answers before it, together."""
MAX_HEAD_LINES: Final = 256
"""Likewise. Clients in use give up at 100 headers."""
MAX_INFORMATIONAL: Final = 8
"""Answers such as 100 Continue and 103 Early Hints that may come before the one that counts."""
MAX_TRAILER_LINES: Final = 256
"""Headers after a body in chunks; hardly anybody sends one."""
READ_BYTES: Final = 8 * 1024
"""So much is parsed at a time; then it is others' turn."""
MAX_PIECES: Final = 256
"""Pieces an answer may come in: each costs a turn of the loop, were it one byte."""

# As the parser finds them: the line that ends a head, and the size of the chunk that ends a body.
_HEAD_END: Final = re.compile(rb"\n\r?\n")
_LAST_CHUNK: Final = re.compile(rb"\r\n0{1,20}[; \t\r]")
_LAST_CHUNK_BYTES: Final = 2 + 20 + 1


class AnswerBounds:
    """Takes one answer piece by piece from what came.

    A piece goes no further than the end of a head, informational or not. So whatever is taken after one, while the
    caller has not said `head_read`, follows an informational answer; and lines of the body are not taken for headers.
    """

    __slots__ = ("_chunked", "_heads", "_in_head", "_lines", "_pieces", "_tail", "_trailing", "received")

    def __init__(self) -> None:
        self.received = 0
        """Bytes taken."""
        self._in_head = True
        self._heads = 0
        self._lines = 0
        self._pieces = 0
        self._chunked = False
        self._trailing = False
        # The last bytes taken, as long as they may be the beginning of what is looked for.
        self._tail = b""

    def head_read(self, chunked: bool) -> None:
        """The head is complete; the body follows, in chunks or not."""
        self._in_head = False
        self._chunked = chunked
        self._lines = 0
        self._tail = b"\r\n"

    def take(self, came: bytearray, max_bytes: int) -> bytes:
        """The next piece, removed from the beginning of what came.

        Raises:
            httpcore.ReadError: the answer is not read further; the text says why.
        """
        piece = bytes(came[: min(max_bytes, READ_BYTES)])
        if self._in_head:
            piece = self._to_head_end(piece)
        del came[: len(piece)]
        self.received += len(piece)
        if self._in_head:
            self._count_head(piece)
        elif self._chunked:
            self._count_trailers(piece)
        self._pieces += 1
        if self._pieces > MAX_PIECES:
            raise httpcore.ReadError(f"the answer comes in too many pieces: more than {MAX_PIECES}")
        if self.received > MAX_ANSWER_BYTES:
            raise httpcore.ReadError(f"the answer is larger than {MAX_ANSWER_BYTES // 1024} KiB")
        return piece

    def _to_head_end(self, piece: bytes) -> bytes:
        if self._heads > MAX_INFORMATIONAL:
            raise httpcore.ReadError(f"the answer begins with more than {MAX_INFORMATIONAL} informational ones (1xx)")
        seen, before = self._tail + piece, len(self._tail)
        end = _HEAD_END.search(seen)
        if end is None:
            self._tail = seen[-2:]
            return piece
        self._tail = b""
        self._heads += 1
        return seen[before : end.end()]

    def _count_head(self, piece: bytes) -> None:
        self._lines += piece.count(b"\n")
        if self._lines > MAX_HEAD_LINES:
            raise httpcore.ReadError(f"the answer's head has too many lines: more than {MAX_HEAD_LINES}")
        if self.received > MAX_HEAD_BYTES:
            raise httpcore.ReadError(f"the answer's head is larger than {MAX_HEAD_BYTES // 1024} KiB")

    def _count_trailers(self, piece: bytes) -> None:
        """Text in a chunk may look like the last chunk; then a body of many lines may be left, which does no harm."""
        if not self._trailing:
            seen = self._tail + piece
            last = _LAST_CHUNK.search(seen)
            if last is None:
                self._tail = seen[1 - _LAST_CHUNK_BYTES :]
                return
            self._trailing = True
            piece = seen[last.end() :]
        self._lines += piece.count(b"\n")
        if self._lines > MAX_TRAILER_LINES:
            raise httpcore.ReadError(f"the answer has too many trailers: more than {MAX_TRAILER_LINES} lines")
