"""What was attempted and answered, what became of it, and the comparison of the two. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Attempt(NamedTuple):
    """An event that a publisher sent at least once. `number` counts up within its reservation."""

    tenant: str
    reservation: str
    number: int


class Place(NamedTuple):
    """Where a receipt says that an event lies."""

    sequence: int
    revision: int


class Stored(NamedTuple):
    """An event as it lies in a log or stands in a listing."""

    event_id: str
    tenant: str
    reservation: str
    number: int
    sequence: int
    revision: int


class Seen(NamedTuple):
    """An event as it reached an observer."""

    event_id: str
    tenant: str
    reservation: str
    number: int


@dataclass(slots=True)
class Ledger:
    """The publishers' side."""

    attempts: dict[str, Attempt] = field(default_factory=dict)
    receipts: dict[str, Place] = field(default_factory=dict)
    open_answers: int = 0
    """How often an answer stayed away or said that the outcome is unknown; most were sent again and got a receipt."""
    contradictions: int = 0
    """Receipts of one event that name different places."""

    def attempt(self, event_id: str, tenant: str, reservation: str, number: int) -> None:
        """Note that an event is about to be sent."""
        self.attempts[event_id] = Attempt(tenant, reservation, number)

    def acknowledge(self, event_id: str, sequence: int, revision: int) -> None:
        """Note a receipt."""
        place = Place(sequence, revision)
        if self.receipts.setdefault(event_id, place) != place:
            self.contradictions += 1


@dataclass(slots=True)
class Observation:
    """What one subscriber or consumer saw, in its order.

    `once`: it must not see an event twice (it resumes by its own cursor, or keeps an inbox). `skips` and `gaps` are
    what it noticed itself: sequences that do not continue, and gaps that it was told of.
    """

    name: str
    once: bool
    seen: Sequence[Seen]
    skips: int = 0
    gaps: int = 0


@dataclass(slots=True)
class Report:
    """The outcome; everything from `lost` on is zero when the hub kept its word."""

    attempted: int
    acknowledged: int
    unknown: int
    stored: int
    repeated: dict[str, int]
    lost: int
    lost_by: dict[str, int]
    unexpected: int
    doubled: int
    doubled_effects: int
    out_of_order: int
    holes: int
    phantoms: int
    wrong_receipts: int
    gaps: int

    @property
    def clean(self) -> bool:
        """Nothing is wrong."""
        return not any(
            (
                self.lost,
                self.unexpected,
                self.doubled,
                self.doubled_effects,
                self.out_of_order,
                self.holes,
                self.phantoms,
                self.wrong_receipts,
                self.gaps,
            )
        )


def check(ledger: Ledger, log: Sequence[Stored], listing: Sequence[Stored], seen: Sequence[Observation]) -> Report:
    """Hold the log, the listing over HTTP and every observer against the ledger.

    lost: acknowledged, and missing in the log, the listing or at an observer (also counted: in the log and missing at
    an observer). unexpected: in the log and never attempted, or not as it was attempted. doubled: twice in the log or
    listing. doubled_effects: twice at an observer that must see it once. out_of_order: numbers of a reservation that
    go back, and an observer's skips. holes: sequences of a tenant that are not 1, 2, 3…, revisions of a reservation
    likewise. phantoms: seen by an observer, and not in the log.
    """
    stored_ids = {entry.event_id for entry in log}
    acknowledged = set(ledger.receipts)
    lost_by = {"log": acknowledged - stored_ids, "listing": acknowledged - {entry.event_id for entry in listing}}
    doubled = _repeats(entry.event_id for entry in log) + _repeats(entry.event_id for entry in listing)
    disorder = _backward(log) + _backward(listing)
    doubled_effects = phantoms = 0
    repeated = {}
    for one in seen:
        ids = {event.event_id for event in one.seen}
        lost_by[one.name] = (acknowledged | stored_ids) - ids
        phantoms += len(ids - stored_ids)
        repeats = _repeats(event.event_id for event in one.seen)
        if one.once:
            doubled_effects += repeats
        else:
            repeated[one.name] = repeats
        disorder += _backward(_first(one.seen)) + one.skips
    places = {entry.event_id: Place(entry.sequence, entry.revision) for entry in log}
    return Report(
        attempted=len(ledger.attempts),
        acknowledged=len(acknowledged),
        unknown=len(ledger.attempts.keys() - acknowledged),
        stored=len(log),
        repeated=repeated,
        lost=len(set().union(*lost_by.values())),
        lost_by={name: len(ids) for name, ids in lost_by.items()},
        unexpected=sum(
            ledger.attempts.get(entry.event_id) != (entry.tenant, entry.reservation, entry.number) for entry in log
        ),
        doubled=doubled,
        doubled_effects=doubled_effects,
        out_of_order=disorder,
        holes=_holes(log) + _holes(listing),
        phantoms=phantoms,
        wrong_receipts=ledger.contradictions
        + sum(places[event_id] != place for event_id, place in ledger.receipts.items() if event_id in places),
        gaps=sum(one.gaps for one in seen),
    )


def _repeats(ids: Iterable[str]) -> int:
    return sum(count - 1 for count in Counter(ids).values())


def _first(seen: Iterable[Seen]) -> Iterable[Seen]:
    known: set[str] = set()
    for event in seen:
        if event.event_id not in known:
            known.add(event.event_id)
            yield event


def _backward(events: Iterable[Stored | Seen]) -> int:
    """Numbers that do not rise within their reservation."""
    last: dict[tuple[str, str], int] = {}
    found = 0
    for event in events:
        key = (event.tenant, event.reservation)
        if event.number <= last.get(key, 0):
            found += 1
        last[key] = max(event.number, last.get(key, 0))
    return found


def _holes(log: Iterable[Stored]) -> int:
    sequences: dict[str, int] = {}
    revisions: dict[tuple[str, str], int] = {}
    found = 0
    for entry in log:
        key = (entry.tenant, entry.reservation)
        found += entry.sequence != sequences.get(entry.tenant, 0) + 1
        found += entry.revision != revisions.get(key, 0) + 1
        sequences[entry.tenant], revisions[key] = entry.sequence, entry.revision
    return found
