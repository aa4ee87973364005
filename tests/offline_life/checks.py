"""What must be true when it is quiet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from sqlalchemy import func, select

from hub.core.entry import Entry
from hub.store.sync_tables import sync_conflicts, sync_items
from schemas.cursor import ZERO

from .hotel import TENANT
from .ledger import balances
from .world import Violation, World

AUTOMATIC: Final = 0.95
"""The least share of concurrent edits that nobody is asked about (R106): of many lives, one alone has too few."""
_SHOWN: Final = 12


@dataclass(frozen=True)
class Figures:
    """What a life came to."""

    operations: int
    items: int
    events: int
    syncs: int
    broken: int
    policies: Mapping[str, int]
    """Concurrent edits by what settled them; `manual`: a person."""
    faults: Mapping[str, int]
    counts: Mapping[str, int] = field(default_factory=dict)

    def line(self) -> str:
        """All of it, for people."""
        policies = " ".join(f"{name} {count}" for name, count in sorted(self.policies.items()))
        faults = " ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        return (
            f"{self.operations} operations, {self.items} items, {self.events} events, {self.syncs} syncs "
            f"({self.broken} broken off); {policies}: {automatic(self.policies):.1%} automatic; {faults}"
        )


def automatic(policies: Mapping[str, int]) -> float:
    """The share of concurrent edits that nobody was asked about."""
    every = sum(policies.values())
    return 1.0 if not every else 1 - policies.get("manual", 0) / every


async def archived(world: World) -> list[Entry]:
    """Every event of the hotel."""
    await world.hub.catch_up()
    found: list[Entry] = []
    at = ZERO
    while page := await world.hub.store.archive.read(0, at, 5000, tenants=[TENANT]):
        found += page
        at = page[-1].id
    return found


async def check(world: World) -> Figures:
    """Look at everything.

    Raises:
        Violation: something is not as it must be, naming it.
    """
    entries = await archived(world)
    wrong = world.ledger.check(entries)
    sums, said = balances(entries)
    wrong += [
        f"{folio} has the balance {said[folio]}, its movements come to {total}"
        for folio, total in sums.items()
        if folio in said and Decimal(str(said[folio])) != total
    ]
    wrong += await _desks(world)
    policies = await _policies(world)
    figures = Figures(
        world.counts["operations"],
        len(world.ledger.kept),
        len(entries),
        sum(desk.syncs for desk in world.desks.values()),
        sum(desk.broken for desk in world.desks.values()),
        policies,
        {**world.faults.counts, "device_died": world.counts["device_died"]},
        world.counts,
    )
    if wrong:
        more = [f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
        raise Violation("\n".join([*wrong[:_SHOWN], *more]))
    return figures


async def _desks(world: World) -> list[str]:
    wrong: list[str] = []
    for desk in world.desks.values():
        database = desk.database
        counts = database.counts()
        if counts.unsettled or counts.unconfirmed:
            wrong.append(f"{desk.name}: {counts}")
            wrong += [
                f"  {one.status} {one.model} {one.operation} {one.entity}: {one.last_error}"
                for one in database.pending(limit=3)
            ]
        here, there = database.digest(), await desk.digest()
        if database.cursor != there.cursor:
            wrong.append(f"{desk.name} is at {database.cursor}, the hub at {there.cursor}")
        if (here.root, here.count) != (there.root, there.count):
            apart = sorted(
                number
                for number in {*here.buckets, *(int(one, 16) for one in there.buckets)}
                if here.buckets.get(number) != there.buckets.get(f"{number:02x}")
            )
            wrong.append(f"{desk.name}: {here.count} records, the hub {there.count}; buckets {apart[:8]} differ")
        wrong += [f"{desk.name}: {one}" for one in database.check()]
        laid = database._file.sql.execute("SELECT COUNT(*) FROM records WHERE pending > 0").fetchone()[0]
        if laid:
            wrong.append(f"{desk.name}: {laid} records have something laid over them")
        refused = Counter(outcome for outcome in desk.told.values() if outcome == "rejected")
        if refused:
            wrong.append(f"{desk.name}: {refused['rejected']} items were refused")
    return wrong


async def _policies(world: World) -> dict[str, int]:
    database = world.hub.store.database
    async with database.reading() as connection:
        settled = (
            select(sync_items.c.policy, func.count())
            .where(sync_items.c.outcome == "resolved", sync_items.c.policy != "manual")
            .group_by(sync_items.c.policy)
        )
        found = {row[0]: row[1] for row in await connection.execute(settled)}
        people = select(func.count()).where(sync_conflicts.c.policy == "manual")
        found["manual"] = (await connection.execute(people)).scalar_one()
        return found
