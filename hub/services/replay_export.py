"""A part of the history as lines of JSON, for files and for other programs.

    {"cursor": …, "sequence": …, "replay": true, "event": {…}}
    …
    {"end": true, "events": n, "skipped": n, "cursor": …}

The last line tells a whole export from one that was cut, and how many entries were left out since they are no event any
more. At full speed the bytes go as they are stored, wherever the
reader may see all of them and they are of the newest version.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from operator import itemgetter
from types import MappingProxyType
from typing import Any, Final

import orjson
import structlog

from hub.core.pace import Pace
from hub.core.routing import may_see
from hub.log.topology import RedisError
from hub.security.tokens import Claims
from hub.services.replay_plan import Plan
from hub.services.replay_reading import (
    ACTION,
    EPOCH,
    MS,
    RECORDED,
    SEQUENCE,
    TENANT,
    TYPE,
    Choice,
    N,
    Reading,
    Row,
    as_entry,
)
from hub.store.database import StoreUnavailable
from schemas import patterns
from schemas.cursor import Cursor, StreamId, join, tenant_mark
from schemas.errors import Problem
from schemas.registry import EVENT_TYPES
from schemas.types import HUB

_SLICE_MS: Final = 500.0
"""How long a paced export waits at most before it looks whether it is to go on."""
# As the hub writes it; what looks otherwise is read and written anew.
_HEAD: Final = re.compile(rb'\{"event_id":"[^"\\]{0,64}","schema_version":(\d{1,9}),"tenant_id":"')
_NEWEST: Final[Mapping[str, int]] = MappingProxyType({name: kind.newest for name, kind in EVENT_TYPES.items()})
# What stands before the sequence in a tenant's cursors is put together once (`schemas.cursor.Cursor.encode`).
_LINE: Final = b'%b%012x%012x%08x%02x","sequence":%d,"replay":true,"event":%b}\n'
_place: Final = itemgetter(MS, N)

log = structlog.get_logger("hub.replays")


class Export:
    """One export. `lines` once."""

    def __init__(
        self,
        reading: Reading,
        plan: Plan,
        claims: Claims,
        *,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        may_go_on: Callable[[], bool] = lambda: True,
    ) -> None:
        """`may_go_on`: asked between pages; once it says no, the export is cut."""
        self._reading = reading
        self._plan = plan
        self._system = claims.system
        self._view = claims.view
        self._scopes = claims.patterns("subscribe")
        every = all(patterns.covered(self._scopes, pattern) for pattern in plan.interest.patterns)
        self._plain = claims.system == HUB and claims.view == "full" and every
        self._wall = wall
        self._sleep = sleep
        self._may_go_on = may_go_on
        self._choice = Choice(plan)
        self._heads: dict[tuple[Any, int], tuple[bytes, int]] = {}
        self._last: dict[str, Row] = {}
        """By tenant, the last row there was of the part of its history that is asked for."""
        self.events = 0
        self.skipped = 0
        """Entries that cannot be read."""

    async def lines(self) -> AsyncIterator[bytes]:
        """Lines, many at a time. An export that cannot go on ends without its last line.

        Raises:
            Problem: not even the first page can be read.
        """
        pages = self._reading.rows(self._plan)
        # The next page is read while this one is written.
        reading: asyncio.Task[list[Row] | None] = asyncio.create_task(_next(pages))
        try:
            pace: Pace | None = None
            while True:
                try:
                    rows = await reading
                except (StoreUnavailable, RedisError, OSError) as error:
                    if not self._last:
                        raise _unreadable(error) from error
                    return
                if rows is None:
                    yield self._end()
                    return
                reading = asyncio.create_task(_next(pages))
                await self._reading.learn(rows, self._choice)
                self._reached(rows)
                if self._plan.speed is None:
                    if chunk := b"".join(self._render(rows)):
                        yield chunk
                else:
                    for number, row in enumerate(rows):
                        if not (line := b"".join(self._render([row]))):
                            continue
                        if pace is None:
                            pace = Pace(self._plan.speed, row[RECORDED], self._now())
                        while (wait := pace.due_ms(row[RECORDED]) - self._now()) > 0:
                            if not self._may_go_on():
                                return
                            await self._sleep(min(wait, _SLICE_MS) / 1000)
                        yield line
                        if number % 100 == 0 and not self._may_go_on():
                            return
                if not self._may_go_on():
                    return
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await pages.aclose()  # type: ignore[attr-defined]

    def _now(self) -> int:
        return int(self._wall() * 1000)

    def _reached(self, rows: list[Row]) -> None:
        # A tenant's rows have its number in the archive, and its name in the log.
        for number, row in {row[TENANT]: row for row in rows}.items():
            name = self._choice.names[number]
            if (end := self._plan.ends.get(name)) is None:
                continue
            found: Row | None = row
            if _place(row) > end:
                found = max(
                    (one for one in rows if one[TENANT] == number and _place(one) <= end), key=_place, default=None
                )
            if found is not None and (name not in self._last or _place(found) > _place(self._last[name])):
                self._last[name] = found

    def _render(self, rows: list[Row]) -> list[bytes]:
        """The lines of the rows that are wanted."""
        lines: list[bytes] = []
        heads, plain, match, newest = self._heads, self._plain, _HEAD.match, _NEWEST
        for row in self._choice.of(rows):
            ms, n, epoch, tenant, sequence, _, type, _, _, _, _, body = row
            head = match(body) if plain else None
            if head is None or int(head[1]) < newest.get(type, 0) or b"\n" in body or body[-1:] != b"}":
                body = self._anew(row)
                if body is None:
                    continue
            known = heads.get((tenant, epoch))
            if known is None:
                mark = tenant_mark(self._choice.names[tenant])
                known = heads[tenant, epoch] = (b'{"cursor":"1%08x%08x' % (epoch, mark), epoch + mark * 3)
            check = (known[1] + sequence * 31 + ms * 7 + n * 13) % 251
            lines.append(_LINE % (known[0], sequence, ms, n, check, sequence, body))
        self.events += len(lines)
        return lines

    def _anew(self, row: Row) -> bytes | None:
        """The event as this reader gets it; None when it gets none."""
        if not any(patterns.matches(pattern, row[TYPE], row[ACTION]) for pattern in self._scopes):
            return None
        entry = as_entry(row, self._choice)
        try:
            if not entry.readable:
                self.skipped += 1
                return None
            if not may_see(self._system, entry.targets):
                return None
            return entry.json(self._view).replace(b"\n", b"")
        except (KeyError, TypeError, ValueError):  # whoever wrote that, the others' events go on
            log.exception("entry_not_readable", id=str(entry.id))
            self.skipped += 1
            return None

    def _end(self) -> bytes:
        places = [
            Cursor.of(row[EPOCH], tenant, row[SEQUENCE], StreamId(row[MS], row[N])).encode()
            for tenant, row in self._last.items()
        ]
        end = {"end": True, "events": self.events, "skipped": self.skipped, "cursor": join(places) or None}
        return orjson.dumps(end) + b"\n"


def _unreadable(error: Exception) -> Problem:
    code = "store_unavailable" if isinstance(error, StoreUnavailable) else "log_unavailable"
    return Problem(code, "the history cannot be read now; ask again")


async def _next(pages: AsyncIterator[list[Row]]) -> list[Row] | None:
    return await anext(pages, None)


__all__ = ["Export"]
