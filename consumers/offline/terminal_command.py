"""The terminal program's commands: the same at its prompt and on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import NamedTuple, NoReturn, TypeVar

from consumers.errors import ConsumerError
from consumers.offline.status import Text
from consumers.offline.terminal_desk import Terminal
from schemas.types import fits_money, read_day

T = TypeVar("T")


class UsageError(ConsumerError):
    """A command was written wrong; says how it is written."""


class Command(NamedTuple):
    """One command. `run` gives its exit code; None is 0."""

    name: str
    help: Text
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Terminal, argparse.Namespace], Awaitable[int | None]]


class Parser(argparse.ArgumentParser):
    """Raises `UsageError` where `argparse` would end the program."""

    def error(self, message: str) -> NoReturn:
        """Raises it."""
        raise UsageError(f"{message}\n{self.format_usage().strip()}")


def nothing(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def listing(parser: argparse.ArgumentParser) -> None:
    """A list, which may be had as JSON."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def day(text: str) -> str:
    """A date, as records say it."""
    return _read(text, lambda: read_day(text).isoformat(), "a date like 2026-07-15")


def money(text: str) -> Decimal:
    """An amount."""
    return _read(text, lambda: _amount(text), "an amount like 1200")


def whole(text: str) -> int:
    """A whole number."""
    return _read(text, lambda: int(text), "a whole number")


def today_of(terminal: Terminal) -> date:
    """The property's business day."""
    return terminal.setup.calendar.day_of(terminal.around.now())


def _amount(text: str) -> Decimal:
    amount = Decimal(text.replace(",", ""))
    if not fits_money(amount):
        # Decimal also reads NaN, Infinity and 1e400.
        raise ValueError
    return amount


def _read(text: str, read: Callable[[], T], wanted: str) -> T:
    try:
        return read()
    except (ValueError, InvalidOperation) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}") from error
