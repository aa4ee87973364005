"""Dead letters: what a consumer group gave up on, waiting for a person to send it again or discard it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from hub.log.stream_log import StreamLog
from schemas.cursor import StreamId
from schemas.errors import FieldError, Problem

_ID: Final = re.compile(r"p(\d{2}):(\d{1,16}-\d{1,10})")

# KEYS dead, redrive; ARGV id. The letter moves or, if it is gone, nothing happens: sending again twice sends once.
_REDRIVE: Final = """
local found = redis.call('XRANGE', KEYS[1], ARGV[1], ARGV[1])
if #found == 0 then return 0 end
local fields, letter = found[1][2], {}
for i = 1, #fields, 2 do
  local name = fields[i]
  if name ~= 'reason' and name ~= 'failed_at' and name ~= 'attempts' then
    letter[#letter + 1] = name
    letter[#letter + 1] = fields[i + 1]
  end
end
letter[#letter + 1] = 'attempts'
letter[#letter + 1] = '0'
redis.call('XADD', KEYS[2], '*', unpack(letter))
redis.call('XDEL', KEYS[1], ARGV[1])
return 1
"""


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

    async def get(self, group: str, id: str) -> DeadLetter | None:
        """One letter."""
        partition, entry = self._place(id)
        key = self._log.keys.dead(partition, group)
        reply = await self._log.source.client.execute_command("XRANGE", key, str(entry), str(entry))
        return _letter(partition, group, *reply[0]) if reply else None

    async def redrive(self, group: str, ids: Iterable[str]) -> int:
        """Hand letters to the group again; how many went. One that is gone already counts as none.

        Raises:
            Problem: an id is malformed; nothing was moved.
        """
        places = [self._place(id) for id in ids]
        keys, moved = self._log.keys, 0
        for partition, entry in places:
            dead, again = keys.dead(partition, group), keys.redrive(partition, group)
            moved += int(await self._log.source.client.eval(_REDRIVE, 2, dead, again, str(entry)))
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
