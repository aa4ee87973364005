"""Rows out of SQLite's pages, where SQLite itself cannot read its file any more. Pure: bytes in, rows out.

A table's rows lie in leaf pages that can be read without the tree above them (https://sqlite.org/fileformat2.html,
sections 1.5, 1.6, 2.1 and 4). What is not whole is left out: a row is given as it was written, or not at all.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from typing import Final, NamedTuple

Value = int | float | str | bytes | None
Row = tuple[Value, ...]

_LEAF: Final = 13
_FILE_HEADER: Final = 100
_WAL_HEADER: Final = 32
_FRAME_HEADER: Final = 24
_MAX_PAYLOAD: Final = 64 * 1024 * 1024
_WIDTHS: Final = (0, 1, 2, 3, 4, 6, 8)
_FALLBACK: Final = 4096


class Frame(NamedTuple):
    """One page in the write-ahead log."""

    page: int
    commit: bool
    salts: bytes
    content: bytes


class Pages:
    """All versions of a file's pages: as its write-ahead log leaves them, and those before."""

    def __init__(self, file: bytes, wal: bytes) -> None:
        self.size = _page_size(file, wal)
        count = len(file) // self.size
        self._file = {number + 1: file[number * self.size : (number + 1) * self.size] for number in range(count)}
        self._frames = committed(wal, self.size)
        self._newest = self._file | {frame.page: frame.content for frame in self._frames}

    def rows(self, columns: int) -> Iterator[tuple[int, Row]]:
        """The rows that have so many columns, by rowid; the newest version of a row comes first."""
        for number, content in self._newest.items():
            yield from self._page_rows(number, content, columns)
        for frame in reversed(self._frames):
            yield from self._page_rows(frame.page, frame.content, columns)
        for number, content in self._file.items():
            if content is not self._newest[number]:
                yield from self._page_rows(number, content, columns)

    def _page_rows(self, number: int, content: bytes, columns: int) -> Iterator[tuple[int, Row]]:
        at = _FILE_HEADER if number == 1 else 0
        if content[at] != _LEAF:
            return
        cells = int.from_bytes(content[at + 3 : at + 5], "big")
        for place in range(at + 8, min(at + 8 + 2 * cells, self.size - 1), 2):
            try:
                rowid, payload = self._cell(content, int.from_bytes(content[place : place + 2], "big"))
                row = _row(payload, columns)
            except (IndexError, KeyError, ValueError, struct.error):
                continue
            if row is not None:
                yield rowid, row

    def _cell(self, content: bytes, at: int) -> tuple[int, bytes]:
        if at < 8:
            raise ValueError("no cell")
        length, at = _varint(content, at)
        rowid, at = _varint(content, at)
        if not 0 < length <= _MAX_PAYLOAD:
            raise ValueError("no payload")
        longest = self.size - 35
        if length <= longest:
            return rowid, content[at : at + length]
        least = (self.size - 12) * 32 // 255 - 23
        local = least + (length - least) % (self.size - 4)
        local = local if local <= longest else least
        payload = bytearray(content[at : at + local])
        further = int.from_bytes(content[at + local : at + local + 4], "big")
        while len(payload) < length:
            page = self._newest[further]
            payload += page[4 : 4 + length - len(payload)]
            further = int.from_bytes(page[:4], "big")
        return rowid, bytes(payload)


def committed(wal: bytes, size: int) -> list[Frame]:
    """The frames of a write-ahead log whose transactions were committed, oldest first.

    Frames are good up to the last commit that the chain of checksums reaches. Where the chain breaks in the middle,
    what lies behind the break counts if a commit follows it.
    """
    step = _FRAME_HEADER + size
    frames: list[Frame] = []
    for at in range(_WAL_HEADER, len(wal) - step + 1, step):
        page, pages_after = struct.unpack_from(">II", wal, at)
        frames.append(Frame(page, pages_after > 0, wal[at + 8 : at + 16], wal[at + _FRAME_HEADER : at + step]))
    salts = wal[16:24]
    if not any(salts):
        # The header is gone. Frames of before the last checkpoint may lie behind those of after it.
        seen = Counter(frame.salts for frame in frames if any(frame.salts))
        salts = max(seen, default=b"", key=lambda salt: (salt[:4], seen[salt]))
    sound = _unbroken(wal, frames, step)
    ours = [
        frame
        for number, frame in enumerate(frames)
        if frame.salts == salts and frame.page > 0 and (number < sound or number > sound)
    ]
    while ours and not ours[-1].commit:
        ours.pop()
    return ours


def _unbroken(wal: bytes, frames: list[Frame], step: int) -> int:
    """How many frames the chain of checksums reaches."""
    if len(wal) < _WAL_HEADER:
        return 0
    order = ">" if int.from_bytes(wal[:4], "big") & 1 else "<"
    sums = _sums(wal[:24], order, (0, 0))
    if sums != struct.unpack_from(">II", wal, 24):
        return 0
    for number, frame in enumerate(frames):
        at = _WAL_HEADER + number * step
        sums = _sums(frame.content, order, _sums(wal[at : at + 8], order, sums))
        if frame.salts != wal[16:24] or sums != struct.unpack_from(">II", wal, at + 16):
            return number
    return len(frames)


def _sums(content: bytes, order: str, sums: tuple[int, int]) -> tuple[int, int]:
    one, two = sums
    for first, second in struct.iter_unpack(f"{order}II", content):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two


def _page_size(file: bytes, wal: bytes) -> int:
    for size in (
        int.from_bytes(file[16:18], "big") if file.startswith(b"SQLite format 3") else 0,
        int.from_bytes(wal[8:12], "big"),
    ):
        if size == 1:
            return 65536
        if 512 <= size <= 65536 and size & (size - 1) == 0:
            return size
    return _FALLBACK


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(at, at + 8):
        byte = content[place]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + 1
    return value << 8 | content[at + 8], at + 9


def _row(payload: bytes, columns: int) -> Row | None:
    """The values of a record; None when it has another number of columns.

    Raises:
        ValueError, IndexError: it is not a record, or not whole.
    """
    end, at = _varint(payload, 0)
    kinds = []
    while at < end:
        kind, at = _varint(payload, at)
        kinds.append(kind)
    if len(kinds) != columns or at != end:
        return None
    values: list[Value] = []
    for kind in kinds:
        value, at = _value(payload, at, kind)
        values.append(value)
    if at != len(payload):
        raise ValueError("not whole")
    return tuple(values)


def _value(payload: bytes, at: int, kind: int) -> tuple[Value, int]:
    if kind == 0:
        return None, at
    if kind in (8, 9):
        return kind - 8, at
    if kind in (10, 11):
        raise ValueError("no such kind of value")
    width = _WIDTHS[kind] if kind < 7 else 8 if kind == 7 else (kind - 12) // 2
    raw = payload[at : at + width]
    if len(raw) != width:
        raise ValueError("not whole")
    if kind < 7:
        return int.from_bytes(raw, "big", signed=True), at + width
    if kind == 7:
        return struct.unpack(">d", raw)[0], at + width
    return (raw.decode() if kind & 1 else raw), at + width
