"""The rush hour: fifty devices take an order a minute each, all at once, while the hub dies and comes back.

Here requests of all devices are under way beside each other, on the same folios and in the same log.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from dataclasses import dataclass, field
from datetime import datetime, time
from decimal import Decimal
from typing import Final

import structlog

from consumers.errors import Disconnected
from consumers.offline.items import LocalChange
from schemas.cursor import ZERO

from .clock import SimulatedClock
from .desk_side import Accepted, DeskSide
from .hotel import FIRST_DAY, LISBON, TENANT
from .hub_side import HubDied, HubSide
from .inline_store import inline_store
from .ledger import Ledger, balances
from .run import workplace

DEVICES: Final = 50
MINUTES: Final = 3
ORDERS: Final = 1
"""Of a device, a minute."""
FOLIOS: Final = 12


@dataclass
class Rush:
    """What it came to."""

    operations: int = 0
    deaths: int = 0
    broken: int = 0
    accepted: Decimal = Decimal(0)
    charged: Decimal = Decimal(0)
    wrong: list[str] = field(default_factory=list)


class _Flapping:
    """The way to a hub that may die under any of the requests that are under way."""

    def __init__(self, hub: HubSide, draw: random.Random) -> None:
        self._hub = hub
        self._draw = draw
        self._burying = asyncio.Lock()

    async def __call__(self, desk: DeskSide, kind: str, request: object) -> bytes:
        if self._hub.dead:
            raise Disconnected("the hub is away")
        try:
            answer: bytes = await request()  # type: ignore[operator]
        except HubDied:
            raise Disconnected("the connection broke", sent=True) from None
        except Exception:
            # What a dead hub's services say of closed connections nobody hears.
            if self._hub.dead:
                raise Disconnected("the connection broke", sent=True) from None
            raise
        if self._draw.random() < 0.1:
            raise Disconnected("no answer in time", sent=True)
        return answer


async def rush(seed: int) -> Rush:
    """Live through it."""
    directory = workplace()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    clock = SimulatedClock(datetime.combine(FIRST_DAY, time(19), LISBON))
    draw = random.Random(f"rush {seed}")
    ledger = Ledger()
    hub = HubSide(directory, clock)

    def accepted(one: Accepted) -> None:
        ledger.accept(one.items)

    line = _Flapping(hub, draw)
    desks = [
        DeskSide(f"tablet-{number}", "hotel-saas", directory, clock, lambda: hub, line, accepted, f"{number} {seed}")
        for number in range(DEVICES)
    ]
    came = Rush()
    try:
        with inline_store():
            try:
                await hub.boot()
                for desk in desks:
                    desk.open()
                await _serve(hub, desks, clock, draw, came)
                await _judge(hub, desks, ledger, came)
            finally:
                for desk in desks:
                    desk.close()
                await hub.close()
    finally:
        structlog.reset_defaults()
        shutil.rmtree(directory)
    return came


async def _serve(hub: HubSide, desks: list[DeskSide], clock: SimulatedClock, draw: random.Random, came: Rush) -> None:
    numbers = iter(range(1_000_000))
    for minute in range(MINUTES):
        clock.seconds = 60.0 * minute
        for desk in desks:
            for _ in range(ORDERS):
                _order(desk, next(numbers), draw)
                came.operations += 1
        # Twice a minute the hub goes down somewhere in the middle of it.
        for _ in range(2):
            hub.doom(draw.randrange(5, 120))
            await asyncio.gather(*(desk.sync() for desk in desks))
            if hub.dead:
                await hub.kill()
                await hub.boot()
                came.deaths += 1
            clock.seconds += 20
    for _ in range(12):
        hub._steps_left = None
        clock.seconds += 60
        if all([await desk.sync() for desk in desks]) and not any(desk.database.counts().unsettled for desk in desks):
            break
    for desk in desks:
        while not await desk.sync():
            clock.seconds += 1
    came.broken = sum(desk.broken for desk in desks)


def _order(desk: DeskSide, number: int, draw: random.Random) -> None:
    folio = f"F-{draw.randrange(FOLIOS)}"
    price, quantity = Decimal(draw.choice(("4.5", "0.35", "33.33", "12.9"))), draw.randint(1, 4)
    order = {
        "room_number": folio.removeprefix("F-"),
        "items": [{"name": "Club sandwich", "quantity": quantity, "unit_price": float(price)}],
        "total_amount": float(price * quantity),
    }
    held = desk.record("billing", f"billing:{folio}") or {}
    charge = {
        "charge_id": f"c-{number}",
        "order_id": f"O-{number}",
        "amount": float(price * quantity),
        "balance": float(Decimal(str(held.get("balance", 0))) + price * quantity),
        "category": "food",
    }
    changes = [LocalChange("Order", "CREATE", f"O-{number}", order), LocalChange("Billing", "CREATE", folio, charge)]
    desk.operate(changes, "order")


async def _judge(hub: HubSide, desks: list[DeskSide], ledger: Ledger, came: Rush) -> None:
    await hub.catch_up()
    entries = []
    at = ZERO
    while page := await hub.store.archive.read(0, at, 5000, tenants=[TENANT]):
        entries += page
        at = page[-1].id
    came.wrong += ledger.check(entries)
    sums, said = balances(entries)
    came.accepted = sum((kept.amount for kept in ledger.kept.values() if kept.amount is not None), Decimal(0))
    came.charged = sum(sums.values(), Decimal(0))
    came.wrong += [
        f"{folio} says {said[folio]}, its charges are {total}"
        for folio, total in sums.items()
        if Decimal(str(said[folio])) != total
    ]
    for desk in desks:
        there, here = await _digest(desk), desk.database.digest()
        if there != (here.root, here.count) or desk.database.counts().unsettled:
            came.wrong.append(f"{desk.name}: {desk.database.counts()}, {here.count} records, the hub {there[1]}")


async def _digest(desk: DeskSide) -> tuple[str, int]:
    while True:
        try:
            found = await desk.digest()
        except Disconnected:
            continue
        return found.root, found.count
