"""`/integrity` through a whole hub: who may look, what is shown, and a comparison now."""

from __future__ import annotations

import time
from typing import Any

import pytest
from house import House
from sqlalchemy import text

from hub.store.sync_devices import Sight


async def compared(house: House) -> dict[str, Any]:
    """Compare the default property's data now."""
    headers = house.headers(scopes=("ops",))
    answer = await house.http.post("/integrity/run", json={"tenant": "default"}, headers=headers)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_a_comparison_now_and_the_runs(house: House) -> None:
    """Whole first, then with a state that somebody changed; the day's last one is listed, and an alarm went out."""
    receipts = await house.publish(house.reservation("R1"), house.reservation("R2"))
    await house.archived(*receipts)
    first = await compared(house)
    assert (first["ok"], first["kind"], first["tenant_id"], first["findings"]) == (True, "daily", "default", [])
    assert first["states"]["compared"] == 2

    async with house.hub.store.database.writing() as connection:
        await connection.execute(text("UPDATE entities SET revision = 9 WHERE entity = 'reservation:R2'"))
    # Who asks within a minute is told what was found then: time goes by.
    house.hub._services.integrity._running.clear()
    second = await compared(house)
    assert second["ok"] is False
    listed = (await house.http.get("/integrity", headers=house.headers(scopes=("sync",)))).json()
    assert listed == {"daily": [second], "weekly": [], "devices": []}
    query = {"patterns": "system.alarm"}
    events = (await house.http.get("/events", params=query, headers=house.headers())).json()["events"]
    assert [one["event"]["data"]["topic"] for one in events] == ["integrity"]


async def test_devices_come_with_how_they_compared(house: House) -> None:
    """Those of the token's own system, or for operators all; those to look at first."""
    now = int(time.time() * 1000)
    seen = Sight("default", "desk-1", "hotel-pms", now, pulled_ms=now, backlog=3)
    other = Sight("default", "desk-2", "hotel-saas", now, pulled_ms=now, compared_ms=now, compared_equal=False)
    await house.hub.store.sync_devices.note([seen, other])

    found = (await house.http.get("/integrity", headers=house.headers(scopes=("ops",)))).json()["devices"]
    assert [(one["device_id"], one["equal"], one["warnings"]) for one in found] == [
        ("desk-2", False, ["unequal"]),
        ("desk-1", None, []),
    ]
    assert (found[1]["state"], found[1]["backlog"], found[1]["compared_at"]) == ("online", 3, None)
    own = (await house.http.get("/integrity", headers=house.headers(scopes=("sync",)))).json()["devices"]
    assert [one["device_id"] for one in own] == ["desk-1"]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ({"kind": "monthly"}, "kind: must be one of daily, weekly"),
        ({"limit": "0"}, "limit: must be a number between 1 and 400"),
        ({"limit": "x"}, "limit: must be a number between 1 and 400"),
        ({"tenant": "no tenant"}, "tenant: must be the id of a tenant"),
        ({"tenant": "default\n"}, "tenant: must be the id of a tenant"),
    ],
)
async def test_bad_questions(house: House, query: dict[str, str], said: str) -> None:
    """The parameter is named."""
    answer = await house.http.get("/integrity", params=query, headers=house.headers(scopes=("ops",)))
    assert answer.json()["detail"] == said
    assert answer.json()["code"] == "invalid_request"


async def test_who_may(house: House) -> None:
    """Looking takes `ops` or `sync`, comparing `ops`, and the tenant."""
    plain, sync, ops = (house.headers(scopes=scopes) for scopes in (("subscribe:*",), ("sync",), ("ops",)))
    assert (await house.http.get("/integrity", headers=plain)).status_code == 403
    assert (await house.http.get("/integrity", params={"tenant": "t-9"}, headers=ops)).status_code == 403
    assert (await house.http.post("/integrity/run", json={}, headers=sync)).status_code == 403
    assert (await house.http.post("/integrity/run", json={"tenant": "t-9"}, headers=ops)).status_code == 403
    # Without events there is nothing that could be compared.
    missing = await house.http.post("/integrity/run", headers=ops)
    assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
    for body, said in ((b"[]", "the body must be a JSON object"), (b'{"tenant":1}', "tenant: "), (b'{"x":1}', "x: ")):
        wrong = await house.http.post("/integrity/run", content=body, headers=ops)
        assert wrong.json()["code"] == "invalid_request"
        assert wrong.json()["detail"].startswith(said)
