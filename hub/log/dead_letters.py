"""Dead letters: what a consumer group gave up on, waiting for a person to send it again or discard it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
from redis.exceptions import ResponseError

from hub.log.redrive import Redrive
from hub.log.stream_log import StreamLog
from schemas.cursor import ZERO, StreamId
from schemas.errors import FieldError, Problem

REDRIVE_AT_ONCE: Final = 100
"""Letters in one script call: bounds how long the server is busy with it."""
_ID: Final = re.compile(r"p(\d{2}):(\d{1,16}-\d{1,10})")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One event a group could not handle. `id` is what redrive and discard take."""

    id: str
    group: str
    tenant_id: str
    event_id: str
    reason: str
    attempts: int
    failed_at: str
    source_id: str
    raw: bytes

    def summary(self) -> dict[str, Any]:
        """Everything but the event."""
        return {
            "id": self.id,
            "group": self.group,
            "tenant_id": self.tenant_id,
            "event_id": self.event_id,
            "reason": self.reason,
            "attempts": self.attempts,
            "failed_at": self.failed_at,
            "source_id": self.source_id,
        }

    def event(self) -> Any:
        """The event, as it was stored; None when it is not JSON."""
        try:
            return orjson.loads(self.raw)
        except orjson.JSONDecodeError:
            return None


class DeadLetters:
    """The dead letters of all groups."""

    def __init__(self, log: StreamLog, groups: Sequence[str]) -> None:
        self._log = log
        self._groups = tuple(groups)
        self._redrive = Redrive(log)

    async def groups(self) -> list[str]:
        """The groups that are configured, and those found on the streams."""
        found = dict.fromkeys(self._groups)
        for partition in range(self._log.partitions):
            if await self._log.source.client.exists(self._log.keys.events(partition)):
                for group in await self._log.source.client.xinfo_groups(self._log.keys.events(partition)):
                    name = group["name"]
                    found[name.decode() if isinstance(name, bytes) else name] = None
        return list(found)

    async def count(self, group: str) -> int:
        """How many wait."""
        keys = self._log.keys
        return sum(
            [
                await self._log.source.client.xlen(keys.dead(partition, group))
                for partition in range(self._log.partitions)
            ]
        )

    async def listed(self, group: str, limit: int, tenants: frozenset[str] | None = None) -> list[DeadLetter]:
        """The oldest letters of a group, those of `tenants` only (None: of all)."""
        letters: list[DeadLetter] = []
        for partition in range(self._log.partitions):
            last = "-"
            while len(letters) < limit:
                key = self._log.keys.dead(partition, group)
                reply = await self._log.source.client.execute_command("XRANGE", key, last, "+", "COUNT", 200)
                page = [_letter(partition, group, id, fields) for id, fields in reply]
                letters += [one for one in page if tenants is None or one.tenant_id in tenants]
                if len(reply) < 200:
                    break
                last = f"({reply[-1][0].decode()}"
        return letters[:limit]

    async def ever(self, group: str, partition: int) -> tuple[int, StreamId]:
        """How many letters a group ever had in a partition, gone ones too, and the place of the last."""
        try:
            info = await self._log.source.client.xinfo_stream(self._log.keys.dead(partition, group))
        except ResponseError:
            return 0, ZERO
        return int(info["entries-added"]), StreamId.parse(info["last-generated-id"])

    async def after(self, group: str, partition: int, after: StreamId, upto: StreamId) -> list[DeadLetter]:
        """The letters of a group in a partition after a place and not past another, in order."""
        letters: list[DeadLetter] = []
        key, last = self._log.keys.dead(partition, group), f"({after}"
        while True:
            reply = await self._log.source.client.execute_command("XRANGE", key, last, str(upto), "COUNT", 200)
            letters += [_letter(partition, group, id, fields) for id, fields in reply]
            if len(reply) < 200:
                return letters
            last = f"({reply[-1][0].decode()}"

    async def get(self, group: str, id: str) -> DeadLetter | None:
        """One letter."""
        partition, entry = self._place(id)
        key = self._log.keys.dead(partition, group)
        reply = await self._log.source.client.execute_command("XRANGE", key, str(entry), str(entry))
        return _letter(partition, group, *reply[0]) if reply else None

    async def redrive(self, group: str, ids: Iterable[str]) -> dict[str, StreamId]:
        """Hand letters to the group again; of those that went, where they lie in its redrive stream now.

        Raises:
            Problem: an id is malformed; nothing was moved.
        """
        by_partition: dict[int, list[StreamId]] = {}
        for partition, entry in [self._place(id) for id in ids]:
            by_partition.setdefault(partition, []).append(entry)
        moved: dict[str, StreamId] = {}
        for partition, entries in by_partition.items():
            for start in range(0, len(entries), REDRIVE_AT_ONCE):
                went = await self._redrive.letters(partition, group, entries[start : start + REDRIVE_AT_ONCE])
                moved |= {f"p{partition:02d}:{letter}": place for letter, place in went.items()}
        return moved

    async def discard(self, group: str, ids: Iterable[str]) -> int:
        """Remove letters for good; how many there were.

        Raises:
            Problem: an id is malformed; nothing was removed.
        """
        places = [self._place(id) for id in ids]
        removed = 0
        for partition, entry in places:
            removed += int(await self._log.source.client.xdel(self._log.keys.dead(partition, group), str(entry)))
        return removed

    def _place(self, id: str) -> tuple[int, StreamId]:
        found = _ID.fullmatch(id)
        if found is None or int(found[1]) >= self._log.partitions:
            error = FieldError("ids", f"{id!r} is not the id of a dead letter, like p03:1763500000000-0")
            raise Problem("invalid_request", error.message, [error])
        return int(found[1]), StreamId.parse(found[2])


def _letter(partition: int, group: str, id: bytes, flat: Sequence[bytes]) -> DeadLetter:
    fields = {flat[i].decode(): flat[i + 1] for i in range(0, len(flat), 2)}

    def text(name: str) -> str:
        return fields.get(name, b"").decode(errors="replace")

    return DeadLetter(
        id=f"p{partition:02d}:{id.decode()}",
        group=group,
        tenant_id=text("tenant_id"),
        event_id=text("event_id"),
        reason=text("reason"),
        attempts=int(text("attempts") or 0),
        failed_at=text("failed_at"),
        source_id=text("source_id"),
        raw=fields.get("event_data", b""),
    )
