"""SQLite in the caller's own thread: a life asks it a million times, and each hop to a thread costs ten questions.

The statements, transactions and files are the same. As nothing waits for a thread, a seed is also the same life twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch


class _Queue:
    """Does what is put into it at once."""

    def put_nowait(self, work: tuple[Any, Callable[[], Any]]) -> None:
        future, function = work
        try:
            result = function()
        except BaseException as error:
            if future is not None and not future.done():
                future.set_exception(error)
        else:
            if future is not None and not future.done():
                future.set_result(result)


class _Thread:
    """None is needed."""

    daemon = True

    def __init__(self, *_: Any, **__: Any) -> None:
        return

    def start(self) -> None:
        """Nothing to start."""


@contextmanager
def inline_store() -> Iterator[None]:
    """Databases that are opened within do not use threads."""
    with ExitStack() as stack:
        stack.enter_context(patch("aiosqlite.core.SimpleQueue", _Queue))
        stack.enter_context(patch("aiosqlite.core.Thread", _Thread))
        # It would be this thread's priority.
        stack.enter_context(patch("hub.store.database.LEISURELY", 0))
        yield
