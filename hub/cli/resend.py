"""Sends requests again while the hub is away or busy. Only for requests that are safe to repeat."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from hub.cli.failure import CommandError
from hub.cli.remote import Refused, Unreachable

PATIENCE_S: Final = 60.0
"""How long a hub that was there may be away, or say that it cannot now."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0


class Resender:
    """Sends requests until they are answered. A hub that never answered at all is not waited for."""

    def __init__(self, told: Callable[[str], None] = lambda _: None, *, patience_s: float = PATIENCE_S) -> None:
        self._told = told
        self._patience_s = patience_s
        self._met = False

    async def __call__(self, send: Callable[[], Awaitable[Any]]) -> Any:
        """What `send` gives, tried again over lost connections and answers that say a retry can help.

        An answer whose `receipts` hold such a problem counts as one of those: the whole is sent again, and what was
        stored the first time is a duplicate the second. When patience ends, that answer is given back as it is.

        Raises:
            CommandError: the hub said no, was never there, or went on failing.
        """
        pause, begun, said = _FIRST_PAUSE_S, time.monotonic(), False
        while True:
            failure: CommandError
            answer: Any = None
            try:
                answer = await send()
                self._met = True
                busy = _busy(answer)
                if busy is None:
                    return answer
                failure = busy
            except Unreachable as error:
                self._met = self._met or error.sent
                if not self._met:
                    raise
                failure = error
            except Refused as error:
                self._met = True
                if not error.problem.get("retryable"):
                    raise
                failure = error
            if time.monotonic() - begun + pause > self._patience_s:
                if answer is not None:
                    return answer
                raise failure
            if not said:
                self._told(f"trying again: {failure.message}")
                said = True
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE_S)


def _busy(answer: Any) -> Refused | None:
    for receipt in answer.get("receipts", ()) if isinstance(answer, dict) else ():
        problem = receipt.get("problem")
        if problem is not None and problem.get("retryable"):
            return Refused(problem)
    return None
