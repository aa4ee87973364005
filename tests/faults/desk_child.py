"""A front desk that is killed: `python -m tests.faults.desk_child SPECIFICATION`.

It does this and that at a `consumers.offline.desk.Desk`, and prints a line for each operation once `operate` has
returned: what is printed was promised to the person at the desk. When the file `quiet` appears it does nothing new,
syncs, and prints how it stands.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import structlog

from consumers.offline import queue
from consumers.offline.database import LocalDatabase
from consumers.offline.desk import Desk
from consumers.offline.errors import NotFailed
from consumers.offline.items import LocalChange

PERSON_MS: Final = 500
BACKOFF_MS: Final = 50
PROBE_S: Final = 0.2
"""All of these are shorter than at a desk, where nobody waits for the test to end."""
SYSTEM: Final = "hotel-pms"
BOOKINGS: Final = [f"R{number}" for number in range(6)]
STAYS: Final = [f"S{number}" for number in range(8)]
ROOMS: Final = [f"30{number}" for number in range(5)]
FOLIOS: Final = [f"F{number}" for number in range(4)]
"""What all desks work on at once."""


class Clerk:
    """Works at one desk."""

    def __init__(self, desk: Desk, chance: random.Random, own: str) -> None:
        """`own` is before the names of what it works on: empty, and all desks work on the same."""
        self._desk = desk
        self._own = own
        self._chance = chance

    async def work(self) -> None:
        """One operation."""
        chosen = self._chance.choices(
            (self._book, self._rebook, self._room, self._charge, self._stay, self._both), (3, 6, 4, 6, 3, 2)
        )[0]
        changes = await chosen()
        items = await self._desk.operate(changes, operator="佐藤", operation=chosen.__name__.strip("_"))
        print("done", *(item.uuid for item in items), flush=True)

    async def failed(self) -> None:
        """Have what was given up sent again, as a person does who sees it."""
        for item in await self._desk.local.call(lambda database: database.failed()):
            if item.last_error and item.last_error.startswith("gave up"):
                # It may have come back from the hub since it was looked at.
                with suppress(NotFailed):
                    await self._desk.resend(item.uuid, operator="佐藤")
                    print("resent", item.uuid, flush=True)

    def _one_of(self, names: Sequence[str]) -> str:
        return self._own + self._chance.choice(names)

    async def _held(self, type: str, entity: str) -> dict[str, Any] | None:
        record = await self._desk.record(type, entity)
        return None if record is None else record.data

    async def _book(self) -> Sequence[LocalChange]:
        """A reservation of this desk's own, with its folio's first charge."""
        own = f"{self._desk.device_id}-{self._chance.getrandbits(48):x}"
        return [self._booking(own), LocalChange("Billing", "CREATE", f"folio-{own}", self._amount(0))]

    async def _rebook(self) -> Sequence[LocalChange]:
        booking = self._one_of(BOOKINGS)
        held = await self._held("reservation", f"reservation:{booking}")
        if held is None:
            return [self._booking(booking)]
        if self._chance.random() < 0.03:
            return [LocalChange("Reservation", "DELETE", booking, {})]
        said = self._chance.choice(
            (
                {"special_requests": f"高層階 {self._chance.random()}"},
                {"adults": self._chance.randint(1, 9)},
                {"guest_name": f"山田 {self._chance.randint(1, 999)}", "total_amount": self._chance.randint(1, 99999)},
                {"status": self._chance.choice(("confirmed", "tentative"))},
            )
        )
        return [LocalChange("Reservation", "UPDATE", booking, said)]

    async def _room(self) -> Sequence[LocalChange]:
        room = self._one_of(ROOMS)
        status = self._chance.choice(("vacant_clean", "vacant_dirty", "cleaning", "inspected"))
        if await self._held("room", f"room:{room}") is None:
            said = {"room_number": room, "room_type": "twin", "status": status, "availability_date": "2026-07-15"}
            return [LocalChange("RoomStatus", "CREATE", room, said)]
        said = self._chance.choice(
            ({"status": status}, {"maintenance_notes": f"電球 {self._chance.random()}"}, {"housekeeping": "cleaning"})
        )
        return [LocalChange("RoomStatus", "UPDATE", room, said)]

    async def _charge(self) -> Sequence[LocalChange]:
        folio = self._one_of(FOLIOS)
        held = await self._held("billing", f"billing:{folio}")
        return [LocalChange("Billing", "CREATE", folio, self._amount(0 if held is None else held["balance"]))]

    async def _stay(self) -> Sequence[LocalChange]:
        """Guests arrive, and two desks give them different rooms."""
        stay = self._one_of(STAYS)
        if await self._held("reservation", f"reservation:{stay}") is None:
            return [self._booking(stay)]
        arrived = await self._held("checkin_checkout", f"reservation:{stay}") is not None
        if arrived and self._chance.random() < 0.5:
            return [LocalChange("Reservation", "UPDATE", stay, {"special_requests": f"枕 {self._chance.random()}"})]
        room = f"{self._own}{self._chance.randint(4, 7)}{stay[-1]:>02}"
        said = {"room_number": room, "payment_status": "pending"}
        return [LocalChange("CheckIn", "UPDATE" if arrived else "CREATE", stay, said, "high")]

    async def _both(self) -> Sequence[LocalChange]:
        """An operation of several changes, which are there together or not at all."""
        return [*await self._charge(), *await self._rebook(), *await self._room()]

    def _booking(self, booking: str) -> LocalChange:
        said = {
            "room_type": "twin",
            "checkin_date": "2026-07-15",
            "checkout_date": "2026-07-17",
            "total_amount": 24000,
            "status": "confirmed",
            "origin": "phone",
            "guest_name": "山田 太郎",
        }
        return LocalChange("Reservation", "CREATE", booking, said)

    def _amount(self, held: int) -> dict[str, Any]:
        amount = self._chance.randint(1, 5000)
        charge = f"C-{self._chance.getrandbits(64):x}"
        return {"amount": amount, "balance": held + amount, "charge_id": charge, "category": "food"}


async def stand(desk: Desk) -> None:
    """Sync, and print how the desk stands."""
    outcome = await desk.sync_now()
    counts, digest, failed = await desk.local.call(
        lambda database: (database.counts(), database.digest(), database.failed())
    )
    said = {
        "state": outcome.state,
        "waiting": counts.waiting,
        "failed": counts.failed,
        "conflict": counts.conflict,
        "unconfirmed": counts.unconfirmed,
        "root": digest.root,
        "reasons": [item.last_error for item in failed[:3]],
    }
    print("stands", json.dumps(said), flush=True)


async def run(
    database: str, url: str, token: str, tenant: str, device: str, seed: str, quiet: str, pause_s: float, own: str = ""
) -> None:
    """Work until it is quiet, then sync until it is ended."""
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    async with await Desk.open(
        database, url=url, token=token, tenant_id=tenant, system=SYSTEM, device_id=device
    ) as desk:
        desk.line.set_interval(PROBE_S)
        # Who comes back goes on with something else than before.
        before = await desk.local.call(_operations)
        chance = random.Random(f"{seed} {device} {before}")
        clerk = Clerk(desk, chance, own)
        while not ended.is_set():
            await clerk.failed()
            if os.path.exists(quiet):  # noqa: ASYNC240 - nothing waits beside it
                await stand(desk)
                pause = PROBE_S
            else:
                await clerk.work()
                pause = chance.expovariate(1 / pause_s) if pause_s else 0
            try:
                await asyncio.wait_for(ended.wait(), pause)
            except TimeoutError:
                continue


def _operations(database: LocalDatabase) -> int:
    return max((entry.number for entry in database.operation_log(limit=1)), default=0)


if __name__ == "__main__":
    # What is printed is the ledger; the log of what happens beside is another matter.
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    queue.PERSON_MS = PERSON_MS  # type: ignore[misc]
    queue.BACKOFF_MS = BACKOFF_MS  # type: ignore[misc]
    asyncio.run(run(**json.loads(sys.argv[1])))
