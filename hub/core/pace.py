"""When a replayed event is due. No clock: `now` is an argument, all times are Unix ms.

An event recorded so many seconds after the replay's first one is due so many seconds, divided by the speed, after the
replay began; what the replay was paused comes on top. So any process that knows the record gives the same answer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

NEVER: Final = float("inf")
RECORDED: Final = 1.0


@dataclass(frozen=True, slots=True)
class Pace:
    """The pace of one replay.

    `speed`: recorded seconds in one second; None is as fast as it goes. `first_ms`: when the first event was recorded.
    `paused_ms`: the pauses that are over, together. `paused_since_ms`: the one that is not.
    """

    speed: float | None
    first_ms: int
    started_ms: int | None = None
    paused_ms: int = 0
    paused_since_ms: int | None = None

    def started(self, now: int) -> Pace:
        """Begun now, unless it was begun before."""
        return self if self.started_ms is not None else replace(self, started_ms=now)

    def paused(self, now: int) -> Pace:
        """Paused from now on, unless it was paused before. What has not begun is not paused either: it begins later."""
        if self.started_ms is None or self.paused_since_ms is not None:
            return self
        return replace(self, paused_since_ms=max(now, self.started_ms))

    def resumed(self, now: int) -> Pace:
        """Going on from now."""
        if self.paused_since_ms is None:
            return self
        spent = max(0, now - self.paused_since_ms)
        return replace(self, paused_ms=self.paused_ms + spent, paused_since_ms=None)

    def due_ms(self, recorded_ms: int) -> float:
        """When an event recorded at `recorded_ms` is due; `NEVER` before the replay begins and while it is paused."""
        if self.started_ms is None or self.paused_since_ms is not None:
            return NEVER
        if self.speed is None:
            return self.started_ms
        return self.started_ms + self.paused_ms + max(0, recorded_ms - self.first_ms) / self.speed

    def active_ms(self, now: int) -> int:
        """How long it has run, pauses left out."""
        if self.started_ms is None:
            return 0
        end = now if self.paused_since_ms is None else self.paused_since_ms
        return max(0, end - self.started_ms - self.paused_ms)

    def takes_ms(self, last_ms: int) -> int | None:
        """How long it takes up to an event recorded at `last_ms`; None when nobody can say, at full speed."""
        return None if self.speed is None else round(max(0, last_ms - self.first_ms) / self.speed)

    def left_ms(self, now: int, last_ms: int, done: int, total: int) -> int | None:
        """How much longer it runs: by its speed, or at full speed by how long the `done` of `total` events took."""
        if done >= total:
            return 0
        takes = self.takes_ms(last_ms)
        if takes is not None:
            return max(0, takes - self.active_ms(now))
        return round(self.active_ms(now) * (total - done) / done) if done else None
