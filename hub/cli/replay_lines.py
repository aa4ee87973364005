"""The lines of an export on their way into a file or to stdout: bytes as they come, by the megabyte."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

import httpx
import orjson

from hub.cli.failure import CommandError
from hub.cli.remote import Remote

_CURSOR: Final = slice(11, 62)
"""Where a line's cursor stands in it: every line begins with `{"cursor":"`."""
_TENANT: Final = slice(20, 28)
"""Where the tenant's mark stands in the cursor."""
_BEGIN: Final = b'{"cursor":"'
_END: Final = b'{"end":true'


class Lines:
    """What came of an export: how many events, and how far each tenant's go."""

    def __init__(self, after: str) -> None:
        self.events = 0
        self.whole = False
        """Whether the line came that says that it was all."""
        self.skipped = 0
        """Entries that the hub could not read and left out."""
        self._rest = b""
        self._last = {part[9:17].encode(): part.encode() for part in after.split(".") if len(part) == 51}

    @property
    def after(self) -> str:
        """The cursor that the rest follows."""
        return b".".join(self._last.values()).decode()

    def take(self, chunk: bytes) -> bytes:
        """The whole lines there are now; what is left waits for the next chunk."""
        text = self._rest + chunk
        cut = text.rfind(b"\n") + 1
        self._rest = text[cut:]
        return text[:cut]

    def written(self, text: bytes) -> None:
        """These whole lines are where they should be."""
        last = self._last
        lines = text.split(b"\n")
        lines.pop()
        if lines and lines[-1].startswith(_END):
            end = orjson.loads(lines.pop())
            self.whole, self.skipped = end["events"] == self.events + len(lines), end.get("skipped", 0)
        for line in lines:
            last[line[_TENANT]] = line[_CURSOR]
        self.events += len(lines)


async def export(
    remote: Remote,
    asked: Mapping[str, Any],
    lines: Lines,
    file: Path | None,
    append: bool,
    shown: Callable[[], None],
) -> None:
    """Fetch an export and write it.

    Raises:
        CommandError: the hub refused it, it was cut short, it cannot be written, or the hub could not read all of it.
            `lines` says how far it came.
    """
    names = {"tenants": "tenant", "entities": "entity"}
    query = {names.get(name, name): value for name, value in asked.items()}
    async with aclosing(remote.stream("replays/export", **query)) as chunks:
        # What the hub refuses leaves no file behind.
        first = await anext(chunks, b"")
        with _opened(file, append) as output:
            try:
                _write(output, lines, first)
                with suppress(httpx.RequestError):  # what came says that it was not all
                    async for chunk in chunks:
                        _write(output, lines, chunk)
                        shown()
                output.flush()
                if file is not None:
                    os.fsync(output.fileno())
            except BrokenPipeError:
                raise
            except OSError as error:
                raise CommandError(f"{file or 'stdout'} cannot be written: {error.strerror}") from error
    if not lines.whole:
        fix = "Continue it as the line above says" if lines.after else "Run it again"
        raise CommandError(f"the export was cut short after {lines.events} events", fix)
    if lines.skipped:
        raise incomplete(lines.skipped)


def incomplete(skipped: int) -> CommandError:
    """What is said of an export that came to its end without some of its events."""
    return CommandError(
        f"{skipped} events cannot be read and were left out", "`hub store verify` says which are damaged"
    )


class Held:
    """What an export's file holds: where the rest of it begins, and whether it has its end line."""

    def __init__(self, file: Path) -> None:
        """Reads all of it, since each tenant's last event may lie anywhere.

        Raises:
            CommandError: it cannot be read, or is not the file of an export.
        """
        self.end: dict[str, Any] | None = None
        """The end line, where it is the last."""
        self._last: dict[bytes, bytes] = {}
        try:
            with file.open("rb") as lines:
                for line in lines:
                    if line.endswith(b"\n"):
                        self._take(line)
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise CommandError(f"{file} is not the file of an export", "Name another file") from error

    def _take(self, line: bytes) -> None:
        self.end = None
        if line.startswith(_END):
            self.end = orjson.loads(line)
            for part in (self.end["cursor"] or "").encode().split(b"."):
                self._last[part[9:17]] = part
        elif line.startswith(_BEGIN):
            self._last[line[_TENANT]] = line[_CURSOR]
        else:
            raise ValueError("a line of something else")

    @property
    def after(self) -> str:
        """The cursor that the rest follows; empty where there is nothing yet."""
        return b".".join(part for part in self._last.values() if part).decode()


def _write(output: BinaryIO, lines: Lines, chunk: bytes) -> None:
    text = lines.take(chunk)
    if text:
        output.write(text)
        lines.written(text)


@contextmanager
def _opened(file: Path | None, append: bool) -> Iterator[BinaryIO]:
    if file is None:
        yield sys.stdout.buffer
        return
    try:
        # Guests' names stand in it: it is its owner's alone.
        output = file.open("r+b") if append and file.exists() else open(file, "xb", opener=_private)  # noqa: SIM115
    except OSError as error:
        raise CommandError(f"{file} cannot be written: {error.strerror}") from error
    try:
        _to_last_line(output)
        yield output
    finally:
        with suppress(OSError):  # what matters was flushed before, or has failed already
            output.close()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _to_last_line(output: BinaryIO) -> None:
    """Cut off what follows the last whole line (a disk that was full may have taken half of one), and end lines: what
    comes now stands before the end."""
    end = _line_end(output, output.seek(0, os.SEEK_END))
    while end:
        start = _line_end(output, end - 1)
        output.seek(start)
        if output.read(len(_END)) != _END:
            break
        end = start
    output.seek(end)
    output.truncate()


def _line_end(output: BinaryIO, before: int) -> int:
    """Where the last whole line up to a place ends."""
    while before:
        start = max(0, before - 65_536)
        output.seek(start)
        cut = output.read(before - start).rfind(b"\n") + 1
        if cut:
            return start + cut
        before = start
    return 0
