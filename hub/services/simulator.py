"""Publishes simulated events at the pace at which they happened, or as fast as they are taken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from hub.core.simulated import SimulatedEvent
from hub.errors import HubError

BATCH: Final = 200
"""Events in one publication, at most; the contract allows 500."""

TICK: Final = 0.05
"""Seconds by which a paced event may go early, so that events close together travel together."""

EXAMPLES: Final = 5

Publish = Callable[[str, str, Sequence[dict[str, Any]]], Awaitable[Sequence[Mapping[str, Any]]]]
"""Publishes drafts of one tenant as one system, in order, and answers with the `receipts` of `POST /api/v1/events`:
for each draft, in its place, a receipt or an object with a `problem`."""


class SimulationError(HubError):
    """The publisher did not keep to its part."""


@dataclass(slots=True)
class Report:
    """What became of the events so far."""

    added: int = 0
    duplicates: int = 0
    refused: int = 0
    batches: int = 0
    types: Counter[str] = field(default_factory=Counter)
    """Events sent, by `type.action`."""
    refusals: Counter[str] = field(default_factory=Counter)
    """Events refused, by the problem's code."""
    examples: list[dict[str, str]] = field(default_factory=list)
    """The first refusals in full."""
    first: datetime | None = None
    last: datetime | None = None
    """The simulated moments of the earliest and the latest event sent."""
    seconds: float = 0.0

    @property
    def sent(self) -> int:
        """Events sent, whatever became of them."""
        return self.added + self.duplicates + self.refused

    def to_dict(self) -> dict[str, Any]:
        """As JSON says it."""
        return {
            "sent": self.sent,
            "added": self.added,
            "duplicates": self.duplicates,
            "refused": self.refused,
            "batches": self.batches,
            "types": dict(sorted(self.types.items())),
            "refusals": dict(sorted(self.refusals.items())),
            "examples": self.examples,
            "first": None if self.first is None else self.first.isoformat(),
            "last": None if self.last is None else self.last.isoformat(),
            "seconds": round(self.seconds, 3),
        }

    def lines(self) -> list[str]:
        """As a person reads it."""
        text = [
            f"{self.sent} events in {self.seconds:.1f} s: {self.added} added, {self.duplicates} there already, "
            f"{self.refused} refused"
        ]
        if self.first is not None and self.last is not None:
            text.append(f"from {self.first.isoformat()} to {self.last.isoformat()}")
        text += [f"{count:>9} {name}" for name, count in sorted(self.types.items())]
        text += [f"refused {code}: {count}" for code, count in sorted(self.refusals.items())]
        text += [f"{one['name']} {one['event_id']}: {one['code']}: {one['detail']}" for one in self.examples]
        return text


@dataclass(slots=True)
class _Lane:
    """The events of one tenant that wait for the next publication."""

    system: str
    waiting: list[SimulatedEvent]


async def run(
    events: Iterable[SimulatedEvent],
    publish: Publish,
    *,
    speed: float | None,
    now: Callable[[], float],
    sleep: Callable[[float], Awaitable[None]],
    progress: Callable[[Report], None] | None = None,
    batch: int = BATCH,
) -> Report:
    """Publish `events` in their order, and say what became of them.

    `speed` 1 is real time, 3600 an hour a second; None or 0 is as fast as `publish` goes. `now` is a monotonic clock in
    seconds. A tenant's events are published strictly in order, one publication at a time, each of one system; those of
    different tenants may overtake each other by a batch when nothing is paced. `progress` is called after every
    publication with the report, which goes on changing.

    What `publish` raises ends the run. Cancelled or failed, what was sent stays sent; the events' ids make it safe to
    start over from the beginning.

    Raises:
        ValueError: `speed` is negative or `batch` is less than 1.
        SimulationError: `publish` answered with more or fewer outcomes than it was given events.
    """
    if speed is not None and not 0 <= speed < float("inf"):
        raise ValueError(f"a speed is 0 or more, not {speed}")
    if batch < 1:
        raise ValueError(f"a batch has at least one event, not {batch}")
    started = now()
    report = Report()
    lanes: dict[str, _Lane] = {}
    origin: float | None = None

    async def send(tenant: str) -> None:
        lane = lanes.pop(tenant)
        outcomes = await publish(lane.system, tenant, [event.draft for event in lane.waiting])
        _count(report, lane.waiting, outcomes)
        report.seconds = now() - started
        if progress is not None:
            progress(report)

    for event in events:
        if speed:
            moment = event.at.timestamp()
            if origin is None:
                origin = moment
            due = started + (moment - origin) / speed
            if due - now() > TICK:
                for tenant in list(lanes):
                    await send(tenant)
                # Publishing took time of its own.
                if (wait := due - now()) > 0:
                    await sleep(wait)
        lane = lanes.get(event.tenant)
        if lane is not None and (lane.system != event.system or len(lane.waiting) >= batch):
            await send(event.tenant)
            lane = None
        if lane is None:
            lane = lanes[event.tenant] = _Lane(event.system, [])
        lane.waiting.append(event)
    for tenant in list(lanes):
        await send(tenant)
    report.seconds = now() - started
    return report


def _count(report: Report, sent: Sequence[SimulatedEvent], outcomes: Sequence[Mapping[str, Any]]) -> None:
    if len(outcomes) != len(sent):
        raise SimulationError(f"{len(sent)} events were published, {len(outcomes)} outcomes came back")
    report.batches += 1
    for event, outcome in zip(sent, outcomes, strict=True):
        report.types[event.name] += 1
        problem = outcome.get("problem")
        if problem is None:
            if outcome.get("duplicate"):
                report.duplicates += 1
            else:
                report.added += 1
            continue
        report.refused += 1
        code = str(problem.get("code", "unknown"))
        report.refusals[code] += 1
        if len(report.examples) < EXAMPLES:
            report.examples.append(
                {
                    "name": event.name,
                    "event_id": str(event.draft.get("event_id", "")),
                    "code": code,
                    "detail": str(problem.get("detail", "")),
                }
            )
    first, last = sent[0].at, sent[-1].at
    report.first = first if report.first is None else min(first, report.first)
    report.last = last if report.last is None else max(last, report.last)
