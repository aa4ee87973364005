"""What desks did apart and what comes of it together: dates that contradict each other, movements on one folio."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from desk import BOOKING, Desk, Property

from hub.app import Hub
from hub.settings import load

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hub(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Hub]:
    """One hub for all of these tests."""
    async with Hub(load(data_dir=tmp_path_factory.mktemp("hub"), port=0)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def house(hub: Hub) -> AsyncIterator[Property]:
    """A property that no other test knows."""
    found = Property(hub, f"t-{uuid.uuid4().hex[:12]}")
    yield found
    await found.http.aclose()


async def test_edits_that_do_not_fit_together_wait_for_a_person(house: Property) -> None:
    """One desk has a guest come later, another leave earlier: each fits, both together do not, so somebody is asked."""
    one, other = Desk(house, "desk-1"), Desk(house, "desk-2")
    base = (await one.one("Reservation", "R1", BOOKING))["version"]
    await one.one("Reservation", "R1", {"checkin_date": "2026-07-17"}, "UPDATE", base)
    result = await other.one("Reservation", "R1", {"checkout_date": "2026-07-16"}, "UPDATE", base)
    assert (result["outcome"], result["policy"]) == ("conflict", "manual")
    assert "checkout_date is before checkin_date" in result["errors"][0]["message"]
    assert [event["action"] for event in await one.events() if event["type"] == "reservation"] == ["created", "updated"]
    assert await _resolved(house, result["conflict_id"]) == 200


async def test_what_does_not_fit_by_itself_is_refused_all_the_same(house: Property) -> None:
    """Where the desk had seen what its edit contradicts, or a field is wrong by itself, nobody is asked."""
    one, other = Desk(house, "desk-1"), Desk(house, "desk-2")
    base = (await one.one("Reservation", "R1", BOOKING))["version"]
    seen = (await one.one("Reservation", "R1", {"checkin_date": "2026-07-17"}, "UPDATE", base))["version"]
    assert (await other.one("Reservation", "R1", {"checkout_date": "2026-07-16"}, "UPDATE", seen))[
        "outcome"
    ] == "rejected"
    assert (await other.one("Reservation", "R1", {"adults": -1}, "UPDATE", base))["outcome"] == "rejected"


@pytest.mark.parametrize(
    ("said", "balance"),
    [
        ({"amount": 5, "balance": 12}, 20),
        ({"amount": 12, "balance": 0, "payment_method": "cash"}, 3),
    ],
)
async def test_a_balance_is_what_the_movements_come_to(house: Property, said: dict[str, Any], balance: float) -> None:
    """A desk that pulled another's charge while its own was on its way shows a balance without it; the hub adds up."""
    one, other = Desk(house, "desk-1"), Desk(house, "desk-2")
    await one.one("Billing", "F1", {"charge_id": "c1", "amount": 8, "balance": 8})
    # Made on nothing, and the next on that and what was pulled meanwhile.
    await other.one("Billing", "F1", {"charge_id": "c2", "amount": 7, "balance": 7})
    result = await other.one("Billing", "F1", said, base={"desk-1": 1, "desk-2": 1})
    assert result["outcome"] == "applied"
    assert (await one.events())[-1]["data"]["balance"] == balance


async def _resolved(house: Property, conflict_id: str) -> int:
    """What the hub answers to a person who leaves things as they are."""
    response = await house.http.post(
        f"/conflicts/{conflict_id}/resolve", json={"choice": "current"}, headers=house.headers(scopes=("ops",))
    )
    return response.status_code
