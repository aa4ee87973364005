"""How commands print: tables and colour for people on a terminal, plain lines for programs.

Results go to stdout, everything about the work itself to stderr. Text from events and servers is cleaned of control
characters before it reaches a terminal.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import orjson
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def clean(value: Any) -> str:
    """A value as one line of text without control characters; None as nothing."""
    return "" if value is None else _CONTROL.sub("\ufffd", str(value))


def on_terminal() -> bool:
    """Whether stdout is read by a person."""
    return sys.stdout.isatty()


def line(text: str) -> None:
    """One line on stdout, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def note(text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"{clean(text)}\n")
    sys.stderr.flush()


def compact(value: Any) -> str:
    """JSON on one line."""
    return orjson.dumps(value, default=str).decode()


def json_document(value: Any) -> None:
    """JSON on stdout, indented for a person."""
    options = orjson.OPT_INDENT_2 if on_terminal() else 0
    line(orjson.dumps(value, default=str, option=options).decode())


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[str] = ()) -> None:
    """A table on a terminal; else tab-separated lines below one that names the columns."""
    if on_terminal():
        Console(file=sys.stdout).print(rich_table(columns, rows, right=right))
        return
    line("\t".join(columns))
    for row in rows:
        line("\t".join(clean(cell) for cell in row))


def rich_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[str] = ()) -> Table:
    """The table for a terminal; the columns named in `right` are aligned right."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    numbers = frozenset(right)
    for column in columns:
        shown.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(Text(clean(cell)) for cell in row))
    return shown


class Bar:
    """Progress on stderr: a bar on a terminal, else a line every few seconds."""

    EVERY_S: Final = 5.0

    def __init__(self, what: str, total: int | None) -> None:
        self._what, self._total = what, total
        self._bar: Progress | None = None
        self._said = 0.0
        self._console = Console(stderr=True)
        if self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task(what, total=total)

    def at(self, done: int, now: float, total: int | None = None) -> None:
        """So many are done, of `total` where that turned out; `now` in seconds of a monotonic clock."""
        if total is not None:
            self._total = total
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=self._total)
        elif self._said == 0.0:
            self._said = now
        elif now - self._said >= self.EVERY_S:
            self._said = now
            note(f"{self._what}: {done}" + ("" if self._total is None else f" of {self._total}"))

    def __enter__(self) -> Bar:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say on stderr what is being waited for; on a terminal only while it lasts."""
    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        note(what)
        yield
