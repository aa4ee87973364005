"""What a replay sends again, settled when it is asked for: which tenants, from where to where, which of the events.

Where a replay ends is fixed with it, so that one without an end does not run after what is published meanwhile.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from hashlib import sha256
from typing import Any, Final

from hub.core.pace import RECORDED
from hub.core.routing import Interest
from hub.log.tenants import Tenants
from hub.security.tokens import Claims
from hub.services.history import History
from schemas import patterns
from schemas.cursor import ZERO, Cursor, StreamId, split
from schemas.errors import FieldError, Problem, invalid_request
from schemas.replay import Selection, read_time

SKEW_MS: Final = 3_600_000
"""How far the time an event was recorded and the one its place tells may lie apart: the clocks of hub and log."""

Times = tuple[int | None, int | None]
"""Unix ms of recorded_at: from, inclusive, and to, exclusive."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A selection, resolved. A tenant that came since belongs to none."""

    interest: Interest
    every: bool
    """Whether the tenants are all there were: then nothing is gained by reading theirs alone."""
    begins: Mapping[str, StreamId]
    """Only later events; a tenant that is missing here begins with its first."""
    ends: Mapping[str, StreamId]
    """By tenant: no event past this."""
    times: Mapping[str, Times]
    """By tenant, where the time matters."""
    speed: float | None
    """None: as fast as it goes."""

    @property
    def tenants(self) -> frozenset[str]:
        """Whose events."""
        return frozenset(self.ends)

    def among(self, tenants: Iterable[str]) -> frozenset[str]:
        """Those of its tenants."""
        return frozenset(tenant for tenant in tenants if tenant in self.ends)

    def wants(self, tenant: str, id: StreamId, type: str, action: str, entity: str, recorded_ms: int) -> bool:
        """Whether an event is one of these."""
        end = self.ends.get(tenant)
        if end is None or not self.begins.get(tenant, ZERO) < id <= end:
            return False
        times = self.times.get(tenant)
        if times is not None:
            low, high = times
            if (low is not None and recorded_ms < low) or (high is not None and recorded_ms >= high):
                return False
        return self.interest.wants(tenant, type, action, entity)

    def spans(self, history: History) -> dict[int, tuple[StreamId, StreamId]]:
        """By partition: the place after which it is read, and the last one that is."""
        found: dict[int, tuple[StreamId, StreamId]] = {}
        for tenant, last in self.ends.items():
            low, high = self.times.get(tenant, (None, None))
            begin = self.begins.get(tenant, ZERO)
            if low is not None:
                begin = max(begin, StreamId(max(0, low - SKEW_MS), 0))
            end = last if high is None else min(last, StreamId(high + SKEW_MS, 0))
            partition = history.partition(tenant)
            held = found.get(partition)
            found[partition] = (begin, end) if held is None else (min(held[0], begin), max(held[1], end))
        return {partition: span for partition, span in found.items() if span[0] < span[1]}

    def after(self, places: Mapping[str, StreamId]) -> Plan:
        """The rest of it, behind these places of its tenants."""
        begins = dict(self.begins)
        for tenant, place in places.items():
            begins[tenant] = max(place, begins.get(tenant, ZERO))
        return Plan(self.interest, self.every, begins, self.ends, self.times, self.speed)

    def key(self, target: str) -> str:
        """A target that gets the events of these tenants. That of others is another one, so that nobody waits for a
        replay that is hidden from them."""
        tenants = "\n".join(sorted(self.interest.tenants or ()))
        return f"{target} {'*' if self.every else sha256(tenants.encode()).hexdigest()[:16]}"

    def as_json(self) -> dict[str, Any]:
        """To be kept with the job."""
        entities = self.interest.entities
        return {
            "patterns": sorted(self.interest.patterns),
            "entities": None if entities is None else sorted(entities),
            "every": self.every,
            "begins": {tenant: str(id) for tenant, id in self.begins.items()},
            "ends": {tenant: str(id) for tenant, id in self.ends.items()},
            "times": {tenant: list(times) for tenant, times in self.times.items()},
            "speed": self.speed,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Plan:
        """What `as_json` gave."""
        ends = {tenant: StreamId.parse(id) for tenant, id in kept["ends"].items()}
        entities = None if kept["entities"] is None else frozenset(kept["entities"])
        return cls(
            Interest(frozenset(ends), frozenset(kept["patterns"]), entities),
            kept["every"],
            {tenant: StreamId.parse(id) for tenant, id in kept["begins"].items()},
            ends,
            {tenant: (low, high) for tenant, (low, high) in kept["times"].items()},
            kept["speed"],
        )


async def plan(history: History, tenants: Tenants, claims: Claims, asked: Selection) -> Plan:
    """Resolve a selection, as far as the token allows it.

    Raises:
        Problem: it names a tenant that the token does not hold, nothing that it may subscribe to, a cursor that is no
            tenant's of it or of a history that is gone, or a range without any room.
        StoreUnavailable, RedisError, OSError: what it takes cannot be read now.
    """
    for tenant in asked.tenants or ():
        claims.require_tenant(tenant)
    kinds = asked.patterns or ("*",)
    wanted = common(kinds, claims.patterns("subscribe"))
    if not wanted:
        raise Problem("forbidden", f"the token lacks the scope subscribe:{kinds[0]}")
    if asked.tenants is not None:
        names: Sequence[str] = sorted(set(asked.tenants))
    else:
        names = sorted(await history.tenants() if claims.all_tenants else claims.tenants)
    heads = await history.heads(names)
    begins = await _places(history, "after", asked.after, names)
    untils = await _places(history, "until", asked.until, names)
    for tenant, until in untils.items():
        if until <= begins.get(tenant, ZERO):
            raise invalid_request("until", f"the range of {tenant} is empty: until is not behind after")
    times = {tenant: found for tenant in names if (found := _times(tenants, tenant, asked)) != (None, None)}
    speeds: dict[Any, float | None] = {"recorded": RECORDED, "full": None}
    entities = None if asked.entities is None else frozenset(asked.entities)
    return Plan(
        Interest(frozenset(names), wanted, entities),
        asked.tenants is None and claims.all_tenants,
        begins,
        {tenant: min(head.id, untils.get(tenant, head.id)) for tenant, head in heads.items() if head.id > ZERO},
        times,
        speeds[asked.speed] if isinstance(asked.speed, str) else asked.speed,
    )


def common(one: Collection[str], other: Collection[str]) -> frozenset[str]:
    """The patterns of what falls under both."""
    narrow = {pattern for pattern in one if patterns.covered(other, pattern)}
    return frozenset(narrow | {pattern for pattern in other if patterns.covered(one, pattern)})


async def _places(history: History, field: str, text: str | None, names: Sequence[str]) -> dict[str, StreamId]:
    if text is None or (field == "after" and text == "earliest"):
        return {}
    try:
        cursors: dict[str, Cursor] = split(text, list(names))
        starts = await history.resolve(cursors)
    except Problem as problem:
        raise Problem(problem.code, f"{field}: {problem.detail}", [FieldError(field, problem.detail)]) from None
    for start in starts:
        if start.gap is not None:
            reasons = {
                "expired": "events right after it are gone",
                "epoch": "it is of a history that was replaced",
                "future": "nothing has come that far",
            }
            said = f"the cursor of {start.tenant_id} cannot be used: {reasons[start.gap]}"
            raise Problem("invalid_cursor", f"{field}: {said}", [FieldError(field, said)])
    return {start.tenant_id: start.head.id for start in starts}


def _times(tenants: Tenants, tenant_id: str, asked: Selection) -> Times:
    if asked.from_ is None and asked.to is None:
        return (None, None)
    zone = tenants.get(tenant_id).zone

    def unix_ms(field: str, text: str | None, *, end: bool) -> int | None:
        if text is None:
            return None
        try:
            found = read_time(text)
            if isinstance(found, datetime):
                return int(found.timestamp() * 1000)
            day: date = found + timedelta(days=1) if end else found
            return int(datetime.combine(day, time(), zone).timestamp() * 1000)
        except (OverflowError, ValueError):
            raise invalid_request(field, "is no time that the hub could have recorded anything at") from None

    low, high = unix_ms("from", asked.from_, end=False), unix_ms("to", asked.to, end=True)
    if low is not None and high is not None and low >= high:
        said = "is after `to`" if low > high else "and `to` are the same instant: the range is empty"
        raise invalid_request("from", said)
    return (low, high)


def instant(unix_ms: int | None) -> str | None:
    """A time as the API says it."""
    if unix_ms is None:
        return None
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
