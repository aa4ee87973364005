"""Follows the consumer groups into the delivery ledger: what they finished, tried again, gave up.

A group that gives an event up finishes it, too. So a range is written as handled only together with every dead letter
that was ever put down until then; where a letter is gone that nobody wrote down, the range is not claimed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from hub.core.delivery import Row, row
from hub.log.dead_letters import DeadLetters
from hub.log.groups import GroupState, finished_in, first_after, group_states, retried
from hub.log.stream_log import StreamLog
from hub.log.topology import RedisError
from hub.services.ending import end
from hub.services.ledger import known_id, letter_row
from hub.store.database import StoreUnavailable
from hub.store.ledger import Ledger, Moved, Watched
from schemas.cursor import ZERO, StreamId

EVERY_S: Final = 2.0
PATIENCE: Final = 5
"""Rounds that a dead letter which is gone is waited for: who removed it may not have written it down yet."""
RETRIED: Final = 200
"""Unfinished entries of a group and partition that are looked at."""
REDRIVEN_MS: Final = 7 * 86_400_000
"""How long it is looked out for what became of a redriven letter."""
EXPIRE_EVERY_S: Final = 3600.0
DAY_MS: Final = 86_400_000
_REMEMBERED: Final = 20_000

log = structlog.get_logger("hub.ledger")


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look at one group and partition found."""

    before: Watched | None
    now: Watched
    rows: list[Row]


class GroupWatch:
    """One a deployment is enough; more do no harm. The composition root awaits `stop`."""

    def __init__(
        self,
        stream_log: StreamLog,
        dead_letters: DeadLetters,
        ledger: Ledger,
        groups: Sequence[str],
        hub: str,
        *,
        ledger_days: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._log = stream_log
        self._dead_letters = dead_letters
        self._ledger = ledger
        self._groups = frozenset(groups)
        self._hub = hub
        self._ledger_days = ledger_days
        self._clock = clock
        self._task: asyncio.Task[None] | None = None
        self._known: dict[tuple[str, int], Watched] | None = None
        self._waited: dict[tuple[str, int], int] = {}
        self._retried: dict[tuple[str, int, StreamId], int] = {}
        self._expired_at: float | None = None

    def start(self) -> None:
        """Begin the rounds."""
        self._task = asyncio.create_task(self._run(), name="group-watch")

    async def stop(self) -> None:
        """End the rounds."""
        await end(self._task)

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
                await self._expire()
            except (RedisError, OSError, StoreUnavailable) as error:
                log.info("groups_not_followed", error=str(error) or type(error).__name__)
            except Moved:
                log.info("groups_followed_elsewhere")
            except Exception:  # the hub delivers, whatever becomes of its notes
                log.exception("group_watch_failed")
            await asyncio.sleep(EVERY_S)

    async def look(self) -> None:
        """One round over all groups.

        Raises:
            Moved: another hub follows them too and was faster; nothing was written.
            StoreUnavailable, RedisError, OSError: nothing was written, the next round does it.
        """
        if self._known is None:
            self._known = await self._ledger.watched()
        now_ms = int(self._clock() * 1000)
        open_ = await self._ledger.redriven(now_ms - REDRIVEN_MS)
        looks: list[_Look] = []
        rows: list[Row] = []
        tried: dict[tuple[str, int, StreamId], int] = {}
        for partition in range(self._log.partitions):
            # Before the letters are looked at: what is finished by then and was given up has its letter by then.
            states = await group_states(self._log, now_ms, [partition])
            now_ms = int(self._clock() * 1000)
            redriven = [one for one in open_ if one.partition == partition]
            done = await self._finished_again(partition, redriven)
            for state in states:
                if state.group not in self._groups:
                    continue
                look = await self._look(state, now_ms)
                if look is not None:
                    looks.append(look)
                    rows += look.rows
                    for one in done:
                        if one.name == state.group:
                            rows += await self._concluded(one, look.rows, now_ms)
                if state.pending:
                    rows += await self._tried_again(state, tried, now_ms)
        moved = [(look.before, look.now) for look in looks if look.before != look.now]
        try:
            if moved or rows:
                await self._ledger.advance(moved, rows)
        except BaseException:
            self._known = None
            raise
        self._known |= {(now.name, now.partition): now for _, now in moved}
        if len(self._retried) > _REMEMBERED:
            self._retried.clear()
        self._retried |= tried

    async def _look(self, state: GroupState, now_ms: int) -> _Look | None:
        """What a group came to since it was last looked at; None while a letter is missing."""
        assert self._known is not None
        group, partition = key = state.group, state.partition
        before = self._known.get(key)
        finished, last_letter, had = ZERO, ZERO, 0
        if before is not None:
            finished, last_letter, had = before.finished, before.last_letter, before.letters
        ever, last = await self._dead_letters.ever(group, partition)
        letters = await self._dead_letters.after(group, partition, last_letter, last) if ever > had else []
        if ever < had:
            # The letters' stream was removed: what was in it is not known.
            whole = False
        elif (missing := ever - had - len(letters)) == 0:
            whole = True
        else:
            written = await self._ledger.letters(group, partition, last_letter)
            whole = len(written - {letter.id for letter in letters} - {f"p{partition:02d}:{last_letter}"}) >= missing
        if not whole and self._waited.get(key, 0) < PATIENCE:
            self._waited[key] = self._waited.get(key, 0) + 1
            return None
        self._waited.pop(key, None)
        rows = [found for letter in letters if (found := letter_row(letter, self._hub)) is not None]
        # A letter that does not say which event it is about could be about any.
        whole = whole and len(rows) == len(letters)
        upto = StreamId(state.finished.ms, min(state.finished.n, (1 << 62) - 1))
        if whole and upto > finished:
            first = await first_after(self._log, partition, finished, upto)
            if first is not None:
                rows.append(self._handled(group, partition, first, upto, now_ms))
        elif not whole:
            log.warning("dead_letters_gone", group=group, partition=partition, not_claimed=f"{finished} to {upto}")
        if before is not None and (upto, last, ever) == (finished, last_letter, had):
            return _Look(before, before, rows)
        return _Look(before, Watched(group, partition, upto, last, ever, now_ms), rows)

    def _handled(self, group: str, partition: int, first: StreamId, last: StreamId, now_ms: int) -> Row:
        return row(
            known_id("handled", group, str(partition), str(first), str(last)),
            "handled",
            partition,
            first,
            last,
            hub=self._hub,
            first_ms=now_ms,
            name=group,
        )

    async def _tried_again(
        self, state: GroupState, tried: dict[tuple[str, int, StreamId], int], now_ms: int
    ) -> list[Row]:
        rows = []
        for id, times in await retried(self._log, state.partition, state.group, RETRIED):
            key = (state.group, state.partition, id)
            if self._retried.get(key) != times:
                tried[key] = times
                rows.append(
                    row(
                        known_id("retried", state.group, str(state.partition), str(id)),
                        "retried",
                        state.partition,
                        id,
                        id,
                        hub=self._hub,
                        first_ms=now_ms,
                        name=state.group,
                        attempts=times,
                    )
                )
        return rows

    async def _finished_again(self, partition: int, redriven: Sequence[Row]) -> list[Row]:
        """Those of the redriven letters that their groups have finished in the stream they went to."""
        done = []
        for group in {one.name for one in redriven if one.name is not None}:
            stream = self._log.keys.redrive(partition, group)
            finished = await finished_in(self._log, stream, group)
            if finished is not None:
                done += [one for one in redriven if one.name == group and StreamId.parse(one.ref or "0-0") <= finished]
        return done

    async def _concluded(self, one: Row, found: Sequence[Row], now_ms: int) -> list[Row]:
        """What to write of a redriven letter that its group has finished: handled, unless a later letter lies there."""
        place, again = one.first, StreamId.parse(one.ref or "0-0")
        letters = [
            other
            for other in [*await self._ledger.covering(one.partition, place, place), *found]
            if other.kind == "dead_lettered" and other.name == one.name and other.first == place
        ]
        rows = [one._replace(attempts=1)]
        if not any(letter.ref != one.session and letter.last_ms >= again.ms for letter in letters):
            rows.append(
                row(
                    known_id("handled again", one.name or "", one.ref or ""),
                    "handled",
                    one.partition,
                    place,
                    place,
                    hub=self._hub,
                    first_ms=now_ms,
                    tenant_id=one.tenant_id,
                    event_id=one.event_id,
                    name=one.name,
                    ref=one.ref,
                )
            )
        return rows

    async def _expire(self) -> None:
        now = self._clock()
        if self._expired_at is None or now - self._expired_at >= EXPIRE_EVERY_S:
            gone = await self._ledger.expire(int(now * 1000) - self._ledger_days * DAY_MS)
            self._expired_at = now
            if gone:
                log.info("ledger_expired", rows=gone)
