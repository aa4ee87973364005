"""What a demonstration has to show: what each system received, how soon, and the totals. No I/O."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from schemas.registry import EVENT_TYPES

RECENT: Final = 12
"""Events a system's column shows."""
GAP: Final = "  "
MARKS: Final = 4
"""A system's line: moment, tenant, type.action and entity, two spaces apart, then what it did."""
_REMEMBERED: Final = 20_000
_LATENCIES: Final = 1000


@dataclass(slots=True)
class Column:
    """One system: how many events it received, the last of them, and how long they took, in milliseconds."""

    received: int = 0
    recent: deque[str] = field(default_factory=lambda: deque(maxlen=RECENT))
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES))

    def quantile(self, share: float) -> float | None:
        """The latency that this share of the last thousand did not exceed; None before the first."""
        if not self.latencies:
            return None
        held = sorted(self.latencies)
        return held[min(len(held) - 1, int(share * len(held)))]

    def summary(self) -> str:
        """Count and latency on one line."""
        median, tail = self.quantile(0.5), self.quantile(0.99)
        if median is None or tail is None:
            return f"{self.received} received"
        return f"{self.received} received, p50 {median:.1f} ms, p99 {tail:.1f} ms"


def mark_of(draft: Mapping[str, Any]) -> str:
    """What a system's line about this event begins with."""
    moment = datetime.fromisoformat(draft["occurred_at"]).isoformat()
    entity = EVENT_TYPES[draft["type"]].entity_of(draft["data"])
    return GAP.join((moment, draft["tenant_id"], f"{draft['type']}.{draft['action']}", entity))


def _brief(fields: Sequence[str]) -> str:
    """The time of day, the action, and what the system did: a column is narrow."""
    moment, _, name, _, said = fields
    return f"{moment[11:16]} {name.partition('.')[2]:<14} {said}"


class Showcase:
    """Counts what is published and what arrives. Times are seconds of a monotonic clock."""

    def __init__(self, systems: tuple[str, ...]) -> None:
        self.columns = {system: Column() for system in systems}
        self.published = 0
        self._sent: OrderedDict[str, float] = OrderedDict()

    def sending(self, mark: str, now: float) -> None:
        """An event goes out; `mark` is what the systems' lines begin with."""
        self._sent[mark] = now
        if len(self._sent) > _REMEMBERED:
            self._sent.popitem(last=False)

    def arrived(self, system: str, line: str, now: float) -> float | None:
        """A system tells of an event it has handled; the milliseconds since that went out, where that is known."""
        column = self.columns[system]
        column.received += 1
        fields = line.split(GAP, MARKS)
        column.recent.append(_brief(fields) if len(fields) > MARKS else line)
        sent = self._sent.get(GAP.join(fields[:MARKS]))
        if sent is None:
            return None
        took = (now - sent) * 1000
        column.latencies.append(took)
        return took

    @property
    def all_received(self) -> int:
        """Deliveries to all systems."""
        return sum(column.received for column in self.columns.values())
