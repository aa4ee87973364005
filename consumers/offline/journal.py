"""The journal beside the local database: every item once more, for the day the database cannot be read.

One line a fact, `<CRC-32, 8 hex digits> <JSON>`: a cut or zeroed part loses the lines that it hits and no others. An
item's line is on disk before its transaction commits, and a `done` line follows after: an item with neither that nor a
row in the database was never acknowledged to anybody. `out` and `discarded` lines tell what need not be sent any more,
`void` ones what was never kept.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson

REWRITE_LINES: Final = 1000
"""How many lines beyond twice what is needed the journal may have before it is written anew."""
_IDLE_LINES: Final = 100
_MARKS: Final = ("done", "out", "discarded", "void")


def journal_path(path: Path) -> Path:
    """Where the journal of a database lies."""
    return path.with_name(path.name + ".journal")


@dataclass(slots=True)
class JournalRead:
    """What a journal says. `items` by uuid, as JSON; `bad` is how many lines cannot be read."""

    desk: dict[str, Any] | None = None
    items: dict[str, dict[str, Any]] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    out: set[str] = field(default_factory=set)
    discarded: set[str] = field(default_factory=set)
    void: set[str] = field(default_factory=set)
    lines: int = 0
    bad: int = 0

    @property
    def kept(self) -> set[str]:
        """The uuids that were committed and may have to be sent."""
        return self.done - self.out - self.discarded


def read_journal(path: Path) -> JournalRead | None:
    """Read a journal, damaged or not; None when there is none.

    Raises:
        OSError: it cannot be read at all.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    found = JournalRead()
    for line in content.split(b"\n"):
        if not line:
            continue
        found.lines += 1
        fact = _fact(line)
        if fact is None:
            found.bad += 1
        elif fact.get("k") == "item":
            found.items[fact["item"]["uuid"]] = fact["item"]
        elif fact.get("k") == "desk":
            found.desk = fact
        elif fact.get("k") in _MARKS:
            getattr(found, fact["k"]).update(fact["uuids"])
    return found


def _fact(line: bytes) -> dict[str, Any] | None:
    if line[8:9] != b" " or line[:8] != b"%08x" % zlib.crc32(line[9:]):
        return None
    try:
        fact = orjson.loads(line[9:])
    except orjson.JSONDecodeError:
        return None
    return fact if isinstance(fact, dict) else None


def _line(text: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _marks(kind: str, uuids: Iterable[str]) -> bytes:
    return _line(orjson.dumps({"k": kind, "uuids": list(uuids)}))


def item_line(item: bytes) -> bytes:
    """The line of an item, given its JSON."""
    return _line(b'{"k":"item","item":%s}' % item)


class Journal:
    """A journal that is being written. One writer; not thread-safe."""

    def __init__(self, path: Path, desk: dict[str, Any], lines: int) -> None:
        """Go on with a journal that has so many lines; or begin one, when there is none. `desk` is who writes it.

        Raises:
            OSError: it cannot be opened or written.
        """
        self._path = path
        self.desk = desk
        """Who writes it, as the next `rewrite` says."""
        self.lines = lines
        self._late: list[bytes] = []
        """Marks that could not be written: they go with the next lines."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._end = os.fstat(self._fd).st_size
        try:
            if self._end and os.pread(self._fd, 1, self._end - 1) != b"\n":
                # A line was cut off by a crash; the next one must not become a part of it.
                self._write(b"\n")
            if not lines:
                self.rewrite(desk.get("sequence", 0), ())
        except OSError:
            os.close(self._fd)
            raise

    def begin(self, items: Sequence[bytes]) -> int:
        """Put items on disk before their transaction commits. The place to `undo` to.

        Raises:
            OSError: it cannot; nothing of it stays.
        """
        self._catch_up()
        place = self._end
        try:
            self._write(b"".join(map(item_line, items)))
        except OSError:
            self.undo(place)
            raise
        self.lines += len(items)
        return place

    def undo(self, place: int) -> None:
        """Take back what was written behind a place: its transaction did not commit."""
        self._end = place
        # Where even that fails: the lines have no `done`, and the next ones go over them.
        with suppress(OSError):
            os.ftruncate(self._fd, place)

    def mark(self, kind: str, uuids: Sequence[str]) -> None:
        """Note what became of items: `done`, `out`, `discarded` or `void`.

        Never fails: what cannot be written now goes with the next lines.
        """
        if not uuids:
            return
        self._late.append(_marks(kind, uuids))
        with suppress(OSError):
            self._catch_up()

    def outgrown(self, needed: int) -> bool:
        """Whether it is time to `rewrite`, when so many items are not settled."""
        return self.lines > (2 * needed + REWRITE_LINES if needed else _IDLE_LINES)

    def rewrite(self, sequence: int, items: Sequence[tuple[str, bytes]]) -> None:
        """Begin anew with the items (uuid, JSON) that are not settled. A crash leaves the old journal or the new one.

        Raises:
            OSError: it cannot; the old one is still in use.
        """
        beside = self._path.with_name(self._path.name + ".new")
        head = _line(orjson.dumps({**self.desk, "k": "desk", "sequence": sequence}))
        lines = [head, *(item_line(item) for _, item in items)]
        if items:
            lines.append(_marks("done", (uuid for uuid, _ in items)))
        try:
            fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                end = _write_all(fd, b"".join(lines), 0)
                os.replace(beside, self._path)
            except OSError:
                os.close(fd)
                raise
        except OSError:
            beside.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd, self._end, self.lines, self._late = fd, end, len(lines), []
        sync_directory(self._path.parent)

    def close(self) -> None:
        """Release the file. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _catch_up(self) -> None:
        place = self._end
        try:
            self._write(b"".join(self._late))
        except OSError:
            self.undo(place)
            raise
        self.lines += len(self._late)
        self._late = []

    def _write(self, content: bytes) -> None:
        if not content:
            return
        self._end = _write_all(self._fd, content, self._end)


def _write_all(fd: int, content: bytes, at: int) -> int:
    view = memoryview(content)
    while view:
        written = os.pwrite(fd, view, at)
        view, at = view[written:], at + written
    os.fsync(fd)
    return at


def sync_directory(directory: Path) -> None:
    """Have the names in a directory on disk."""
    fd = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
