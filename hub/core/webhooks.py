"""What goes to which webhook endpoint, when it is tried again, and when an endpoint is spared (R25).

Attempts at one event are spread over days (`next_due`). Beside that, an endpoint that fails whatever it is sent is left
alone for a while (`Breaker`): its events wait, which costs none of them an attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

from hub.core.entry import NOT_AN_EVENT, Entry
from hub.core.routing import View, may_see
from schemas import patterns
from schemas.cursor import StreamId

CRITICAL: Final = "CRITICAL"
GIVE_UP_MS: Final = 5 * 86_400_000
"""An endpoint that took nothing for so long is disabled."""
JITTER: Final = 0.1
"""A wait is up to a tenth longer, or shorter, so that what failed together does not come back together."""
TRIP: Final = 5
"""Failures in a row after which an endpoint is spared."""
SPARED_MS: Final = 10_000
MAX_SPARED_MS: Final = 300_000

Payload = Literal["full", "thin"]
State = Literal["enabled", "disabled"]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One webhook endpoint. Times are Unix ms."""

    endpoint_id: str
    tenant_id: str
    system: str
    url: str
    patterns: tuple[str, ...]
    critical_only: bool
    """Of what the patterns name, only events of priority CRITICAL."""
    secret: str
    since: StreamId
    """Only later events are its own."""
    created_ms: int
    updated_ms: int
    description: str = ""
    payload: Payload = "full"
    view: View = "full"
    old_secret: str | None = None
    old_until_ms: int | None = None
    rate_per_s: int | None = None
    state: State = "enabled"
    reason: str | None = None
    failing_ms: int | None = None
    """Since when nothing succeeded; None while it works."""
    last_error: str | None = None
    succeeded_ms: int | None = None
    recover: StreamId | None = None
    """What lies between here and `until` is to be looked through for it again, or for the first time."""
    until: StreamId | None = None
    """None while it was not said yet from where on events are found for it as they come."""
    version: int = 1

    def wants(self, entry: Entry) -> bool:
        """Whether an event goes there."""
        if entry.tenant_id != self.tenant_id or not self.since < entry.id:
            return False
        return self.asks_for(entry)

    def asks_for(self, entry: Entry) -> bool:
        """Whether an event of its tenant is one of those it asks for, whenever it happened."""
        if not any(patterns.matches(pattern, entry.type, entry.action) for pattern in self.patterns):
            return False
        try:
            if not may_see(self.system, entry.targets):
                return False
            return not self.critical_only or entry.event.get("priority") == CRITICAL
        except NOT_AN_EVENT:
            return False

    def secrets(self, now_ms: int) -> Sequence[str]:
        """What a message is signed with: after a rotation, for a day, with both."""
        if self.old_secret is not None and self.old_until_ms is not None and now_ms < self.old_until_ms:
            return (self.secret, self.old_secret)
        return (self.secret,)

    @property
    def enabled(self) -> bool:
        """Whether it is sent anything."""
        return self.state == "enabled"

    @property
    def adopted(self) -> bool:
        """Whether it was said from where on events are found for it as they come."""
        return self.recover is None or self.until is not None


class Key(NamedTuple):
    """Which delivery: an event's place, on an endpoint, perhaps in a replay."""

    endpoint_id: str
    replay_id: str
    id: StreamId
    epoch: int


@dataclass(slots=True)
class Delivery:
    """One event that an endpoint is owed. `entry` where it is at hand."""

    key: Key
    partition: int
    tenant_id: str
    event_id: str
    entity: str
    due_ms: int
    attempts: int = 0
    entry: Entry | None = field(default=None, compare=False)


def owed(endpoint: Endpoint, entry: Entry, partition: int, due_ms: int, replay_id: str = "") -> Delivery:
    """The delivery of an event to an endpoint."""
    key = Key(endpoint.endpoint_id, replay_id, entry.id, entry.epoch)
    return Delivery(key, partition, entry.tenant_id, entry.event_id, entry.entity, due_ms, entry=entry)


def thin(entry: Entry) -> dict[str, Any]:
    """An event by its ids alone: what it says is fetched by who may read it."""
    return {
        "event_id": entry.event_id,
        "tenant_id": entry.tenant_id,
        "type": entry.type,
        "action": entry.action,
        "entity": entry.entity,
        "revision": entry.revision,
        "sequence": entry.sequence,
        "cursor": entry.cursor,
    }


def next_due(
    now_ms: int, attempts: int, schedule: Sequence[float], spread: float, retry_after_s: float | None = None
) -> int | None:
    """When to try again after this many attempts, Unix ms; None when it is given up.

    `schedule`: seconds before the second, third, … attempt. `spread`: a random number from 0 to 1. What the endpoint
    asked for with Retry-After is a least.
    """
    if attempts > len(schedule):
        return None
    wait = schedule[attempts - 1] * (1 - JITTER + 2 * JITTER * spread)
    return now_ms + int(1000 * max(wait, retry_after_s or 0.0))


class Breaker:
    """Whether an endpoint is spared now.

    closed     every attempt may be made
    open       none; from TRIP failures in a row on, for 10 s, then twice as long each time, at most 5 min
    half-open  that time is over: one attempt, which closes it or opens it again
    """

    __slots__ = ("_probing", "failures", "open_until_ms")

    def __init__(self) -> None:
        self.failures = 0
        self.open_until_ms = 0
        self._probing = False

    def allows(self, now_ms: int) -> bool:
        """Whether an attempt may be made; one that may is to be announced with `began`."""
        if self.failures < TRIP:
            return True
        return now_ms >= self.open_until_ms and not self._probing

    def began(self) -> None:
        """An attempt is made."""
        self._probing = self.failures >= TRIP

    def succeeded(self) -> None:
        """The endpoint answered as it should."""
        self.failures, self._probing, self.open_until_ms = 0, False, 0

    def failed(self, now_ms: int) -> None:
        """It did not."""
        self.failures += 1
        self._probing = False
        if self.failures >= TRIP:
            spared = min(MAX_SPARED_MS, SPARED_MS << min(self.failures - TRIP, 10))
            self.open_until_ms = now_ms + spared

    def left(self) -> None:
        """The attempt was not made after all."""
        self._probing = False


class Bucket:
    """How many attempts a second an endpoint gets: `rate`, and as many at once."""

    __slots__ = ("_at_ms", "_tokens", "rate")

    def __init__(self, rate: int | None) -> None:
        self.rate = rate
        self._tokens = float(rate or 0)
        self._at_ms: int | None = None

    def wait_ms(self, now_ms: int) -> int:
        """How long until an attempt may be made; 0: now."""
        if self.rate is None:
            return 0
        if self._at_ms is not None:
            gained = max(0, now_ms - self._at_ms) * self.rate / 1000
            self._tokens = min(float(self.rate), self._tokens + gained)
        self._at_ms = now_ms
        return 0 if self._tokens >= 1 else max(1, int((1 - self._tokens) * 1000 / self.rate))

    def take(self) -> None:
        """One was made."""
        if self.rate is not None:
            self._tokens -= 1
