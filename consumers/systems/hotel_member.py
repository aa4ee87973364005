"""hotel-member, the master of customers (R29).

Its own events come back to it through the hub: it ignores them. From others it takes new profiles, contact data where
`updatable_by_pms` allows it, and points as deltas, each ledger entry once. Rank and totals are its own to say. Stays
are counted from check-outs.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Final

from consumers.inbox import Transaction
from consumers.systems.program import Projection
from consumers.systems.program import main as run
from schemas.customer import CONTACT_FIELDS, CustomerEvent
from schemas.envelope import Event
from schemas.stay import CheckInOutEvent
from schemas.types import HOTEL_MEMBER

TABLES: Final = (
    """CREATE TABLE IF NOT EXISTS customers (
        tenant_id TEXT NOT NULL, customer_id TEXT NOT NULL, name TEXT, email TEXT, phone TEXT,
        points INTEGER NOT NULL DEFAULT 0, stays INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (tenant_id, customer_id))""",
    """CREATE TABLE IF NOT EXISTS points_ledger (
        tenant_id TEXT NOT NULL, ledger_id TEXT NOT NULL, customer_id TEXT NOT NULL, delta INTEGER NOT NULL,
        PRIMARY KEY (tenant_id, ledger_id))""",
    """CREATE TABLE IF NOT EXISTS stays (
        tenant_id TEXT NOT NULL, reservation_id TEXT NOT NULL, customer_id TEXT NOT NULL,
        PRIMARY KEY (tenant_id, reservation_id))""",
)


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing of the event is taken."""

    reason: str


@dataclass(frozen=True, slots=True)
class NewProfile:
    """A customer first met elsewhere."""

    contact: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class ContactChanged:
    """Contact fields with their new values; None empties one."""

    contact: dict[str, str | None]


@dataclass(frozen=True, slots=True)
class PointsMoved:
    """Points earned or used elsewhere."""

    ledger_id: str
    delta: int


Change = Ignored | NewProfile | ContactChanged | PointsMoved


def customer_change(event: CustomerEvent) -> Change:
    """What hotel-member takes of a customer event."""
    data = event.data
    if data.updated_by_system == HOTEL_MEMBER:
        return Ignored("own echo")
    contact = {field: getattr(data, field) for field in sorted(CONTACT_FIELDS)}
    if event.action == "created":
        return NewProfile(contact)
    if event.action == "points_changed":
        if data.points_delta is None or data.points_ledger_id is None:
            return Ignored("a total without a delta is not another system's to say")
        return PointsMoved(data.points_ledger_id, data.points_delta)
    if event.action == "rank_changed":
        return Ignored("rank is not another system's to say")
    if not data.updatable_by_pms:
        return Ignored("not updatable by others")
    # `updated_fields` names what carries news; without it, what is there does. A name is never emptied.
    named = set(data.updated_fields) or {field for field, value in contact.items() if value is not None}
    taken = {field: value for field, value in contact.items() if field in named and (value or field != "name")}
    return ContactChanged(taken) if taken else Ignored("no contact data in it")


async def apply(event: Event[Any], tx: Transaction) -> str:
    """Apply an event to the tables; what to print."""
    if isinstance(event, CustomerEvent):
        return await _customer(event, tx)
    if isinstance(event, CheckInOutEvent) and event.action == "checked_out":
        return await _stay(event, tx)
    return "nothing to do"


async def _customer(event: CustomerEvent, tx: Transaction) -> str:
    change = customer_change(event)
    who = (event.tenant_id, event.data.customer_id)
    match change:
        case Ignored(reason):
            return f"ignored: {reason}"
        case NewProfile(contact):
            if not await _meet(tx, who):
                return "profile known already"
            await _set_contact(tx, who, contact)
            return "new profile"
        case ContactChanged(contact):
            await _meet(tx, who)
            await _set_contact(tx, who, contact)
            return f"took {', '.join(contact)}"
        case PointsMoved(ledger_id, delta):
            counted = await tx.execute(
                "INSERT INTO points_ledger VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
                (event.tenant_id, ledger_id, event.data.customer_id, delta),
            )
            if not counted:
                return f"points of {ledger_id} counted already"
            await _meet(tx, who)
            await tx.execute(
                "UPDATE customers SET points = points + $3 WHERE tenant_id = $1 AND customer_id = $2", (*who, delta)
            )
            return f"points {delta:+d}"


async def _stay(event: CheckInOutEvent, tx: Transaction) -> str:
    customer_id = event.data.customer_id
    if customer_id is None:
        return "no member"
    counted = await tx.execute(
        "INSERT INTO stays VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        (event.tenant_id, event.data.reservation_id, customer_id),
    )
    if not counted:
        return "stay counted already"
    who = (event.tenant_id, customer_id)
    await _meet(tx, who)
    await tx.execute("UPDATE customers SET stays = stays + 1 WHERE tenant_id = $1 AND customer_id = $2", who)
    return "stay counted"


async def _meet(tx: Transaction, who: tuple[str, str]) -> bool:
    """Make the customer's row; False when it is there already."""
    sql = "INSERT INTO customers (tenant_id, customer_id) VALUES ($1, $2) ON CONFLICT DO NOTHING"
    return await tx.execute(sql, who) == 1


async def _set_contact(tx: Transaction, who: tuple[str, str], contact: dict[str, str | None]) -> None:
    for field, value in contact.items():
        # The names are this module's own (CONTACT_FIELDS).
        await tx.execute(
            f"UPDATE customers SET {field} = $3 WHERE tenant_id = $1 AND customer_id = $2",
            (*who, value),
        )


PROJECTION: Final = Projection(HOTEL_MEMBER, ("customer.*", "checkin_checkout.*"), TABLES, apply)

if __name__ == "__main__":
    sys.exit(run(PROJECTION))
