"""What desks did and what the hub has of it, and the comparison of the two."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

_SHOWN = 5


class Said(NamedTuple):
    """One desk: the uuids that it printed, and the items of its queue by their sequence, each with its `entity`."""

    device: str
    printed: set[str]
    items: Sequence[Mapping[str, Any]]


@dataclass(slots=True)
class Verdict:
    """What was found; everything from `lost` on is zero when hub and desks kept their word."""

    printed: int = 0
    """Changes of which a desk was told that they are kept."""
    archived: int = 0
    """Events that the hub has of the desks, their operation logs included."""
    conflicts: int = 0
    """Conflicts that waited for a person."""
    resent: int = 0
    """Items that were given up and sent again by hand."""
    cut_pushing: int = 0
    cut_answering: int = 0
    kills: dict[str, int] = field(default_factory=dict)
    lost: int = 0
    """Printed, and no event of the hub's."""
    doubled: int = 0
    """Events that are there more than once."""
    gaps: int = 0
    """Sequences and revisions of the hub's, and device sequences, that do not follow the one before."""
    invented: int = 0
    """Events of a desk that it knows nothing of."""
    kept_back: int = 0
    """Items that a desk has and the hub has not, though all is synced: parts of operations, too."""
    out_of_order: int = 0
    """A desk's events about one entity that are not in the order in which it made them."""
    miscounted: int = 0
    """Folios of which a desk charged something else than the hub has of it."""
    misbalanced: int = 0
    """Folios whose balance is not the sum of their charges."""
    unequal: int = 0
    """Desks whose states are not the hub's."""
    undecided: int = 0
    """Events in the log whose item waits for a person all the same."""
    ended_alone: int = 0
    """Processes that ended though nobody killed them."""
    trouble: list[str] = field(default_factory=list)
    """Some of it in words."""

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        names = [one.name for one in fields(self)]
        return not any(getattr(self, name) for name in names[names.index("lost") :])

    def note(self, problem: str, cases: Iterable[str]) -> int:
        """Say some of the cases in words; how many there are."""
        found = sorted(cases)
        self.trouble += [f"{problem}: {case}" for case in found[:_SHOWN]]
        return len(found)


def judge(
    archive: Sequence[Mapping[str, Any]], folios: Mapping[str, Mapping[str, Any]], desks: Sequence[Said]
) -> Verdict:
    """Hold what the hub has against what the desks did.

    `archive`: all events in order, each as {sequence, event}; `folios`: the states of `billing` by entity.
    """
    verdict = Verdict(printed=sum(len(desk.printed) for desk in desks))
    events = [one["event"] for one in archive]
    counts = Counter(event["event_id"] for event in events)
    verdict.lost = verdict.note("lost", set().union(*(desk.printed for desk in desks)) - counts.keys())
    verdict.doubled = verdict.note("doubled", (uuid for uuid, count in counts.items() if count > 1))
    revisions: dict[str, list[int]] = defaultdict(list)
    for event in events:
        revisions[event["entity"]].append(event["revision"])
    verdict.gaps = _gaps([one["sequence"] for one in archive]) + sum(map(_gaps, revisions.values()))
    charged = Counter[str]()
    for desk in desks:
        _judge_desk(verdict, desk, [event for event in events if event.get("device_id") == desk.device])
        charged.update(_charges(desk))
    verdict.misbalanced = verdict.note(
        "misbalanced",
        (
            f"{folio} has {held}, charged were {amount}"
            for folio, amount in charged.items()
            if (held := folios.get(f"billing:{folio}", {}).get("balance")) != amount
        ),
    )
    return verdict


def _judge_desk(verdict: Verdict, desk: Said, events: Sequence[Mapping[str, Any]]) -> None:
    items = {item["uuid"]: item for item in desk.items}
    there = {event["event_id"] for event in events}
    verdict.archived += len(events)
    verdict.invented += verdict.note("invented", there - items.keys())
    verdict.kept_back += verdict.note("kept back", items.keys() - there)
    verdict.gaps += _gaps([item["device_sequence"] for item in desk.items])
    last: dict[str, int] = {}
    for event in events:
        if (item := items.get(event["event_id"])) is not None:
            number, before = item["device_sequence"], last.get(item["entity"], 0)
            verdict.out_of_order += number <= before
            last[item["entity"]] = max(before, number)
    charges = _charges(desk)
    for event in events:
        if event["type"] == "billing":
            charges[event["data"]["folio_id"]] -= event["data"]["amount"]
    verdict.miscounted += verdict.note(
        "miscounted", (f"{desk.device} charged {more} more on {folio}" for folio, more in charges.items() if more)
    )


def _charges(desk: Said) -> Counter[str]:
    """What a desk charged on each folio."""
    charges = Counter[str]()
    for item in desk.items:
        if item["model"] == "Billing":
            charges[item["entity_id"]] += item["payload"]["amount"]
    return charges


def _gaps(numbers: Sequence[int]) -> int:
    """Where numbers do not follow each other from 1 on."""
    return sum(number != before + 1 for before, number in zip((0, *numbers), numbers, strict=False))
