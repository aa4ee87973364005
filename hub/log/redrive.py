"""Handing events to a consumer group again: dead letters, and replays from the history.

The group's consumers read its redrive stream beside the events. An entry there has the nine fields of an event and
`source_id`, where it lies in the events stream; a replayed one also `replay`, the replay's id.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Final, NamedTuple

from hub.core.entry import Entry
from hub.log.stream_log import StreamLog
from schemas.cursor import StreamId
from schemas.stream import FIELDS

KEEP_S: Final = 30 * 86_400
"""How long a replay's place is kept after it moved last: a hub that missed its end must not begin it again."""
WAITING: Final = 2000
"""Entries that may wait in a group's stream before a replay adds more."""
_WIDTH: Final = 2 * (len(FIELDS) + 3)


class Handed(NamedTuple):
    """How far a replay is in one partition: the last place looked at (None before the first), the events handed over
    so far, whether the call moved it, and how many entries wait for the group."""

    at: StreamId | None
    events: int
    moved: bool
    waiting: int


class Redrive:
    """The redrive streams of all groups."""

    def __init__(self, log: StreamLog) -> None:
        self._log = log
        self._script = files("hub.log").joinpath("redrive.lua").read_text()

    async def letters(self, partition: int, group: str, ids: Sequence[StreamId]) -> dict[StreamId, StreamId]:
        """Hand dead letters over; where those lie now that went. One that is gone already does not."""
        keys = self._log.keys
        names = keys.redrive(partition, group), keys.dead(partition, group)
        moved = await self._run(names, "dead", *map(str, ids)) if ids else []
        return {StreamId.parse(moved[i]): StreamId.parse(moved[i + 1]) for i in range(0, len(moved), 2)}

    async def place(self, partition: int, replay_id: str) -> tuple[StreamId | None, int]:
        """How far a replay is in a partition: the last place looked at, and the events handed over."""
        key = self._log.keys.replay(partition, replay_id)
        at, events = await self._log.source.client.hmget(key, "at", "events")
        return (StreamId.parse(at) if at else None), int(events or 0)

    async def replay(
        self,
        partition: int,
        group: str,
        replay_id: str,
        expected: StreamId | None,
        at: StreamId,
        entries: Sequence[Entry],
    ) -> Handed:
        """Hand entries over and move the replay's place from `expected` to `at`, both or neither.

        Neither when the place is another one, since somebody else moved it, or too many entries wait.
        """
        keys = self._log.keys
        args: list[Any] = ["" if expected is None else str(expected), str(at), WAITING, KEEP_S, len(entries), _WIDTH]
        for entry in entries:
            args += _fields(entry, replay_id)
        names = keys.redrive(partition, group), keys.replay(partition, replay_id)
        place, events, moved, waiting = await self._run(names, "replay", *args)
        return Handed(StreamId.parse(place) if place else None, int(events), bool(moved), int(waiting))

    async def _run(self, keys: Sequence[str], *args: Any) -> Any:
        return await self._log.source.client.eval(self._script, len(keys), *keys, *args)


def _fields(entry: Entry, replay_id: str) -> list[Any]:
    values = (
        entry.type,
        entry.raw,
        entry.timestamp_ms,
        entry.event_id,
        entry.tenant_id,
        entry.action,
        entry.entity,
        entry.revision,
        entry.sequence,
    )
    flat: list[Any] = [part for pair in zip(FIELDS, values, strict=True) for part in pair]
    return [*flat, "source_id", str(entry.id), "attempts", "0", "replay", replay_id]
