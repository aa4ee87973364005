"""Reads the history for a connection that is behind: large pages for the database, small slices for the others."""

from __future__ import annotations

from typing import Final, NamedTuple

from hub.core.entry import Entry
from hub.services.history import History
from schemas.cursor import ZERO, StreamId

PAGE: Final = 1000
SLICE: Final = 64
"""Events that one connection is served before it is another's turn: about a millisecond."""


class Asked(NamedTuple):
    """What a page was read for: it is good for the same question alone. `history` counts replaced histories."""

    partition: int
    tenants: frozenset[str] | None
    history: int


class Pages:
    """The page that was read last, and how much of it was given."""

    __slots__ = ("_after", "_asked", "_entries", "_given", "_history")

    def __init__(self, history: History) -> None:
        self._history = history
        self._asked: Asked | None = None
        self._after = ZERO
        self._entries: list[Entry] = []
        self._given = 0

    async def next(self, asked: Asked, after: StreamId, upto: StreamId) -> list[Entry]:
        """Some entries after `after`; none when there are none up to `upto`.

        Raises:
            StoreUnavailable, RedisError, OSError: they cannot be read now.
        """
        if self._asked != asked or self._after != after or self._given >= len(self._entries):
            entries = await self._history.read(asked.partition, after, PAGE, upto=upto, tenants=asked.tenants)
            self._asked, self._after, self._entries, self._given = asked, after, entries, 0
        found = self._entries[self._given : self._given + SLICE]
        self._given += len(found)
        if found:
            self._after = found[-1].id
        return found
