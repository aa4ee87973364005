"""What the desks accepted, and whether the hub has it: each operation once, each amount once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from consumers.offline.items import QueueItem
from hub.core.entry import Entry


@dataclass(frozen=True, slots=True)
class Kept:
    """One item that a desk accepted."""

    uuid: str
    device: str
    sequence: int
    model: str
    entity: str
    amount: Decimal | None
    points: int | None


class Ledger:
    """Every item that was accepted."""

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        self.operations = 0

    def accept(self, items: Iterable[QueueItem]) -> None:
        """These are kept, and must be at the hub in the end."""
        for item in items:
            amount = item.payload.get("amount") if item.model == "Billing" else None
            self.kept[item.uuid] = Kept(
                item.uuid,
                item.device_id,
                item.device_sequence,
                item.model,
                item.entity,
                None if amount is None else Decimal(str(amount)),
                item.payload.get("points_delta"),
            )

    def check(self, entries: Iterable[Entry]) -> list[str]:
        """What is wrong with the archive, in words."""
        wrong: list[str] = []
        times: Counter[str] = Counter()
        folios: Counter[str] = Counter()
        points: Counter[str] = Counter()
        last: dict[tuple[str, str], tuple[int, str]] = {}
        place = 0
        for entry in entries:
            place += 1
            if not entry.raw:
                wrong.append(f"{entry.event_id} stood in the log again, as {entry.entity}'s {entry.revision}th event")
                continue
            event = entry.event
            if entry.sequence != place:
                wrong.append(f"the archive's {place}th event has the sequence {entry.sequence}")
                place = entry.sequence
            # What a person decided otherwise than the desk did was not made offline, and stands for its item.
            if not event.get("created_offline") and entry.event_id not in self.kept:
                continue
            times[entry.event_id] += 1
            kept = self.kept.get(entry.event_id)
            if kept is None:
                wrong.append(f"{entry.event_id} ({entry.type}.{entry.action} {entry.entity}) was accepted by no desk")
                continue
            if (kept.device, kept.entity) != (event["device_id"], entry.entity):
                wrong.append(f"{kept} became an event of {event['device_id']} about {entry.entity}")
            before = last.get((kept.device, kept.entity))
            if before is not None and before[0] > kept.sequence:
                wrong.append(f"{kept.device}: {kept.uuid} ({kept.entity}) came after {before[1]}, which was done later")
            last[kept.device, kept.entity] = (kept.sequence, kept.uuid)
            if entry.type == "billing":
                folios[entry.entity] += Decimal(str(event["data"]["amount"]))  # type: ignore[assignment]
            if event["data"].get("points_delta") is not None:
                points[entry.entity] += event["data"]["points_delta"]
        wrong += [
            f"{self.kept.get(uuid)} is in the archive {count} times" for uuid, count in times.items() if count > 1
        ]
        wrong += [f"{kept} is not in the archive" for uuid, kept in self.kept.items() if uuid not in times]
        due: Counter[str] = Counter()
        earned: Counter[str] = Counter()
        for kept in self.kept.values():
            if kept.amount is not None:
                due[kept.entity] += kept.amount  # type: ignore[assignment]
            if kept.points is not None:
                earned[kept.entity] += kept.points
        wrong += _apart("the charges", due, folios)
        wrong += _apart("the points", earned, points)
        return wrong


def _apart(what: str, here: Counter[str], there: Counter[str]) -> list[str]:
    return [
        f"{what} of {name} are {there[name]}, accepted were {here[name]}"
        for name in sorted({*here, *there})
        if here[name] != there[name]
    ]


def balances(entries: Iterable[Entry]) -> tuple[dict[str, Decimal], dict[str, Any]]:
    """What each folio's movements come to, and the balance that its last one says."""
    sums: dict[str, Decimal] = {}
    said: dict[str, Any] = {}
    for entry in entries:
        if entry.type != "billing" or not entry.raw:
            continue
        data = entry.event["data"]
        amount = Decimal(str(data["amount"]))
        sums[entry.entity] = sums.get(entry.entity, Decimal(0)) + (-amount if entry.action == "settled" else amount)
        if data.get("balance") is not None:
            said[entry.entity] = data["balance"]
    return sums, said
