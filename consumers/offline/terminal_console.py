"""How the desk's terminal program reads and prints: for people on a terminal, and plainly for scripts and files.

What records say is cleaned of control characters before it reaches a terminal.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import termios
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal, NamedTuple, TextIO

import orjson

from consumers.errors import ConsumerError
from consumers.offline.status import Text

Language = Literal["ja", "en"]
LANGUAGES: Final[tuple[Language, ...]] = ("ja", "en")

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_LINE_BYTES: Final = 64 * 1024


class Column(NamedTuple):
    """A column of a list: the name of its field, and its title."""

    field: str
    title: Text
    right: bool = False


def clean(value: Any) -> str:
    """A value as one line of text without control characters; None as nothing."""
    return "" if value is None else _CONTROL.sub("\ufffd", str(value))


class LineTooLong(ConsumerError, ValueError):
    """More was typed, or piped in, than a line can be; it is passed over as a whole."""


class Lines:
    """Lines from a file descriptor, one at a time. A line that nobody waits for any more is the next one's.

    Read by `os.read` on a thread that nobody joins: standard input cannot be told to stop, and must not hold up an end.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._rest = b""
        self._ended = False
        self._too_long = False
        self._coming: asyncio.Future[bytes] | None = None

    async def next(self) -> str:
        """The next line, without its end. Cancellation-safe.

        Raises:
            EOFError: there is none.
            LineTooLong: it is longer than a line can be.
        """
        while (end := self._rest.find(b"\n")) < 0 and not self._ended:
            if len(self._rest) > _LINE_BYTES:
                self._rest, self._too_long = b"", True
            if self._coming is None:
                self._coming = asyncio.get_running_loop().create_future()
                threading.Thread(target=self._read, args=(self._coming,), daemon=True).start()
            piece = await asyncio.shield(self._coming)
            self._coming = None
            self._ended = not piece
            self._rest += piece
        if end < 0:
            if not self._rest and not self._too_long:
                raise EOFError
            end = len(self._rest)
        line, self._rest = self._rest[:end], self._rest[end + 1 :]
        if self._too_long:
            # This was its end: what comes next is another line.
            self._too_long = False
            raise LineTooLong("the line is too long")
        return line.decode("utf-8", "replace").rstrip("\r")

    def _read(self, coming: asyncio.Future[bytes]) -> None:
        try:
            piece = os.read(self.descriptor, 4096)
        except OSError:
            piece = b""
        with suppress(RuntimeError):  # the loop is closed: the program has ended
            coming.get_loop().call_soon_threadsafe(_put, coming, piece)


def keep_standard_descriptors() -> None:
    """Open what was closed of 0, 1 and 2 on nothing: otherwise the desk's own files get these numbers, and are read for
    commands."""
    for descriptor, mode in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            nothing = os.open(os.devnull, mode)
            if nothing != descriptor:
                os.dup2(nothing, descriptor)
                os.close(nothing)
    # Python does without a stream whose descriptor was closed.
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _put(coming: asyncio.Future[bytes], piece: bytes) -> None:
    if not coming.done():
        coming.set_result(piece)


class Console:
    """One person, or one script, at the desk."""

    def __init__(self, descriptor: int, out: TextIO, errors: TextIO, *, language: Language = "ja") -> None:
        self.language: Language = language
        self.json = False
        """Lists come as JSON, one object a line, and nothing else on `out`."""
        self._lines = Lines(descriptor)
        self._out = out
        self._errors = errors
        self._tty = os.isatty(descriptor)
        self._rich = _rich(out) if out.isatty() else None
        self._asking: str | None = None

    @classmethod
    def standard(cls, language: Language) -> Console:
        """The process's own."""
        return cls(0, sys.stdout, sys.stderr, language=language)

    @property
    def interactive(self) -> bool:
        """Whether a person types."""
        return self._tty

    def text(self, text: Text) -> str:
        """A text in the language in use."""
        return text.ja if self.language == "ja" else text.en

    # -- reading ------------------------------------------------------------------------------------------------------

    async def ask(self, prompt: str, *, secret: bool = False) -> str:
        """A line, typed after `prompt`; a secret is not shown as it is typed. Cancellation-safe.

        Raises:
            EOFError: there are no more.
            LineTooLong: it is longer than a line can be.
        """
        if self._tty:
            self._asking = prompt
            self._put(prompt)
        try:
            if not (secret and self._tty):
                return await self._lines.next()
            with _unseen(self._lines.descriptor):
                line = await self._lines.next()
            self._put("\n")
            return line
        finally:
            self._asking = None

    async def confirm(self, question: Text) -> bool:
        """Whether the person says yes; no where nobody types."""
        if not self._tty:
            return False
        return (await self.ask(f"{self.text(question)} [y/N] ")).strip().lower() in ("y", "yes", "はい")

    # -- printing -----------------------------------------------------------------------------------------------------

    def say(self, text: Text | str, style: str = "") -> None:
        """One line."""
        if not self.json:
            self._print(text if isinstance(text, str) else self.text(text), style)

    def both(self, text: Text, style: str = "") -> None:
        """A text in both languages, Japanese first, whatever the language in use."""
        self.say(text.ja if text.ja == text.en else f"{text.ja} / {text.en}", style)

    def wrong(self, text: Text | str) -> None:
        """One line on what went wrong, on the other stream."""
        line = clean(text if isinstance(text, str) else self.text(text))
        with self._between():
            self._errors.write(f"{line}\n")
            self._errors.flush()

    def rows(self, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], *, dim: str | None = None) -> None:
        """A list: a table on a terminal, tab-separated lines elsewhere, or JSON. Rows whose field `dim` is true are
        greyed."""
        if self.json:
            for row in rows:
                self._put(orjson.dumps(row, default=str).decode() + "\n")
            return
        if self._rich is None:
            self._put("\t".join(self.text(column.title) for column in columns) + "\n")
            for row in rows:
                self._put("\t".join(clean(row.get(column.field)) for column in columns) + "\n")
            return
        from rich.table import Table
        from rich.text import Text as Cell

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(self.text(column.title), justify="right" if column.right else "left", overflow="fold")
        for row in rows:
            grey = "dim" if dim is not None and row.get(dim) else ""
            table.add_row(*(Cell(clean(row.get(column.field)), grey) for column in columns))
        with self._between():
            self._rich.print(table)

    def _print(self, line: str, style: str) -> None:
        with self._between():
            if self._rich is None:
                self._put(clean(line) + "\n")
                return
            from rich.text import Text as Styled

            self._rich.print(Styled(clean(line), style), soft_wrap=True)

    @contextmanager
    def _between(self) -> Iterator[None]:
        """Print above the prompt that waits."""
        asking = self._asking
        if asking is not None:
            self._put("\r\x1b[2K")
        yield
        if asking is not None:
            self._put(asking)

    def _put(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


@contextmanager
def _unseen(descriptor: int) -> Iterator[None]:
    """What is typed is not shown."""
    before = termios.tcgetattr(descriptor)
    without = list(before)
    without[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSADRAIN, without)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _rich(out: TextIO) -> Any:
    """A console with colour, where the package is installed."""
    try:
        from rich.console import Console as RichConsole
    except ImportError:
        return None
    return RichConsole(file=out, highlight=False)
